"""A row's part depends on the row and the rule alone; neither groups nor equal rows cross parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.partition import PARTS, Assignment, Mask, assign_parts, before_holdout, folds_of, judging, needed, surely_unseen, unseen
from pipelines.core.rowhash import HASH, Text
from pipelines.errors import ExpostError

SHARES = {"train": 0.6, "valid": 0.1, "calib": 0.15, "holdout": 0.15}
HOLDOUT = PARTS.index("holdout")
GOLDEN = [0, 3, 3, 0, 1, 0, 0, 0, 0, 0, 3, 0]
GOLDEN_FOLDS = [[4, 0, 2, 1, 1, 2, 2, 4, 3, 2, 3, 3], [2, 3, 1, 1, 2, 4, 1, 3, 2, 4, 3, 4]]


def rule(**changes: Any) -> dict[str, Any]:
    types = {"a": "number", "b": "text", "who": "text", "when": "number", "fold": "text"}
    plain = {"by": "hash", "hash": HASH, "salt": "1", "columns": ["a", "b"], "shares": SHARES, "group": None, "second_file": False}
    return {**plain, "types": types, **changes}


def table(rows: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "a": random.normal(size=rows),
        "b": Text(random.integers(-1, 3, rows).astype(np.int32), ("x", "y", "z")),
        "who": Text.of([f"p{i}" for i in random.integers(0, max(rows // 3, 1), rows)]),
        "when": random.integers(0, 100, rows).astype(float),
        "fold": Text.of([("one", "two", "more")[i] for i in random.integers(0, 3, rows)]),
    }


def take(columns: dict[str, Any], rows: Any) -> dict[str, Any]:
    return {
        name: Text.of([column.values[code] if code >= 0 else None for code in column.codes[rows]])
        if isinstance(column, Text)
        else column[rows]
        for name, column in columns.items()
    }


BY_TIME = {"by": "time", "time": {"name": "when", "valid_from": 60.0, "calib_from": 70.0, "holdout_from": 85.0}}
BY_COLUMN = {"by": "column", "column": {"name": "fold", "parts": {"one": "rest", "two": "holdout", "more": "rest"}}}
RULES = [rule(), rule(group="who"), rule(**BY_TIME), rule(**BY_COLUMN), rule(**BY_TIME, group="who"), rule(**BY_COLUMN, group="who")]


def test_golden_parts() -> None:
    """The parts of twelve numbers, written down when the rule was fixed: no upgrade may move a row."""
    found = assign_parts(rule(columns=["a"]), {"a": np.arange(12.0)}).parts
    assert found.tolist() == GOLDEN


def test_shares_are_met() -> None:
    counts = np.bincount(assign_parts(rule(columns=["a"]), {"a": np.arange(40_000.0)}).parts, minlength=4) / 40_000
    assert counts == pytest.approx([0.6, 0.1, 0.15, 0.15], abs=0.01)  # four standard errors


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 30), st.integers(0, 1000), st.sampled_from([rule(), rule(group="who"), rule(salt="7")]))
def test_neither_row_order_nor_appended_rows_move_a_row(rows: int, more: int, seed: int, rules: dict[str, Any]) -> None:
    columns = table(rows + more, seed)
    shuffled = np.random.default_rng(seed).permutation(rows + more)
    grown = assign_parts(rules, columns)
    alone, mixed = assign_parts(rules, take(columns, slice(0, rows))), assign_parts(rules, take(columns, shuffled))
    assert alone.parts.tolist() == grown.parts[:rows].tolist()
    assert mixed.parts.tolist() == grown.parts[shuffled].tolist()
    assert alone.row_hash.tolist() == grown.row_hash[:rows].tolist()


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(0, 1000), st.sampled_from(RULES))
def test_neither_groups_nor_equal_rows_cross_parts(rows: int, seed: int, rules: dict[str, Any]) -> None:
    columns = table(rows, seed)
    columns["a"] = np.round(columns["a"])  # many equal rows
    found = assign_parts(rules, columns)
    kept = found.parts >= 0
    for codes in (found.row_hash, found.groups):
        parts_of: dict[int, set[int]] = {}
        for code, part in zip(codes[kept].tolist(), found.parts[kept].tolist(), strict=True):
            parts_of.setdefault(code, set()).add(part)
        assert all(len(parts) == 1 for parts in parts_of.values())
    assert found.group_copies + found.row_copies == int((~kept).sum())


def test_equal_rows_are_one_group_where_none_is_declared() -> None:
    found = assign_parts(rule(), {"a": np.array([1.0, 2.0, 1.0]), "b": Text.of(["x", "x", "x"])})
    assert found.groups[0] == found.groups[2] != found.groups[1]


def test_rows_without_a_group_are_their_own() -> None:
    found = assign_parts(rule(group="who"), {"a": np.arange(3.0), "b": Text.of(["x"] * 3), "who": Text.of([None, None, "p"])})
    assert len(set(found.groups.tolist())) == 3


def test_later_rows_go_to_the_holdout_by_time_and_the_earlier_copy_is_excluded() -> None:
    columns = {"a": np.array([1.0, 2.0, 3.0, 4.0, 1.0]), "b": Text.of(["x"] * 5), "when": np.array([0.0, 60.0, 70.0, 85.0, 90.0])}
    found = assign_parts(rule(**BY_TIME), columns)
    assert found.parts.tolist() == [-1, 1, 2, 3, 3]
    assert (found.group_copies, found.row_copies) == (0, 1)


def test_a_group_that_comes_back_later_leaves_its_earlier_part() -> None:
    columns = {"a": np.arange(3.0), "b": Text.of(["x"] * 3), "when": np.array([0.0, 0.0, 99.0]), "who": Text.of(["p", "q", "p"])}
    found = assign_parts(rule(**BY_TIME, group="who"), columns)
    assert found.parts.tolist() == [-1, 0, 3]
    assert (found.group_copies, found.row_copies) == (1, 0)


def test_rest_is_spread_over_the_other_parts_only() -> None:
    columns = table(4000)
    columns["a"] = np.arange(4000.0)
    found = assign_parts(rule(**BY_COLUMN), columns)
    declared = np.array([columns["fold"].values[code] for code in columns["fold"].codes])
    assert set(found.parts[declared == "two"].tolist()) == {HOLDOUT}
    rest = found.parts[declared != "two"]
    assert np.bincount(rest, minlength=4)[:3] / len(rest) == pytest.approx([0.6 / 0.85, 0.1 / 0.85, 0.15 / 0.85], abs=0.04)
    assert HOLDOUT not in rest


def test_a_second_file_is_the_holdout_and_its_copies_leave_the_other_parts() -> None:
    columns = {"a": np.array([0.0, 1.0, 2.0, 0.0]), "b": Text.of(["x"] * 4)}
    second = np.array([False, False, False, True])
    found = assign_parts(rule(second_file=True), columns, second)
    assert found.parts[3] == HOLDOUT and found.parts[0] == -1
    assert set(found.parts[1:3].tolist()) <= {0, 1, 2}
    later = assign_parts(rule(second_file=True), columns)  # the file is gone: no row was holdout for that model
    assert HOLDOUT not in later.parts
    former = assign_parts(rule(), columns, second)  # a model made before there was a second file
    assert former.parts.tolist() == assign_parts(rule(), columns).parts.tolist()


@pytest.mark.parametrize(
    ("rules", "columns", "words"),
    [
        (rule(), {"a": np.arange(2.0)}, "'b'"),
        (rule(), {"a": Text.of(["1", "2"]), "b": Text.of(["x", "y"])}, "'a' as number"),
        (rule(hash="other"), table(2), "blake2b64-v1"),
        (rule(**BY_TIME), {**table(2), "when": np.array([1.0, np.nan])}, "1 are missing"),
        (rule(**BY_COLUMN), {**table(3), "fold": Text.of(["one", None, "odd"])}, r"\['\(missing\)', 'odd'\]"),
    ],
)
def test_a_rule_that_does_not_fit_the_table_is_refused(rules: dict[str, Any], columns: dict[str, Any], words: str) -> None:
    with pytest.raises(ExpostError, match=words):
        assign_parts(rules, columns)


def test_needed_names_each_column_once() -> None:
    assert needed(rule(**BY_TIME, group="a")) == ["a", "b", "when"]


def test_golden_folds() -> None:
    """The folds of twelve hashes, written down when the rule was fixed: a champion's rows are scored by the networks that its rule names."""
    found = folds_of({"salt": "1", "folds": {"count": 5, "repeats": 2}}, np.arange(12, dtype=np.uint64))
    assert found.tolist() == GOLDEN_FOLDS


