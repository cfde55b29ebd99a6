"""The pool of learners: what it gives, and that its shares are those that log loss prefers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss

from pipelines.core.pool import best_shares, pooled


def drawn(seed: int, rows: int = 400, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of two learners that see the same truth, each through noise of its own, and labels drawn from the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(rows, classes))
    labels = (softmax(truth, axis=1).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return truth + rng.normal(size=truth.shape), truth + rng.normal(size=truth.shape), labels


def test_the_pool_of_two_classes_is_the_mean_of_log_odds() -> None:
    """Golden: 0.2 and 0.8 with equal shares are 0.5; 0.9 and 0.5 with a share of 1/2 have odds of 9^(1/2) = 3."""
    found = np.exp(pooled([np.log([[0.2, 0.8], [0.1, 0.9]]), np.log([[0.8, 0.2], [0.5, 0.5]])], [0.5, 0.5]))
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.25, 0.75]], atol=1e-12)


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(-50, 50))
def test_the_pool_sums_to_one_and_knows_no_constant_of_the_logits(seed: int, share: float, constant: float) -> None:
    first, second, _ = drawn(seed, rows=5)
    found = pooled([first, second], [1 - share, share])
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    np.testing.assert_allclose(pooled([first + constant, second], [1 - share, share]), found, atol=1e-9)
    np.testing.assert_allclose(pooled([second, first], [share, 1 - share]), found, atol=1e-9)


@given(st.integers(0, 10_000))
def test_no_shares_of_a_grid_are_better_than_those_chosen(seed: int) -> None:
    first, second, labels = drawn(seed)
    third, *_ = drawn(seed + 1)

    def loss(learners: list[np.ndarray], shares: list[float]) -> float:
        return float(log_loss(labels, np.exp(pooled(learners, shares)), labels=[0, 1, 2]))

    for learners in ([first, second], [first, second, third]):
        found = best_shares(learners, labels)
        assert sum(found) == pytest.approx(1) and min(found) >= 0
        grid = [shares for shares in itertools.product(np.linspace(0, 1, 11), repeat=len(learners)) if abs(sum(shares) - 1) < 1e-9]
        assert loss(learners, found) <= min(loss(learners, list(shares)) for shares in grid) + 2e-6


def test_a_learner_that_knows_nothing_gets_no_share_and_one_that_knows_all_the_whole() -> None:
    first, _, labels = drawn(1, rows=2000)
    noise = np.random.default_rng(2).normal(size=first.shape) * 3
    assert best_shares([first, noise], labels)[1] < 0.1
    assert best_shares([noise, first], labels)[1] > 0.9


def test_a_learner_that_adds_nothing_gets_no_share_at_all() -> None:
    first, second, labels = drawn(5, rows=2000)
    wrong = np.zeros_like(first) + 50 * (labels[:, None] != np.arange(3))
    assert best_shares([first, first], labels) == [1, 0], "of two alike the later one"
    assert best_shares([first, wrong], labels) == [1, 0]
    assert best_shares([wrong, first], labels) == [0, 1]
    two = best_shares([first, second], labels)
    assert min(two) > 0
    assert best_shares([first, wrong, second], labels) == pytest.approx([two[0], 0, two[1]], abs=1e-4)
    assert best_shares([first], labels) == [1]


def test_a_weight_counts_as_that_many_rows_do() -> None:
    first, second, labels = drawn(3, rows=60)
    times = np.random.default_rng(4).integers(1, 9, len(labels))
    repeated = [np.repeat(array, times, axis=0) for array in (first, second, labels)]
    assert best_shares([first, second], labels, times.astype(float)) == pytest.approx(best_shares(repeated[:2], repeated[2]), abs=1e-3)
