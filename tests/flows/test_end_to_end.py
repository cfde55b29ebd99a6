"""`expost retrain` for real, on the default data: what a new user sees, then no change, then other costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl

from flows.graph import outs_digest
from tests.conftest import edit_params, run

UPSTREAM = ("ingest", "validate", "split", "train", "calibrate")


def status(workspace: Path) -> dict[str, Any]:
    return dict(json.loads(run("expost", "status", "--json", cwd=workspace).stdout))


def test_from_nothing_to_a_champion_then_unchanged_then_other_costs(workspace: Path) -> None:
    first = run("expost", "retrain", cwd=workspace, COLUMNS="140")
    assert first.returncode == 0, first.stderr
    for shown in (
        "Expected utility per case",
        "argmax, ignore the costs",
        "always biopsy",
        "Calibration",
        "Policy",
        "Verdict: PASS",
        "challenger, champion",
        "Next",
    ):
        assert shown in first.stdout
    before = status(workspace)
    assert before["champion"]["version"] == 1
    assert before["champion"]["verdict"] == before["last_verdict"]["verdict"] == "PASS"
    assert before["challenger"] is None
    assert not (workspace / "mlruns").exists()
    assert any((workspace / ".dvcstore").rglob("*"))
    trained = {stage: outs_digest(stage) for stage in UPSTREAM}

    unchanged = run("expost", "retrain", "--json", cwd=workspace)
    assert unchanged.returncode == 0, unchanged.stderr
    outcome = json.loads(unchanged.stdout)
    assert (outcome["identical"], outcome["version"]) == (True, None)
    assert status(workspace)["challenger"] is None

    edit_params(workspace, lambda values: values["utility"]["matrix"]["malignant"].update({"no biopsy": -30}))
    dearer = run("expost", "retrain", "--json", cwd=workspace)
    assert dearer.returncode in (0, 3), dearer.stderr
    assert {stage: outs_digest(stage) for stage in UPSTREAM} == trained
    assert "python -m pipelines.train" not in dearer.stderr
    after = status(workspace)
    newest = max((entry for entry in (after["champion"], after["challenger"]) if entry), key=lambda entry: entry["version"])
    assert newest["version"] == 2
    assert newest["weights_sha256"] == before["champion"]["weights_sha256"]
    assert newest["policy_sha256"] != before["champion"]["policy_sha256"]
    assert dearer.returncode == (0 if after["champion"]["version"] == 2 else 3)

    _predicts(workspace)


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
