"""Own data in two commands, on a real table with its official costs: 1,000 loans, a bad one accepted 5, a good one refused 1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.conftest import real_table, run


def test_german_credit_from_init_to_scored_rows(workspace: Path) -> None:
    table = real_table("german_credit")
    command = ("expost", "init", str(table), "--target", "credit_risk", "--positive", "2", "--cost-fn", "5", "--cost-fp", "1")
    made = run(*command, cwd=workspace)
    assert made.returncode == 0, made.stderr
    assert all("#" in line for line in (workspace / "params.yaml").read_text().splitlines())

    done = run("expost", "retrain", cwd=workspace)
    assert done.returncode in (0, 3), done.stderr
    verdict = json.loads((workspace / "data/gate/verdict.json").read_text())
    assert (done.returncode == 0) == (verdict["verdict"] == "PASS")
    assert {item["criterion"] for item in verdict["criteria"]} >= {"utility", "log_loss", "brier", "v_information"}
    assert all(
        item["rows_needed"] for item in verdict["criteria"] if item["criterion"] == "utility" and item["verdict"] == "INSUFFICIENT_DATA"
    )

    policy = json.loads((workspace / "data/decide/policy.json").read_text())
    if policy["kind"] == "analytic":
        assert policy["threshold"] == pytest.approx(1 / 6)
    parts = np.load(workspace / "data/split/parts.npy")
    assert np.isin(parts, (0, 1, 2, 3)).all()
    assert 0.10 < (parts == 3).mean() < 0.20

    scored = run("expost", "predict", str(table), "scored.parquet", "--version", "1", "--keep", "credit_risk", cwd=workspace)
    assert scored.returncode == 0, scored.stderr
    rows = pl.read_parquet(workspace / "scored.parquet")
    assert rows.height == 1000
    assert rows["credit_risk"].to_list() == pl.read_parquet(table)["credit_risk"].to_list(), "row order is kept"
    np.testing.assert_allclose(rows["probability_1"] + rows["probability_2"], 1, atol=1e-6)
    held = pl.read_parquet(workspace / "data/evaluate/rows.parquet")
    np.testing.assert_allclose(rows["probability_2"].to_numpy()[parts == 3], held["challenger_probability_2"].to_numpy(), atol=1e-5)
    assert rows["action"].to_numpy()[parts == 3].tolist() == held["challenger_action"].to_list()
