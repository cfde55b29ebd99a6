import json

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from pipelines.core import calibration, recalibration
from pipelines.errors import ExpostError

#: Every method with a number of classes that it is for.
SUITED = [(method, K) for K in (2, 3) for method in calibration.METHODS if calibration.suits(method, K)]
LINEAR = [(method, K) for method, K in SUITED if method in ("temperature", "affine", "vector", "beta")]


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


def log_p(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("method", "K"), SUITED)
@given(
    logits=hnp.arrays(np.float64, (20, 3), elements=st.floats(-1e4, 1e4)),
    other=hnp.arrays(np.float64, (5, 3), elements=st.floats(-1e6, 1e6)),
)
@settings(max_examples=20, deadline=None)
def test_rows_sum_to_one_and_stay_off_zero_and_one_whatever_the_logits(method, K, logits, other):
    calibrator = calibration.fit(method, logits[:, :K], np.arange(20) % K)
    probability = calibration.apply(json.loads(json.dumps(calibrator)), other[:, :K])
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


def test_beta_agrees_with_logistic_regression_on_its_two_features():
    """As in the authors' package betacal: features log p and -log(1 - p), and where a coefficient is negative, the fit without it."""
    for seed, (a, b) in enumerate([(0.5, 1.4), (1.6, 0.7), (1.5, -0.4)]):
        logits, _ = draw(1500, seed=seed)
        features = log_p(logits)[:, ::-1] * [1, -1]
        labels = np.random.default_rng(seed).random(1500) < 1 / (1 + np.exp(-features @ [a, b] - 0.3))
        used = [0, 1] if b > 0 else [0]
        reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=2000).fit(features[:, used], labels)
        assert (reference.coef_ > 0).all()
        ours = calibration.fit("beta", logits, labels, prior_sd=np.inf)
        expected = [*reference.coef_[0], *[0.0] * (2 - len(used)), reference.intercept_[0]]
        np.testing.assert_allclose([ours["a"], ours["b"], ours["c"]], expected, atol=1e-4)


@pytest.mark.parametrize(("prior_sd", "K"), [(2.0, 3), (0.5, 4)])
def test_vector_agrees_with_a_general_optimiser(prior_sd, K):
    logits, labels = draw(500, K, slope=0.7, bias=0.5)

    def loss(x: np.ndarray) -> float:
        z = log_p(x[:K] * log_p(logits) + x[K:])
        return -z[np.arange(500), labels].sum() + 0.5 * ((x - np.repeat([1, 0], K)) ** 2).sum() / prior_sd**2

    reference = minimize(loss, np.repeat([1.0, 0.0], K), method="BFGS", options={"gtol": 1e-4}).x
    ours = calibration.fit("vector", logits, labels, prior_sd=prior_sd)
    np.testing.assert_allclose(ours["slopes"], reference[:K], atol=1e-4)
    np.testing.assert_allclose(ours["bias"], reference[K:], atol=1e-4)


