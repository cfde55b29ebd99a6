"""Section `registry`: where models are registered, and who lets them reign. Read by the flow and the commands, by no stage."""

from typing import Literal

from pydantic import Field, field_validator

from pipelines.errors import must, without_password
from pipelines.params import Section


class Registry(Section):
    """Name of the registered model, and the stores; MLflow's usual environment variables win where they are set.

    `approval`: whether a PASS promotes by itself or waits for `expost promote`; `expires_after`: days that a verdict may wait.
    """

    model: str = Field(default="expost", min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    tracking_uri: str = "sqlite:///mlflow/mlflow.db"
    ledger_uri: str = "sqlite:///mlflow/ledger.db"
    approval: Literal["auto", "manual"] = "auto"
    expires_after: float = Field(default=30, gt=0, le=36500, allow_inf_nan=False)

    @field_validator("tracking_uri", "ledger_uri")
    @classmethod
    def _without_password(cls, uri: str) -> str:
        """The file is committed to git and logged with each version."""
        if without_password(uri) != uri:
            own = "MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_URI, PGPASSWORD, ~/.pgpass or EXPOST_LEDGER_URI"
            raise ValueError(
                str(
                    must(
                        "an address in params.yaml must hold no password, since git and MLflow keep the file",
                        "it holds one",
                        f"Give it by {own}.",
                    )
                )
            )
        return uri
