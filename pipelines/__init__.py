"""What is computed: one module per DVC stage, and the pure functions, parameters and files that the stages share."""

import os

# Importing any stage or command is the earliest moment that is ours: telemetry and update checks are off unless asked for.
_QUIET = {
    "DO_NOT_TRACK": "true",  # MLflow honours only "true", Prefect both
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # cold starts of 10 to 33 s were seen against a default of 20
}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)
