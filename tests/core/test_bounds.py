"""Bounds of means: golden values, coverage where costly errors are rare, clusters, and the bootstrap for the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.core import resample
from pipelines.core.bounds import augmented_moments, bootstrap_interval, bootstrap_mean, effective_size, mean_interval, p_value_above
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


@given(VALUES, st.floats(0.1, 100))
def test_equal_weights_are_no_weights_and_their_scale_says_nothing(values: list[float], scale: float) -> None:
    groups = np.arange(len(values)) // 3
    for grouped in (None, groups):
        plain = mean_interval(values, groups=grouped, worst=-5, best=5)
        equal = mean_interval(values, groups=grouped, weights=np.full(len(values), scale), worst=-5, best=5)
        assert (equal.mean, equal.low, equal.high) == pytest.approx((plain.mean, plain.low, plain.high), abs=1e-9)


def test_a_weighted_bound_by_hand() -> None:
    """Values 1, 0, 2 with weights 1, 2, 1 and the pseudo-row (-3, weight 2): mean -3/6, sandwich over four units."""
    mean, error, freedom = augmented_moments(np.array([1.0, 0.0, 2.0]), -3.0, weights=[1, 2, 1])
    residual = np.array([1.5, 1.0, 2.5, -5.0])
    assert mean == pytest.approx(-0.5)
    assert error == pytest.approx(math.sqrt(4 / 3 * (residual**2).sum()) / 6)
    assert freedom == pytest.approx(3 * (16 / 6) / 3)
    assert effective_size([1, 2, 1]) == pytest.approx(16 / 6)


def test_a_row_with_a_large_weight_is_one_row() -> None:
    values = np.r_[np.zeros(40), -1.0]
    weights = np.r_[np.ones(40), 100.0]
    weighted = mean_interval(values, weights=weights, worst=-2, best=2)
    copied = mean_interval(np.r_[np.zeros(40), np.full(100, -1.0)], worst=-2, best=2)
    assert weighted.mean == pytest.approx(copied.mean)
    assert weighted.high - weighted.low > 5 * (copied.high - copied.low)


@given(VALUES, st.floats(-4, 4), st.integers(0, 1000))
def test_the_weighted_p_value_inverts_the_weighted_bound(values: list[float], null: float, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(0, 4, len(values)).astype(float)
    low = mean_interval(values, weights=weights, confidence=0.9, worst=-5, best=5, two_sided=False).low
    p = p_value_above(values, null, weights=weights, worst=-5, best=5)
    if abs(low - null) > 1e-9 and abs(p - 0.1) > 1e-9:
        assert (p < 0.1) == (low > null)


@pytest.mark.parametrize(("share", "deployed"), [(0.03, 0.1), (0.03, 0.03), (0.1, 0.03)])
def test_rare_costly_errors_are_covered_under_prior_weights(share: float, deployed: float) -> None:
    """As without weights: rows drawn with one class share, weighted to another by the ratio of the priors."""
    rng, n, draws = np.random.default_rng(11), 500, 1000
    ratio = np.array([(1 - deployed) / (1 - share), deployed / share])
    for missed in (0.05, 0.4):
        positive = rng.random((draws, n)) < share
        u = rng.random((draws, n))
        rare = np.where(u < missed, -20.0, np.where(u > 0.98, 20.0, 0.0))
        common = np.where(u < 0.03, -1.0, np.where(u > 0.97, 1.0, 0.0))
        truth = deployed * 20 * (0.02 - missed)
        rows = zip(np.where(positive, rare, common), ratio[positive.astype(int)], strict=True)
        bounds = np.array([mean_interval(v, weights=w, worst=-20, best=20, two_sided=False).low for v, w in rows])
        misses = int((bounds > truth).sum())
        assert stats.binomtest(misses, draws, 0.05, alternative="greater").pvalue > 0.01, f"{misses} of {draws} at {missed}"


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, math.inf], [1.0]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ExpostError, match="weights must be"):
        mean_interval([0.0, 1.0], weights=weights, worst=-1, best=1)


def test_weights_of_zero_say_nothing() -> None:
    assert mean_interval([0.0, 1.0], weights=[0, 0], worst=-1, best=1).low == -1
    assert p_value_above([0.0, 1.0], weights=[0, 0], worst=-1, best=1) == 1.0
    few = mean_interval([0.5, 0.2], weights=[1, 2], worst=-1, best=1)
    assert mean_interval([0.5, 0.9, 0.2], weights=[1, 0, 2], worst=-1, best=1).low == pytest.approx(few.low)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_quick_bootstrap_agrees_with_the_general_one(grouped: bool, weighted: bool) -> None:
    rng = np.random.default_rng(3)
    values = rng.exponential(size=600)
    groups = rng.integers(0, 80, 600) if grouped else None
    weights = rng.integers(1, 5, 600).astype(float) if weighted else None
    row = np.ones(600) if weights is None else weights

    def mean(drawn):
        return (drawn * row) @ values / (drawn @ row)

    slow = bootstrap_interval(mean, 600, groups=groups, resamples=4000, seed=1)
    quick = bootstrap_mean(values, groups=groups, weights=weights, resamples=4000, seed=2)
    assert quick.mean == pytest.approx(slow.mean, rel=1e-12)
    width = slow.high - slow.low
    assert (quick.low, quick.high) == pytest.approx((slow.low, slow.high), abs=0.06 * width)


def test_the_quick_bootstrap_repeats_itself_with_any_number_of_threads(monkeypatch) -> None:
    values = np.random.default_rng(0).normal(size=150_000)  # three blocks
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(resample, "_cores", lambda cores=cores: cores)
        found.append(bootstrap_mean(values, resamples=60, seed=5))
    assert found[0] == found[1]
    assert found[0].high - found[0].low == pytest.approx(2 * 1.96 / math.sqrt(150_000), rel=0.35)
    assert bootstrap_mean(values, resamples=60, seed=6) != found[0]


def test_blocks_are_drawn_as_if_there_were_none(monkeypatch) -> None:
    """The number of units drawn from each block is multinomial, so that the spread between blocks is there too."""
    monkeypatch.setattr(resample, "BLOCK", 10)
    values = np.repeat([0.0, 1.0, 2.0], 10)
    sums = resample.sums(values[None], 8_000, 0)[:, 0]
    assert sums.mean() == pytest.approx(30, abs=0.2)
    assert sums.var() == pytest.approx(30 * values.var(), rel=0.06)


def test_no_mean_is_bootstrapped_from_nothing() -> None:
    for values in ([], [0.0, math.nan]):
        assert math.isnan(bootstrap_mean(values).low)
