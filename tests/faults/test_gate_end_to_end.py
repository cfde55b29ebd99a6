"""One thing of the challenger is made worse at a time; the real stages run, and the verdict names that criterion and no other.

The table is made up: rows enough for the gate to see what it is to see, and features that no single one of which separates.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import bundle
from tests.conftest import edit_params, make_workspace, run
from tests.faults import spoil
from tests.stages.judging import crown, edit

ROWS = 8000
CALIBRATION = ("log_loss", "brier", "calibration_error", "slope", "intercept")
HOLDOUT = 3


def write_table(path: Path) -> None:
    """Four numbers, two of which tell of the class together; the outcome stays uncertain."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 4))
    log_odds = 1.6 * x[:, 0] + x[:, 1] - 0.8 * x[:, 0] * x[:, 2] - 1.0
    bought = np.where(rng.random(ROWS) < 1 / (1 + np.exp(-log_odds)), "yes", "no")
    pl.DataFrame({**{name: np.round(x[:, k], 6) for k, name in enumerate("abcd")}, "bought": bought}).write_csv(path)


def quick(params: dict[str, Any]) -> None:
    params["train"]["network"].update(k=4, blocks=1, width=32, number_embedding=4, bins=8)
    params["train"].update(max_epochs=15, patience=4, learning_rate=0.01)
    params["calibrate"].update(methods=["affine"], repeats=1)
    params["decide"].update(policies=["analytic"])
    params["evaluate"].update(resamples=100)


@pytest.fixture(scope="module")
def reigning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose own finished bundle is the champion. Read only: copy it before changing anything."""
    folder = make_workspace(tmp_path_factory.mktemp("gated") / "workspace")
    write_table(folder.parent / "shop.csv")
    init = run("expost", "init", "../shop.csv", "--target=bought", "--positive=yes", "--cost-fn=5", "--cost-fp=1", cwd=folder)
    assert init.returncode == 0, init.stderr
    edit_params(folder, quick)
    done = run("dvc", "repro", "gate", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_verdict(folder)["verdict"] == "PASS"  # by the absolute criteria of a first champion
    crown(folder, folder / "data/package/bundle")
    return folder


@pytest.fixture
def copy(reigning: Path, tmp_path: Path) -> Path:
    """What the last stages read, free to change."""
    for name in ("data/ingest", "data/split", "data/package", "mlflow/champion"):
        shutil.copytree(reigning / name, tmp_path / name)
    shutil.copy(reigning / "params.yaml", tmp_path)
    return tmp_path


def stage(workspace: Path, *names: str) -> str:
    """Run stages as DVC does; returns what the last one said."""
    for name in names:
        done = run("python", "-m", f"pipelines.{name}", cwd=workspace)
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return done.stdout


def spoilt(workspace: Path, change: Callable[[Path], None]) -> None:
    """Change the challenger's bundle, give it the manifest of what it is now, and evaluate it beside the champion."""
    folder = workspace / "data/package/bundle"
    change(folder)
    bundle.write_manifest(folder)
    stage(workspace, "champion", "evaluate")


def read_verdict(workspace: Path) -> dict[str, Any]:
    verdict: dict[str, Any] = json.loads((workspace / "data/gate/verdict.json").read_text())
    return verdict


