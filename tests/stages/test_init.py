"""`init`: from a table to a workspace; what it proposes on real tables, what it refuses, and that it writes all or nothing."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import ingest, validate
from pipelines.commands import source as source_command
from pipelines.commands.check import SECTIONS, check_params
from pipelines.commands.init import InitSummary, init_workspace
from pipelines.commands.paramsfile import flow, is_untouched, quoted
from pipelines.errors import ExpostError
from tests.conftest import ROOT, real_table

Init = Callable[..., InitSummary]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current directory, where `dvc add` is left out (test_dvc_tracks... runs it)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source_command, "_dvc_add", lambda: None)
    return tmp_path


@pytest.fixture
def init(empty: Path) -> Init:
    return lambda source, target, **options: init_workspace(str(source), target, report=lambda _: None, **options)


def small(**columns: Any) -> Path:
    """A table of 300 rows with a number `x`, a category `c`, the target `y`, and `columns`."""
    rng = np.random.default_rng(0)
    base = {"x": rng.normal(size=300).round(3), "c": rng.choice(["a", "b", "d"], 300), "y": rng.choice(["no", "yes"], 300, p=[0.7, 0.3])}
    pl.DataFrame({**base, **columns}).write_parquet("small.parquet")
    return Path("small.parquet")


def roles(summary: InitSummary) -> dict[str, str]:
    return {column.name: column.role for column in summary.columns}


def kinds(summary: InitSummary) -> dict[str, str]:
    return {column.name: column.kind for column in summary.columns if column.role == "feature"}


@pytest.mark.filterwarnings("error")
def test_numbers_at_the_ends_of_what_is_finite_are_proposed_without_a_word(init: Init) -> None:
    rng = np.random.default_rng(1)
    source = small(tiny=rng.integers(0, 200, 300) * 5e-324, huge=rng.uniform(-1, 1, 300) * 1.79e308)
    summary = init(source, "y", positive="yes", cost_fn=5, cost_fp=1)
    assert {kinds(summary)[name] for name in ("tiny", "huge")} == {"number"}


def utility(tmp: Path, names: list[str]) -> Path:
    path = tmp / "utility.yaml"
    matrix = {true: {action: 0 if action == true else -1 for action in names} for true in names}
    path.write_text(json.dumps({"unit": "points", "matrix": matrix}))
    return path


def params() -> dict[str, Any]:
    return yaml.safe_load(Path("params.yaml").read_text())


def test_the_committed_defaults_are_what_init_writes(init: Init) -> None:
    init("sklearn:breast_cancer", "diagnosis")
    for name in ("params.yaml", "data/expectations.json"):
        assert Path(name).read_text() == (ROOT / name).read_text(), f"run init on sklearn:breast_cancer and commit {name}"
    assert params()["utility"]["matrix"]["malignant"] == {"no biopsy": -10, "biopsy": 0}
    assert params()["ingest"]["classes"] == ["benign", "malignant"]


def test_another_models_champion_is_not_what_the_new_table_is_judged_against(init: Init) -> None:
    mirror = Path("mlflow/champion")
    mirror.mkdir(parents=True)
    (mirror / "status.json").write_text('{"state": "champion", "version": 3}')
    init(small(), "y", positive="yes")
    assert not mirror.exists(), "unsynced until the next sync"


def test_every_line_has_a_comment_and_every_option_is_shown(init: Init) -> None:
    init(small(), "y", positive="yes")
    lines = Path("params.yaml").read_text().splitlines()
    assert all("#" in line for line in lines)
    values = params()
    assert list(values) == [section.__name__.lower() for section in SECTIONS]
    for section in SECTIONS:
        assert set(values[section.__name__.lower()]) == set(section.model_fields)
    check_params()


def test_the_issues_example(init: Init) -> None:
    """Cost 5 for a bad credit taken for good, 1 the other way round (german.doc)."""
    summary = init(real_table("german_credit"), "credit_risk", positive="2", cost_fn=5, cost_fp=1)
    assert summary.classes == ("1", "2")
    assert params()["utility"]["matrix"] == {"1": {"1": 0, "2": -1}, "2": {"1": -5, "2": 0}}
    assert set(roles(summary).values()) == {"feature"}
    assert kinds(summary)["duration_months"] == "number"
    assert kinds(summary)["purpose"] == "category"
    assert params()["split"]["columns"] == list(roles(summary))
    assert params()["registry"]["model"] == "german_credit"
    ingest.main()
    validate.main()


def test_telco_churn(init: Init) -> None:
    summary = init(real_table("telco_churn"), "Churn", positive="Yes", cost_fn=5, cost_fp=1)
    assert {name: role for name, role in roles(summary).items() if role != "feature"} == {"customerID": "key"}


def test_failure_modes_do_not_predict_the_failure(init: Init) -> None:
    summary = init(real_table("ai4i2020"), "Machine failure", positive="1", cost_fn=20, cost_fp=1)
    assert {name for name, role in roles(summary).items() if role == "ignored"} == {"Product ID", "TWF", "HDF", "PWF", "OSF"}
    assert roles(summary)["UDI"] == "key"
    assert any(sentence.startswith("HDF is ignored: 100% of the 115 rows") for sentence in summary.assumptions)


def test_hypothyroid_says_how_many_rows_a_class_needs_and_leaves_out_what_separates(init: Init, tmp_path: Path) -> None:
    table, names = real_table("hypothyroid"), ["negative", "compensated_hypothyroid", "primary_hypothyroid"]
    with pytest.raises(ExpostError, match=r"(?s)at least 50 rows.*'secondary_hypothyroid' has 2.*about 115.*--where"):
        init(table, "Class", utility_file=utility(tmp_path, [*names, "secondary_hypothyroid"]))
    where = "\"Class\" <> 'secondary_hypothyroid'"
    with pytest.raises(ExpostError, match="'secondary_hypothyroid' is missing"):
        init(table, "Class", utility_file=utility(tmp_path, names))
    summary = init(table, "Class", utility_file=utility(tmp_path, names), where=where)
    assert summary.classes == tuple(names), "the order of the utility matrix"
    assert {n for n, role in roles(summary).items() if role == "ignored"} == {"TBG", "TBG measured", "TSH", "hypopituitary"}


def test_diabetes_has_a_group_and_codes(init: Init, tmp_path: Path) -> None:
    pl.read_parquet(real_table("diabetes_readmission")).head(20_000).write_parquet("visits.parquet")
    summary = init("visits.parquet", "readmitted", utility_file=utility(tmp_path, ["NO", ">30", "<30"]))
    assert roles(summary)["encounter_id"] == "key"
    assert roles(summary)["patient_nbr"] == "group"
    assert kinds(summary)["admission_type_id"] == "category"
    assert kinds(summary)["num_medications"] == "number"


def test_costs_per_row_are_costs_and_identifiers_are_none(init: Init) -> None:
    summary = init(real_table("tv_churn_costs"), "target", positive="1", cost_fn=10, cost_fp=1)
    assert summary.classes == ("0.0", "1.0")
    assert {name: role for name, role in roles(summary).items() if role != "feature"} == {
        "id": "key",
        **dict.fromkeys(["C_FP", "C_FN", "C_TP", "C_TN"], "cost"),
    }


def costly(**columns: Any) -> Path:
    """A table with costs per row: two columns of costs, an amount that is a feature too, one with a space, and a count of rows."""
    rng = np.random.default_rng(3)
    amounts = {
        "fn": rng.random(300) * 9 + 1,
        "fp": rng.random(300) + 1,
        "amount": rng.random(300) * 100,
        "lost days": rng.integers(1, 30, 300),
    }
    return small(**amounts, times=rng.integers(1, 9, 300), **columns)


def test_costs_may_be_expressions_over_columns_which_get_the_role_cost(init: Init) -> None:
    options = {"cost_fn": "fn", "cost_fp": "0.1 * fp + 1", "cost_tp": "lost days", "cost_tn": "-0.5", "weight": "times"}
    summary = init(costly(), "y", positive="yes", roles=["amount=feature+cost"], **options)
    assert roles(summary) == {
        **{"x": "feature", "c": "feature", "fn": "cost", "fp": "cost", "amount": "feature+cost", "lost days": "cost", "times": "weight"},
    }
    matrix = params()["utility"]["matrix"]
    assert matrix == {"no": {"no": 0.5, "yes": "-(0.1 * fp + 1)"}, "yes": {"no": "-fn", "yes": '-"lost days"'}}
    assert params()["split"]["columns"] == ["x", "c", "amount"], "neither costs nor weights draw the parts"
    said = " ".join(summary.assumptions)
    assert "A missed 'yes' costs fn, a false alarm 0.1 * fp + 1, a right 'yes' \"lost days\", a right 'no' -0.5;" in said
    assert "fn is cost: the utility reads it; with --role 'fn=feature+cost' training sees it too." in said
    lines = Path("params.yaml").read_text().splitlines()
    assert all("#" in line for line in lines)
    check_params()
    ingest.main()
    validate.main()


def test_a_missing_cost_is_named_by_its_row_in_the_table_also_where_rows_are_left_out(init: Init) -> None:
    table = small(n=range(300), fee=[None if row in (9, 99) else 1.0 for row in range(300)])
    with pytest.raises(ExpostError, match=r"1 of 280 rows have none \(row 100: missing, where fee is missing\)"):
        init(table, "y", cost_fn="fee", where="n >= 20")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"cost_fn": "-amount", "cost_fp": 1},
            r"--cost-fn must be above 0 in some row, however: '-amount' is so in none of 300 rows \(row 1: -",
        ),
        (
            {"cost_fn": 1, "cost_fp": "0 * fp"},
            r"--cost-fp must be above 0 in some row, however: '0 \* fp' is so in none .*row 1: -?0; row 2",
        ),
        ({"cost_fn": "fn", "cost_fp": 1, "cost_tp": "fn + 1"}, "'no' is best for every true class in every row"),
        ({"utility_file": "u.yaml"}, "'wait' is best for every true class in every row, so there is nothing to decide. Check the signs"),
        (
            {"cost_fn": "amuont"},
            r"no column 'amuont'; did you mean amount\?. Mend the name; columns of numbers: x, fn, fp, amount, lost days",
        ),
    ],
)
def test_costs_with_the_wrong_sign_or_name_are_refused(init: Init, options: dict[str, Any], said: str) -> None:
    Path("u.yaml").write_text("matrix: {'no': {wait: 0, act: -1}, 'yes': {wait: fn, act: 0}}")
    with pytest.raises(ExpostError, match=said) as refused:
        init(costly(), "y", positive="yes", **options)
    assert not Path("params.yaml").exists()
    assert "ingest.columns" not in str(refused.value)


def test_a_cost_may_be_zero_or_below_in_some_rows(init: Init) -> None:
    assert init(costly(), "y", positive="yes", cost_fn="amount - 99", cost_fp=1).utility["yes"]["no"] == "-(amount - 99)"


def test_a_utility_file_with_expressions_gives_their_columns_the_role_cost(init: Init) -> None:
    Path("u.yaml").write_text(
        'matrix: {"no": {"wait": 0, "act": -fp}, "yes": {"wait": "-2.5 * fn", "act": 0}}\nlimits: {act: {at_most: 0.2}}'
    )
    summary = init(costly(), "y", utility_file="u.yaml")
    assert (roles(summary)["fn"], roles(summary)["fp"], roles(summary)["amount"]) == ("cost", "cost", "feature")
    assert params()["utility"]["limits"] == {"act": {"at_most": 0.2}}
    check_params()


@pytest.mark.parametrize("table", ["tv_churn_costs", "bank_full_costs"])
def test_the_tables_with_costs_per_row_need_one_command(init: Init, table: str) -> None:
    churn = {"target": "target", "positive": "1", "cost_tp": "C_TP", "cost_tn": "C_TN"}
    bank = {"target": "y", "positive": "yes", "cost_tp": "C_FP", "where": "C_FN IS NOT NULL", "ignore": ["duration"]}
    path = real_table(table)
    summary = init(path, cost_fn="C_FN", cost_fp="C_FP", **(churn if table == "tv_churn_costs" else bank))
    assert summary.rows == (9379 if table == "tv_churn_costs" else 37931)
    last = summary.classes[1]
    assert summary.utility[last] == {summary.classes[0]: "-C_FN", last: "-C_TP" if table == "tv_churn_costs" else "-C_FP"}
    assert {role for name, role in roles(summary).items() if name.startswith("C_")} == {"cost"}
    check_params()
    if table == "bank_full_costs":
        with pytest.raises(
            ExpostError, match=r"7280 of 45211 rows have none \(row 20: missing, where C_FN is missing.*--where \('\"C_FN\" IS NOT NULL'\)"
        ):
            init(path, cost_fn="C_FN", cost_fp="C_FP", **{**bank, "where": None})


def test_roles_of_made_up_columns(init: Init) -> None:
    rng = np.random.default_rng(1)
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=i) for i in range(300)]
    table = small(
        empty=pl.Series([None] * 300, dtype=pl.Float64),
        constant=["k"] * 300,
        flag=rng.choice([True, False], 300),
        day=days,
        us_day=[f"{1 + i % 12}/{1 + i % 28}/2024" for i in range(300)],
        order_id=[f"o{i}" for i in range(300)],
        note=[f"customer called about parcel {i}" for i in range(300)],
        amount=[f"{i}.5" for i in rng.permutation(300)],
        level=[str(i) for i in rng.integers(1, 6, 300)],
        shop=[f"s{i // 3}" for i in rng.permutation(300)],
        listed=[[1, 2]] * 300,
    )
    summary = init(table, "y", positive="yes")
    assert roles(summary) == {
        **dict.fromkeys(["x", "c", "flag", "amount", "level"], "feature"),
        **dict.fromkeys(["empty", "constant", "us_day", "note", "shop", "listed"], "ignored"),
        "order_id": "key",
        "day": "time",
    }
    assert kinds(summary) == {"x": "number", "c": "category", "flag": "boolean", "amount": "number", "level": "category"}
    said = " ".join(summary.assumptions)
    assert "amount is a feature of kind number: text that reads as numbers" in said
    assert "level is a feature of kind category: text that reads as numbers, with few values" in said
    assert params()["train"]["trees"]["rounds"] == 1000
    assert params()["train"]["logistic"]["strengths"][-1] == 1000
    ingest.main()
    validate.main()


def test_wishes_win(init: Init) -> None:
    days = [f"2024-{1 + i % 12:02d}-{1 + i % 28:02d}" for i in range(300)]
    table = small(day=days, shop=[i // 10 for i in range(300)], other_id=[f"o{i}" for i in range(300)], k=list(range(300)))
    summary = init(table, "y", positive="yes", group="shop", time="day", key="k", ignore=["x"])
    assert roles(summary) == {"x": "ignored", "c": "feature", "day": "time", "shop": "group", "other_id": "ignored", "k": "key"}
    split = params()["split"]
    assert split["by"] == "time"
    held = sum(day >= split["time"]["holdout_from"] for day in days) / 300
    assert held == pytest.approx(0.15, abs=0.03)
    check_params()


def test_a_copy_of_the_target_is_ignored_and_named(init: Init) -> None:
    labels = pl.read_parquet(small())["y"]
    summary = init(small(leak=labels.replace_strict({"no": "n", "yes": "j"})), "y", positive="yes")
    assert roles(summary)["leak"] == "ignored"
    assert any(sentence.startswith("leak is ignored: separates the classes on its own") for sentence in summary.assumptions)


def test_without_costs_the_rarer_class_is_positive_and_that_is_said(init: Init) -> None:
    summary = init(small(), "y")
    assert summary.classes == ("no", "yes")
    assert any("the rarer class, is taken for the positive one" in sentence for sentence in summary.assumptions)
    assert params()["utility"]["matrix"] == {"no": {"no": 0, "yes": -1}, "yes": {"no": -1, "yes": 0}}


def test_csv_of_many_parts(init: Init) -> None:
    table = pl.read_parquet(small())
    Path("parts").mkdir()
    table[:100].write_csv("parts/a.csv")
    table[100:].write_csv("parts/b.csv")
    summary = init("parts/*.csv", "y", positive="yes")
    assert (summary.rows, params()["registry"]["model"]) == (300, "parts")


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"target": "Y"}, r"--target must name a column.*'Y'; the nearest names are \['y'"),
    ({}, {"positive": "ja"}, r"--positive must be one of the classes \['no', 'yes'\]"),
    ({}, {"cost_fn": -5.0}, "--cost-fn must be a positive number"),
    ({}, {"cost_fp": float("nan")}, "--cost-fp must be a positive number"),
    ({}, {"group": "shopp"}, "--group must name a column"),
    ({}, {"ignore": ["y"]}, "--ignore must not name the target"),
    ({}, {"time": "x"}, "--time must name a column of dates"),
    ({}, {"where": "nonsense >"}, "--where must be an SQL condition"),
    ({}, {"where": "x > 1000"}, "must have rows"),
    ({"y": ["no"] * 300}, {}, "at least two classes"),
    ({"y": [None] + ["no", "yes"] * 149 + ["no"]}, {}, r"1 of 300 rows have none \(rows 1\)"),
    ({"y": list(range(300))}, {}, "must have few classes"),
    ({"y": ["a", "b", "c"] * 100}, {}, r"(?s)must come with --utility FILE.yaml.*unit: points\nmatrix:\n  \"a\": {\"a\": 0, \"b\": -1"),
    ({"y": ["yes"] * 40 + ["no"] * 260}, {}, r"at least 50 rows.*'yes' has 40.*about 115"),
    ({}, {"cost_fn": "amout"}, "there is no column 'amout'"),
    ({}, {"cost_fn": "SUM(x)"}, "element-wise"),
    ({}, {"cost_fn": "LN(x - 100)"}, r"300 of 300 rows have none \(row 1: nan, where x is"),
    ({}, {"cost_fn": "1 / x", "where": "x < 0.5", "cost_fp": "1 / (x - x)"}, "must give a finite number in every row"),
    ({}, {"cost_fn": "c"}, "must give a number, however: .*categories and booleans are text. Mend the cell given"),
    ({}, {"cost_fn": "y"}, "must not be read from the target"),
    ({}, {"cost_tp": "inf"}, "--cost-tp must be a finite number"),
    ({}, {"cost_tn": 3.0}, "'yes' is best for every true class"),
    ({}, {"utility_file": "u.yaml", "cost_tn": 1.0}, "both --utility and --cost-tn are given"),
    ({}, {"weight": "x"}, r"'x' has the role weight: it counts"),
    ({}, {"weight": "c"}, r"'c' must hold values of kind number"),
    ({}, {"roles": ["x"]}, r"--role must be COLUMN=ROLE, the role one of feature, .*however: got 'x'"),
    ({}, {"roles": ["x=price"]}, r"'price' is none of them"),
    ({}, {"roles": ["z=cost"]}, r"--role must name a column of the table, however: got 'z'"),
    ({}, {"roles": ["x=cost"], "ignore": ["x"]}, r"must have one role, however: ignored and cost are asked for 'x'"),
    ({"x": [1.0] * 300, "c": ["a"] * 300}, {}, "at least one column that can be a feature"),
]


@pytest.mark.parametrize(("columns", "options", "text"), REFUSED, ids=[text[:30] for _, _, text in REFUSED])
def test_what_is_refused_leaves_nothing(init: Init, columns: dict[str, Any], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ExpostError, match=text):
        init(small(**columns), **{"target": "y", **options})
    assert sorted(path.name for path in Path().iterdir()) == ["small.parquet"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('matrix: {"no": {"no": 0, "yes": -1}}', "at least 2"),
        ("matrix: {no: {no: 0, yes: -1}}", "Quote it there"),
        ('matrix: {"no": {"no": 0, "yes": -1}, "yes": {"no": .nan, "yes": 0}}', "finite"),
        ('matrix: {"no": {"no": 0, "yes": -1}, "yes": {"no": 0, "yes": -1}}', "nothing to decide"),
        ('matrix: {"no": {"no": 0, "yes": -1}, "maybe": {"no": -2, "yes": 0}}', "row 'yes' is missing"),
        ("matrix: [", "valid YAML"),
    ],
)
def test_a_bad_utility_file_is_refused(init: Init, content: str, text: str) -> None:
    Path("u.yaml").write_text(content)
    with pytest.raises(ExpostError, match=text):
        init(small(), "y", utility_file="u.yaml")
    assert not Path("params.yaml").exists()


def test_edited_files_are_kept_unless_forced(init: Init) -> None:
    init(small(), "y", positive="yes")
    init(small(), "y", positive="yes", cost_fn=3)  # its own files are its to replace
    for path in (Path("params.yaml"), Path("data/expectations.json")):
        own = path.read_text()
        path.write_text(own.replace("300", "301") if path.suffix == ".json" else own.replace("max_epochs: 100", "max_epochs: 90"))
        if path.suffix == ".json":
            path.write_text(path.read_text().replace('"min_value": 150', '"min_value": 200'))
        edited = path.read_text()
        assert edited != own
        with pytest.raises(ExpostError, match=f"{path} was edited.*--force"):
            init(small(), "y", positive="yes")
        assert path.read_text() == edited
        init(small(), "y", positive="yes", force=True)
        assert path.read_text() != edited


def test_a_failure_at_the_end_restores_what_stood_there(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    init(small(), "y", positive="yes")
    before = {path: path.read_bytes() for path in (Path("params.yaml"), Path("data/expectations.json"))}
    monkeypatch.setattr(source_command, "sync_source", lambda report: (_ for _ in ()).throw(ExpostError("dvc is broken")))
    with pytest.raises(ExpostError, match="dvc is broken"):
        init(small(z=list(range(300))), "y", positive="yes", cost_fn=9)
    assert {path: path.read_bytes() for path in before} == before
    for path in before:
        path.unlink()
    with pytest.raises(ExpostError, match="dvc is broken"):
        init(small(), "y", positive="yes")
    assert not any(path.exists() for path in before)


def test_dvc_tracks_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    analytics = false\n")
    init_workspace(str(small()), "y", positive="yes", report=lambda _: None)
    assert "md5" in Path("data/raw.dvc").read_text()
    assert (Path("data/raw/table/small.parquet")).exists()


@settings(max_examples=50, deadline=None)
@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_yaml_reads_back_what_was_written(text: str, number: float) -> None:
    assert yaml.safe_load(f"{quoted('k')}: {flow([text, number])}") == {"k": [text, number]}


def test_a_file_edited_by_one_byte_is_not_untouched(init: Init) -> None:
    init(small(), "y", positive="yes")
    text = Path("params.yaml").read_text()
    assert is_untouched(text)
    assert not is_untouched(text + " ")
    assert not is_untouched("")
