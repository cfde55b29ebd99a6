"""The stage's files agree with each other, its rule gives the same parts elsewhere, and too few rows end in one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from scipy.stats import binom

from pipelines import ingest, split
from pipelines.core import partition
from pipelines.core.partition import PARTS, assign_parts, needed
from pipelines.errors import ExpostError
from pipelines.tables import arrays
from tests.conftest import real_table

COLUMNS = {
    "x": {"role": "feature", "kind": "number"},
    "city": {"role": "feature", "kind": "category"},
    "flag": {"role": "feature+cost", "kind": "boolean"},
    "who": {"role": "group", "kind": "category"},
    "when": {"role": "time", "kind": "date"},
    "fold": {"role": "key", "kind": "category"},
    "price": {"role": "cost", "kind": "number"},
    "times": {"role": "weight", "kind": "number"},
}
ARRAYS = {
    "numbers": "float64",
    "categories": "int32",
    "labels": "int64",
    "weights": "float64",
    "parts": "int8",
    "groups": "int64",
    "row_hash": "uint64",
}
BY_TIME = {"by": "time", "time": {"valid_from": "1971-03-01", "calib_from": "1971-06-01", "holdout_from": "1971-09-01"}}
BY_COLUMN = {"by": "column", "column": {"name": "fold", "parts": {"0": "holdout", "1": "rest", "2": "rest"}}}


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(rows: int = 600) -> pl.DataFrame:
    random = np.random.default_rng(5)
    return pl.DataFrame(
        {
            "x": random.normal(size=rows),
            "city": [("Köln", "Bonn", None)[i] for i in random.integers(0, 3, rows)],
            "flag": random.random(rows) < 0.5,
            "who": [f"p{i}" for i in random.integers(0, rows, rows)],
            "when": pl.Series(random.integers(0, 730, rows), dtype=pl.Int32).cast(pl.Date),
            "fold": random.integers(0, 3, rows),
            "price": random.random(rows),
            "label": random.integers(0, 2, rows),
            "times": random.integers(1, 1000, rows),
        }
    )


def run(
    frame: pl.DataFrame, *, roles: dict[str, Any] = COLUMNS, target: str = "label", classes: tuple[str, ...] = ("0", "1"), **section: Any
):
    Path("data/raw/table").mkdir(parents=True, exist_ok=True)
    frame.write_parquet("data/raw/table/t.parquet")
    source = {"source": "t.parquet", "target": target, "classes": list(classes), "columns": roles}
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": source, "split": section}, sort_keys=False))
    ingest.main()
    split.main()
    return {name: np.load(f"data/split/{name}.npy") for name in ARRAYS}, json.loads(Path("data/split/meta.json").read_text())


def test_the_arrays_are_typed_and_aligned_with_the_table() -> None:
    frame = table()
    found, meta = run(frame)
    assert {name: str(array.dtype) for name, array in found.items()} == ARRAYS
    assert {len(array) for array in found.values()} == {600}
    assert meta["numbers"] == ["x"] and meta["categories"] == ["city", "flag"]  # features only: no group, time, key or cost
    assert meta["vocabularies"] == {"city": ["Bonn", "Köln"], "flag": ["false", "true"]}
    assert found["numbers"][:, 0].tolist() == frame["x"].to_list()
    cities = [None if code < 0 else meta["vocabularies"]["city"][code] for code in found["categories"][:, 0]]
    assert cities == frame["city"].to_list()
    assert found["labels"].tolist() == frame["label"].to_list()
    assert found["weights"].tolist() == frame["times"].to_list()


def test_without_the_role_every_row_weighs_one_and_weights_move_no_row_to_another_part() -> None:
    with_role, meta = run(table())
    without, plain = run(table(), roles={**COLUMNS, "times": {"role": "ignored"}})
    assert without["weights"].tolist() == [1.0] * 600
    assert without["parts"].tolist() == with_role["parts"].tolist()
    assert plain["sizes"] == meta["sizes"]  # parts' sizes count rows of the table


@pytest.mark.parametrize("section", [{}, {"salt": "2"}, BY_TIME, BY_COLUMN])
def test_the_sizes_are_those_of_the_parts(section: dict[str, Any]) -> None:
    found, meta = run(table(), **section)
    for code, part in enumerate(PARTS):
        labels = found["labels"][found["parts"] == code]
        assert meta["sizes"][part] == {"rows": len(labels), "per_class": [int((labels == k).sum()) for k in (0, 1)]}
    assert meta["sizes"]["excluded"]["rows"] == int((found["parts"] == -1).sum())
    for group in np.unique(found["groups"]):
        assert len(set(found["parts"][found["groups"] == group].tolist()) - {-1}) <= 1


@pytest.mark.parametrize("section", [{}, {"columns": ["price"]}, BY_TIME, BY_COLUMN])
def test_the_rule_in_meta_gives_the_same_parts_to_the_table(section: dict[str, Any]) -> None:
    """What evaluate does with the rule of a champion's bundle."""
    found, meta = run(table(), **section)
    again = pl.read_parquet("data/ingest/table.parquet")
    rule = json.loads(json.dumps(meta["rule"]))
    assert assign_parts(rule, arrays(again, needed(rule))).parts.tolist() == found["parts"].tolist()


