"""The scientist's side: DVC alone, on what a retraining left, without Prefect, MLflow or a network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import edit_params, run


def commit(workspace: Path) -> None:
    for command in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "state"]):
        subprocess.run(["git", *command], cwd=workspace, check=True, capture_output=True)


def dvc(*command: str, cwd: Path) -> str:
    done = run("dvc", *command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_metrics_plots_params_and_experiments_show_calib_figures_only(workspace_copy: Path) -> None:
    dvc("repro", cwd=workspace_copy)
    commit(workspace_copy)
    metrics = json.loads(dvc("metrics", "show", "--json", cwd=workspace_copy))[""]["data"]
    assert set(metrics) == {f"data/{stage}/metrics.json" for stage in ("train", "calibrate", "decide")}
    decided = metrics["data/decide/metrics.json"]["data"]
    summary = json.loads((workspace_copy / "data/decide/summary.json").read_text())
    assert decided["utility_low"] <= decided["utility"] <= decided["utility_high"]
    assert decided["gain"] == pytest.approx(summary["gain"]["mean"])

    dvc("plots", "show", cwd=workspace_copy)
    page = (workspace_copy / "dvc_plots/index.html").read_text()
    for title in ("Training", "Reliability on calib, cross-fitted", "Utility per case along the threshold on calib, cross-fitted"):
        assert title in page

    edit_params(workspace_copy, lambda values: values["utility"]["matrix"]["benign"].update(biopsy=-2))
    changed = json.loads(dvc("params", "diff", "--json", cwd=workspace_copy))["params.yaml"]
    assert list(changed) == ["utility.matrix.benign.biopsy"]
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=workspace_copy, check=True)

    shown = dvc("exp", "run", "-S", "calibrate.folds=4", cwd=workspace_copy)
    assert "Running stage 'calibrate'" in shown
    assert "Running stage 'train'" not in shown
    assert json.loads(dvc("exp", "show", "--json", cwd=workspace_copy))


def test_it_needs_no_network_and_no_server(workspace_copy: Path) -> None:
    edit_params(workspace_copy, lambda values: values["utility"]["matrix"]["malignant"].update({"no biopsy": -20}))
    unshare = run("unshare", "-rn", "true", cwd=workspace_copy)
    isolated = ("unshare", "-rn") if unshare.returncode == 0 else ("env",)
    nowhere = "http://127.0.0.1:9"
    done = run(*isolated, "dvc", "repro", cwd=workspace_copy, PREFECT_API_URL=nowhere, MLFLOW_TRACKING_URI=nowhere)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((workspace_copy / "data/gate/verdict.json").read_text())["verdict"] in ("PASS", "INSUFFICIENT_DATA")
