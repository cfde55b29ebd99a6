"""The pool of two learners: what it gives, and that its share is the one that log loss prefers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss

from pipelines.core.pool import best_share, pooled


def drawn(seed: int, rows: int = 400, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of two learners that see the same truth, each through noise of its own, and labels drawn from the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(rows, classes))
    labels = (softmax(truth, axis=1).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return truth + rng.normal(size=truth.shape), truth + rng.normal(size=truth.shape), labels


def test_the_pool_of_two_classes_is_the_mean_of_log_odds() -> None:
    """Golden: 0.2 and 0.8 with equal shares are 0.5; 0.9 and 0.5 with a share of 1/2 have odds of 9^(1/2) = 3."""
    found = np.exp(pooled(np.log([[0.2, 0.8], [0.1, 0.9]]), np.log([[0.8, 0.2], [0.5, 0.5]]), 0.5))
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.25, 0.75]], atol=1e-12)


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(-50, 50))
def test_the_pool_sums_to_one_and_knows_no_constant_of_the_logits(seed: int, share: float, constant: float) -> None:
    first, second, _ = drawn(seed, rows=5)
    found = pooled(first, second, share)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    np.testing.assert_allclose(pooled(first + constant, second, share), found, atol=1e-9)
    np.testing.assert_allclose(pooled(second, first, 1 - share), found, atol=1e-9)


@given(st.integers(0, 10_000))
def test_no_share_of_a_grid_is_better_than_the_one_chosen(seed: int) -> None:
    first, second, labels = drawn(seed)

    def loss(share: float) -> float:
        return float(log_loss(labels, np.exp(pooled(first, second, share)), labels=[0, 1, 2]))

    assert loss(best_share(first, second, labels)) <= min(loss(share) for share in np.linspace(0, 1, 21)) + 1e-6


def test_a_learner_that_knows_nothing_gets_no_share_and_one_that_knows_all_the_whole() -> None:
    first, _, labels = drawn(1, rows=2000)
    noise = np.random.default_rng(2).normal(size=first.shape) * 3
    assert best_share(first, noise, labels) < 0.1
    assert best_share(noise, first, labels) > 0.9


def test_a_learner_that_adds_nothing_gets_no_share_at_all() -> None:
    first, second, labels = drawn(5, rows=2000)
    assert best_share(first, first, labels) == 0
    assert best_share(first, np.zeros_like(first) + 50 * (labels[:, None] != np.arange(3)), labels) == 0, "one that is always wrong"
    assert best_share(second - 50 * (labels[:, None] == np.arange(3)), first, labels) == 1
    assert 0 < best_share(first, second, labels) < 1


def test_a_weight_counts_as_that_many_rows_do() -> None:
    first, second, labels = drawn(3, rows=60)
    times = np.random.default_rng(4).integers(1, 9, len(labels))
    repeated = [np.repeat(array, times, axis=0) for array in (first, second, labels)]
    assert best_share(first, second, labels, times.astype(float)) == pytest.approx(best_share(*repeated), abs=1e-3)
