"""The proposed suite: it passes what an ordinary next week brings, stops what is broken, and `accept` takes over reviewed changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import validate
from pipelines.commands.expectations import GENERATED, accept, merge, propose, suite_text, value_range
from pipelines.commands.proposals import Wishes, propose_columns
from pipelines.errors import ExpostError
from pipelines.tables import as_text, class_names, read_table, typed
from tests.conftest import real_table

Suite = list[dict[str, Any]]


def described(source: str, target: str) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The table as ingest writes it, and its schema, with the roles that init proposes."""
    frame = read_table(source)
    classes = class_names(frame[target])
    labels = as_text(frame[target]).replace_strict({name: i for i, name in enumerate(classes)}).to_numpy()
    columns = [p for p in propose_columns(frame, target, labels, classes, Wishes()) if p.role != "ignored"]
    table = typed(frame, {p.name: p.kind for p in columns}).with_columns(as_text(frame[target]))
    return table, {"target": target, "classes": classes, "columns": [vars(p) for p in columns]}


def violated(suite: Suite, table: pl.DataFrame) -> list[str]:
    """What the generated suite finds in `table`, computed without Great Expectations (`test_the_cheap_judge_agrees...` compares them)."""
    return [f"{item['type']} {item['kwargs']}" for item in suite if not _holds(item["type"], item["kwargs"], table)]


def _holds(kind: str, kwargs: dict[str, Any], table: pl.DataFrame) -> bool:
    if kind == "expect_table_row_count_to_be_between":
        return len(table) >= kwargs["min_value"]
    if kind == "expect_table_columns_to_match_set":
        return set(kwargs["column_set"]) <= set(table.columns)
    column, mostly = table[kwargs["column"]], kwargs.get("mostly", 1.0)
    present = column.drop_nulls()
    if kind == "expect_column_values_to_not_be_null":
        return len(present) / len(column) >= mostly
    if kind == "expect_column_values_to_be_of_type":
        return column.dtype == pl.Float64
    if kind == "expect_column_values_to_be_unique":
        return bool(present.n_unique() == len(present))
    if kind == "expect_column_unique_value_count_to_be_between":
        return present.n_unique() >= kwargs["min_value"]
    if kind == "expect_column_distinct_values_to_equal_set":
        return set(present.unique()) == set(kwargs["value_set"])
    if not len(present):
        return True
    if kind == "expect_column_values_to_not_be_in_set":
        good = ~present.is_in(kwargs["value_set"])
    elif kind == "expect_column_values_to_be_in_set":
        good = present.is_in(kwargs["value_set"])
    else:
        assert kind == "expect_column_values_to_be_between"
        good = present.is_between(kwargs["min_value"], kwargs.get("max_value", float("inf")))
    return bool(good.mean() >= mostly)


TABLES = [("german_credit", "credit_risk"), ("telco_churn", "Churn"), ("hypothyroid", "Class"), ("ai4i2020", "Machine failure")]


