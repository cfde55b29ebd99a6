"""Hard counts: the best rows get the action, no exchange within the counts would be better, ties go by order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pipelines.core import quota


def obtained(value: Any, actions: Any) -> float:
    return float(value[np.arange(len(value)), actions].sum())


def best(value: Any, limits: dict[int, int]) -> float:
    """The largest sum within the limits, by the Hungarian method over places."""
    places = [action for action in range(value.shape[1]) for _ in range(limits.get(action, len(value)))]
    rows, columns = linear_sum_assignment(value[:, places], maximize=True)
    return float(value[:, places][rows, columns].sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 25))
def test_no_exchange_within_the_counts_would_be_better(seed: int, actions: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(rows, actions))
    limits = {int(a): int(rng.integers(0, rows + 1)) for a in rng.choice(actions, size=rng.integers(1, actions), replace=False)}
    found = quota.allot(value, value.argmax(axis=1), limits)
    assert all((found.actions == action).sum() <= most for action, most in limits.items())
    assert obtained(value, found.actions) == pytest.approx(best(value, limits), abs=1e-9)


def test_golden_case() -> None:
    value = np.array([[0.0, 5.0], [0.0, 1.0], [0.0, 3.0], [0.0, -1.0], [0.0, 3.0]])
    found = quota.allot(value, [1, 1, 1, 0, 1], {1: 2})
    assert found.actions.tolist() == [1, 0, 1, 0, 0]
    assert (found.wanted, found.price) == ({1: 4}, {1: 3.0})
    assert quota.allot(value, [1, 1, 1, 0, 1], {1: 0}).actions.tolist() == [0] * 5
    assert quota.allot(value, [1, 1, 1, 0, 1], {1: 0}).price == {1: 5.0}


def test_a_limit_that_does_not_bind_changes_nothing_not_even_ties() -> None:
    value = np.zeros((6, 3))
    wants = np.array([2, 1, 0, 2, 1, 0])
    found = quota.allot(value, wants, {2: 2, 1: 6})
    np.testing.assert_array_equal(found.actions, wants)
    assert found.price == {2: 0.0, 1: 0.0}


def test_ties_at_the_edge_go_to_the_first_rows() -> None:
    value = np.tile([0.0, 1.0], (10, 1))
    found = quota.allot(value, np.ones(10, int), {1: 3})
    assert found.actions.tolist() == [1, 1, 1] + [0] * 7
    assert found.price == {1: 1.0}


def test_where_every_action_is_limited_and_all_rows_are_alike_each_row_gets_one() -> None:
    found = quota.allot(np.tile([1.0, 2.0, 3.0], (9, 1)), np.full(9, 2), {0: 3, 1: 4, 2: 2})
    assert np.bincount(found.actions).tolist() == [3, 4, 2]


def test_a_row_that_is_refused_may_displace_another_from_a_limited_action() -> None:
    value = np.array([[0.0, 9.0, 8.0], [0.0, 10.0, 1.0], [0.0, 0.0, 2.0]])
    found = quota.allot(value, value.argmax(axis=1), {1: 1, 2: 1})
    assert found.actions.tolist() == [2, 1, 0]
