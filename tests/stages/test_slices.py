"""Slices: which rows a predicate or a lesson's conditions take, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import slices
from pipelines.commands.check import check_params
from pipelines.commands.paramsfile import render_section
from pipelines.core.conditions import Condition
from pipelines.errors import ExpostError
from pipelines.params import parse, read_params, yaml_of
from pipelines.params.evaluate import Evaluate
from pipelines.slices import Slice

ROWS = pl.DataFrame(
    {
        "age": [19.0, 50.0, 50.5, None, 70.0],
        "housing": ["rent", "own", None, "rent", "it's free"],
        "home type": ["a", "b", "a", "b", None],
        "flag": ["true", "false", "true", None, "false"],
    }
)


def rows_in(text: str, frame: pl.DataFrame = ROWS) -> list[int]:
    """Numbers of the rows that a declared predicate takes."""
    return np.flatnonzero(slices.masks(frame, slices.declared(Evaluate(slices={"s": text})))[0]).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age > 50", [2, 4]),
        ("age <= 50", [0, 1]),
        ("NOT age > 50", [0, 1]),
        ("housing = 'rent'", [0, 3]),
        ("housing <> 'rent'", [1, 4]),
        ("housing IN ('own', 'it''s free')", [1, 4]),
        ("housing NOT IN ('own')", [0, 3, 4]),
        ("\"home type\" = 'a' AND flag = 'true'", [0, 2]),
        ("age BETWEEN 19 AND 50", [0, 1]),
        ("age NOT BETWEEN 19 AND 50", [2, 4]),
        ("age IS NULL", [3]),
        ("age IS NOT NULL AND housing IS NULL", [2]),
        ("age IS NULL OR age > 60", [3, 4]),
        ("COALESCE(age, 0) < 1", [3]),
        ("age = NULL", []),
        ("age % 2 = 0 AND age / 2 > 10", [1, 4]),
        ("CASE WHEN age > 50 THEN housing = 'it''s free' ELSE flag = 'true' END", [0, 4]),
    ],
)
def test_golden_rows(text: str, expected: list[int]) -> None:
    assert rows_in(text) == expected


def test_dates_are_days_in_the_table_and_dates_in_a_predicate() -> None:
    days = pl.DataFrame({"day": [18261.0, 18262.0, 18263.0, None]})
    assert rows_in("day > DATE '2020-01-01'", days) == [2]
    assert rows_in("day BETWEEN DATE '2019-12-31' AND DATE '2020-01-01'", days) == [0, 1]
    assert rows_in("NOT day = DATE '2020-01-01'", days) == [0, 2]


def test_a_nan_is_a_missing_value() -> None:
    assert rows_in("x > 0", pl.DataFrame({"x": [1.0, float("nan"), None]})) == [0]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition("age", "<=", 50.0), [0, 1]),
        (Condition("age", ">", 50), [2, 4]),
        (Condition("age", "missing"), [3]),
        (Condition("age", "present"), [0, 1, 2, 4]),
        (Condition("housing", "is", "rent"), [0, 3]),
        (Condition("housing", "is not", "rent"), [1, 4]),
        (Condition("housing", "in", ("own", "it's free")), [1, 4]),
        (Condition("home type", "missing"), [4]),
    ],
)
def test_conditions_of_lessons(condition: Condition, expected: list[int]) -> None:
    assert np.flatnonzero(slices.masks(ROWS, [Slice("s", "lesson", (condition,))])[0]).tolist() == expected


def test_lessons_are_read_as_they_are_written_and_their_text_is_never_parsed() -> None:
    entry = {
        "name": "age > 50; DROP TABLE t",
        "conditions": [{"column": "age", "op": ">", "value": 50.5}, {"column": "housing", "op": "in", "value": ["rent", "it's free"]}],
    }
    (own,), (earlier,) = slices.of_lessons({"lessons": [entry]}), slices.of_lessons([{**entry, "version": 3}], "earlier lesson")
    assert (own.kind, own.version, earlier.kind, earlier.version) == ("lesson", None, "earlier lesson", 3)
    assert own.columns == ["age", "housing"]
    assert slices.masks(ROWS, [own, earlier]).tolist() == [[False, False, False, False, True]] * 2
    assert slices.masks(ROWS, []).shape == (0, 5)


@pytest.mark.parametrize(
    "condition",
    [
        {"column": "age", "op": "LIKE", "value": "x"},
        {"column": "age", "op": "<=", "value": "x"},
        {"column": "age", "op": "in", "value": "rent"},
        {"column": "age", "op": "missing", "value": 3},
        {"column": None, "op": "missing", "value": None},
        {},
    ],
)
def test_a_condition_that_is_none_is_refused(condition: dict[str, Any]) -> None:
    with pytest.raises(ExpostError, match="a condition of a lesson must have a column, one of the operations"):
        slices.of_lessons([{"name": "s", "conditions": [condition]}])


# Any predicate, against SQL's three-valued logic written in numpy: a pair of "true" and "known".

Logic = tuple[np.ndarray, np.ndarray]
N = 40
_rng = np.random.default_rng(0)
NUMBERS = {name: np.where(_rng.random(N) < 0.2, np.nan, _rng.integers(-2, 3, N).astype(float)) for name in ("a", "b")}
TEXTS = np.where(_rng.random(N) < 0.2, None, _rng.choice(["x", "y", "z"], N))
TABLE = pl.DataFrame(
    {**{name: pl.Series(column).fill_nan(None) for name, column in NUMBERS.items()}, "k": pl.Series(TEXTS, dtype=pl.String)}
)
COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "=": np.equal, "<>": np.not_equal}


def _known(name: str) -> np.ndarray:
    return np.array([value is not None for value in TEXTS]) if name == "k" else ~np.isnan(NUMBERS[name])


@st.composite
def leaves(draw: st.DrawFn) -> tuple[str, Logic]:
    kind, name, low = draw(st.sampled_from("cpbnkl")), draw(st.sampled_from("ab")), draw(st.integers(-2, 2))
    column, known = NUMBERS[name], _known(name)
    if kind in "cp":
        op, other = draw(st.sampled_from(sorted(COMPARE))), NUMBERS["b"] if kind == "p" else float(low)
        text = f"{name} {op} {'b' if kind == 'p' else low}"
        return text, (COMPARE[op](column, other), known & _known("b") if kind == "p" else known)
    if kind == "b":
        return f"{name} BETWEEN {low} AND {low + 1}", ((column >= low) & (column <= low + 1), known)
    if kind == "n":
        name, negated = draw(st.sampled_from("abk")), draw(st.booleans())
        return f"{name} IS {'NOT ' * negated}NULL", (_known(name) == negated, np.ones(N, dtype=bool))
    chosen = draw(st.lists(st.sampled_from("xyz"), min_size=1, unique=True))
    if kind == "k":
        return f"k <> '{chosen[0]}'", (chosen[0] != TEXTS, _known("k"))
    return f"k IN ({', '.join(map(repr, chosen))})", (np.isin(TEXTS.astype(str), chosen), _known("k"))


def _combine(children: st.SearchStrategy[tuple[str, Logic]]) -> st.SearchStrategy[tuple[str, Logic]]:
    def both(pair: tuple[tuple[str, Logic], tuple[str, Logic]], word: str) -> tuple[str, Logic]:
        (left, (a, knows_a)), (right, (b, knows_b)) = pair
        decides = (lambda x, known: known & ~x) if word == "AND" else (lambda x, known: known & x)
        known = knows_a & knows_b | decides(a, knows_a) | decides(b, knows_b)
        value = (a | ~knows_a) & (b | ~knows_b) if word == "AND" else (a & knows_a) | (b & knows_b)
        return f"({left}) {word} ({right})", (value, known)

    def negated(one: tuple[str, Logic]) -> tuple[str, Logic]:
        return f"NOT ({one[0]})", (~one[1][0], one[1][1])

    return st.one_of(
        st.tuples(children, children).map(lambda pair: both(pair, "AND")),
        st.tuples(children, children).map(lambda pair: both(pair, "OR")),
        children.map(negated),
    )


@given(st.recursive(leaves(), _combine, max_leaves=6))
def test_any_predicate_agrees_with_three_valued_logic(drawn: tuple[str, Logic]) -> None:
    text, (value, known) = drawn
    assert rows_in(text, TABLE) == np.flatnonzero(value & known).tolist()


@given(st.recursive(leaves(), _combine, max_leaves=4), st.permutations(range(N)))
def test_each_row_is_judged_by_itself(drawn: tuple[str, Logic], order: list[int]) -> None:
    whole = set(rows_in(drawn[0], TABLE))
    assert rows_in(drawn[0], TABLE[order]) == [place for place, row in enumerate(order) if row in whole]


# What is refused.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age IN (SELECT age FROM t)", "has SELECT, which looks beyond the row"),
        ("age IN (FROM read_csv('secret.csv'))", "has FROM"),
        ("EXISTS (SELECT 1)", "has EXISTS"),
        ("read_csv('secret.csv') = 1", "calls READ_CSV, which is not allowed"),
        ("age > AVG(age)", "calls AVG"),
        ("UPPER(housing) = 'RENT'", "calls UPPER"),
        ("age > 1; DROP TABLE t", "';' has no meaning here"),
        ("age > 1 -- all", "-- begins a comment"),
        ("RANDOM() > 0.5", "calls RANDOM"),
        ("age > CURRENT_DATE", "has CURRENT_DATE, which looks beyond the row"),
        ("age > DATE 'today'", "invalid DATE literal"),
        ("age > DATE '2020-13-45'", "invalid DATE literal"),
        ("age > TIMESTAMP '2020-01-01'", "TIMESTAMP may not stand before text"),
        ("age > '2020-01-01'", "cannot compare string with numeric.*dates are written as in day > DATE '2024-01-31'"),
        ("age > 1/2", "must be written as a decimal"),
        ("TRUE", "a slice must name a column, however: 'TRUE' names none. Name a column"),
        ("age >", "a slice must be an SQL predicate over columns, however: 'age >' is none"),
        ("", "is none"),
        ("age > 1" + " AND age > 1" * 200, "a slice must have at most 1000 characters"),
        ("age", "'s' must be true or false, however: 'age' gives Float64"),
        ("flag", "gives String; categories and booleans are text, as in flag = 'true'"),
        ("housing > 3", "cannot compare.*categories and booleans are text"),
        ("income > 3", "must have the columns of the slice 's', however: income is missing"),
    ],
)
def test_what_is_no_predicate_is_refused(text: str, message: str) -> None:
    with pytest.raises(ExpostError, match=message):
        rows_in(text)


@pytest.mark.parametrize("text", ["(SELECT age FROM read_csv('s.csv')) > 1", "age IN (TABLE t)", "'a''' || (SELECT 1) = 'x'"])
def test_nothing_that_could_open_a_file_reaches_the_parser(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(text: str) -> Any:
        raise AssertionError(f"{text} was parsed")

    monkeypatch.setattr(pl, "sql_expr", reached)
    with pytest.raises(ExpostError):
        rows_in(text)


def declare(predicate: Any, name: Any = "s", **columns: str) -> dict[str, Any]:
    """The values of params.yaml with one slice, and with these columns of roles."""
    values = read_params()
    values["evaluate"] = {"slices": {name: predicate}}
    values["ingest"]["columns"] |= {column: {"role": role, "kind": "category"} for column, role in columns.items()}
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("diagnosis = 'malignant'",), "'diagnosis' is the target. A slice tells which cases, not how they end"),
        (('"mean Radius" > 3',), "there is no column 'mean Radius'; did you mean mean radius"),
        (("zzz = 'a'",), "there is no column 'zzz'. Mend it under evaluate.slices"),
        (("site = 'a'", "s", {"site": "ignored"}), "'site' has the role ignored. Give it another role"),
        (("site > 3", "s", {"site": "key"}), r"evaluate\.slices\.s: the slice 's' must be true or false"),
        (('"mean radius"',), "must be true or false, however: '\"mean radius\"' gives Float64"),
        (("COUNT(*) > 1",), "calls COUNT"),
        ((3,), r"evaluate\.slices\.s must be a string, however: got 3"),
        (("site = 'a'", " "), "a slice must have a name"),
        (("site = 'a'", True), "must be strings"),
    ],
)
def test_the_check_names_slice_rule_and_remedy(values: tuple[Any, ...], message: str) -> None:
    predicate, name, columns = (*values, *(None, "s", {})[len(values) :])
    with pytest.raises(ExpostError, match=message):
        check_params(declare(predicate, name, **columns))


def test_the_check_takes_any_column_that_is_read() -> None:
    check_params(declare("site = 'a' AND \"mean radius\" BETWEEN 10 AND 20", site="key"))


def test_slices_are_written_to_params_yaml_as_they_are_read() -> None:
    found = Evaluate(slices={"Yes": "age > 1", "at home": "\"home type\" = 'a'"})
    assert parse(Evaluate, yaml_of(render_section("evaluate", found, {}), "x")["evaluate"], "evaluate") == found


def test_lessons_whose_columns_are_gone_or_of_another_type_are_listed_with_the_reason() -> None:
    kept = Slice("kept", "earlier lesson", (Condition("age", ">", 3.0), Condition("housing", "missing")), 1)
    gone = Slice("gone", "earlier lesson", (Condition("income", ">", 3.0),), 1)
    retyped = Slice("retyped", "earlier lesson", (Condition("age", "is", "old"),), 2)
    number = Slice("number", "earlier lesson", (Condition("housing", "<=", 1),), 2)
    target = Slice("target", "earlier lesson", (Condition("flag", "is", "true"),), 2)
    found, others = slices.applicable(ROWS.drop("flag"), [kept, gone, retyped, number, target])
    assert found == [kept]
    assert [(one.name, why) for one, why in others] == [
        ("gone", "column 'income' is not among the table's inputs now"),
        ("retyped", "column 'age' is of another type now"),
        ("number", "column 'housing' is of another type now"),
        ("target", "column 'flag' is not among the table's inputs now"),
    ]
