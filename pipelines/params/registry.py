"""Section `registry`: where models are registered. Read by the flow and the commands, by no stage."""

from pydantic import Field

from pipelines.params import Section


class Registry(Section):
    """Name of the registered model, and the stores; MLflow's usual environment variables win where they are set."""

    model: str = Field(default="expost", min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    tracking_uri: str = "sqlite:///mlflow/mlflow.db"
    ledger_uri: str = "sqlite:///mlflow/ledger.db"
