"""What changed since the champion's table: rows, columns, and each feature's values; written by evaluate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import champion, drift, evaluate
from tests.stages.judging import edit, quick
from tests.stages.shipped import mixed_table

KINDS = {"number": "number", "heavy": "number", "colour": "category", "flag": "boolean", "day": "date", "note": "text"}
SCHEMA: dict[str, Any] = {
    "target": "outcome",
    "classes": ["good", "bad"],
    "columns": [{"name": name, "role": "feature", "kind": kind} for name, kind in KINDS.items()],
}


def typed(rows: int = 700, seed: int = 0) -> pl.DataFrame:
    return mixed_table(rows, seed).with_columns(pl.col("flag").cast(pl.String), pl.col("day").cast(pl.Int32).cast(float))


def changes(old: pl.DataFrame, new: pl.DataFrame, schema: dict[str, Any] = SCHEMA) -> dict[str, Any]:
    before = json.loads(json.dumps(drift.profile(old, SCHEMA)))
    return drift.compare(before, drift.profile(new, schema), new)


def words(found: dict[str, Any]) -> dict[str, str]:
    return {entry["feature"]: entry["word"] for entry in (*found["features"], found["target"])}


def test_another_sample_of_the_same_rows_is_stable_and_the_order_of_rows_does_not_matter() -> None:
    found = changes(typed(), typed(900, seed=1))
    assert words(found) == dict.fromkeys([*KINDS, "outcome"], "stable")
    assert (found["rows_before"], found["rows_now"]) == (700, 900)
    assert found["schema"] == {"added": [], "removed": [], "retyped": []}
    assert changes(typed().reverse(), typed(900, seed=1).sample(fraction=1.0, shuffle=True, seed=3)) == found


@pytest.mark.parametrize("name", [*KINDS, "outcome"])
def test_the_column_that_changed_is_named_and_no_other(name: str) -> None:
    column = pl.col(name)
    new = typed(900, seed=1)
    text = new.schema[name] == pl.String
    changed = pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("new")).otherwise(column) if text else column * 1.5 + column.std()
    found = words(changes(typed(), new.with_columns(changed.alias(name))))
    assert found.pop(name) != "stable"
    assert set(found.values()) == {"stable"}


def test_missing_new_and_gone_values_are_shown_with_their_shares() -> None:
    old, new = typed(), typed().with_columns(pl.col("colour").replace("red", "purple"), pl.lit(None, pl.Float64).alias("heavy"))
    found = {entry["feature"]: entry for entry in changes(old, new)["features"]}
    assert (found["colour"]["appeared"], found["colour"]["gone"]) == (["purple"], ["red"])
    assert (found["heavy"]["missing_before"], found["heavy"]["missing_now"], found["heavy"]["word"]) == (0.0, 1.0, "moved much")
    bins = found["colour"]["bins"]
    assert bins["values"] == ["blue", "green", "red"]
    assert bins["before"][:3] == [old.filter(pl.col("colour") == value).height / 700 for value in bins["values"]]
    assert bins["now"][2:] == [0.0, bins["before"][2]]


def test_columns_that_came_went_or_changed_their_kind_are_listed_not_compared() -> None:
    columns = [
        {"name": "number", "role": "feature", "kind": "category"},
        *SCHEMA["columns"][1:4],
        *SCHEMA["columns"][5:],
        {"name": "x", "role": "feature", "kind": "number"},
    ]
    new = typed().with_columns(pl.col("number").cast(pl.String), pl.lit(1.0).alias("x"))
    found = changes(typed(), new, {**SCHEMA, "columns": columns})
    retyped = [{"column": "number", "before": "number, feature", "now": "category, feature"}]
    assert found["schema"] == {"added": ["x"], "removed": ["day"], "retyped": retyped}
    assert [entry["feature"] for entry in found["features"]] == ["heavy", "colour", "flag", "note"]


def test_rows_of_one_group_are_worth_one_row() -> None:
    """Twenty copies of few cases differ widely by chance alone: as single rows they would cry wolf."""
    alarms = {"rows": 0, "groups": 0}
    for seed in range(20):
        old, new = (typed(60, seed=2 * seed + i) for i in (0, 1))
        copied = [pl.concat([table] * 20) for table in (old, new)]
        groups = np.tile(np.arange(60), 20)
        for name, given in (("rows", None), ("groups", groups)):
            before, now = (drift.profile(table, SCHEMA, groups=given) for table in copied)
            alarms[name] += set(words(drift.compare(before, now, copied[1])).values()) != {"stable"}
    assert alarms["groups"] <= 3 < 15 < alarms["rows"]


def test_evaluate_writes_the_profile_and_what_changed_since_the_champions(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(world, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    quick(folder)
    champion.main()
    evaluate.main()
    written = [(Path("data/evaluate") / name).read_text() for name in ("profile.json", "changes.json")]
    assert json.loads(written[1]) is None
    profile = json.loads(written[0])
    assert (profile["rows"], list(profile["features"])) == (700, sorted(KINDS))
    assert profile["target"]["counts"] == [float((mixed_table()["outcome"] == name).sum()) for name in ("bad", "good")]

    Path("data/champion/profile.json").write_text(written[0])
    evaluate.main()
    found = json.loads(Path("data/evaluate/changes.json").read_text())
    assert set(words(found).values()) == {"stable"}
    assert {entry["psi"] for entry in found["features"]} == {0.0}

    edit(Path("data/champion/profile.json"), lambda value: value.update(format=99))
    evaluate.main()
    assert json.loads(Path("data/evaluate/changes.json").read_text()) is None
