"""`expost retrain` for real, on the default data: what a new user sees, then no change, other costs, another seed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl

from flows.graph import outs_digest
from tests.conftest import edit_params, run

UPSTREAM = ("ingest", "validate", "split", "train", "calibrate")


def status(workspace: Path) -> dict[str, Any]:
    return dict(json.loads(run("expost", "status", "--json", cwd=workspace).stdout))


def retrain(workspace: Path) -> tuple[int, dict[str, Any], str]:
    """Exit code, outcome and log of `expost retrain --json`."""
    done = run("expost", "retrain", "--json", cwd=workspace)
    assert done.returncode in (0, 3), done.stderr
    return done.returncode, dict(json.loads(done.stdout)), done.stderr


def test_the_first_run_shows_all_that_a_newcomer_asks(first_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    workspace, done = first_run
    assert done.returncode == 0, done.stderr
    for shown in (
        "569 rows",
        "holdout",
        "Expected utility per case",
        "argmax, ignore the costs",
        "always biopsy",
        "always no biopsy",
        "Calibration",
        "as trained",
        "cross-fitted choice",
        "Policy",
        "0.09091",  # 1 / 11: Elkan's threshold at these costs
        "Verdict: PASS",
        "version 1 (challenger, champion)",
        "Next",
    ):
        assert shown in done.stdout, shown
    found = status(workspace)
    assert found["champion"]["version"] == 1
    assert found["champion"]["verdict"] == found["last_verdict"]["verdict"] == "PASS"
    assert found["challenger"] is None
    assert not (workspace / "mlruns").exists()
    assert any((workspace / ".dvcstore").rglob("*"))


def test_unchanged_then_other_costs_then_another_seed(workspace_copy: Path) -> None:
    before = status(workspace_copy)
    trained = {stage: outs_digest(stage) for stage in UPSTREAM}

    code, outcome, _ = retrain(workspace_copy)
    assert (code, outcome["identical"], outcome["version"]) == (0, True, None)
    assert status(workspace_copy)["challenger"] is None

    edit_params(workspace_copy, lambda values: values["utility"]["matrix"]["malignant"].update({"no biopsy": -30}))
    code, outcome, log = retrain(workspace_copy)
    assert {stage: outs_digest(stage) for stage in UPSTREAM} == trained
    assert "python -m pipelines.train" not in log
    after = status(workspace_copy)
    dearer = newest(after)
    assert dearer["version"] == outcome["version"] == 2
    assert dearer["weights_sha256"] == before["champion"]["weights_sha256"]
    assert dearer["policy_sha256"] != before["champion"]["policy_sha256"]
    assert code == (0 if after["champion"]["version"] == 2 else 3)

    edit_params(workspace_copy, lambda values: values["train"].update(seed=1))
    code, outcome, log = retrain(workspace_copy)
    other = status(workspace_copy)
    assert newest(other)["weights_sha256"] != dearer["weights_sha256"]
    assert (code, outcome["verdict"]) in ((0, "PASS"), (3, "INSUFFICIENT_DATA"))
    if code:
        assert other["champion"] == after["champion"]
        verdict = json.loads((workspace_copy / "data/gate/verdict.json").read_text())
        assert all(item["rows_needed"] > item["rows"] for item in verdict["criteria"] if item["verdict"] == "INSUFFICIENT_DATA")
    _predicts(workspace_copy)


def newest(found: dict[str, Any]) -> dict[str, Any]:
    return max((entry for entry in (found["champion"], found["challenger"]) if entry), key=lambda entry: entry["version"])


def _predicts(workspace: Path) -> None:
    """Score rows in a process that looks at what it imported."""
    pl.read_parquet(workspace / "data/ingest/table.parquet").head(20).with_row_index("id").write_csv(workspace / "new.csv")
    code = (
        "import sys; sys.argv = ['expost', 'predict', 'new.csv', 'out.csv', '--keep', 'id']\n"
        "from flows.cli import main\ntry: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'prefect', 'torch', 'mlflow', 'lightning', 'dvc'} & set(sys.modules); assert not heavy, heavy"
    )
    done = run(sys.executable, "-c", code, cwd=workspace)
    assert done.returncode == 0, done.stderr
    scored = pl.read_csv(workspace / "out.csv")
    assert scored.columns == ["id", "probability_benign", "probability_malignant", "action", "expected_utility"]
    assert scored["id"].to_list() == list(range(20))
    assert run("expost", "predict", "new.csv", "first.parquet", "--version", "1", cwd=workspace).returncode == 0
    assert pl.read_parquet(workspace / "first.parquet").height == 20