def two_classes(odds: list[float], shares: list[float], rows: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Rows at a few values of the log-odds, with a share of positives at each."""
    labels = np.concatenate([np.arange(rows) < rows * share for share in shares]).astype(int)
    return np.stack([np.zeros(rows * len(odds)), np.repeat(odds, rows)], axis=1), labels


def test_with_as_many_values_as_free_numbers_the_rates_are_met_exactly():
    """Saturated models, solved by hand: slope = (logit .8 - logit .3) / 2 at log-odds -1 and 1; for beta, 3 equations with 3 unknowns."""
    logit = scipy.special.logit
    one = calibration.fit("temperature", *two_classes([1.0], [0.75]), prior_sd=np.inf)
    assert one["slope"] == pytest.approx(np.log(3), abs=1e-6)
    two = calibration.fit("affine", *two_classes([-1.0, 1.0], [0.3, 0.8]), prior_sd=np.inf)
    assert two["slope"] == pytest.approx((logit(0.8) - logit(0.3)) / 2, abs=1e-6)
    assert two["bias"][1] - two["bias"][0] == pytest.approx((logit(0.8) + logit(0.3)) / 2, abs=1e-6)
    p, shares = np.array([0.1, 0.5, 0.8]), [0.2, 0.6, 0.8]
    three = calibration.fit("beta", *two_classes(logit(p).tolist(), shares), prior_sd=np.inf)
    expected = np.linalg.solve(np.stack([np.log(p), -np.log(1 - p), np.ones(3)], axis=1), logit(shares))
    assert (expected[:2] > 0).all()
    np.testing.assert_allclose([three["a"], three["b"], three["c"]], expected, atol=1e-5)


def test_the_beta_map_is_the_papers():
    """Kull, Silva Filho and Flach (2017): 1 / (1 + 1 / (e^c p^a / (1 - p)^b)), here by hand at p = 0.3."""
    found = calibration.apply({"method": "beta", "a": 2.0, "b": 0.5, "c": 1.0}, np.log([[0.7, 0.3]]))
    assert found[0, 1] == pytest.approx(1 / (1 + 1 / (np.e * 0.09 / np.sqrt(0.7))), rel=1e-12)


def test_vector_scaling_of_two_classes_is_beta():
    logits, labels = draw(300)
    beta = calibration.fit("beta", logits, labels)
    vector = {"method": "vector", "slopes": [beta["b"], beta["a"]], "bias": [-beta["c"] / 2, beta["c"] / 2]}
    np.testing.assert_allclose(calibration.apply(vector, logits), calibration.apply(beta, logits), atol=1e-12)


def test_isotonic_agrees_with_scikit_learn():
    logits, labels = draw(300)
    train, other = np.arange(300) < 200, np.arange(300) >= 200
    odds = logits[:, 1] - logits[:, 0]
    reference = IsotonicRegression(y_min=1 / 202, y_max=1 - 1 / 202, out_of_bounds="clip").fit(odds[train], labels[train])
    calibrator = json.loads(json.dumps(calibration.fit("isotonic", logits[train], labels[train])))
    np.testing.assert_allclose(calibration.apply(calibrator, logits[other])[:, 1], reference.predict(odds[other]), atol=1e-12)


@pytest.mark.parametrize(("method", "K"), [("temperature", 2), ("temperature", 4), ("affine", 2), ("affine", 4), ("vector", 4)])
def test_a_known_distortion_is_found_again(method, K):
    logits, labels = draw(20_000, K, seed=1, slope=0.5, bias=0.0 if method == "temperature" else 0.8)
    found = calibration.fit(method, logits, labels)
    np.testing.assert_allclose(found["slopes"] if method == "vector" else found["slope"], 0.5, atol=0.03)
    if method != "temperature":
        np.testing.assert_allclose(np.array(found["bias"]) - found["bias"][1], [0.8] + [0.0] * (K - 1), atol=0.12)


@pytest.mark.parametrize(("method", "K"), SUITED)
def test_separated_rows_give_finite_numbers_and_a_finite_loss(method, K):
    labels = np.arange(60) % K
    logits = 3.0 * np.eye(K)[labels]
    calibrator = calibration.fit(method, logits, labels)
    slopes = [value for key, value in calibrator.items() if key in ("slope", "a", "b")] + calibrator.get("slopes", [])
    assert all(slope < 10 for slope in slopes)
    wrong = calibration.apply(calibrator, 3.0 * np.eye(K)[(labels + 1) % K])
    assert np.isfinite(log_loss(wrong, labels))


@pytest.mark.parametrize(("method", "K"), LINEAR)
def test_the_prior_costs_less_than_half_a_row_per_slope(method, K):
    logits, labels = draw(300, K, slope=2.0)
    free = calibration.apply(calibration.fit(method, logits, labels, prior_sd=np.inf), logits)
    weak = calibration.apply(calibration.fit(method, logits, labels), logits)
    slopes = K if method in ("vector", "beta") else 1
    assert 0 <= 300 * (log_loss(weak, labels) - log_loss(free, labels)) < 0.5 * slopes


def test_a_reversed_order_is_doubted_not_reversed():
    logits, labels = draw(400)
    assert calibration.fit("affine", -logits, labels)["slope"] == 0.0
    beta = calibration.fit("beta", -logits, labels)
    assert beta["a"] == beta["b"] == 0.0
    assert calibration.fit("vector", -draw(900, 3)[0], draw(900, 3)[1])["slopes"] == [0.0] * 3


@pytest.mark.parametrize("method", [m for m in calibration.METHODS if calibration.suits(m, 2)])
@given(seed=st.integers(0, 1000), weighted=st.booleans())
@settings(max_examples=15, deadline=None)
def test_no_labels_make_it_reverse_the_order_of_two_rows(method, seed, weighted):
    rng = np.random.default_rng(seed)
    logits = np.sort(rng.normal(size=80) * 4)[:, None] * [0.0, 1.0]
    weights = rng.integers(1, 9, size=80) if weighted else None
    calibrator = calibration.fit(method, logits, rng.integers(0, 2, size=80), weights=weights)
    assert (np.diff(calibration.apply(calibrator, logits)[:, 1]) >= -1e-15).all()


@pytest.mark.parametrize(("method", "K"), SUITED)
@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_a_weight_counts_a_row_as_often_as_repeating_it_would(method, K, seed):
    logits, labels = draw(60, K, seed=seed)
    weights = np.random.default_rng(seed).integers(1, 6, size=60)
    rows = np.repeat(np.arange(60), weights)
    weighted = calibration.apply(calibration.fit(method, logits, labels, weights=weights), logits)
    repeated = calibration.apply(calibration.fit(method, logits[rows], labels[rows]), logits)
    np.testing.assert_allclose(weighted, repeated, atol=1e-6)
    np.testing.assert_array_equal(
        calibration.apply(calibration.fit(method, logits, labels, weights=np.ones(60)), logits),
        calibration.apply(calibration.fit(method, logits, labels), logits),
    )


@pytest.mark.parametrize(("method", "K"), SUITED)
@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_relabelling_the_classes_permutes_the_probabilities(method, K, seed):
    logits, labels = draw(90, K, seed=seed)
    new_place = np.random.default_rng(seed).permutation(K)  # class k moves to new_place[k]
    moved = np.empty_like(logits)
    moved[:, new_place] = logits
    before = calibration.apply(calibration.fit(method, logits, labels), logits)
    after = calibration.apply(calibration.fit(method, moved, new_place[labels]), moved)
    np.testing.assert_allclose(after[:, new_place], before, atol=1e-5)


@pytest.mark.parametrize(("method", "K"), SUITED)
def test_a_constant_added_to_a_row_of_logits_changes_nothing(method, K):
    logits, labels = draw(90, K)
    moved = logits + np.arange(90)[:, None]
    before = calibration.apply(calibration.fit(method, logits, labels), logits)
    np.testing.assert_allclose(calibration.apply(calibration.fit(method, moved, labels), moved), before, atol=1e-6)
    assert calibration.fit(method, logits, labels) == calibration.fit(method, logits, labels)


@pytest.mark.parametrize(
    ("calibrator", "logits", "message"),
    [
        ({"method": "identity"}, [[0.0, np.nan]], "row 0"),
        ({"method": "identity"}, [[0.0, -np.inf]], "finite"),
        ({"method": "affine", "slope": 1.0, "bias": [0.0, 0.0]}, [[0.0, 0.0, 0.0]], "2 columns"),
        ({"method": "vector", "slopes": [1.0] * 3, "bias": [0.0] * 3}, [[0.0, 0.0]], "3 columns"),
        ({"method": "beta", "a": 1.0, "b": 1.0, "c": 0.0}, [[0.0, 0.0, 0.0]], "2 columns"),
        ({"method": "isotonic", "curves": [{"log_odds": [0.0], "probability": [0.5]}]}, [[0.0, 0.0, 0.0]], "2 columns"),
        ({"method": "spline"}, [[0.0, 0.0]], "'spline'"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_by_name(calibrator, logits, message):
    with pytest.raises(ExpostError, match=message):
        calibration.apply(calibrator, logits)


@pytest.mark.parametrize(
    ("method", "K", "weights", "message"),
    [
        ("beta", 3, None, "3 classes must be one of .*'vector'.*got 'beta'"),
        ("vector", 2, None, "2 classes must be one of .*'beta'.*got 'vector'"),
        ("spline", 2, None, "got 'spline'"),
        ("affine", 2, [1.0, 0.0, 1.0], "above 0, however: the smallest is 0"),
        ("affine", 2, [1.0, np.nan, 1.0], "finite"),
        ("affine", 2, [1.0, 1.0], r"shape \(3,\)"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(method, K, weights, message):
    with pytest.raises(ExpostError, match=message):
        calibration.fit(method, np.eye(3)[:, :K], [0, 1, 0], weights=weights)


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
