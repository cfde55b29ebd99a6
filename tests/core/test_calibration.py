import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from pipelines.core import calibration, recalibration
from pipelines.errors import ExpostError

FITTED = ("temperature", "affine", "isotonic")


def draw(n: int, K: int = 2, *, seed: int = 0, slope: float = 1.0, bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose true probabilities are softmax(slope * logits), the first class shifted by bias."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, K)) * 2
    truth = slope * logits
    truth[:, 0] += bias
    probability = np.exp(truth) / np.exp(truth).sum(axis=1, keepdims=True)
    labels = (rng.random((n, 1)) > probability.cumsum(axis=1)).sum(axis=1)
    return logits, labels


def log_loss(probability: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probability[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("method", calibration.METHODS)
@given(
    logits=hnp.arrays(np.float64, (20, 3), elements=st.floats(-1e4, 1e4)),
    other=hnp.arrays(np.float64, (5, 3), elements=st.floats(-1e6, 1e6)),
)
@settings(max_examples=25, deadline=None)
def test_rows_sum_to_one_and_stay_off_zero_and_one_whatever_the_logits(method, logits, other):
    calibrator = calibration.fit(method, logits, np.arange(20) % 3)
    probability = calibration.apply(json.loads(json.dumps(calibrator)), other)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-12)
    assert (probability > 0).all() and (probability < 1).all()


def test_affine_agrees_with_logistic_regression_without_penalty():
    logits, labels = draw(800, slope=0.6, bias=0.7)
    odds = logits[:, 1] - logits[:, 0]
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(odds[:, None], labels)
    ours = calibration.fit("affine", logits, labels, prior_sd=np.inf)
    assert ours["slope"] == pytest.approx(reference.coef_[0, 0], abs=1e-4)
    assert ours["bias"][1] - ours["bias"][0] == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_temperature_agrees_with_logistic_regression_without_intercept():
    logits, labels = draw(800, slope=1.8)
    odds = logits[:, 1] - logits[:, 0]
    reference = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(odds[:, None], labels)
    assert calibration.fit("temperature", logits, labels, prior_sd=np.inf)["slope"] == pytest.approx(reference.coef_[0, 0], abs=1e-4)


def test_isotonic_agrees_with_scikit_learn():
    logits, labels = draw(300)
    train, other = np.arange(300) < 200, np.arange(300) >= 200
    odds = logits[:, 1] - logits[:, 0]
    reference = IsotonicRegression(y_min=1 / 202, y_max=1 - 1 / 202, out_of_bounds="clip").fit(odds[train], labels[train])
    calibrator = json.loads(json.dumps(calibration.fit("isotonic", logits[train], labels[train])))
    np.testing.assert_allclose(calibration.apply(calibrator, logits[other])[:, 1], reference.predict(odds[other]), atol=1e-12)


@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize("method", ["temperature", "affine"])
def test_a_known_distortion_is_found_again(method, K):
    logits, labels = draw(20_000, K, seed=1, slope=0.5, bias=0.8 if method == "affine" else 0.0)
    found = calibration.fit(method, logits, labels)
    assert found["slope"] == pytest.approx(0.5, abs=0.03)
    if method == "affine":
        np.testing.assert_allclose(np.array(found["bias"]) - found["bias"][1], [0.8] + [0.0] * (K - 1), atol=0.12)


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize("K", [2, 3])
def test_separated_rows_give_finite_numbers_and_a_finite_loss(method, K):
    labels = np.arange(60) % K
    logits = 3.0 * np.eye(K)[labels]
    calibrator = calibration.fit(method, logits, labels)
    assert calibrator.get("slope", 1.0) < 10
    wrong = calibration.apply(calibrator, 3.0 * np.eye(K)[(labels + 1) % K])
    assert np.isfinite(log_loss(wrong, labels))


def test_the_prior_costs_less_than_half_a_row():
    logits, labels = draw(100, slope=2.0)
    free = calibration.apply(calibration.fit("affine", logits, labels, prior_sd=np.inf), logits)
    weak = calibration.apply(calibration.fit("affine", logits, labels), logits)
    assert 0 <= 100 * (log_loss(weak, labels) - log_loss(free, labels)) < 0.5


def test_a_reversed_order_is_doubted_not_reversed():
    logits, labels = draw(400)
    assert calibration.fit("affine", -logits, labels)["slope"] == 0.0


@pytest.mark.parametrize("method", calibration.METHODS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_relabelling_the_classes_permutes_the_probabilities(method, seed):
    logits, labels = draw(90, 3, seed=seed)
    new_place = np.random.default_rng(seed).permutation(3)  # class k moves to new_place[k]
    moved = np.empty_like(logits)
    moved[:, new_place] = logits
    before = calibration.apply(calibration.fit(method, logits, labels), logits)
    after = calibration.apply(calibration.fit(method, moved, new_place[labels]), moved)
    np.testing.assert_allclose(after[:, new_place], before, atol=1e-5)


@pytest.mark.parametrize("method", calibration.METHODS)
def test_a_constant_added_to_a_row_of_logits_changes_nothing(method):
    logits, labels = draw(90, 3)
    calibrator = calibration.fit(method, logits, labels)
    np.testing.assert_allclose(
        calibration.apply(calibrator, logits + np.arange(90)[:, None]), calibration.apply(calibrator, logits), atol=1e-9
    )


@pytest.mark.parametrize(
    ("calibrator", "logits", "message"),
    [
        ({"method": "identity"}, [[0.0, np.nan]], "row 0"),
        ({"method": "identity"}, [[0.0, -np.inf]], "finite"),
        ({"method": "affine", "slope": 1.0, "bias": [0.0, 0.0]}, [[0.0, 0.0, 0.0]], "2 columns"),
        ({"method": "beta"}, [[0.0, 0.0]], "'beta'"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_by_name(calibrator, logits, message):
    with pytest.raises(ExpostError, match=message):
        calibration.apply(calibrator, logits)


@pytest.mark.parametrize(
    ("slope", "bias", "n", "word"),
    [
        (0.5, 0.0, 500, "over-confident"),
        (2.0, 0.0, 500, "under-confident"),
        (1.0, 1.0, 800, "shifted"),
        (1.0, 0.0, 15, "too few rows to say"),
    ],
)
@pytest.mark.parametrize("K", [2, 3])
def test_the_check_names_what_was_done_to_the_probabilities(slope, bias, n, word, K):
    logits, labels = draw(n, K, seed=3, slope=slope, bias=bias)
    assert recalibration.check(calibration.softmax(logits), labels, np.arange(n)).word == word


def test_calibrated_probabilities_are_called_so_and_rarely_otherwise():
    words = []
    for seed in range(40):
        logits, labels = draw(400, seed=seed)
        words.append(recalibration.check(calibration.softmax(logits), labels, np.arange(400)).word)
    assert words.count("calibrated") >= 33  # 90 % expected: two tests at 5 % each


def test_the_slope_agrees_with_logistic_regression_and_its_interval_with_wald_on_many_rows():
    logits, labels = draw(4000, slope=0.8)
    odds = (logits[:, 1] - logits[:, 0])[:, None]
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(odds, labels)
    p = reference.predict_proba(odds)[:, 1]
    design = np.hstack([odds, np.ones_like(odds)])
    error = np.sqrt(np.linalg.inv(design.T * (p * (1 - p)) @ design)[0, 0])
    found = recalibration.check(calibration.softmax(logits), labels, np.arange(4000))
    assert found.slope == pytest.approx(reference.coef_[0, 0], abs=1e-3)
    assert found.slope_high - found.slope_low == pytest.approx(2 * 1.96 * error, rel=0.03)


def test_repeated_rows_of_a_group_do_not_narrow_the_interval():
    logits, labels = draw(200)
    one = recalibration.check(calibration.softmax(logits), labels, np.arange(200))
    four = recalibration.check(calibration.softmax(np.repeat(logits, 4, axis=0)), np.repeat(labels, 4), np.repeat(np.arange(200), 4))
    assert four.slope_high - four.slope_low == pytest.approx(one.slope_high - one.slope_low, rel=0.05)


def test_separated_rows_have_an_unbounded_slope():
    logits, labels = 2.0 * np.eye(2)[np.arange(80) % 2], np.arange(80) % 2
    found = recalibration.check(calibration.softmax(logits), labels, np.arange(80))
    assert found.slope_high == np.inf
