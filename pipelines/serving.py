"""The script that `mlflow models serve` runs ("models from code"): the registered bundle, verified, behind MLflow's interface."""

from __future__ import annotations

from typing import Any

import mlflow.pyfunc
import pandas as pd
import polars as pl
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from pipelines.bundle import Bundle, Decided
from pipelines.calltime import utility_of
from pipelines.errors import ExpostError


class Served(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is not followed by mypy
    """Rows of features in; `probability_<class>` for each class, `action` and `expected_utility` out."""

    def load_context(self, context: Any) -> None:
        """Verify and load the bundle that was registered with this version, and no other."""
        self.bundle = Bundle.load(context.artifacts["bundle"], context.model_config["bundle_sha256"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score the rows of a data frame; missing values are allowed, missing feature columns are not.

        `params["utility"]`, YAML or JSON text with unit and matrix, decides instead of the model's own; the probabilities stay the same.
        """
        try:
            bundle, decided = self._decided(_polars(model_input), str((params or {}).get("utility") or ""))
        except ExpostError as error:  # what the caller can mend: the server answers 400 with the message
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None
        result = {f"probability_{name}": decided.probability[:, k] for k, name in enumerate(bundle.classes)}
        action = [bundle.actions_named[a] for a in decided.actions]
        return pd.DataFrame({**result, "action": action, "expected_utility": decided.expected})

    def _decided(self, frame: pl.DataFrame, utility: str) -> tuple[Bundle, Decided]:
        bundle = self.bundle.with_utility(utility_of(utility, "params['utility']")) if utility else self.bundle
        return bundle, bundle.decide(bundle.calibrated(frame)[0], frame)


def _polars(model_input: pd.DataFrame) -> pl.DataFrame:
    given = model_input.astype(object).where(model_input.notna(), None)  # else a missing category would be the text "NaN"
    return pl.DataFrame({str(name): given[name].to_list() for name in given}, strict=False)


set_model(Served())