def test_a_rule_of_before_there_were_folds_has_one_network() -> None:
    assert folds_of({"salt": "1"}, np.arange(3, dtype=np.uint64)).shape == (0, 3)
    assert folds_of({"salt": "1", "folds": None}, np.arange(3, dtype=np.uint64)).shape == (0, 3)


FOLDS = {"count": 3, "repeats": 2}
WITHOUT_GROUPS = [rule(folds=FOLDS), rule(folds=FOLDS, salt="7"), rule(**BY_COLUMN, folds=FOLDS)]
GROUPED = [rule(folds=FOLDS, group="who"), rule(folds=FOLDS, group="who", salt="7"), rule(**BY_COLUMN, folds=FOLDS, group="who")]


def copied(rows: int, seed: int) -> dict[str, Any]:
    """A table in which rows have on average one copy, most of them in another group; some have no group."""
    columns, chosen = table(rows, seed), np.random.default_rng(seed).integers(0, max(rows // 2, 1), rows)
    who = columns["who"].codes.copy()
    who[::7] = -1
    return {
        **columns,
        "a": columns["a"][chosen],
        "b": Text(columns["b"].codes[chosen], columns["b"].values),
        "who": Text(who, columns["who"].values),
    }


def masks(rules: dict[str, Any], columns: dict[str, Any]) -> tuple[Assignment, Mask, Mask]:
    """The assignment, which networks learn from which rows, and which never saw which."""
    found = assign_parts(rules, columns)
    left_out = unseen(rules, found.parts, found.draws, found.row_hash)
    return found, ~left_out & before_holdout(found.parts)[:, None], left_out


def own_fold(rules: dict[str, Any], found: Assignment) -> Mask:
    """What a network left out before copies were looked at: its own fold, and all but the rows before the holdout."""
    own = np.concatenate([folds[:, None] == np.arange(FOLDS["count"]) for folds in folds_of(rules, found.draws)], axis=1)
    return np.asarray(own | ~np.isin(found.parts, (0, 1, 2))[:, None])


@settings(deadline=None)
@given(st.integers(2, 80), st.integers(0, 1000), st.sampled_from(GROUPED))
def test_no_network_learns_from_a_row_equal_to_one_that_it_never_saw(rows: int, seed: int, rules: dict[str, Any]) -> None:
    found, learnt, left_out = masks(rules, copied(rows, seed))
    pool = before_holdout(found.parts)
    assert left_out[own_fold(rules, found)].all(), "a row keeps its folds"
    judge = np.zeros_like(learnt)
    judge[pool] = judging(left_out[pool], FOLDS["repeats"])
    assert not (judge & ~own_fold(rules, found)).any()
    for network in range(learnt.shape[1]):
        repetition = slice(network // 3 * 3, network // 3 * 3 + 3)
        others = np.delete(judge[:, repetition], network % 3, axis=1).any(axis=1)
        scored = found.row_hash[pool & left_out[:, network]]
        assert not np.isin(found.row_hash[learnt[:, network]], scored).any()
        assert not np.isin(found.row_hash[others], scored).any(), "nor is it stopped by one"


@settings(deadline=None)
@given(st.integers(2, 80), st.integers(0, 1000), st.floats(0.1, 1), st.sampled_from(GROUPED))
def test_a_network_surely_never_saw_a_row_whatever_rows_the_table_had_before(
    rows: int, seed: int, share: float, rules: dict[str, Any]
) -> None:
    columns = copied(rows, seed)
    older = np.random.default_rng(seed + 1).random(rows) < share
    now = assign_parts(rules, columns)
    surely = surely_unseen(rules, now.parts, now.draws, now.row_hash)
    then, learnt, _ = masks(rules, take(columns, older))
    np.testing.assert_array_equal(then.row_hash, now.row_hash[older])
    pool = before_holdout(now.parts)
    for network in range(learnt.shape[1]):
        claimed = pool & surely[:, network]
        assert not np.isin(then.row_hash[learnt[:, network]], now.row_hash[claimed]).any()
        assert not np.isin(then.draws[learnt[:, network]], now.draws[claimed]).any(), "nor a row of its group"


def test_a_copy_that_came_later_leaves_no_network_that_surely_never_saw_the_row() -> None:
    """Each of two equal rows may have been the one that was learnt from, and the rows may lie in the same fold in one repetition only."""
    rules = {"salt": "1", "folds": {"count": 5, "repeats": 2}}
    draws, parts, row_hash = np.array([3, 4, 8], dtype=np.uint64), np.zeros(3, dtype=np.int8), np.array([7, 7, 9], dtype=np.uint64)
    assert folds_of(rules, draws).tolist() == [[1, 1, 3], [1, 2, 2]]
    found, surely = (given(rules, parts, draws, row_hash) for given in (unseen, surely_unseen))
    assert [np.flatnonzero(row).tolist() for row in found] == [[1, 6, 7], [1, 6, 7], [3, 7]]
    assert [np.flatnonzero(row).tolist() for row in surely] == [[1], [1], [3, 7]]


@pytest.mark.parametrize("rules", WITHOUT_GROUPS)
def test_without_groups_equal_rows_share_their_folds_and_nothing_else_counts(rules: dict[str, Any]) -> None:
    found, _, left_out = masks(rules, copied(2000, 0))
    expected, pool = own_fold(rules, found), before_holdout(found.parts)
    assert len(np.unique(found.row_hash[pool])) < pool.sum(), "there are equal rows"
    np.testing.assert_array_equal(left_out, expected)
    np.testing.assert_array_equal(surely_unseen(rules, found.parts, found.draws, found.row_hash), expected)
    np.testing.assert_array_equal(judging(left_out[pool], FOLDS["repeats"]), expected[pool])
