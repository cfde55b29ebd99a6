"""What the source's table must be, and what becomes of it; every trap ends in one message that names column, rows and values."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import ingest
from pipelines.errors import ExpostError
from pipelines.tables import as_text, class_names, read_table, typed
from tests.conftest import real_table

COLUMNS = {
    "age": {"role": "feature", "kind": "number"},
    "city": {"role": "feature", "kind": "category"},
    "member": {"role": "feature", "kind": "boolean"},
    "since": {"role": "time", "kind": "date"},
    "note": {"role": "ignored"},
}
CSV = """id,age,city,member,since,note,label
1,30,Köln,yes,2024-01-31,a,no
2, 41.5 ,Ko\u0308ln ,no,1970-01-02,b,yes
3,,,,,c,no
4,7,007,yes,2000-02-29,d,yes
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(text: str | None = None, frame: pl.DataFrame | None = None, holdout: str | None = None, **changes: Any) -> pl.DataFrame:
    """Put the table into data/raw, run the stage, return what it wrote."""
    Path("data/raw/table").mkdir(parents=True, exist_ok=True)
    if frame is not None:
        frame.write_parquet("data/raw/table/t.parquet")
    else:
        Path("data/raw/table/t.csv").write_text(CSV if text is None else text, encoding="utf-8")
    if holdout is not None:
        Path("data/raw/holdout").mkdir(parents=True, exist_ok=True)
        Path("data/raw/holdout/h.csv").write_text(holdout, encoding="utf-8")
        changes["holdout_source"] = "h.csv"
    section = {"source": "t.csv", "target": "label", "classes": ["no", "yes"], "columns": COLUMNS, **changes}
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": section}, sort_keys=False, allow_unicode=True), encoding="utf-8")
    ingest.main()
    return pl.read_parquet("data/ingest/table.parquet")


def test_columns_get_their_declared_types(workspace: Path) -> None:
    table = run()
    assert dict(table.schema) == {"age": pl.Float64, "city": pl.String, "member": pl.String, "since": pl.Float64, "label": pl.String}
    assert table["age"].to_list() == [30.0, 41.5, None, 7.0]
    assert table["city"].to_list() == ["Köln", "Köln", None, "007"]  # one city, although its name was written in two ways
    assert table["member"].to_list() == ["true", "false", None, "true"]
    assert table["since"].to_list() == [(dt.date(2024, 1, 31) - dt.date(1970, 1, 1)).days, 1.0, None, 11016.0]


def test_the_schema_names_what_was_kept_and_what_was_not(workspace: Path) -> None:
    run()
    schema = json.loads(Path("data/ingest/schema.json").read_text())
    assert [column["name"] for column in schema["columns"]] == ["age", "city", "member", "since"]
    assert schema["columns"][3] == {"name": "since", "role": "time", "kind": "date"}
    assert (schema["rows"], schema["target"], schema["classes"]) == (4, "label", ["no", "yes"])
    assert schema["notes"] == ["columns without a role in params.yaml are left out: id"]


def test_the_same_source_gives_the_same_bytes(workspace: Path) -> None:
    run()
    first = {path.name: path.read_bytes() for path in Path("data/ingest").iterdir()}
    run()
    assert first == {path.name: path.read_bytes() for path in Path("data/ingest").iterdir()}
    assert set(first) == {"table.parquet", "schema.json"}


COUNTED = {"columns": {"x": {"role": "feature", "kind": "number"}, "n": {"role": "weight", "kind": "number"}}}


def test_a_weight_counts_identical_rows(workspace: Path) -> None:
    assert run("x,n,label\n1,193081,no\n2,1.0,yes\n", **COUNTED)["n"].to_list() == [193081.0, 1.0]
    schema = json.loads(Path("data/ingest/schema.json").read_text())
    assert schema["columns"][1] == {"name": "n", "role": "weight", "kind": "number"}


@pytest.mark.parametrize(("value", "shown"), [("0", "0"), ("-3", "-3"), ("2.5", "2.5"), ("", "missing")])
def test_a_weight_that_is_no_count_is_refused(workspace: Path, value: str, shown: str) -> None:
    with pytest.raises(ExpostError, match=rf"'n' has the role weight: it counts.*whole numbers from 1.*1 of 3 are not \(row 2: {shown}\)"):
        run(f"x,n,label\n1,3,no\n2,{value},yes\n3,1,yes\n", **COUNTED)
    assert not Path("data/ingest").exists()