@pytest.mark.parametrize(("name", "target"), TABLES)
def test_an_ordinary_next_week_passes(name: str, target: str) -> None:
    """Bootstrap draws of half the rows: at least 99 of 100 pass the suite proposed from the whole."""
    table, schema = described(str(real_table(name)), target)
    rare = [label for label in schema["classes"] if (table[target] == label).sum() < 50]
    if rare:  # init demands 50 rows of a class
        table = table.filter(~pl.col(target).is_in(rare))
        schema["classes"] = [label for label in schema["classes"] if label not in rare]
    suite = [item for item in propose(table, schema) if item["type"] != "expect_column_values_to_be_unique"]  # a bootstrap repeats keys
    assert not violated(suite, table)
    rng = np.random.default_rng(0)
    failed = [found for _ in range(100) if (found := violated(suite, table[rng.integers(0, len(table), len(table) // 2)]))]
    assert len(failed) <= 1, failed


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("credit_amount", pl.col("credit_amount") * 100),  # cents for marks
        ("age", 2026 - pl.col("age")),  # year of birth for age
        ("age", pl.when(pl.int_range(1000) % 10 == 0).then(None).otherwise(pl.col("age"))),
        ("purpose", pl.when(pl.int_range(1000) % 10 == 0).then(pl.lit("A99")).otherwise(pl.col("purpose"))),
        ("credit_risk", pl.when(pl.int_range(1000) % 2 == 0).then(pl.lit("2")).otherwise(pl.col("credit_risk"))),
        ("credit_risk", pl.lit("1")),
    ],
)
def test_a_broken_column_is_found_and_named(column: str, change: pl.Expr) -> None:
    table, schema = described(str(real_table("german_credit")), "credit_risk")
    found = violated(propose(table, schema), table.with_columns(change.alias(column)))
    assert found
    assert all(f"'column': '{column}'" in text for text in found)


def test_the_cheap_judge_agrees_with_great_expectations() -> None:
    table, schema = described(str(real_table("german_credit")), "credit_risk")
    suite = propose(table, schema)
    broken = table.with_columns(
        credit_amount=pl.col("credit_amount") * 100,
        age=pl.when(pl.int_range(1000) % 10 == 0).then(None).otherwise(pl.col("age")),
        purpose=pl.when(pl.int_range(1000) % 10 == 0).then(pl.lit("A99")).otherwise(pl.col("purpose")),
    )
    for judged, count in ((table, 0), (broken, 3), (table[:400], 1)):
        outcome = validate.run_suite({"name": "s", "expectations": suite}, judged)
        theirs = [r.expectation_config.type for r in outcome.results if not r.success]
        assert theirs == [text.split()[0] for text in violated(suite, judged)]
        assert len(theirs) == count


def test_every_expectation_is_described_and_every_rule_stands_beside_a_missing_share() -> None:
    table, schema = described("sklearn:breast_cancer", "diagnosis")
    suite = propose(table, schema)
    assert all(item["description"] and item["meta"]["generated"] for item in suite)
    ruled = {item["kwargs"]["column"] for item in suite if "column" in item["kwargs"]}
    assert ruled == {item["kwargs"]["column"] for item in suite if item["type"] == "expect_column_values_to_not_be_null"}
    assert len({item["description"] for item in suite}) == len(suite)


def test_class_shares_have_a_range_of_their_own() -> None:
    y = np.repeat(["a", "b", "c"], [9000, 900, 100])
    schema = {"target": "y", "classes": ["a", "b", "c"], "columns": []}
    suite = propose(pl.DataFrame({"y": y}), schema)
    assert not violated(suite, pl.DataFrame({"y": y}))
    more = pl.DataFrame({"y": np.repeat(["a", "b", "c"], [8700, 900, 400])})
    assert [text.split()[0] for text in violated(suite, more)] == ["expect_column_values_to_not_be_in_set"]
    less = pl.DataFrame({"y": np.repeat(["a", "b", "c"], [9600, 300, 100])})
    # One class halves, and so another's odds double.
    assert {text.split("'value_set': ")[1][:5] for text in violated(suite, less)} == {"['a']", "['b']"}


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        (np.linspace(10, 20, 1000), [6, 24], [0, 30]),
        (np.concatenate([np.linspace(0, 10, 999), [1e9]]), [0, 14], [-0.1, 100]),  # one wild value widens nothing
        (np.concatenate([np.zeros(999), [50.0]]), [0, 70], [-1, 100]),  # nearly always 0
        (np.full(10, -3.0), [-4, -2], [-10, 1]),
        (np.array([np.inf, 1.0, 2.0, -np.inf]), [1, 2], [9]),
        (np.arange(300) * 5e-324, [0, 1.5e-321], [-1e-320, 1e-320]),  # denormal
        (np.array([1.7e308, -1.7e308, 1.0] * 100), [1.79e308, -1.79e308], [np.inf, -np.inf]),
        (np.full(3, 1.7e308), [0.9e308, 1.79e308], [0, np.inf]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_ranges(values: np.ndarray, inside: list[float], outside: list[float]) -> None:
    low, high = value_range(values)
    assert all(low <= value <= high for value in inside)
    assert not any(low <= value <= high for value in outside)


@pytest.fixture
def ingested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[pl.DataFrame, dict[str, Any]]:
    """A workspace with an ingested table of 300 rows and the suite proposed from it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    columns = {"x": rng.normal(50, 5, 300), "c": rng.choice(["a", "b"], 300), "y": rng.choice(["no", "yes"], 300)}
    table = pl.DataFrame(columns)
    kinds = [{"name": "x", "role": "feature", "kind": "number"}, {"name": "c", "role": "feature", "kind": "category"}]
    schema = {"target": "y", "classes": ["no", "yes"], "columns": kinds}
    Path("data/ingest").mkdir(parents=True)
    table.write_parquet("data/ingest/table.parquet")
    Path("data/ingest/schema.json").write_text(json.dumps(schema))
    Path("data/expectations.json").write_text(suite_text(propose(table, schema)))
    declared = {column["name"]: {"role": column["role"], "kind": column["kind"]} for column in kinds}
    ingest = {"source": "t.csv", "target": "y", "classes": ["no", "yes"], "columns": declared}
    Path("params.yaml").write_text(json.dumps({"ingest": ingest}))
    return table, schema


def test_accept_refuses_a_table_made_with_other_roles(ingested: tuple[pl.DataFrame, dict[str, Any]]) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace('"c": {"role": "feature"', '"c": {"role": "ignored"'))
    before = Path("data/expectations.json").read_text()
    with pytest.raises(ExpostError, match="Run `dvc repro ingest` first"):
        accept(lambda _: None)
    assert Path("data/expectations.json").read_text() == before


def test_accept_changes_what_moved_and_nothing_else(ingested: tuple[pl.DataFrame, dict[str, Any]]) -> None:
    said: list[str] = []
    assert accept(said.append) == []
    assert "nothing to accept" in said[-1]
    before = Path("data/expectations.json").read_text()
    ingested[0].with_columns(x=pl.col("x") * 3).write_parquet("data/ingest/table.parquet")
    said.clear()
    changes = accept(said.append, dry_run=True)
    assert [(change.column, change.type) for change in changes] == [("x", "expect_column_values_to_be_between")]
    assert changes[0].before is not None
    assert changes[0].after is not None
    assert changes[0].after["max_value"] == pytest.approx(3 * changes[0].before["max_value"], rel=0.02)
    assert "max_value" in said[0]
    assert "->" in said[0]
    assert Path("data/expectations.json").read_text() == before
    accept(said.append)
    assert accept(said.append) == []


def test_accept_leaves_hand_written_expectations_alone(ingested: tuple[pl.DataFrame, dict[str, Any]]) -> None:
    path = Path("data/expectations.json")
    suite = json.loads(path.read_text())
    mine = {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "x", "min_value": 40}, "description": "mine"}
    own_range = next(item for item in suite["expectations"] if item["type"] == "expect_column_values_to_be_between")
    own_range["meta"], own_range["kwargs"]["max_value"] = {}, 66.0
    suite["expectations"].insert(0, mine)
    path.write_text(json.dumps(suite))
    ingested[0].with_columns(x=pl.col("x") * 3, c=pl.lit("new")).write_parquet("data/ingest/table.parquet")
    changes = accept(lambda _: None)
    assert {(change.column, change.type) for change in changes} == {("c", "expect_column_values_to_be_in_set")}
    after = json.loads(path.read_text())["expectations"]
    assert after[0] == mine
    assert own_range in after
    assert sum(item["type"] == own_range["type"] for item in after) == 1


def test_merge_drops_what_has_no_column_any_more_and_adds_what_is_new() -> None:
    gone = {"type": "t", "kwargs": {"column": "gone"}, "meta": GENERATED}
    kept = {"type": "t", "kwargs": {"column": "kept"}, "meta": GENERATED}
    new = {"type": "t", "kwargs": {"column": "new"}, "meta": GENERATED}
    merged, changes = merge([gone, kept], [kept, new])
    assert merged == [kept, new]
    assert [str(change) for change in changes] == ["gone: t is gone: ", "new: t is new: "]
