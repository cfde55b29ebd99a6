"""Reliability: smECE against its package and its integral, the split of scores, slope and intercept, intervals, words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.special import entr, expit, logit
from scipy.stats import norm

from pipelines.core import grid, metrics, recalibration, reliability, smooth

KEYS = {"log_loss", "brier", "ece", "smece", "slope", "intercept", "shift_p_value", "check", "sentence"}


def draw(n: int, K: int = 2, *, slope: float = 1.0, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels whose true probabilities are softmax(slope * log p) with the last class shifted."""
    rng = np.random.default_rng(seed)
    log_p = rng.normal(size=(n, K)) * 1.5
    truth = np.exp(slope * log_p + shift * np.eye(K)[-1])
    labels = (rng.random((n, 1)) > (truth / truth.sum(axis=1, keepdims=True)).cumsum(axis=1)).sum(axis=1)
    return np.exp(log_p) / np.exp(log_p).sum(axis=1, keepdims=True), labels


def smece(forecast: np.ndarray, outcome: np.ndarray) -> float:
    residual = np.ones((1, forecast.size)) @ smooth.mesh_matrix(forecast, outcome - forecast)
    return float(smooth.smooth_error(residual, np.array([float(forecast.size)]))[0])


def summary(probability: np.ndarray, labels: np.ndarray, **options) -> dict:
    return reliability.summary(probability, labels, **{"groups": np.arange(labels.size), "resamples": 200} | options)


@pytest.mark.parametrize(("n", "slope"), [(200, 1.0), (500, 0.5), (2000, 2.0), (20_000, 1.0), (20_000, 0.9)])
def test_smece_agrees_with_relplot(n: int, slope: float) -> None:
    """Within 1e-3: the package sums over 200 points and cuts its kernel at half the interval."""
    import relplot

    rng = np.random.default_rng(n)
    forecast = rng.beta(0.7, 1.5, n)
    outcome = (rng.random(n) < expit(slope * logit(forecast))).astype(float)
    assert smece(forecast, outcome) == pytest.approx(relplot.smECE(forecast, outcome), abs=1e-3)


@pytest.mark.parametrize("slope", [1.0, 0.1])
def test_smece_is_the_integral_of_the_smoothed_residual_at_the_width_it_equals(slope: float) -> None:
    rng = np.random.default_rng(3)
    forecast = rng.random(150)
    outcome = (rng.random(150) < expit(slope * logit(forecast))).astype(float)
    points = np.linspace(0, 1, 2001)
    images = [sign * forecast + shift for shift in (-2, 0, 2) for sign in (1, -1)]

    def at(width: float) -> float:
        kernel = sum(norm.pdf(points[:, None], image, width) for image in images)
        return float(np.trapezoid(np.abs(kernel @ (outcome - forecast)), points)) / 150

    found = smece(forecast, outcome)
    width = np.ceil(found * 1024) / 1024
    assert found == pytest.approx(at(width), abs=1e-5)


