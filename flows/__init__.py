"""When things run, and what happens around it: the Prefect flow derived from DVC's graph, and the `expost` command."""

import os

import pipelines  # noqa: F401  telemetry off before prefect is imported

# Short lines, since the stages' own lines are what a user wants to read.
_SETTINGS = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s | %(task_run_name)s | %(message)s",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_CLI_PROMPT": "false",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
