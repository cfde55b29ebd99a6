"""What is computed: one module per DVC stage, and the pure functions, parameters and files that the stages share."""

import os

# Importing any stage or command is the earliest moment that is ours. Telemetry and update checks are off unless asked for, and a training
# is the same on any x86-64 processor.
_DEFAULTS = {
    "DO_NOT_TRACK": "true",  # MLflow honours only "true", Prefect both
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MKL_CBWR": "COMPATIBLE",  # else matrix products, and with them the weights, differ with the processor's vector units; costs 15 % of a fit
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # cold starts of 10 to 33 s were seen against a default of 20
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)

# Nothing is ever unpickled: no setting of a machine may allow it.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["PREFECT_RESULTS_DEFAULT_SERIALIZER"] = "json"
