"""Cells that are expressions: what they come to, what is refused and why, and the section that holds them."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import expressions, utilities
from pipelines.calltime import utility_of
from pipelines.commands.costs import utility_from
from pipelines.commands.predict import Prediction, remarks
from pipelines.errors import ExpostError
from pipelines.params import parse
from pipelines.params.utility import Utility

ROWS = pl.DataFrame({"C_FN": [5.0, 0.5, 12.0], "amount": [10.0, 0.0, -2.0], "lost amount": [1.0, 2.0, 3.0], "kind": ["a", "b", "a"]})


def one(text: str, frame: pl.DataFrame = ROWS) -> list[float]:
    """The values of one expression."""
    return utilities.values([[text]], frame)[:, 0, 0].tolist()


def test_numbers_alone_make_one_matrix_and_need_no_rows() -> None:
    made = utilities.values([[0, -1.5], [-10, 2]])
    assert made.shape == (2, 2) and made.tolist() == [[0.0, -1.5], [-10.0, 2.0]]


def test_an_expression_makes_a_matrix_per_row() -> None:
    made = utilities.values([[0, -1], ["-C_FN", "-0.75 * amount"]], ROWS)
    assert made.shape == (3, 2, 2)
    assert made.tolist() == [[[0, -1], [-5, -7.5]], [[0, -1], [-0.5, 0]], [[0, -1], [-12, 1.5]]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('-"lost amount"', [-1, -2, -3]),
        ("- C_FN - 1", [-6, -1.5, -13]),
        ("CASE WHEN kind = 'a' THEN -C_FN ELSE 0 END", [-5, 0, -12]),
        ("IF(amount > 0, amount / 4, 1e-3)", [2.5, 0.001, 0.001]),
        ("-GREATEST(amount, 1, C_FN * 0.1)", [-10, -1, -1.2]),
        ("COALESCE(NULLIF(amount, 0), -7)", [10, -7, -2]),
        ("kind IN ('b', 'c') AND amount BETWEEN -1 AND 1 OR C_FN > 100", None),
        ("C_FN % 2", [1, 0.5, 0]),
        ("0.5 * C_FN", [2.5, 0.25, 6]),
        ("C_FN / 2", [2.5, 0.25, 6]),
    ],
)
def test_golden_values(text: str, expected: list[float] | None) -> None:
    if expected is None:
        with pytest.raises(ExpostError, match="must give a number, however: it gives Boolean"):
            one(text)
    else:
        assert one(text) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "-a * b + 0.25 * (a - b) / (1 + ABS(b))",
        "CASE WHEN a > b AND NOT b > 1 THEN a WHEN a BETWEEN -1 AND 0 OR a = b THEN b ELSE a * b END",
        "COALESCE(NULLIF(ROUND(a), 1), b)",
        "LN(ABS(a) + 1) - EXP(-ABS(b)) + SQRT(a * a) - POWER(b, 2)",
        "FLOOR(a) + CEIL(b) + SIGN(a) * 3",
        "CASE WHEN k IN ('x', 'it''s') THEN a ELSE -a END",
    ],
)
def test_values_agree_with_sqlite(text: str) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.normal(size=200) * 3, "b": rng.normal(size=200) * 3, "k": rng.choice(["x", "y", "it's"], 200)})
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE t (a REAL, b REAL, k TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", frame.rows())
        expected = [row[0] for row in connection.execute(f"SELECT {text} FROM t")]
    np.testing.assert_allclose(one(text, frame), expected, rtol=1e-12, atol=1e-12)


@given(st.permutations(range(20)))
def test_each_row_is_decided_by_itself(order: list[int]) -> None:
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({"a": rng.normal(size=20)})
    text = "CASE WHEN a > 0 THEN -a ELSE a * 2 END"
    assert one(text, frame[order]) == [one(text, frame)[row] for row in order]


BEYOND = "must be element-wise, a row's value from that row alone, however: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-SUM(a)", "calls SUM"),
        ("a - AVG (a)", "calls AVG"),
        ("COUNT(*) * a", "calls COUNT"),
        ("SUM(a) OVER ()", "calls SUM"),
        ("a OVER (PARTITION BY b)", "has OVER, which looks beyond the row"),
        ("LAG(a)", "calls LAG"),
        ("ROW_NUMBER() OVER (ORDER BY a) * a", "calls ROW_NUMBER"),
        ("a + (SELECT 1)", "has SELECT"),
        ("a IN (SELECT a FROM t)", "has SELECT"),
        ("a IN (FROM read_csv('t.csv'))", "has FROM"),
        ("a IN (VALUES (1))", "has VALUES"),
        ("RANDOM() * a", "calls RANDOM"),
        ("NOW() * a", "calls NOW"),
        ("CURRENT_DATE * a", "has CURRENT_DATE, which looks beyond the row"),
        ("UNNEST(a)", "has UNNEST"),
        ("LENGTH(a) * 1.0", "calls LENGTH"),
        ('"SUM"(a)', 'calls "SUM"'),
        ("COLUMNS('.*')", "calls COLUMNS"),
        ("a LIKE 'x'", "LIKE may not stand before text"),
        ("DATE '2020-01-01' * a", "DATE may not stand before text"),
        ("a * INTERVAL '1 day'", "INTERVAL may not stand before text"),
        ("a AS b", "uses a function that is not allowed"),
    ],
)
def test_what_looks_beyond_a_row_is_refused(text: str, message: str) -> None:
    with pytest.raises(ExpostError) as refused:
        expressions.expression(text)
    assert message in str(refused.value)
    assert BEYOND in str(refused.value) or "must be a number or an SQL expression" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is none"),
        ("a b c", "is none"),
        ("-C_FN +", "is none"),
        ("(a", "is none"),
        ("a; DROP TABLE t", "';' has no meaning here"),
        ("__import__('os').system('ls')", "calls __IMPORT__, which is not allowed"),
        ("a -- b", "-- begins a comment"),
        ("a /* b */", "begins a comment"),
        ("`a`", "'`' has no meaning here"),
        ("a[0]", "has no meaning here"),
        ("t.a", "'.' has no meaning here"),
        ("'x\\'", "has no meaning here"),
        ("1 + 2", "must name a column, however: '1 \\+ 2' names none"),
        ("-5", "must name a column"),
        ("(" * 300 + "a" + ")" * 300, "is none"),
        ("a" + " + a" * 1000, "must have at most 1000 characters, however: it has 4001"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, message: str) -> None:
    with pytest.raises(ExpostError, match=message):
        expressions.expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "(SELECT a FROM read_csv('secret.csv'))",
        "a IN (FROM read_csv('secret.csv'))",
        "a IN (TABLE t)",
        "EXISTS (WITH t AS (SELECT 1) SELECT * FROM t)",
        "read_csv('secret.csv')",
        "\"read_csv\" ('secret.csv')",
        "'a''' || (SELECT 1)",
        "`'` + (SELECT a FROM read_csv('secret.csv')) + `'`",
        "1 -- '\n + (SELECT 1) -- '",
    ],
)
def test_nothing_that_could_open_a_file_reaches_the_parser(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(text: str) -> Any:
        raise AssertionError(f"{text} was parsed")

    monkeypatch.setattr(pl, "sql_expr", reached)
    with pytest.raises(ExpostError):
        expressions.expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "1/2 * a",
        "a * (1 / 2)",
        "-1/2*a",
        "(1 + 1) / 4 * a",
        "ABS(1) / 2 * a",
        "CAST(1 AS INT) / 2 * a",
        "CAST(a AS INT) / 2",
        "a + CASE WHEN a > 1 THEN 1 ELSE 2 END / 4",
    ],
)
def test_a_quotient_of_whole_numbers_is_refused(text: str) -> None:
    with pytest.raises(ExpostError, match=r"must be written as a decimal.*Write 0\.5 in the place of 1/2"):
        expressions.expression(text)


@pytest.mark.parametrize("text", ["a / 2", "1 / a", "1.0 / 2 * a", "CAST(1 AS FLOAT) / 2 * a", "a / 1 / 2", "1 / (2 * a)"])
def test_a_quotient_with_a_decimal_or_a_column_is_not(text: str) -> None:
    assert expressions.columns_of(text) == ["a"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-C / D", r"2 of 4 rows have none \(row 12: -inf, where C is 2, D is 0; row 14: missing, where C is missing, D is 1\)"),
        ("LN(D)", r"1 of 4 rows have none \(row 12: -inf, where D is 0\)"),
        ("SQRT(D - 1)", r"row 12: NaN|row 12: nan"),
        ("C", r"""1 of 4 .*row 14: missing.*leave such rows out \(of the source with ingest\.where \('"C" IS NOT NULL'\)"""),
        ("1e400 * D", r"4 of 4 rows have none \(row 11: .*; row 12: .*; row 13: [^;]*\)"),
    ],
)
def test_a_value_that_is_missing_or_not_finite_names_columns_rows_and_remedy(text: str, shown: str) -> None:
    frame = pl.DataFrame({"C": [1.0, 2.0, 3.0, None], "D": [1.0, 0.0, 2.0, 1.0]})
    with pytest.raises(ExpostError, match=shown) as refused:
        utilities.values([[0, text]], frame, pl.Series([11, 12, 13, 14]))
    assert "must give a finite number in every row" in str(refused.value) and "Fill the values in" in str(refused.value)


def test_a_column_that_the_table_lacks_is_named() -> None:
    with pytest.raises(ExpostError, match="columns of the expression '-C_FN', however: C_FN is missing"):
        utilities.values([["-C_FN"]], pl.DataFrame({"x": [1.0]}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-C_FN", None),
        ("-x", "'x' has the role feature. Give it the role cost or feature"),
        ("-c_fn", "there is no column 'c_fn'; did you mean C_FN"),
        ("-zzz", r"there is no column 'zzz'\. .*columns with one: \['C_FN', 'amount'\]"),
    ],
)
def test_an_expression_names_columns_with_a_cost_role(text: str, message: str | None) -> None:
    roles = {"x": "feature", "C_FN": "cost", "amount": "feature+cost", "id": "key"}
    if message is None:
        utilities.check_columns([[0, text]], roles)
        return
    with pytest.raises(ExpostError, match=message):
        utilities.check_columns([[0, text]], roles)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CASE WHEN kind = 'a' THEN n ELSE 0 END", None),
        ("-kind", "arithmetic on dtypes.*categories and booleans are text"),
        ("kind", "it gives String"),
        ("n > 1", "it gives Boolean"),
        ("CASE WHEN flag = 1 THEN n ELSE 0 END", "cannot compare string with numeric"),
    ],
)
def test_the_kinds_of_the_columns_are_checked_without_data(text: str, message: str | None) -> None:
    kinds = {"n": "number", "kind": "category", "flag": "boolean", "day": "date"}
    if message is None:
        utilities.check_kinds([[0, text]], kinds)
        return
    with pytest.raises(ExpostError, match=message):
        utilities.check_kinds([[0, text]], kinds)


# The section.

MATRIX = {"no": {"wait": 0, "act": -1}, "yes": {"wait": -10, "act": 0}}


def section(**values: Any) -> Utility:
    return parse(Utility, {"matrix": MATRIX, **values}, "utility")


def test_the_section_takes_limits_requirements_and_a_prior() -> None:
    one = {"class": "yes", "at_least": 0.95}
    found = section(limits={"act": {"at_most": 0.2}}, require={"recall": one}, prior={"yes": 0.02})
    assert found.limits["act"].at_most == 0.2
    assert [(item.name, item.at_least, item.confidence) for item in found.require.recall] == [("yes", 0.95, 0.9)]
    assert section(require={"recall": [one]}).require == found.require
    assert parse(Utility, found.model_dump(), "utility") == found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limits": {"act": {"at_most": -0.2}}}, r"utility\.limits\.act\.at_most must be greater than 0, however: got -0\.2"),
        ({"limits": {"act": {"at_most": 1}}}, r"at_most must be less than 1, however: got 1"),
        ({"limits": {"act": 0.2}}, r"utility\.limits\.act must .*however: got 0\.2"),
        ({"limits": {"biopsy": {"at_most": 0.2}}}, r"actions of \['wait', 'act'\], however: 'biopsy' is none"),
        ({"limits": {"act": {"at_most": 0.2}, "wait": {"at_most": 0.7}}}, r"all actions are limited, to 0\.9 of the rows"),
        ({"limits": {True: {"at_most": 0.2}}}, r"names under utility\.limits must be strings.*Quote"),
        ({"require": {"recall": {"class": "maybe", "at_least": 0.9}}}, r"classes of \['no', 'yes'\], however: 'maybe' is none"),
        ({"require": {"recall": {"class": True, "at_least": 0.9}}}, r"recall\.0\.class must be a string.*Quote"),
        ({"require": {"recall": {"class": "yes", "at_least": 1.0}}}, r"at_least must be less than 1"),
        ({"require": {"recall": {"class": "yes", "at_least": 0}}}, r"at_least must be greater than 0"),
        ({"require": {"recall": {"class": "yes"}}}, r"recall\.0\.at_least must be given"),
        ({"require": {"recall": {"name": "yes", "at_least": 0.9}}}, r"name must be a known key.*Known keys: class, at_least, confidence"),
        ({"require": {"recall": {"class": "yes", "at_least": 0.9, "confidence": 0.4}}}, r"confidence must be greater than 0\.5"),
        ({"require": {"recall": [{"class": "yes", "at_least": 0.9}] * 2}}, r"each class once, however: 'yes' stands twice"),
        ({"require": {"precision": {}}}, r"precision must be a known key"),
        ({"prior": {"maybe": 0.02}}, r"'maybe' is none"),
        ({"prior": {"yes": -0.1}}, r"must lie between 0 and 1, however: 'yes' has -0\.1"),
        ({"prior": {"yes": float("nan")}}, r"must lie between 0 and 1, however: 'yes' has nan"),
        ({"prior": {"yes": 0.3, "no": 0.6}}, r"must sum to 1, however: they sum to 0\.9"),
        ({"prior": {False: 0.3}}, r"names under utility\.prior must be strings"),
        ({"matrix": {**MATRIX, "yes": {"wait": "", "act": 0}}}, "yes/wait is empty"),
    ],
)
def test_the_section_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpostError, match=message):
        section(**values)


def test_a_prior_of_some_classes_leaves_the_rest_to_the_others_as_in_the_data() -> None:
    matrix = {name: {"a": 0 if name == "x" else -1, "b": -1 if name == "x" else 0} for name in ("x", "y", "z")}
    found = parse(Utility, {"matrix": matrix, "prior": {"z": 0.1}}, "utility")
    assert found.class_prior(("x", "y", "z"), [0.2, 0.6, 0.2]) == pytest.approx([0.225, 0.675, 0.1])
    with pytest.raises(ExpostError, match="sum to less than 1, which leaves a share for the other classes"):
        parse(Utility, {"matrix": matrix, "prior": {"z": 0.5, "y": 0.5}}, "utility")
    assert section().class_prior(("no", "yes"), [0.5, 0.5]) is None


@pytest.mark.parametrize(
    ("cells", "refused"),
    [
        ([[0, -1], ["amount", 0]], True),
        ([[0, -1], ["-amount", 0]], False),
        ([[0, -1], ["-C_FN", "-C_FN"]], True),
        ([[0, -1], [-1, 0]], False),
        ([[0, -1], [1, 1]], True),
    ],
)
def test_one_action_that_is_best_in_every_row_is_refused(cells: Any, refused: bool) -> None:
    """`amount` is 10, 0 and -2: with the wrong sign one row alone could be decided otherwise, so rows above 0 are taken."""
    made = utilities.values(cells, ROWS[:2])
    if not refused:
        utilities.check_choice(made, ("wait", "act"))
        return
    with pytest.raises(ExpostError, match="'wait' is best for every true class"):
        utilities.check_choice(made, ("wait", "act"))


def test_one_action_for_every_row_of_a_batch_is_remarked_on_where_costs_are_by_row() -> None:
    def said(matrix: Any, rows: int, **actions: int) -> list[str]:
        bundle: Any = SimpleNamespace(schema={"target": "y"}, policy={"matrix": matrix}, preprocessing={})
        return remarks(Prediction(rows, {}, actions), bundle)

    by_row = [[0, -1], ["amount", 0]]
    assert said(by_row, 20, wait=20) == ["all 20 rows get wait: is every sign right? A cost is a negative utility"]
    assert said(by_row, 19, wait=19) == said(by_row, 20, wait=19, act=1) == said([[0, -1], [-5, 0]], 20, wait=20) == []


# Text from anyone.

PLAIN = "matrix: {good: {wait: 0, act: -1}, bad: {wait: -10, act: 0}}\n"


def cell(text: str) -> str:
    """A utility as JSON with this in a cell."""
    return f'{{"matrix": {{"good": {{"wait": 0, "act": -1}}, "bad": {{"wait": {text}, "act": 0}}}}}}'


def doubled(levels: int) -> str:
    """YAML that stands for 9^levels values."""
    names = "abcdefghijklmnop"[: levels + 1]
    lines = [f"{name}: &{name} [{', '.join(['*' + before] * 9)}]" for before, name in itertools.pairwise(names)]
    return "\n".join([f"{names[0]}: &{names[0]} [x]", *lines])


UNTRUSTED = {
    "too long": (PLAIN + "# " + "x" * 65536, "must be a text of at most 65,536 characters, however: it has 65,59"),
    "aliases that stand for billions": (doubled(12), "line 1 has an anchor or an alias"),
    "an alias": (PLAIN + "unit: &u x\nprior: *u", "line 2 has an anchor"),
    "deep YAML": ("[" * 3000, "nested deeper than 32 levels"),
    "deep JSON": ('{"matrix": ' + "[" * 900 + "1" + "]" * 900 + "}", "utility must be nested at most 32 levels deep"),
    "deeper JSON": ('{"matrix": ' + "[" * 9000 + "1" + "]" * 9000 + "}", "nested deeper than 32 levels"),
    "no such day": (PLAIN + "unit: 2026-13-45", "line 2 needs a date that can be read, and '2026-13-45' is none"),
    "a day": (PLAIN + "unit: 2026-01-01", "must be text, numbers, booleans, lists or mappings, however: 2026-01-01. Quote it there"),
    "digits without end": (PLAIN + "unit: " + "9" * 5000, "line 2 needs a whole number"),
    "digits without end in JSON": (cell("9" * 5000), "needs a whole number"),
    "more digits than a number has": (
        cell("1" * 400),
        "whole numbers under utility must be at most 1e.300.*bad.wait has more than 300 digits",
    ),
    "more digits than can be shown": (PLAIN.replace("-10", "0x" + "f" * 9000), "bad.wait has more than 300 digits"),
    "a base of sixty": (PLAIN + "unit: " + "1:" * 9000 + "1.0", "line 2 needs a number"),
    "half a character": (cell('"\\ud800"'), r"utility\.matrix\.bad\.wait must be text of whole characters"),
    "half a character in a name": ('{"matrix": 1, "\\ud800": 2}', "names under utility must be text of whole characters"),
    "a tag without its value": (PLAIN + 'unit: !!int ""', "line 2 needs a whole number that can be read"),
    "a tag of another kind": (PLAIN + "unit: !!map x", "line 2 needs a map"),
    "a tag that would run code": (PLAIN + "unit: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "a cell that is a list": (PLAIN.replace("-10", f"[{'x, ' * 9000}]"), "bad/wait is "),
    "names without end": (cell("1").replace("wait", "w" * 20000, 1), "must have the same actions, however: row 'bad' lacks"),
    "keys without end": (PLAIN + "\n".join(f"k{i}: 1" for i in range(5000)), "k19 is unknown.*And 4980 more under utility"),
    "a long key": (PLAIN + "? " + "k" * 30000 + "\n: 1", "must be a known key, however: k+"),
    "a key twice": (cell('1, "' + "k" * 9000 + '": 1, "' + "k" * 9000 + '": 2'), r"must have each key once, however: 'k+\.\.\.' stands"),
    "an expression without end": (cell('"' + "x + " * 9000 + 'x"'), None),
}


@pytest.mark.parametrize("name", UNTRUSTED)
def test_text_from_anyone_is_refused_in_one_short_message(name: str) -> None:
    text, said = UNTRUSTED[name]
    if said is None:
        with pytest.raises(ExpostError, match="must have at most 1000 characters"):
            utilities.columns(utility_of(text, "it").cells(("good", "bad")))
        return
    with pytest.raises(ExpostError, match=r"(?s)^it.* must .*, however: ") as refused:
        utility_of(text, "it")
    assert re.search(said, str(refused.value), re.DOTALL), refused.value
    assert len(str(refused.value)) < (400 if "keys" not in name else 3000)
    str(refused.value).encode()


def test_many_keys_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name is compared with few others, however many there are."""
    compared = 0

    class Name(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    def loads(text: str, object_pairs_hook: Any) -> Any:
        return object_pairs_hook([(Name(f"k{i}"), 1) for i in range(2000)])

    monkeypatch.setattr(json, "loads", loads)
    with pytest.raises(ExpostError, match="must hold a utility"):
        utility_of("{}", "it")
    assert compared < 20000


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("-1e-3", "Write -0.001 or -1.0e-3 without quotes"),
        ("2.5e4", "Write 25000 or 2.5e+4 without quotes"),
        ("1e300", "Write 1.0e+300 without quotes"),
        ("1 + 2", "Write a number without quotes, or name a column"),
    ],
)
def test_a_number_that_yaml_reads_as_text_is_shown_as_it_must_be_written(text: str, advice: str) -> None:
    found = utility_of(PLAIN.replace("-10", text), "it")
    with pytest.raises(ExpostError, match=re.escape(advice)):
        utilities.columns(found.cells(("good", "bad")))


def test_of_a_file_no_more_is_read_than_a_utility_may_have(tmp_path: Path) -> None:
    path = tmp_path / "u.yaml"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # a file of holes, larger than the memory
    with pytest.raises(ExpostError, match=r"u\.yaml must be a text of at most 65,536 characters, however: it has more\."):
        utility_from(path, ("good", "bad"))
    path.write_text(PLAIN)
    assert utility_from(path, ("good", "bad")).actions == ("wait", "act")
