"""Stage validate: expectations, and the traps that expectations let pass (each blocked by a test)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import validate
from pipelines.datachecks import look_alikes, repeated
from pipelines.errors import ExpostError

AGE = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "age", "min_value": 0, "max_value": 120}, "description": "ages"}


def write_suite(*expectations: dict[str, Any]) -> None:
    Path("data/expectations.json").write_text(json.dumps({"name": "suite", "expectations": list(expectations)}))


def write_table(table: pl.DataFrame | pa.Table, kinds: dict[str, str], roles: dict[str, str] | None = None) -> None:
    folder = Path("data/ingest")
    folder.mkdir(exist_ok=True)
    if isinstance(table, pl.DataFrame):
        table.write_parquet(folder / "table.parquet")
    else:
        pq.write_table(table, folder / "table.parquet")
    columns = [{"name": name, "role": (roles or {}).get(name, "feature"), "kind": kind} for name, kind in kinds.items()]
    schema = {"target": "y", "classes": ["no", "yes"], "columns": columns, "rows": 0, "notes": []}
    (folder / "schema.json").write_text(json.dumps(schema))


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    """A table of 200 rows that passes, written with its suite into a workspace that is the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("params.yaml").write_text("validate: {}\n")
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "age": rng.integers(20, 80, 200).astype(float),
            "city": rng.choice(["Bern", "Genf", "Zug"], 200),
            "y": rng.choice(["no", "yes"], 200),
        }
    )
    write_table(table, {"age": "number", "city": "category"})
    write_suite(AGE)
    return table


KINDS = {"age": "number", "city": "category"}


def failure() -> str:
    with pytest.raises(ExpostError) as caught:
        validate.main()
    assert not Path("data/validate").exists(), "a failed stage leaves no outputs"
    return str(caught.value)


def test_a_good_table_passes_and_two_runs_give_the_same_bytes(table: pl.DataFrame) -> None:
    def files() -> dict[str, bytes]:
        validate.main()
        return {str(path): path.read_bytes() for path in sorted(Path("data/validate").rglob("*")) if path.is_file()}

    once = files()
    assert set(once) == {"data/validate/result.json", "data/validate/data_docs/index.html"}
    assert files() == once
    result = json.loads(once["data/validate/result.json"])
    assert result["success"] is True
    ages = next(check for check in result["checks"] if check["check"] == AGE["type"])
    assert ages == {"check": AGE["type"], "column": "age", "expectation": "ages", "observed": "0 of 200 rows offend (0 %)", "ok": True}


def test_the_page_needs_no_network_and_names_the_column(table: pl.DataFrame) -> None:
    validate.main()
    page = Path("data/validate/data_docs/index.html").read_text()
    assert "age" in page
    assert "<script" not in page
    assert "<link" not in page
    assert "src=" not in page


def test_a_violation_names_column_expectation_observed_value_and_rows(table: pl.DataFrame) -> None:
    validate.main()
    assert Path("data/validate").exists()
    before = Path("data/validate/result.json").read_bytes()
    write_table(table.with_columns(age=pl.when(pl.int_range(200) == 7).then(999.0).otherwise(pl.col("age"))), KINDS)
    with pytest.raises(ExpostError) as caught:
        validate.main()
    text = str(caught.value)
    assert "column 'age': ages [expect_column_values_to_be_between], however: 1 of 200 rows offend (0.5 %)" in text
    assert "row 7: 999.0" in text
    assert "expost expectations accept" in text
    assert Path("data/validate/result.json").read_bytes() == before, "the last good result stands"
    page = Path(".expost/failed_validation/index.html")
    assert str(page) in text
    assert "999" in page.read_text()


def test_all_violated_expectations_are_listed(table: pl.DataFrame) -> None:
    narrow = [{**AGE, "kwargs": {"column": "age", "max_value": limit}, "description": f"below {limit}"} for limit in range(12)]
    write_suite(*narrow)
    text = failure()
    assert "12 of" in text
    assert text.count("expect_column_values_to_be_between") == 10
    assert "and 2 more" in text


def test_a_class_that_became_rare_is_named_without_blaming_the_other_rows(table: pl.DataFrame) -> None:
    share = {"column": "y", "value_set": ["yes"], "mostly": 0.9}
    write_suite(
        {"type": "expect_column_values_to_be_in_set", "kwargs": share, "description": "mostly yes", "meta": {"share_of_class": "yes"}}
    )
    text = failure()
    assert "column 'y': mostly yes" in text
    assert "row " not in text.split("mostly yes")[1].split(chr(10))[0]


def test_an_empty_table_does_not_pass(table: pl.DataFrame) -> None:
    write_table(table.clear(), KINDS)
    assert "must have rows" in failure()


def test_an_empty_suite_does_not_pass(table: pl.DataFrame) -> None:
    write_suite()
    assert "at least one expectation" in failure()


def test_a_column_that_is_all_missing_does_not_pass(table: pl.DataFrame) -> None:
    write_table(table.with_columns(age=pl.lit(None, dtype=pl.Float64)), KINDS)
    text = failure()
    assert "column 'age'" in text
    assert "all 200 rows are missing" in text


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinities_do_not_pass_although_a_one_sided_range_would_let_them(table: pl.DataFrame, value: float) -> None:
    write_suite({**AGE, "kwargs": {"column": "age", ("min_value" if value > 0 else "max_value"): 0 if value > 0 else 120}})
    write_table(table.with_columns(age=pl.when(pl.int_range(200) == 3).then(value).otherwise(pl.col("age"))), KINDS)
    text = failure()
    assert "numbers are finite" in text
    assert f"row 3: {value}" in text