def test_new_rows_move_none() -> None:
    before, _ = run(table(600))
    frame = pl.concat([table(600).reverse(), table(900)[600:]])
    after, _ = run(frame)
    part_of = dict(zip(after["row_hash"].tolist(), after["parts"].tolist(), strict=True))
    assert [part_of[row] for row in before["row_hash"].tolist()] == before["parts"].tolist()


def test_the_target_and_the_salt_do_not_enter_the_row_hash() -> None:
    first, _ = run(table())
    second, _ = run(table().with_columns(label=1 - pl.col("label")), salt="2")
    assert first["row_hash"].tolist() == second["row_hash"].tolist()
    assert first["parts"].tolist() != second["parts"].tolist()


def test_the_same_table_gives_the_same_bytes() -> None:
    run(table())
    first = {path.name: path.read_bytes() for path in Path("data/split").iterdir()}
    run(table())
    assert first == {path.name: path.read_bytes() for path in Path("data/split").iterdir()}


def test_planted_duplicates_share_a_part() -> None:
    """Copies of one row under other labels, prices and keys: the features alone decide."""
    frame = table()
    copies = frame[:50].with_columns(label=1 - pl.col("label"), price=pl.col("price") + 1)
    found, meta = run(pl.concat([frame, copies]), roles={**COLUMNS, "who": {"role": "ignored"}})
    assert found["parts"][:50].tolist() == found["parts"][600:].tolist()
    assert found["groups"][:50].tolist() == found["groups"][600:].tolist()
    assert meta["sizes"]["excluded"]["rows"] == 0


def test_a_second_file_is_the_holdout() -> None:
    Path("data/raw/holdout").mkdir(parents=True)
    frame = table(900)
    frame[600:].write_parquet("data/raw/holdout/h.parquet")
    frame[:600].write_parquet("t.parquet")
    Path("data/raw/table").mkdir()
    frame[:600].write_parquet("data/raw/table/t.parquet")
    columns = {**COLUMNS, "who": {"role": "ignored"}}
    source = {"source": "t.parquet", "holdout_source": "h.parquet", "target": "label", "classes": ["0", "1"], "columns": columns}
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": source}))
    ingest.main()
    split.main()
    parts = np.load("data/split/parts.npy")
    assert set(parts[600:].tolist()) == {3} and set(parts[:600].tolist()) == {0, 1, 2}


def test_too_few_rows_say_how_many_are_needed() -> None:
    frame = table().with_columns(label=pl.Series([1] * 20 + [0] * 580))
    with pytest.raises(
        ExpostError, match=r"at least 5 rows of each class .*valid has \d rows of class '1'.*About 115 rows .* there are 20"
    ):
        run(frame)
    assert not Path("data/split").exists()