def judged(workspace: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The verdict, and the criteria that do not pass."""
    said = stage(workspace, "gate")
    verdict = read_verdict(workspace)
    assert said.startswith(f"verdict: {verdict['verdict']}\n")
    found = {item["criterion"]: item["verdict"] for item in verdict["criteria"]}
    always = {"utility", "log_loss", "brier", "v_information", "negative_flips", "effective_rank", "support", "validity"}
    finite = {"floor_trivial", "calibration_error", "slope", "intercept"}  # what is no number is reported once, by the criteria above
    assert always <= set(found) <= always | finite
    assert found["validity"] == "ERROR" or finite <= set(found)
    return verdict, {name: kind for name, kind in found.items() if kind != "PASS"}


def actions(workspace: Path) -> tuple[list[str], list[str]]:
    rows = pl.read_parquet(workspace / "data/evaluate/rows.parquet")
    return rows["challenger_action"].to_list(), rows["champion_action"].to_list()


def test_a_worse_policy_fails_in_utility_and_by_its_floor_alone(copy: Path) -> None:
    spoilt(copy, spoil.a_shifted_threshold)
    verdict, blamed = judged(copy)
    assert (verdict["verdict"], blamed) == ("FAIL", {"utility": "FAIL", "floor_trivial": "FAIL"})
    assert verdict["challenger"]["weights_sha256"] == verdict["champion"]["weights_sha256"]
    utility = next(item for item in verdict["criteria"] if item["criterion"] == "utility")
    assert utility["estimate"] <= utility["high"] < 0
    assert utility["reason"] == verdict["reasons"][0]


def test_a_worse_calibrator_with_the_same_actions_fails_in_calibration_alone(copy: Path) -> None:
    spoilt(copy, spoil.overconfidence_with_the_same_actions)
    ours, theirs = actions(copy)
    assert ours == theirs
    verdict, blamed = judged(copy)
    assert (verdict["verdict"], blamed) == ("FAIL", dict.fromkeys(CALIBRATION, "FAIL"))


def test_noise_for_an_embedding_at_equal_probabilities_fails_in_v_information_alone(copy: Path) -> None:
    spoilt(copy, spoil.noise_for_an_embedding)
    rows = pl.read_parquet(copy / "data/evaluate/rows.parquet")
    assert (rows["challenger_probability_yes"] == rows["champion_probability_yes"]).all()
    verdict, blamed = judged(copy)
    assert (verdict["verdict"], blamed) == ("FAIL", {"v_information": "FAIL"})


def a_number_of_one_holdout_row(workspace: Path) -> np.float32:
    """The first encoded number of a holdout row, which no other row shares."""
    loaded = bundle.Bundle.load(workspace / "data/package/bundle")
    first = loaded.encode(pl.read_parquet(workspace / "data/ingest/table.parquet")).inputs["numbers"][:, 0]
    values, counts = np.unique(first, return_counts=True)
    held = first[np.load(workspace / "data/split/parts.npy") == HOLDOUT]
    return held[np.isin(held, values[counts == 1])][0]


@pytest.mark.parametrize(
    ("output", "named"),
    [("embedding", {"v_information"}), ("logits", {"utility", "log_loss", "brier", "calibration_error", "negative_flips", "validity"})],
)
def test_one_nan_of_the_network_is_an_error_of_what_is_made_of_it(copy: Path, output: str, named: set[str]) -> None:
    spoilt(copy, partial(spoil.nan_for_one_input, output=output, first_number=a_number_of_one_holdout_row(copy)))
    verdict, blamed = judged(copy)
    assert (verdict["verdict"], blamed) == ("ERROR", dict.fromkeys(named, "ERROR"))


def test_a_new_limit_on_the_champions_own_network_passes_on_many_rows(reigning: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reigning, tmp_path / "copy", symlinks=True))
    edit_params(folder, lambda values: values["utility"].update(limits={"yes": {"at_most": 0.25}}))
    stage(folder, "decide", "package", "champion", "evaluate", "gate")
    verdict, evaluation = read_verdict(folder), json.loads((folder / "data/evaluate/evaluation.json").read_text())
    limit = next(item for item in evaluation["limits"] if item["action"] == "yes")
    assert limit["share"]["mean"] == pytest.approx(limit["champion"]["mean"])
    assert evaluation["comparator"]["as_it_reigns"]["mean"] > evaluation["challenger"]["utility"]["high"]  # unequal without the limit
    assert (verdict["verdict"], verdict["identical"]) == ("PASS", False)
    assert "re-decided under the limits now in force" in verdict["reasons"][0]


@pytest.fixture(scope="module")
def alike(reigning: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A challenger of other bytes that behaves as the champion, evaluated. Read only."""
    folder = tmp_path_factory.mktemp("alike")
    for name in ("data/ingest", "data/split", "data/package", "mlflow/champion"):
        shutil.copytree(reigning / name, folder / name)
    shutil.copy(reigning / "params.yaml", folder)
    spoilt(folder, spoil.a_hair_of_calibration)
    return folder


@pytest.fixture
def evaluated(alike: Path, tmp_path: Path) -> Path:
    """What the gate reads, free to change."""
    for name in ("data/champion", "data/evaluate"):
        shutil.copytree(alike / name, tmp_path / name)
    shutil.copy(alike / "params.yaml", tmp_path)
    return tmp_path


def test_an_equal_challenger_of_other_bytes_passes(evaluated: Path) -> None:
    verdict, blamed = judged(evaluated)
    assert (verdict["verdict"], verdict["identical"], blamed) == ("PASS", False, {})
    assert verdict["challenger"]["bundle_sha256"] != verdict["champion"]["bundle_sha256"]


def change_rows(workspace: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    path = workspace / "data/evaluate/rows.parquet"
    change(pl.read_parquet(path)).write_parquet(path)


def one_nan(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    return rows.with_columns(pl.when(pl.int_range(pl.len()) == 17).then(float("nan")).otherwise(pl.col(name)).alias(name))


def test_one_nan_among_the_rows_is_an_error_of_that_criterion_alone(evaluated: Path) -> None:
    change_rows(evaluated, partial(one_nan, name="challenger_log_loss"))
    verdict, blamed = judged(evaluated)
    assert (verdict["verdict"], blamed) == ("ERROR", {"log_loss": "ERROR"})
    assert verdict["reasons"][0] == "The log loss is not a finite number in every row (1 are not)."


def test_a_missing_metric_is_an_error_of_that_criterion_alone(evaluated: Path) -> None:
    change_rows(evaluated, lambda rows: rows.drop("challenger_brier"))
    verdict, blamed = judged(evaluated)
    assert (verdict["verdict"], blamed) == ("ERROR", {"brier": "ERROR"})
    assert verdict["reasons"][0] == "The Brier score is missing from the evaluation."


def test_a_missing_margin_is_an_error_of_utility_alone(evaluated: Path) -> None:
    edit(evaluated / "data/evaluate/evaluation.json", lambda values: values.pop("champion_gain"))
    verdict, blamed = judged(evaluated)
    assert (verdict["verdict"], blamed) == ("ERROR", {"utility": "ERROR"})


def test_the_champions_own_bundle_is_identical(copy: Path) -> None:
    stage(copy, "champion", "evaluate", "gate")
    verdict = read_verdict(copy)
    assert (verdict["verdict"], verdict["identical"], verdict["criteria"]) == ("PASS", True, [])