def test_forecasts_at_the_ends_are_on_the_mesh() -> None:
    assert smece(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0
    found = smooth.mesh_matrix(np.array([1.0, 0.3]), np.array([2.0, 1.0])).toarray()
    assert found.sum(axis=1).tolist() == [2.0, 1.0]
    assert found @ np.linspace(0, 1, smooth.MESH + 1) == pytest.approx([2.0, 0.3])


@pytest.mark.parametrize("K", [2, 3])
def test_the_summary_has_every_figure_with_its_interval_and_is_json(K: int) -> None:
    probability, labels = draw(300, K)
    found = summary(probability, labels)
    assert set(found) == KEYS
    assert set(found["ece"]) == {"mean", "low", "high", "null_median", "null_high", "debiased", "bins"}
    figures = [found[name] for name in ("log_loss", "brier", "ece", "smece", "slope")] + [found["ece"]["debiased"]]
    figures += [found[name][part] for name in ("log_loss", "brier") for part in ("calibration", "refinement")]
    figures += [found["intercept"]] if K == 2 else []
    assert (found["intercept"] is None) == (K > 2)
    for figure in figures:
        assert figure["low"] <= figure["mean"] <= figure["high"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert summary(probability, labels) == found
    assert summary(probability, labels, seed=1) != found


@pytest.mark.parametrize("K", [2, 3])
def test_the_parts_add_up_and_find_the_loss_that_a_distortion_costs(K: int) -> None:
    """Truth: the calibration part is the mean divergence from the true probabilities, the refinement their mean entropy."""
    probability, labels = draw(20_000, K, slope=0.5, seed=1)
    truth = probability**0.5 / (probability**0.5).sum(axis=1, keepdims=True)
    found = summary(probability, labels)
    for name in ("log_loss", "brier"):
        assert found[name]["mean"] == pytest.approx(found[name]["calibration"]["mean"] + found[name]["refinement"]["mean"])
    divergence = (truth * np.log(truth / probability)).sum(axis=1).mean()
    part, rest = found["log_loss"]["calibration"], found["log_loss"]["refinement"]
    assert part["low"] < divergence < part["high"]
    assert part["mean"] == pytest.approx(divergence, rel=0.1)
    assert rest["low"] < entr(truth).sum(axis=1).mean() < rest["high"]
    assert found["brier"]["calibration"]["mean"] == pytest.approx(np.square(truth - probability).sum(axis=1).mean(), rel=0.1)


def test_refinement_does_not_change_with_what_recalibration_takes_away() -> None:
    probability, labels = draw(2000)
    sharp = probability**2 / (probability**2).sum(axis=1, keepdims=True)
    one, other = summary(probability, labels)["log_loss"], summary(sharp, labels)["log_loss"]
    assert other["refinement"]["mean"] == pytest.approx(one["refinement"]["mean"], abs=1e-3)
    assert other["calibration"]["low"] > one["calibration"]["high"]
    assert abs(one["calibration"]["mean"]) < 0.003


@pytest.mark.parametrize(
    ("distortion", "n", "word"),
    [
        ({}, 800, "calibrated"),
        ({"slope": 0.5}, 800, "over-confident"),
        ({"slope": 2.0}, 800, "under-confident"),
        ({"shift": 1.0}, 800, "shifted"),
        ({}, 12, "too few rows to say"),
    ],
)
def test_one_line_says_what_it_is(distortion: dict, n: int, word: str) -> None:
    found = summary(*draw(n, seed=4, **distortion))
    assert found["check"] == word
    assert found["sentence"].startswith(f"{word}:")
    assert f"slope {found['slope']['mean']:.2f}" in found["sentence"]


def test_calibration_errors_reach_down_to_zero_where_there_is_none_and_stay_above_where_there_is_one() -> None:
    """In 40 draws of calibrated models; the percentile bootstrap, whose draws double the noise, would never reach it."""
    rng, reached, percentile = np.random.default_rng(5), np.zeros(2), np.zeros(2)
    for seed in range(40):
        forecast = rng.beta(1, 3, 200)
        outcome = rng.random(200) < forecast
        cells, statistic = reliability.error_cells(forecast, outcome)
        drawn = grid.resampled(statistic, [cells], resamples=60, seed=seed)
        found = reliability.calibration_errors(forecast, outcome, groups=None, weights=None, resamples=60, seed=seed, confidence=0.95)
        reached += [found["ece"]["low"] == 0, found["smece"]["low"] == 0]
        percentile += np.quantile(drawn[:, [0, 2]], 0.025, axis=0) <= 1e-3
    assert (reached >= 34).all()
    assert (percentile == 0).all()
    wrong = summary(*draw(2000, slope=0.5))
    assert wrong["ece"]["low"] > 0.05
    assert wrong["smece"]["low"] > 0.05


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_intervals_of_calibration_errors_hold_the_truth_on_few_rows(slope: float) -> None:
    """76 rows; of 60 samples at least 52 (95 % would be 57), and none may call an error smaller than a calibrated model's by noise."""
    rng = np.random.default_rng(11)
    odds = 8 * rng.normal(size=200_000)
    error = np.abs(expit(odds) - expit(slope * odds)).mean()
    held = np.zeros(2)
    for seed in range(60):
        odds = 8 * rng.normal(size=76)
        forecast, truth = expit(odds), expit(slope * odds)
        options = {"groups": None, "weights": None, "resamples": 100, "seed": seed, "confidence": 0.95}
        found = reliability.calibration_errors(forecast, rng.random(76) < truth, **options)["ece"]
        bins = metrics.equal_mass_bins(forecast)
        squared = (np.bincount(bins, weights=forecast - truth) ** 2 / np.bincount(bins)).sum() / 76
        held[0] += found["low"] <= error <= found["high"]
        held[1] += found["debiased"]["low"] <= squared**0.5 <= found["debiased"]["high"]
        assert found["high"] >= found["null_high"]
    assert (held >= 52).all()


def test_the_debiased_error_has_an_interval_above_zero_where_probabilities_are_wrong() -> None:
    wrong = summary(*draw(2000, slope=0.5))["ece"]
    assert 0 < wrong["debiased"]["low"] < wrong["debiased"]["mean"] < wrong["debiased"]["high"]
    assert wrong["debiased"]["mean"] > wrong["mean"]  # L2 beside L1


@pytest.mark.parametrize("weighted", [False, True])
def test_the_debiased_square_of_the_cells_is_that_of_the_rows(weighted: bool) -> None:
    probability, labels = draw(400, slope=0.6)
    weights = np.random.default_rng(0).integers(1, 9, 400).astype(float) if weighted else None
    cells, statistic = reliability.error_cells(probability[:, 1], labels == 1, weights)
    found = statistic(np.bincount(cells, weights=weights)[None].astype(float))[0, 4]
    assert metrics.signed_root(found) == pytest.approx(
        metrics.calibration_error(probability[:, 1], labels == 1, weights=weights).debiased_l2, abs=1e-9
    )


def test_cells_change_calibration_errors_by_next_to_nothing(monkeypatch) -> None:
    """With a few hundred cells for 20,000 rows; the benchmark `intervals` measures it for a million."""
    monkeypatch.setattr(grid, "LEVELS", 200)
    monkeypatch.setattr(grid, "STEPS", 100)
    probability, labels = draw(20_000, slope=0.8)
    forecast, outcome = probability[:, 1], labels == 1
    cells, statistic = reliability.error_cells(forecast, outcome)
    found = statistic(np.bincount(cells)[None].astype(float))[0]
    assert cells.max() < 1000
    assert found[0] == pytest.approx(metrics.calibration_error(forecast, outcome).ece, abs=1e-9)
    assert found[2] == pytest.approx(smece(forecast, outcome), abs=2e-5)


def test_repeated_rows_of_a_group_do_not_narrow_any_interval() -> None:
    probability, labels = draw(300)
    one = summary(probability, labels, resamples=1000)
    copies = {"groups": np.repeat(np.arange(300), 4), "resamples": 1000}
    four = summary(np.repeat(probability, 4, axis=0), np.repeat(labels, 4), **copies)
    for name in ("log_loss", "brier", "slope", "intercept"):
        assert four[name]["high"] - four[name]["low"] == pytest.approx(one[name]["high"] - one[name]["low"], rel=0.1)
        assert four[name]["mean"] == pytest.approx(one[name]["mean"], abs=1e-3)


def test_whole_weights_are_copies_in_every_estimate_but_rows_stay_rows() -> None:
    probability, labels = draw(400, slope=0.8)
    weights = np.random.default_rng(0).integers(0, 4, 400)
    weighted = summary(probability, labels, weights=weights)
    copied = summary(np.repeat(probability, weights, axis=0), np.repeat(labels, weights), groups=np.arange(weights.sum()))
    for name in ("log_loss", "brier", "smece", "slope", "intercept"):
        assert weighted[name]["mean"] == pytest.approx(copied[name]["mean"], abs=1e-5)
    for name in ("log_loss", "slope", "intercept"):
        assert weighted[name]["high"] - weighted[name]["low"] > 1.2 * (copied[name]["high"] - copied[name]["low"])


def test_weights_widen_the_slope_as_much_as_a_bootstrap_says() -> None:
    probability, labels = draw(600, seed=2)
    weights = np.where(labels == 1, 5.0, 0.3)
    found = recalibration.check(probability, labels, np.arange(600), weights=weights)
    rng, slopes, intercepts = np.random.default_rng(0), [], []
    for _ in range(100):
        at = rng.integers(600, size=600)
        again = recalibration.check(probability[at], labels[at], np.arange(600), weights=weights[at])
        slopes.append(again.slope)
        intercepts.append(again.intercept)
    assert found.slope_high - found.slope_low == pytest.approx(2 * 1.96 * np.std(slopes), rel=0.25)
    assert found.intercept_high - found.intercept_low == pytest.approx(2 * 1.96 * np.std(intercepts), rel=0.25)


@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize("share", [0.003, 0.1])
def test_a_few_heavy_rows_are_not_called_a_shift(share: float, K: int) -> None:
    """Of 60 samples 3 are expected at 5 %, and 8 or more have a probability of 1 %."""
    rng, words = np.random.default_rng(0), []
    for seed in range(60):
        probability, labels = draw(900, K, seed=seed)
        weights = np.where(rng.random(900) < share, 5000.0, rng.integers(1, 4, 900))
        words.append(recalibration.check(probability, labels, np.arange(900), weights=weights).word)
    assert words.count("shifted") < 8
    assert words.count("too few rows to say") > 45 or share > 0.003


@pytest.mark.parametrize("K", [2, 4])
def test_a_shift_is_seen_through_unequal_weights(K: int) -> None:
    rng, words = np.random.default_rng(0), []
    for seed in range(10):
        probability, labels = draw(900, K, shift=1.0, seed=seed)
        weights = np.where(rng.random(900) < 0.05, 20.0, 1.0)
        words.append(recalibration.check(probability, labels, np.arange(900), weights=weights).word)
    assert words.count("shifted") >= 8


@given(st.floats(0.01, 100), st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_scale_of_weights_says_nothing(scale: float, seed: int) -> None:
    probability, labels = draw(80, seed=seed)
    one = recalibration.check(probability, labels, np.arange(80))
    other = recalibration.check(probability, labels, np.arange(80), weights=np.full(80, scale))
    for name in ("slope", "slope_low", "slope_high", "intercept", "intercept_low", "intercept_high", "shift_p_value"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize("slope", [0.5, 5.0, 20.0, 64.0])
def test_the_profile_of_the_slope_is_minimised_where_it_is_steep_too(slope: float, K: int) -> None:
    probability, labels = draw(200, K, shift=1.5)
    rows = recalibration._rows(probability, labels, np.arange(200), None)
    assert rows is not None
    start = np.concatenate([[slope], np.zeros(K)])
    ours, best, _ = recalibration._minimise(rows, start, recalibration._biases(K))

    def loss(biases: np.ndarray) -> float:
        return recalibration._likelihood(rows, np.concatenate([[slope, 0.0], np.atleast_1d(biases)]))[0]

    options = {"maxiter": 20_000, "xatol": 1e-7, "fatol": 1e-9}
    theirs = minimize(loss, best[2:] + 0.5, method="Nelder-Mead", options=options).fun if K > 2 else minimize_scalar(loss).fun
    assert ours <= theirs + 1e-6


def test_the_intercept_and_its_interval_agree_with_maximum_likelihood_and_wald() -> None:
    probability, labels = draw(4000, shift=0.4)
    odds = np.log(probability[:, 1] / probability[:, 0])
    best = minimize_scalar(lambda b: -np.log(expit(np.where(labels == 1, 1, -1) * (odds + b))).sum()).x
    p = expit(odds + best)
    found = recalibration.check(probability, labels, np.arange(4000))
    assert found.intercept == pytest.approx(best, abs=1e-4)
    assert found.intercept_high - found.intercept_low == pytest.approx(2 * 1.96 / np.sqrt((p * (1 - p)).sum()), rel=0.03)
    assert found.intercept_low < 0.4 < found.intercept_high


def test_a_class_that_is_absent_leaves_bounds_open_and_figures_finite() -> None:
    probability, _ = draw(60)
    found = summary(probability, np.zeros(60, dtype=int))
    assert found["intercept"]["low"] == -np.inf
    assert np.isfinite(found["log_loss"]["refinement"]["mean"])
    assert np.isfinite(found["smece"]["high"])


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_next_to_no_rows_are_too_few_to_say(rows: int) -> None:
    probability, labels = draw(2)
    found = summary(probability[:rows], labels[:rows])
    assert set(found) == KEYS
    assert found["check"] == "too few rows to say"


def test_a_probability_that_is_no_number_leaves_none() -> None:
    probability, labels = draw(20)
    probability[3, 0] = np.nan
    found = summary(probability, labels)
    assert np.isnan(found["log_loss"]["mean"])
    assert np.isnan(found["ece"]["mean"])
    assert "no number" in found["sentence"]