@pytest.mark.parametrize(("least", "share"), [(5, 0.1), (5, 0.15), (20, 0.1), (1, 0.6)])
def test_the_rows_needed_are_enough_19_times_in_20_and_not_many_too_many(least: int, share: float) -> None:
    needed_rows = split.rows_needed(least, share)
    assert binom.sf(least - 1, needed_rows, share) > 0.95
    assert binom.sf(least - 1, needed_rows // 2, share) < 0.95


@pytest.mark.parametrize(
    ("section", "columns", "message"),
    [
        ({"columns": ["zip"]}, COLUMNS, "split needs column 'zip'.*Give it a role"),
        (BY_TIME, {**COLUMNS, "when": {"role": "key", "kind": "date"}}, "exactly one column with role time and kind date.*there is none"),
        (BY_TIME, {**COLUMNS, "when": {"role": "time", "kind": "category"}}, r"kind date.*\[\('when', 'category'\)\]"),
        ({**BY_TIME, "time": {**BY_TIME["time"], "valid_from": "1972-01-01"}}, COLUMNS, "must follow each other"),
        ({**BY_TIME, "time": {**BY_TIME["time"], "valid_from": "1.3.1971"}}, COLUMNS, "must be ISO 8601"),
        ({**BY_TIME, "time": {**BY_TIME["time"], "holdout_from": "1999-01-01"}}, COLUMNS, "holdout has 0 rows.*split.time"),
        ({"by": "column", "column": {"name": "fold", "parts": {"0": "holdout", "1": "rest"}}}, COLUMNS, r"\['2'\] have no part"),
        ({"by": "column", "column": {"name": "price", "parts": {"0": "holdout", "1": "rest"}}}, COLUMNS, "kind category or boolean"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(section: dict[str, Any], columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpostError, match=message):
        run(table(), roles=columns, **section)


def test_german_credit() -> None:
    frame = pl.read_parquet(real_table("german_credit"))
    kinds = {name: "number" if kind.is_numeric() else "category" for name, kind in frame.schema.items() if name != "credit_risk"}
    columns = {name: {"role": "feature", "kind": kind} for name, kind in kinds.items()}
    found, meta = run(frame, roles=columns, target="credit_risk", classes=("1", "2"))
    assert found["numbers"].shape == (1000, 7) and found["categories"].shape == (1000, 13)
    for part, share in {"train": 0.6, "valid": 0.1, "calib": 0.15, "holdout": 0.15}.items():
        assert abs(meta["sizes"][part]["rows"] - 1000 * share) < 4 * (1000 * share * (1 - share)) ** 0.5
    assert sum(meta["sizes"][part]["per_class"][1] for part in PARTS) == 300


def test_networks_of_folds_see_all_rows_before_the_holdout_outside_their_own_fold() -> None:
    found, meta = run(table(), folds="auto")
    unseen, calib = np.load("data/split/unseen.npy"), np.load("data/split/calib.npy")
    assert meta["rule"]["folds"] == {"count": 5, "repeats": 2}
    before = np.isin(found["parts"], (0, 1, 2))
    np.testing.assert_array_equal(calib, before)
    assert unseen.shape == (600, 10)
    assert unseen[~before].all()
    for repetition in (unseen[before, :5], unseen[before, 5:]):
        assert (repetition.sum(axis=1) == 1).all()
        assert (repetition.sum(axis=0) > 50).all()
    for group in np.unique(found["groups"][before]):
        assert len(np.unique(unseen[before & (found["groups"] == group)], axis=0)) == 1
    again = pl.read_parquet("data/ingest/table.parquet")
    assignment = assign_parts(meta["rule"], arrays(again, needed(meta["rule"])))
    np.testing.assert_array_equal(partition.unseen(meta["rule"], assignment.parts, assignment.draws, assignment.row_hash), unseen)


def repeated(share: float) -> pl.DataFrame:
    """The table with a share of its rows a second time, as rows of other groups."""
    again = table().head(int(600 * share)).with_columns(who=pl.lit("again ") + pl.col("who"))
    return pl.concat([table(), again])


def test_networks_of_folds_learn_from_no_row_equal_to_one_of_their_own_fold() -> None:
    found, meta = run(repeated(0.5), folds=3, repeats=2)
    left_out, before = np.load("data/split/unseen.npy"), np.isin(found["parts"], (0, 1, 2))
    for row_hash in np.unique(found["row_hash"][before]):
        assert len(np.unique(left_out[before & (found["row_hash"] == row_hash)], axis=0)) == 1
    folds = left_out[before].reshape(-1, 2, 3).sum(axis=2)
    assert folds.min() == 1 and folds.max() == 2, "an equal row lies in the same fold or in another one"
    assert meta["rule"]["folds"] == {"count": 3, "repeats": 2}


def test_folds_whose_rows_of_a_class_have_an_equal_one_in_another_are_not_made() -> None:
    """Of class 1 few rows before the holdout stand once, too few for each of the folds, and others in forty groups."""
    frame, pooled = table(), table().filter((pl.col("label") == 1) & (pl.col("fold") > 0))
    often = [pooled[14:40].with_columns(who=pl.lit(f"{i} ") + pl.col("who")) for i in range(40)]
    frame = pl.concat([frame.filter((pl.col("label") == 0) | (pl.col("fold") == 0)), pooled[:14], *often])
    with pytest.raises(ExpostError, match=r"one holds none of the \d{3} rows of class '1' but rows with an equal one in another fold"):
        run(frame, **BY_COLUMN, salt="2", folds=10, repeats=2, min_rows_per_class=1)
    assert run(frame, **BY_COLUMN, salt="2", folds="auto", min_rows_per_class=1)[1]["rule"]["folds"] is None
    ones = np.load("data/split/labels.npy").astype(bool) & np.isin(np.load("data/split/parts.npy"), (0, 1, 2))
    assert ones.sum() > 100, "enough for folds, were they not equal"


@pytest.mark.parametrize(
    ("section", "folds"),
    [
        ({}, None),
        ({"folds": None}, None),
        ({"folds": 3, "repeats": 1}, {"count": 3, "repeats": 1}),
        ({"folds": "auto", **BY_TIME}, None),
        ({"folds": "auto", **BY_COLUMN}, {"count": 5, "repeats": 2}),
        ({"folds": 4, **BY_COLUMN}, {"count": 4, "repeats": 2}),
    ],
)
def test_folds_are_made_where_they_are_asked_for_and_parts_are_drawn(section: dict[str, Any], folds: Any) -> None:
    _, meta = run(table(), **section)
    assert meta["rule"]["folds"] == folds
    if folds is None:
        parts, unseen, calib = (np.load(f"data/split/{name}.npy") for name in ("parts", "unseen", "calib"))
        np.testing.assert_array_equal(calib, parts == 2)
        np.testing.assert_array_equal(unseen[:, 0], ~np.isin(parts, (0, 1)))


@pytest.mark.parametrize(
    ("folded", "auto", "asked"),
    [
        (((100, 5, 2), (400, 5, 1)), None, {"count": 4, "repeats": 1}),
        (((100, 5, 2), (600, 3, 1)), {"count": 3, "repeats": 1}, {"count": 4, "repeats": 1}),
        (((600, 6, 3), (700, 3, 1)), {"count": 6, "repeats": 3}, {"count": 4, "repeats": 3}),
    ],
)
def test_the_more_rows_the_fewer_networks(folded: Any, auto: Any, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "FOLDED", folded)
    assert run(table(), folds="auto")[1]["rule"]["folds"] == auto
    assert run(table(), folds=4)[1]["rule"]["folds"] == asked


def test_a_class_too_rare_for_the_folds_is_named_and_auto_does_without() -> None:
    rare = table().with_columns(label=pl.Series((np.arange(600) % 45 == 0).astype(int)))
    with pytest.raises(
        ExpostError, match=r"each of the 20 folds must hold rows of every class, however: one holds none of the 1\d rows of class '1'"
    ):
        run(rare, folds=20, min_rows_per_class=1)
    assert not Path("data/split").exists()
    auto = run(rare, folds="auto", min_rows_per_class=1)[1]["rule"]
    assignment = assign_parts(auto, arrays(pl.read_parquet("data/ingest/table.parquet"), needed(auto)))
    positive = np.load("data/split/labels.npy").astype(bool) & np.isin(assignment.parts, (0, 1, 2))
    drawn = partition.folds_of({**auto, "folds": {"count": 5, "repeats": 2}}, assignment.draws)
    assert min(len(np.unique(folds[positive])) for folds in drawn) < 5, "one of the folds would lack the class"
    assert auto["folds"] is None


def test_folds_of_dated_parts_are_refused() -> None:
    with pytest.raises(ExpostError, match=r"split\.folds must be null or auto unless all rows before the holdout are drawn by hash"):
        run(table(), folds=5, **BY_TIME)


@pytest.mark.parametrize("given", [{"folds": 50}, {"folds": "many"}, {"folds": True}, {"repeats": 0}, {"repeats": None}])
def test_a_number_of_folds_beyond_reason_is_one_sentence(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(
        ExpostError, match=rf"split\.{name} must be auto.* or a whole number from .*, however: got {given[name]!r}"
    ) as caught:
        run(table(), **given)
    assert len(str(caught.value).splitlines()) == 1
