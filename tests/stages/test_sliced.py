"""Slices of the holdout as evaluate writes them, and the gate as it reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import evaluate, gate, store
from pipelines.errors import ExpostError
from pipelines.params.evaluate import Evaluate
from pipelines.sliced import sliced
from pipelines.slices import of_lessons
from tests.stages import judging

EARLIER = [
    {"name": "heavy > 1", "conditions": [{"column": "heavy", "op": ">", "value": 1.0}], "version": 1},
    {"name": "number is missing", "conditions": [{"column": "number", "op": "missing", "value": None}], "version": 1},
    {"name": "number is missing", "conditions": [{"column": "number", "op": "missing", "value": None}], "version": 3},
    {"name": "income > 9", "conditions": [{"column": "income", "op": ">", "value": 9.0}], "version": 2},
    {"name": "heavy is old", "conditions": [{"column": "heavy", "op": "is", "value": "old"}], "version": 2},
]
OWN = {
    "rows": 100,
    "regret": 0.3,
    "lessons": [{"name": "heavy > 1", "conditions": [{"column": "heavy", "op": ">", "value": 1.0}], "failures": [], "successes": []}],
}


@pytest.fixture(scope="module")
def evaluated(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion that decides a little differently, two declared slices, one own lesson and four of earlier versions."""
    folder = tmp_path_factory.mktemp("sliced") / "world"
    shutil.copytree(world, folder)
    judging.params(
        folder, lambda values: values.update(evaluate={"resamples": 100, "slices": {"red": "colour = 'red'", "none": "heavy < 0"}})
    )
    judging.validated(folder)
    (folder / "data/champion").mkdir(parents=True)
    status = judging.crown(folder, folder / "data/package/bundle", judging.other_policy)
    shutil.copytree(folder / "mlflow/champion/bundle", folder / "data/champion/bundle")
    (folder / "data/champion/status.json").write_text(json.dumps({**status, "first": None}))
    (folder / "data/champion/lessons.json").write_text(json.dumps(EARLIER))
    (folder / "data/decide/lessons.json").write_text(json.dumps(OWN))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evaluate.main()
        gate.main()
    return folder


def read(folder: Path) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]:
    """The evaluation, its rows, and the same rows of the table."""
    holdout = np.flatnonzero(np.load(folder / "data/split/parts.npy") == evaluate.HOLDOUT)
    table = pl.read_parquet(folder / "data/ingest/table.parquet")[holdout]
    return json.loads((folder / "data/evaluate/evaluation.json").read_text()), pl.read_parquet(folder / "data/evaluate/rows.parquet"), table


def test_slices_are_the_declared_then_own_lessons_then_those_of_earlier_champions_each_once(evaluated: Path) -> None:
    evaluation, rows, table = read(evaluated)
    assert [(one["name"], one["kind"], one["version"]) for one in evaluation["slices"]] == [
        ("red", "declared", None),
        ("none", "declared", None),
        ("heavy > 1", "lesson", None),
        ("number is missing", "earlier lesson", 1),
    ]
    expected = [table["colour"] == "red", table["heavy"] < 0, table["heavy"] > 1, table["number"].is_null()]
    for i, (one, mask) in enumerate(zip(evaluation["slices"], expected, strict=True)):
        assert rows[f"slice_{i}"].dtype == pl.Boolean
        assert rows[f"slice_{i}"].to_list() == mask.fill_null(False).to_list()
        assert one["support"] == one["compared"] == mask.sum()


def test_each_slice_has_its_figures_with_intervals_and_none_where_there_is_no_row(evaluated: Path) -> None:
    evaluation, rows, _ = read(evaluated)
    red, none = evaluation["slices"][:2]
    there = rows.filter("slice_0")
    assert red["challenger"]["mean"] == pytest.approx(there["challenger_utility"].mean())
    assert red["champion"]["mean"] == pytest.approx(there["champion_utility"].mean())
    assert red["difference"]["mean"] == pytest.approx((there["challenger_utility"] - there["champion_utility"]).mean())
    assert red["regret"]["mean"] == pytest.approx(-there["challenger_utility"].mean())  # the best action is worth nothing here
    for name in ("challenger", "champion", "difference", "regret"):
        assert red[name]["low"] <= red[name]["mean"] <= red[name]["high"]
        assert none[name] is None
    assert none["support"] == none["compared"] == 0


def test_lessons_without_their_columns_are_listed_with_the_reason_and_stop_nothing(evaluated: Path) -> None:
    evaluation, _, _ = read(evaluated)
    assert [(one["name"], one["version"], one["reason"]) for one in evaluation["not_applicable"]] == [
        ("income > 9", 2, "column 'income' is not among the table's inputs now"),
        ("heavy is old", 2, "column 'heavy' is of another type now"),
    ]


def test_the_gate_judges_declared_slices_and_lessons(evaluated: Path) -> None:
    verdict = json.loads((evaluated / "data/gate/verdict.json").read_text())
    found = [(item["criterion"], item["subject"]) for item in verdict["criteria"] if item["criterion"] in ("slice", "lesson")]
    assert found == [("slice", "red"), ("slice", "none"), ("lesson", "heavy > 1"), ("lesson", "number is missing")]


def test_the_lessons_that_decide_writes_mark_the_rows_that_they_name(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """End to end: the conditions as the tree found them and the masks of the table agree on calib."""
    monkeypatch.chdir(world)
    learned = store.read_json(Path("data/decide/lessons.json"))
    calib = pl.read_parquet("data/ingest/table.parquet")[np.load("data/calibrate/rows.npy")]
    found = sliced(calib, "outcome", Evaluate())
    assert learned["rows"] == calib.height and learned["regret"] > 0
    assert [int(mask.sum()) for mask in found.masks] == [lesson["support"] for lesson in learned["lessons"]]
    assert [one.name for one in found.slices] == [one.name for one in of_lessons(learned)]


def test_the_target_is_no_input_of_a_slice(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    with pytest.raises(ExpostError, match="must have the columns of the slice 'bad', however: outcome is missing"):
        sliced(pl.read_parquet("data/ingest/table.parquet"), "outcome", Evaluate(slices={"bad": "outcome = 'bad'"}))