def test_the_row_named_for_a_wrong_weight_is_that_of_the_table(workspace: Path) -> None:
    with pytest.raises(ExpostError, match=r"1 of 2 are not \(row 3: 0\)\. .*Costs are no weights"):
        run("x,n,label\n1,3,no\n2,5,yes\n3,0,yes\n", where="x <> 2", **COUNTED)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": {"role": "weight", "kind": "category"}}, "'n' is category. Change its kind"),
        ({"n": {"role": "weight", "kind": "number"}, "m": {"role": "weight", "kind": "number"}}, "at most one column .* role weight"),
    ],
)
def test_a_weight_must_be_one_column_of_numbers(workspace: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpostError, match=message):
        run("x,n,m,label\n1,3,1,no\n2,5,1,yes\n", columns={"x": {"role": "feature", "kind": "number"}, **columns})


def test_where_keeps_rows_and_sees_ignored_columns(workspace: Path) -> None:
    assert run(where="note <> 'b'")["age"].to_list() == [30.0, None, 7.0]
    assert run(where="city = '007' OR id = 3")["age"].to_list() == [None, 7.0]


def test_a_second_file_is_marked(workspace: Path) -> None:
    table = run(holdout=CSV.replace("30", "99"))
    assert table["__holdout__"].to_list() == [False] * 4 + [True] * 4
    assert table["age"][4] == 99.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("label", "outcome"), r"must have the target 'label'.*"),
        (("id,age", "id,agee"), r"must have column 'age'.*nearest names are \['agee'"),
        (("since,note", "since,since"), "'since' occurs twice"),
        (("city,member", "café,cafe\u0301"), "'café' occurs twice"),
        (("id,age", "ａge,age"), "look alike"),
        (("41.5", "forty"), r"'age' must hold values of kind number.*1 value does not \(row 2: ' forty '\)"),
        (("2000-02-29", "2000-02-30"), r"'since' must hold values of kind date.*row 4: '2000-02-30'"),
        (("no,1970", "maybe,1970"), r"'member' must hold values of kind boolean.*row 2: 'maybe'"),
        (("41.5", "-inf"), r"'age' must hold finite numbers.*1 are infinite \(row 2\)"),
        (("b,yes", "b,"), r"every row.*1 of 4 rows have none"),
        (("b,yes", "b,Yes"), r"also has 'Yes' \(1 rows\)"),
        (("yes\n", "no\n"), "must not be constant"),
        ((CSV, CSV.splitlines()[0] + "\n"), "must have rows"),
        ((CSV, ""), "must be a readable table"),
        (("4,7,007", "4,7,007,8"), "must be a readable table"),
        (("29,d,yes\n", "29"), "line 5 has 5 of 7 fields.*truncated"),
    ],
)
def test_a_bad_table_is_refused(workspace: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ExpostError, match=message):
        run(CSV.replace(*change))
    assert not Path("data/ingest").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["no", "yes", "perhaps"]}, r"\['perhaps'\] never does"),
        ({"where": "age >"}, "ingest.where must be an SQL condition"),
        ({"where": "agee > 3"}, 'unable to find column "agee"'),
        ({"where": "age + 1"}, "ingest.where must be"),
        ({"where": "city = 7"}, "cannot compare.*single quotes"),
        ({"where": "id > 100"}, "it has none that ingest.where accepts"),
    ],
)
def test_bad_parameters_are_refused(workspace: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpostError, match=message):
        run(**changes)


@pytest.mark.parametrize(("values", "what"), [([None, None, None], "every value is missing"), ([5.0, 5.0, 5.0], "every row has 5.0")])
def test_a_feature_that_tells_nothing_is_refused_with_the_remedy(workspace: Path, values: list[Any], what: str) -> None:
    frame = pl.DataFrame({"age": pl.Series(values, dtype=pl.Float64), "label": ["no", "yes", "no"]})
    with pytest.raises(ExpostError, match=f"feature 'age' must vary, however: {what}.*ingest.columns.age.role to ignored"):
        run(frame=frame, columns={"age": COLUMNS["age"]})


