"""Metrics against scikit-learn, relplot and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from pipelines.core import grid, metrics, utility
from pipelines.core.bounds import bootstrap_interval


def draw(n: int, K: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.full(K, 0.7), n)
    labels = (rng.random(n)[:, None] > probability.cumsum(axis=1)).sum(axis=1).clip(0, K - 1)
    return probability, labels


@pytest.mark.parametrize("K", [2, 4])
def test_log_loss_and_brier_agree_with_scikit_learn(K: int) -> None:
    probability, labels = draw(500, K)
    assert metrics.log_loss_rows(probability, labels).mean() == pytest.approx(reference.log_loss(labels, probability), rel=1e-9)
    expected = np.square(probability - np.eye(K)[labels]).sum(axis=1).mean()
    assert metrics.brier_rows(probability, labels).mean() == pytest.approx(expected, rel=1e-9)
    if K == 2:
        assert metrics.brier_rows(probability, labels).mean() == pytest.approx(
            2 * reference.brier_score_loss(labels, probability[:, 1]), rel=1e-9
        )


def test_a_probability_of_zero_costs_much_and_a_nan_stays_one() -> None:
    rows = metrics.log_loss_rows(np.array([[1.0, 0.0], [np.nan, np.nan]]), np.array([1, 0]))
    assert rows[0] == pytest.approx(-np.log(1e-15))
    assert np.isnan(rows[1])
    assert np.isnan(metrics.brier_rows(np.array([[np.nan, 0.5]]), np.array([1]))).all()


@pytest.mark.parametrize("digits", [1, 8])
def test_auc_agrees_with_scikit_learn_with_ties_and_weights(digits: int) -> None:
    probability, labels = draw(400, 2, 3)
    score = probability[:, 1].round(digits)
    weights = np.random.default_rng(0).integers(0, 4, (5, 400)).astype(float)
    ours = metrics.weighted_auc(score, labels == 1, weights)
    for value, weight in zip(ours, weights, strict=True):
        assert value == pytest.approx(reference.roc_auc_score(labels, score, sample_weight=weight), abs=1e-12)


def test_auc_of_more_classes_is_the_plain_mean_of_one_against_the_rest() -> None:
    probability, labels = draw(400, 3, 1)
    assert metrics.auc(probability, labels)[0] == pytest.approx(reference.roc_auc_score(labels, probability, multi_class="ovr"), abs=1e-12)


def test_auc_without_one_of_the_classes_is_no_number() -> None:
    probability, _ = draw(20, 2)
    assert np.isnan(metrics.auc(probability, np.zeros(20, dtype=int))).all()
    assert np.isnan(metrics.auc(np.full((3, 2), np.nan), np.array([0, 1, 1]))).all()


@given(st.integers(0, 10_000))
def test_auc_turns_with_the_score(seed: int) -> None:
    probability, labels = draw(60, 2, seed)
    if 0 < labels.sum() < 60:
        both = metrics.auc(probability, labels)[0] + metrics.auc(probability[:, ::-1], labels)[0]
        assert both == pytest.approx(1.0)


def test_a_calibrated_model_stays_below_its_null_band_in_95_of_100_draws() -> None:
    above = 0
    for seed in range(300):
        probability, labels = draw(300, 2, seed)
        found = metrics.calibration_error(probability[:, 1], labels == 1, draws=500, seed=seed + 1_000_000)
        above += found.ece > found.null_high
    assert above / 300 <= 0.085  # 5 % plus three binomial standard errors


def test_an_overconfident_model_is_far_above_its_null_band_and_relplot_agrees() -> None:
    import relplot

    probability, labels = draw(3000, 2, 1)
    sharp = probability[:, 1] ** 3 / (probability[:, 1] ** 3 + probability[:, 0] ** 3)
    found = metrics.calibration_error(sharp, labels == 1)
    smooth = relplot.smECE(sharp, labels.astype(float))
    assert found.ece > 2 * found.null_high
    assert found.ece == pytest.approx(smooth, abs=0.03)
    assert found.debiased_l2 >= found.ece * 0.9
    calm = metrics.calibration_error(probability[:, 1], labels == 1)
    assert abs(calm.debiased_l2) < 0.03


@pytest.mark.parametrize("weighted", [False, True])
def test_the_null_band_of_many_rows_follows_the_same_law(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    p = rng.random(4000)
    weights = rng.integers(1, 6, 4000).astype(float) if weighted else np.ones(4000)
    place = metrics.equal_mass_bins(p, weights=weights, bins=10)
    exact = metrics.null_errors(p, weights, place, 1000, 0)
    normal = metrics.null_errors(p, weights, place, 2000, 0)  # above the limit for single draws
    assert np.quantile(exact, [0.5, 0.95]) == pytest.approx(np.quantile(normal, [0.5, 0.95]), rel=0.06)


def test_wilson_intervals_agree_with_scipy() -> None:
    from scipy.stats import binomtest

    for hits, rows in ((0, 10), (3, 10), (10, 10), (17, 400)):
        low, high = metrics.wilson(np.array([float(hits)]), np.array([float(rows)]))
        expected = binomtest(hits, rows).proportion_ci(method="wilson")
        assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_reliability_bins_hold_all_rows_and_their_means() -> None:
    probability, labels = draw(95, 2)
    points = metrics.reliability_curve(probability[:, 1], labels == 1)
    assert sum(point["rows"] for point in points) == 95
    mean = sum(point["rows"] * point["mean_probability"] for point in points) / 95
    assert mean == pytest.approx(probability[:, 1].mean())
    assert all(point["low"] <= point["observed_rate"] <= point["high"] for point in points)
    assert len(metrics.reliability_curve(probability[:4, 1], labels[:4] == 1)) == 4


def test_the_area_under_the_cost_curve_is_half_the_one_column_brier_score() -> None:
    probability, labels = draw(2000, 2, 5)
    curve = metrics.cost_curve(probability[:, 1], labels, points=1999)
    area = np.trapezoid(curve["cost"], curve["miss_share"])
    assert area == pytest.approx(reference.brier_score_loss(labels, probability[:, 1]) / 2, abs=2e-3)


def test_regret_and_confusion_of_a_small_case_by_hand() -> None:
    U = np.array([[0.0, -1.0, -0.2], [-10.0, 0.0, -0.2]])
    labels, actions = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 0])
    assert utility.regret_of(U[labels, actions], labels, U).tolist() == [0.0, 0.2, 0.0, 10.0]
    assert metrics.confusion_by_action(labels, actions, 2, 3).tolist() == [[1, 0, 1], [1, 1, 0]]


def test_calibration_of_more_classes_looks_at_the_most_probable_one() -> None:
    probability, labels = draw(50, 3)
    forecast, outcome = metrics.forecast_and_outcome(probability, labels)
    assert (forecast == probability.max(axis=1)).all()
    assert (outcome == (probability.argmax(axis=1) == labels)).all()


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_bins_of_forecasts_that_tie_do_not_depend_on_the_order_of_rows(seed: int, digits: int) -> None:
    probability, labels = draw(200, 2, seed)
    forecast, order = probability[:, 1].round(digits), np.random.default_rng(seed).permutation(200)
    one = metrics.calibration_error(forecast, labels == 1, draws=50)
    other = metrics.calibration_error(forecast[order], labels[order] == 1, draws=50)
    assert (one.ece, one.debiased_l2, one.bins) == pytest.approx((other.ece, other.debiased_l2, other.bins), abs=1e-12)
    assert (one.null_median, one.null_high) == pytest.approx((other.null_median, other.null_high), abs=1e-12)
    place = metrics.equal_mass_bins(forecast)
    for value in np.unique(forecast):
        assert np.unique(place[forecast == value]).size == 1
    assert np.bincount(place).min() >= 10
    assert (np.diff(place[np.argsort(forecast, kind="stable")]) >= 0).all()


def test_a_model_of_three_values_has_three_bins_and_its_error_by_hand() -> None:
    forecast = np.repeat([0.1, 0.5, 0.9], 20)
    outcome = np.r_[np.arange(20) < 4, np.arange(20) < 10, np.arange(20) < 15]
    found = metrics.calibration_error(forecast, outcome)
    assert found.bins == 3
    assert found.ece == pytest.approx((0.1 + 0.0 + 0.15) / 3)
    squared = (0.1**2 - 0.16 / 19 + 0.0 - 0.25 / 19 + 0.15**2 - 0.1875 / 19) / 3
    assert found.debiased_l2 == pytest.approx(np.sign(squared) * abs(squared) ** 0.5)


def test_whole_weights_are_copies_in_the_binned_error_and_its_curve_but_not_in_what_noise_would_show() -> None:
    probability, labels = draw(400, 2, 8)
    forecast, outcome = probability[:, 1].round(1), labels == 1
    weights = np.random.default_rng(0).integers(0, 5, 400)
    weighted = metrics.calibration_error(forecast, outcome, weights=weights)
    copied = metrics.calibration_error(np.repeat(forecast, weights), np.repeat(outcome, weights))
    assert weighted.bins == copied.bins
    assert weighted.ece == pytest.approx(copied.ece)
    assert weighted.null_high > 1.2 * copied.null_high
    points = metrics.reliability_curve(forecast, outcome, weights=weights)
    copies = metrics.reliability_curve(np.repeat(forecast, weights), np.repeat(outcome, weights))
    for point, copy in zip(points, copies, strict=True):
        assert point["observed_rate"] == pytest.approx(copy["observed_rate"])
        assert point["high"] - point["low"] > copy["high"] - copy["low"]


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_has_the_interval_of_the_exact_bootstrap(K: int, grouped: bool, weighted: bool) -> None:
    probability, labels = draw(300, K, 2)
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 60, 300) if grouped else None
    weights = rng.integers(1, 5, 300).astype(float) if weighted else None
    row = np.ones(300) if weights is None else weights
    ours = metrics.auc_interval(probability, labels, groups=groups, weights=weights, resamples=3000, seed=1)
    exact = bootstrap_interval(lambda drawn: metrics.auc(probability, labels, drawn * row), 300, groups=groups, resamples=3000, seed=2)
    assert ours.mean == pytest.approx(exact.mean, abs=1e-12)
    assert (ours.low, ours.high) == pytest.approx((exact.low, exact.high), abs=0.08 * (exact.high - exact.low))
    assert ours == metrics.auc_interval(probability, labels, groups=groups, weights=weights, resamples=3000, seed=1)


@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_cells_of_the_score_move_auc_by_less_than_their_bound(sharpness: float) -> None:
    """The stated bound of the approximation, for 30,000 distinct scores in 4,096 cells, and how far below it the error stays."""
    rng = np.random.default_rng(4)
    score = rng.beta(0.5, 4, 30_000)
    labels = (rng.random(30_000) < score**sharpness).astype(np.int64)
    cells = grid.cells_of(score)
    positive, negative = (np.bincount(cells, weights=labels == k, minlength=cells.max() + 1) for k in (1, 0))
    bound = 0.5 * (positive / positive.sum()) @ (negative / negative.sum())
    exact = reference.roc_auc_score(labels, score)
    found = metrics.grid_auc(np.bincount(2 * cells + labels)[None].astype(float))[0]
    assert abs(found - exact) <= bound < 2e-4
    assert abs(found - exact) < 1e-5


def test_auc_without_one_of_the_classes_has_no_interval() -> None:
    probability, _ = draw(20, 2)
    assert np.isnan(metrics.auc_interval(probability, np.zeros(20, dtype=int)).low)
    assert np.isnan(metrics.auc_interval(np.full((3, 2), np.nan), np.array([0, 1, 1])).mean)
