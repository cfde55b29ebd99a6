"""The script that `mlflow models serve` runs ("models from code"): the registered bundle, verified, behind MLflow's interface."""

from __future__ import annotations

from typing import Any

import mlflow.pyfunc
import pandas as pd
import polars as pl
from mlflow.models import set_model

from pipelines.bundle import Bundle


class Served(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is not followed by mypy
    """Rows of features in; `probability_<class>` for each class, `action` and `expected_utility` out."""

    def load_context(self, context: Any) -> None:
        """Verify and load the bundle that was registered with this version."""
        self.bundle = Bundle.load(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score the rows of a data frame; missing values are allowed, missing columns are not."""
        bundle = self.bundle
        given = model_input.astype(object).where(model_input.notna(), None)  # else a missing category would be the text "NaN"
        frame = pl.DataFrame({str(name): given[name].to_list() for name in given}, strict=False)
        encoded = bundle.encode(frame)
        decided = bundle.decide(bundle.probabilities(bundle.score(encoded.numbers, encoded.categories).logits), frame)
        result = {f"probability_{name}": decided.probability[:, k] for k, name in enumerate(bundle.classes)}
        action = [bundle.actions_named[a] for a in decided.actions]
        return pd.DataFrame({**result, "action": action, "expected_utility": decided.expected})


set_model(Served())