def test_an_infinity_in_parquet_is_refused_and_nan_is_missing(workspace: Path) -> None:
    frame = pl.DataFrame({"age": [1.0, math.nan, 3.0], "label": ["no", "yes", "no"]})
    assert run(frame=frame, columns={"age": COLUMNS["age"]})["age"].to_list() == [1.0, None, 3.0]
    with pytest.raises(ExpostError, match=r"'age' must hold finite numbers"):
        run(frame=frame.with_columns(age=pl.Series([1.0, math.inf, 2.0])), columns={"age": COLUMNS["age"]})


def test_a_failed_run_leaves_the_former_table(workspace: Path) -> None:
    run()
    before = Path("data/ingest/table.parquet").read_bytes()
    with pytest.raises(ExpostError):
        run(CSV.replace("41.5", "forty"))
    assert Path("data/ingest/table.parquet").read_bytes() == before


def test_the_whole_of_params_is_checked_before_the_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/raw/table").mkdir(parents=True)
    Path("data/raw/table/t.csv").write_text(CSV, encoding="utf-8")
    section = {"source": "t.csv", "target": "label", "classes": ["no", "yes"], "columns": COLUMNS}
    utility = {"matrix": {"no": {"wait": 0, "act": -1}, "yes": {"wait": -5, "act": 0}}}
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": section, "utility": utility, "train": {"class_weight": "balanced"}}))
    done = subprocess.run([sys.executable, "-m", "pipelines.ingest"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: train.class_weight is refused")
    assert "Traceback" not in done.stderr and not Path("data/ingest").exists()


def test_german_credit(workspace: Path) -> None:
    source = pl.read_parquet(real_table("german_credit"))
    kinds = {name: "number" if kind.is_numeric() else "category" for name, kind in source.schema.items() if name != "credit_risk"}
    columns = {name: {"role": "feature", "kind": kind} for name, kind in kinds.items()}
    table = run(frame=source, target="credit_risk", classes=["1", "2"], columns=columns)
    assert len(table) == 1000 and table["credit_risk"].value_counts().sort("credit_risk")["count"].to_list() == [700, 300]
    assert table["age"].to_list() == source["age"].to_list()


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([2, 1, 10], ["1", "2", "10"]),
        ([1.0, 0.0, math.nan], ["0.0", "1.0"]),
        ([True, False], ["false", "true"]),
        ([" b", "a", "a ", ""], ["a", "b"]),
    ],
)
def test_class_names_are_text_in_a_natural_order(values: list[Any], names: list[str]) -> None:
    assert class_names(pl.Series("y", values)) == names


@settings(deadline=None)
@given(st.lists(st.text(max_size=8), max_size=20))
def test_text_is_normalised_once_and_for_all(values: list[str]) -> None:
    once = as_text(pl.Series("t", values, dtype=pl.String))
    assert as_text(once).to_list() == once.to_list()
    assert "" not in once.to_list()


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(-1e9, 1e9) | st.just(math.nan), min_size=1, max_size=20))
def test_a_number_is_the_same_number_from_text(values: list[float | None]) -> None:
    """predict reads CSV fields as text, ingest as numbers."""
    written = [None if value is None else repr(value) for value in values]
    frames = pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)}), pl.DataFrame({"x": pl.Series(written, dtype=pl.String)})
    assert typed(frames[0], {"x": "number"}).equals(typed(frames[1], {"x": "number"}))


