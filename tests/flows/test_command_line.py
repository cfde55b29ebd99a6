"""The command line starts light: what each command imports, and that a mistyped command does nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from sklearn.datasets import load_breast_cancer

from flows.cli import COMMANDS
from tests.conftest import run

HEAVY = {"dvc", "great_expectations", "lightning", "matplotlib", "mlflow", "optuna", "pandas", "polars", "prefect", "sklearn", "torch"}

CODE = """
import json, sys
sys.argv[0] = "expost"
from flows.cli import main
try:
    main()
except SystemExit as ended:
    code = ended.code or 0
print(json.dumps({"code": code, "imported": sorted({name.partition(".")[0] for name in sys.modules})}), file=sys.stderr)
"""


def imported(folder: Path, *arguments: str) -> set[str]:
    """Heavy packages that `expost ARGUMENTS` imported in a process of its own, which must end with 0."""
    done = run(sys.executable, "-c", CODE, *arguments, cwd=folder)
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["code"] == 0, done.stderr
    return HEAVY & set(told["imported"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["init", "--help"],
        ["retrain", "-h"],
        ["retune", "-h"],
        ["whatif", "-h"],
        *([name, "--help"] for name in ("gate", "review", "promote", "reject", "rollback", "history", "explain")),
        ["predict", "--help"],
        ["ui", "-h"],
    ],
)
def test_help_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    assert imported(tmp_path, *arguments) == set()


def test_check_imports_nothing_heavy(workspace: Path) -> None:
    assert imported(workspace, "check") == set()


def test_init_and_sync_import_no_training_no_server_and_no_registry(workspace: Path) -> None:
    """DVC is a process of its own there, so that its imports end with it."""
    away = {"dvc", "great_expectations", "lightning", "matplotlib", "mlflow", "optuna", "prefect", "torch"}
    assert imported(workspace, "init", "sklearn:breast_cancer", "--target", "diagnosis") & away == set()
    assert imported(workspace, "sync", "--data-only") & away == set()


def test_predict_imports_neither_prefect_nor_torch(retrained: Path, tmp_path: Path) -> None:
    """It needs no more of a workspace than the champion's mirror."""
    shutil.copytree(retrained / "mlflow/champion", tmp_path / "mlflow/champion")
    data = load_breast_cancer()
    pl.DataFrame(data.data[:5], schema=[str(name) for name in data.feature_names]).write_csv(tmp_path / "in.csv")
    found = imported(tmp_path, "predict", "in.csv", "out.csv")
    assert found & {"dvc", "great_expectations", "lightning", "matplotlib", "mlflow", "optuna", "pandas", "prefect", "torch"} == set()
    assert len(pl.read_csv(tmp_path / "out.csv")) == 5


USAGE = [
    "",
    "nonsense",
    "init",
    "init t.csv",
    "init t.csv --target y --bogus",
    "predict",
    "predict in.csv",
    "predict in.csv out.csv --version one",
    "whatif",
    "whatif --cost-fn 1..5 --steps 1",
    "schedule",
    "expectations",
    "expectations nonsense",
    "ui --mlflow-port 99999",
    "promote 1",
    "promote one --by Ana --why so",
    "reject 1 --by Ana",
    "rollback",
    "explain",
    "review --open",
]


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage_ends_with_2_and_touches_nothing(tmp_path: Path, arguments: str) -> None:
    done = run("expost", *arguments.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Usage: expost" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bad_cron_line_is_no_schedule(workspace: Path) -> None:
    done = run("expost", "schedule", "--cron", "every monday", cwd=workspace)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert '"every monday"' in done.stderr
    assert '"0 3 * * 1"' in done.stderr


def test_help_shows_the_exit_codes_and_every_command(tmp_path: Path) -> None:
    shown = run("expost", "--help", cwd=tmp_path, COLUMNS="250").stdout
    assert "2 usage; 3 the gate blocked" in shown
    for name in COMMANDS:
        assert f" {name} " in shown


def test_schedule_says_that_it_serves_retune_too(tmp_path: Path) -> None:
    assert "retune" in run("expost", "schedule", "--help", cwd=tmp_path, COLUMNS="250").stdout


def test_output_can_be_piped(workspace: Path) -> None:
    """Results on stdout, remarks on stderr, no colours where nobody watches, and a closed pipe is no fault to speak of."""
    assert "\x1b" not in run("expost", "--help", cwd=workspace).stdout
    expost = Path(sys.executable).parent / "expost"
    closed = subprocess.run(["/bin/sh", "-c", f"'{expost}' check | true"], cwd=workspace, capture_output=True, text=True, check=False)
    assert "Traceback" not in closed.stderr