def test_duplicate_column_names_do_not_pass(table: pl.DataFrame) -> None:
    arrow = table.to_arrow()
    write_table(pa.Table.from_arrays([*arrow.columns, arrow["age"]], names=["age", "city", "y", "age"]), KINDS)
    assert "'age' stand twice" in failure()
    assert repeated(["b", "B"]) == [], "names that differ in case are two"
    assert repeated(["price", "pri\u200bce", "x"]) == ["price", "pri\u200bce"]
    assert repeated(["e\u0301", "\u00e9"]) == ["e\u0301", "\u00e9"]


def test_columns_that_differ_in_case_only_are_two(table: pl.DataFrame) -> None:
    write_table(table.with_columns(AGE=pl.col("age") + 1000), {**KINDS, "AGE": "number"})
    write_suite(AGE, {**AGE, "kwargs": {"column": "AGE", "min_value": 1000, "max_value": 1120}})
    validate.main()
    assert Path("data/validate/result.json").exists()


@pytest.mark.parametrize("alike", ["BERN", "Bern\u200b", "\uff22ern", "Bern\u00a0"])
def test_values_that_look_alike_do_not_pass(table: pl.DataFrame, alike: str) -> None:
    write_table(table.with_columns(city=pl.when(pl.int_range(200) == 0).then(pl.lit(alike)).otherwise(pl.col("city"))), KINDS)
    text = failure()
    assert "column 'city'" in text
    assert "'Bern'" in text
    Path("params.yaml").write_text("validate: {allow_look_alikes: [city]}\n")
    validate.main()


def test_look_alikes_are_grouped_and_different_words_are_not() -> None:
    assert look_alikes(["Zürich", "Zu\u0308rich", "Zurich"]) == [["Zu\u0308rich", "Zürich"]]
    assert look_alikes(["STRASSE", "straße", "a b", "a  b", "ab"]) == [["STRASSE", "straße"], ["a  b", "a b"]]


def test_an_expectation_that_fails_itself_is_no_failure_of_the_data(table: pl.DataFrame) -> None:
    write_suite(AGE, {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "age", "regex": "("}})
    text = failure()
    assert "the expectation is wrong, not the data" in text
    assert "the expectation itself failed" in text


def test_an_expectation_about_no_column_names_the_nearest(table: pl.DataFrame) -> None:
    write_suite({**AGE, "kwargs": {**AGE["kwargs"], "column": "agee"}})
    assert "the table has no column 'agee'; did you mean 'age'?" in failure()


def test_an_unknown_expectation_names_the_nearest(table: pl.DataFrame) -> None:
    write_suite({"type": "expect_column_values_to_be_inside", "kwargs": {"column": "age"}})
    assert "expect_column_values_to_be_in" in failure().split("did you mean", 1)[1]


def test_incomplete_expectations_are_refused(table: pl.DataFrame) -> None:
    write_suite({"type": "expect_column_values_to_be_between", "kwargs": {}})
    assert "must be complete" in failure()
    write_suite({"type": "expect_column_to_exist", "kwarg": {}})
    assert "did you mean 'kwargs'?" in failure()


def test_a_feature_that_became_constant_does_not_pass(table: pl.DataFrame) -> None:
    write_table(table.with_columns(city=pl.lit("Bern")), KINDS)
    assert "every row is 'Bern'" in failure()


@pytest.mark.parametrize("name", ["age", "city"])
def test_a_feature_that_separates_does_not_pass_unless_allowed(table: pl.DataFrame, name: str) -> None:
    copy = (pl.col("y") == "yes").cast(pl.Float64) if name == "age" else pl.col("y") + "!"
    write_table(table.with_columns(copy.alias(name)), KINDS)
    text = failure()
    assert f"column {name!r}" in text
    assert "AUC 1.0000" in text
    assert "validate.allow_separating" in text
    assert "expectations accept" not in text, "accepting new ranges would not help"
    Path("params.yaml").write_text(f"validate: {{allow_separating: [{name}]}}\n")
    validate.main()


def test_an_ignored_role_is_not_judged(table: pl.DataFrame) -> None:
    write_table(table.with_columns(age=pl.lit(1.0)), KINDS, {"age": "cost"})
    validate.main()
    assert Path("data/validate/result.json").exists()


def test_a_column_that_is_ignored_now_takes_its_generated_expectations_along(
    table: pl.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"type": "expect_table_columns_to_match_set", "kwargs": {"column_set": ["age", "city", "y"], "exact_match": False}}
    city = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "city"}}
    write_table(table.drop("city"), {"age": "number"})
    write_suite(AGE, *({**item, "meta": {"generated": True}} for item in (columns, city)))
    validate.main()
    assert "role ignored now: the generated expectations of city" in capsys.readouterr().out


def test_an_expectation_written_by_hand_stays_whatever_the_roles(table: pl.DataFrame) -> None:
    write_table(table.drop("city"), {"age": "number"})
    write_suite(AGE, {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "city"}})
    assert "the table has no column 'city'" in failure()
