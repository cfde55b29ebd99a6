"""Hard counts: the best rows get the action, no exchange within the counts would be better, ties go by order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pipelines.core import quota
from pipelines.errors import ExpostError


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


@st.composite
def of_probabilities(draw: st.DrawFn) -> tuple[Any, dict[int, int]]:
    """Expected utilities P @ U, so collinear, of probabilities that may be near 0 and 1, rounded or repeated; limits of which many are 0."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    rows, actions, classes = draw(st.integers(2, 40)), draw(st.integers(2, 5)), draw(st.integers(2, 3))
    p = rng.dirichlet(np.full(classes, draw(st.sampled_from([0.01, 0.05, 0.3, 1.0]))), size=rows)
    p = np.round(p, 1) if draw(st.booleans()) else p
    p = p[rng.integers(0, rows, rows)] if draw(st.booleans()) else p
    value = p @ np.round(-rng.exponential(3, size=(classes, actions)), draw(st.integers(0, 2)))
    limits = {int(a): int(rng.integers(0, rows + 1) * rng.integers(0, 2)) for a in rng.permutation(actions)[: rng.integers(1, actions + 1)]}
    if len(limits) == actions:
        limits[min(limits)] += max(rows - sum(limits.values()), 0)
    return value, limits


def check_best(value: Any, limits: dict[int, int]) -> None:
    found = quota.allot(value, value.argmax(axis=1), limits)
    assert all((found.actions == action).sum() <= most for action, most in limits.items())
    assert obtained(value, found.actions) == pytest.approx(best(value, limits), rel=1e-9, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(of_probabilities())
def test_counts_hold_and_the_sum_is_largest_for_expected_utilities(case: tuple[Any, dict[int, int]]) -> None:
    check_best(*case)


@settings(max_examples=60, deadline=None)
@given(of_probabilities())
def test_neither_rests_on_the_prices_nor_on_which_rows_are_looked_at_first(case: tuple[Any, dict[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quota, "NEAR", 2)
        patch.setattr(quota, "BLOCK", 7)
        patch.setattr(quota, "_prices", lambda value, limits, tie: np.zeros(value.shape[1]))
        check_best(*case)


@pytest.mark.parametrize("limits", [{1: 100, 2: 10}, {1: 0, 2: 0}, {2: 10, 1: 1000}, {1: 4000, 2: 400}, {0: 10_000, 1: 5000, 2: 5000}])
def test_many_collinear_rows_near_certainty(limits: dict[int, int]) -> None:
    """Checking, referring and leaving in a screening: referring is worth the same whatever the class."""
    p = np.random.default_rng(0).beta(0.1, 0.3, size=20_000)
    value = np.stack([1 - p, p], axis=1) @ np.array([[0, -1, -0.4], [-10, 0, -0.4]])
    found = quota.allot(value, value.argmax(axis=1), limits)
    count = np.bincount(found.actions, minlength=3)
    assert all(count[action] <= most for action, most in limits.items())
    assert count.sum() == 20_000
    if 0 not in limits:  # in order of p: leave, refer, biopsy take turns, so the best division is one of cut-offs
        refer, biopsy = (np.sort(p[found.actions == a]) for a in (2, 1))
        assert [len(biopsy), len(refer)] == [limits[1], limits[2]]
        assert (np.concatenate([refer, biopsy]) == np.sort(p)[20_000 - len(refer) - len(biopsy) :]).all()


def test_where_every_action_is_full_there_is_nothing_to_compare_with() -> None:
    found = quota.allot(np.array([[0.0, 2.0], [0.0, 1.0]]), [1, 1], {0: 1, 1: 1})
    assert found.actions.tolist() == [1, 0]
    assert np.isnan(found.price[1]) and found.price[0] == 0


def test_counts_that_do_not_hold_are_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "_mended", lambda *_: True)
    monkeypatch.setattr(quota, "_prices", lambda value, limits, tie: np.zeros(value.shape[1]))
    with pytest.raises(ExpostError, match="action 1 must be taken for at most 1 rows, however: got 3"):
        quota.allot(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]), [1, 1, 1], {1: 1})
    with pytest.raises(ExpostError, match="they leave 2 for 3"):
        quota.allot(np.zeros((3, 2)), [1, 1, 1], {0: 1, 1: 1})