@settings(deadline=None)
@given(st.dates(dt.date(1000, 1, 1), dt.date(2999, 12, 31)), st.times())
def test_a_date_is_the_same_day_from_text(day: dt.date, time: dt.time) -> None:
    moment = dt.datetime.combine(day, time)
    for value in (day, moment):
        days = [typed(pl.DataFrame({"d": [form]}), {"d": "date"})["d"][0] for form in (value, value.isoformat())]
        assert days[0] == days[1] and int(days[0] // 1) == (day - dt.date(1970, 1, 1)).days


def test_codes_stay_the_same_text_when_a_missing_value_makes_them_floats() -> None:
    kinds = {"code": "category"}
    whole, holed = typed(pl.DataFrame({"code": [1, 2]}), kinds), typed(pl.DataFrame({"code": [1.0, 2.0, None]}), kinds)
    assert whole["code"].to_list() == ["1", "2"] and holed["code"].to_list() == ["1", "2", None]


class TestReadTable:
    """Every form of a source gives the same table."""

    FRAME = pl.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]})

    def test_file_folder_glob_and_url(self, tmp_path: Path) -> None:
        parts = tmp_path / "parts"
        parts.mkdir()
        self.FRAME[:1].write_csv(parts / "1.csv")
        self.FRAME[1:2].select("b", "a").write_csv(parts / "2.tsv", separator="\t")
        self.FRAME[2:].write_parquet(parts / "3.parquet")
        (parts / "README.md").write_text("not a table")
        self.FRAME.write_csv(tmp_path / "semicolons.csv", separator=";")
        for source in (parts, parts / "*", f"file://{parts}", f"file://{parts}/*", tmp_path / "semicolons.csv"):
            assert read_table(str(source)).equals(self.FRAME), source

    def test_a_column_of_numbers_in_one_part_and_text_in_another_is_text(self, tmp_path: Path) -> None:
        (tmp_path / "1.csv").write_text("zip\n01234\n")
        (tmp_path / "2.csv").write_text("zip\nA1\n")
        assert read_table(tmp_path)["zip"].to_list() == ["01234", "A1"]

    def test_text_columns_stay_as_written(self, tmp_path: Path) -> None:
        (tmp_path / "1.csv").write_text("zip,n\n007,1\n")
        assert read_table(tmp_path, text=["zip"]).rows() == [("007", 1)]

    def test_iso_dates_are_dates_and_no_others(self, tmp_path: Path) -> None:
        (tmp_path / "1.csv").write_text(
            "d,t,u,c\n2024-01-31,2024-01-31T12:30:00Z,31/01/2024,2024-01-31\n,2024-02-01 00:00:00,01/02/2024,soon\n"
        )
        table = read_table(tmp_path)
        assert table["d"].to_list() == [dt.date(2024, 1, 31), None]
        assert table["t"].to_list() == [dt.datetime(2024, 1, 31, 12, 30), dt.datetime(2024, 2, 1)]
        assert table["u"].to_list() == ["31/01/2024", "01/02/2024"] and table["c"][1] == "soon"

    def test_a_file_without_a_suffix_is_told_by_its_content(self, tmp_path: Path) -> None:
        self.FRAME.write_parquet(tmp_path / "export")
        assert read_table(tmp_path / "export").equals(self.FRAME)
        self.FRAME.write_csv(tmp_path / "export")
        assert read_table(tmp_path / "export").equals(self.FRAME)

    @pytest.mark.parametrize("cut", [30, 300, -5])
    def test_a_truncated_stream(self, tmp_path: Path, cut: int) -> None:
        text = "a,b\n" + "".join(f"{i},{i * 7919 % 1000}\n" for i in range(2000))
        (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode())[:cut])
        with pytest.raises(ExpostError, match=r"t.csv.gz must be a readable table"):
            read_table(tmp_path / "t.csv.gz")

    def test_a_late_value_decides_the_type(self, tmp_path: Path) -> None:
        (tmp_path / "1.csv").write_text("n\n" + "1\n" * 5000 + "2.5\n")
        assert read_table(tmp_path / "1.csv")["n"][-1] == 2.5

    @pytest.mark.parametrize("cut", [0, 3, 200, -4])
    def test_truncated_parquet(self, tmp_path: Path, cut: int) -> None:
        self.FRAME.write_parquet(tmp_path / "t.parquet")
        whole = (tmp_path / "t.parquet").read_bytes()
        (tmp_path / "t.parquet").write_bytes(whole[:cut])
        with pytest.raises(ExpostError, match=r"t.parquet must be a readable table.*truncated"):
            read_table(tmp_path / "t.parquet")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({}, "none is there"),
            ({"1.csv": "a,b\n1,2\n", "2.csv": "a,c\n1,2\n"}, r"differ in \['b', 'c'\]"),
            ({"1.csv": "a\n\xe9\n"}, "UTF-8"),
        ],
    )
    def test_bad_folders(self, tmp_path: Path, content: dict[str, str], message: str) -> None:
        for name, text in content.items():
            (tmp_path / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(ExpostError, match=message):
            read_table(tmp_path)

    @pytest.mark.parametrize(
        "source", ["nowhere.csv", "nowhere/*.csv", "http://127.0.0.1:9/t.csv", "memory://nothing/t.csv", "odd://t.csv"]
    )
    def test_what_is_not_there_is_named(self, source: str) -> None:
        with pytest.raises(ExpostError, match=r"nowhere|127\.0\.0\.1|nothing|odd"):
            read_table(source)
