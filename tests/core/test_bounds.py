"""Bounds of means: golden values, coverage where costly errors are rare, clusters, and the bootstrap for the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.core.bounds import bootstrap_interval, mean_interval, p_value_above
from pipelines.errors import ExpostError

VALUES = st.lists(st.floats(-5, 5), min_size=1, max_size=40)


@given(VALUES)
def test_each_bound_is_the_t_bound_of_the_values_with_the_pseudo_row(values: list[float]) -> None:
    interval = mean_interval(values, confidence=0.9, worst=-5, best=5)
    for bound, pseudo in ((interval.low, -5.0), (interval.high, 5.0)):
        augmented = np.array([*values, pseudo])
        error = stats.sem(augmented)
        t = stats.t.ppf(0.95, len(augmented) - 1)
        expected = augmented.mean() + np.sign(pseudo) * t * error
        assert bound == pytest.approx(np.clip(expected, -5, 5), abs=1e-9)


@given(VALUES, st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order_and_bounds_enclose_the_mean(values: list[float], random) -> None:
    interval = mean_interval(values, worst=-5, best=5)
    assert -5 <= interval.low <= interval.mean + 1e-12
    assert interval.mean - 1e-12 <= interval.high <= 5
    random.shuffle(values)
    assert mean_interval(values, worst=-5, best=5).low == pytest.approx(interval.low, abs=1e-9)


def test_constant_rows_still_leave_room_for_what_was_not_seen() -> None:
    few, many = (mean_interval(np.zeros(n), worst=-20, best=20, two_sided=False) for n in (50, 5000))
    assert few.low < -0.9
    assert -0.02 < many.low < 0
    # rule of three: 50 rows without an error do not exclude a rate of 3/50, that is a loss of 1.2 per row
    assert few.low == pytest.approx(-20 / 51 * (1 + stats.t.ppf(0.95, 50)), rel=1e-9)


@pytest.mark.parametrize("n", [200, 500, 1000])
def test_a_loss_by_rare_costly_errors_is_covered(n: int) -> None:
    """3 % positives, 20:1: the low bound of the paired difference exceeds its truth in at most 5 % of draws, plus binomial error."""
    rng, draws = np.random.default_rng(20_260_101 + n), 2000
    misses = 0
    for missed in (0.05, 0.15, 0.4):
        positive = rng.random((draws, n)) < 0.03
        u = rng.random((draws, n))
        rare = np.where(u < missed, -20.0, np.where(u > 0.98, 20.0, 0.0))
        common = np.where(u < 0.03, -1.0, np.where(u > 0.97, 1.0, 0.0))
        truth = 0.03 * 20 * (0.02 - missed)
        bounds = [mean_interval(row, worst=-20, best=20, two_sided=False).low for row in np.where(positive, rare, common)]
        misses = int((np.array(bounds) > truth).sum())
        assert stats.binomtest(misses, draws, 0.05, alternative="greater").pvalue > 0.01, f"{misses} of {draws} at {missed}"


def test_a_percentile_bootstrap_would_not_cover_it() -> None:
    """The reason for the pseudo-row: the same draws, bounded by the percentiles of the bootstrap."""
    rng, n, draws = np.random.default_rng(4), 200, 300
    misses = 0
    for _ in range(draws):
        row = np.where((rng.random(n) < 0.03) & (rng.random(n) < 0.15), -20.0, 0.0)
        means = row[rng.integers(n, size=(400, n))].mean(axis=1)
        misses += np.quantile(means, 0.05) > -0.09
    assert misses / draws > 0.15


def test_clustered_rows_are_covered_where_rows_taken_alone_are_not() -> None:
    rng, draws, clusters, size = np.random.default_rng(7), 1500, 40, 10
    groups = np.repeat(np.arange(clusters), size)
    alone = clustered = 0
    for _ in range(draws):
        values = np.clip(np.repeat(rng.normal(0, 1, clusters), size) + rng.normal(0, 0.3, clusters * size), -6, 6)
        alone += mean_interval(values, confidence=0.95, worst=-6, best=6, two_sided=False).low > 0
        clustered += mean_interval(values, groups=groups, confidence=0.95, worst=-6, best=6, two_sided=False).low > 0
    assert clustered / draws <= 0.065
    assert alone / draws > 0.1


@given(VALUES)
def test_groups_of_one_row_are_no_groups(values: list[float]) -> None:
    alone = mean_interval(values, worst=-5, best=5)
    grouped = mean_interval(values, groups=np.arange(len(values)) * 7 + 3, worst=-5, best=5)
    assert grouped.low == pytest.approx(alone.low, abs=1e-9)
    assert grouped.high == pytest.approx(alone.high, abs=1e-9)


@given(VALUES, st.floats(0.01, 0.4), st.floats(-4, 4))
@settings(max_examples=200)
def test_the_p_value_inverts_the_bound(values: list[float], alpha: float, null: float) -> None:
    low = mean_interval(values, confidence=1 - alpha, worst=-5, best=5, two_sided=False).low
    p = p_value_above(values, null, worst=-5, best=5)
    if abs(low - null) > 1e-9 and abs(p - alpha) > 1e-9:
        assert (p < alpha) == (low > null)


def test_nothing_finite_comes_from_a_nan() -> None:
    interval = mean_interval([0.0, math.nan, 1.0], worst=-1, best=1)
    assert all(math.isnan(value) for value in (interval.mean, interval.low, interval.high))
    assert math.isnan(p_value_above([math.nan], worst=-1, best=1))


def test_no_row_excludes_nothing() -> None:
    interval = mean_interval([], worst=-3, best=2)
    assert (interval.low, interval.high, interval.rows) == (-3, 2, 0)
    assert p_value_above([], worst=-3, best=2) == 1.0


def test_values_outside_their_range_are_refused() -> None:
    with pytest.raises(ExpostError, match="must lie in"):
        mean_interval([0.0, 3.0], worst=-1, best=1)


def test_the_bootstrap_agrees_with_scipy_and_repeats_itself() -> None:
    values = np.random.default_rng(0).normal(2, 1, 200)

    def mean(weights):
        return weights @ values / weights.sum(axis=1)

    ours = bootstrap_interval(mean, 200, resamples=4000, seed=1)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert bootstrap_interval(mean, 200, resamples=4000, seed=1) == ours


def test_the_bootstrap_draws_whole_groups() -> None:
    groups = np.repeat(np.arange(20), 10)
    values = np.repeat(np.random.default_rng(0).normal(size=20), 10)

    def mean(weights):
        assert (weights.reshape(len(weights), 20, 10) == weights.reshape(len(weights), 20, 10)[:, :, :1]).all()
        return weights @ values / weights.sum(axis=1)

    wide = bootstrap_interval(mean, 200, groups=groups, seed=0)
    assert wide.high - wide.low > 2.5 * 1.96 * values.std() / math.sqrt(200)
