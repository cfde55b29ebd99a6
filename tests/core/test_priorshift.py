"""Shares of an unlabelled batch: intervals hold what they state, no shift is not taken for one, other shifts are not believed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from pipelines.core import calibration, labelshift, priorshift
from pipelines.core.priorshift import Estimate, doubts, estimate

CENTRES = {2: np.array([[0.0, 0.0], [1.8, 0.0]]), 3: np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 2.0]])}
NAMES = ["a", "b", "c"]


def logits(x: Any, prior: Any) -> Any:
    """An over-confident network's."""
    return 1.6 * (np.log(prior) - ((x[:, None] - CENTRES[len(prior)]) ** 2).sum(axis=2) / 2)


def rows(shares: Any, count: int, rng: Any, spread: float = 1.0) -> tuple[Any, Any]:
    labels = rng.choice(len(shares), p=shares, size=count)
    return CENTRES[len(shares)][labels] + spread * rng.normal(size=(count, 2)), labels


def once(data: Any, shares: Any, seed: int, *, calib: int = 600, batch: int = 800, spread: float = 1.0, method: str = "affine") -> Estimate:
    """Calibrate on calib rows with the shares `data`, then estimate the shares of a batch that has `shares`."""
    rng, prior = np.random.default_rng(seed), np.array(data)
    x, labels = rows(prior, calib, rng)
    calibrator = calibration.fit(method, logits(x, prior), labels)
    reference = labelshift.reference(calibration.apply(calibrator, logits(x, prior)), labels)
    new, _ = rows(np.array(shares), batch, rng, spread)
    return estimate(calibration.apply(calibrator, logits(new, prior)), reference)


@cache
def draws(data: tuple[float, ...], shares: tuple[float, ...], count: int = 40, spread: float = 1.0) -> list[Estimate]:
    return [once(data, shares, seed, spread=spread) for seed in range(count)]


@pytest.mark.parametrize(
    ("data", "shares"),
    [((0.9, 0.1), (0.5, 0.5)), ((0.7, 0.3), (1.0, 0.0)), ((0.5, 0.3, 0.2), (0.2, 0.2, 0.6)), ((0.5, 0.3, 0.2), (0.4, 0.6, 0.0))],
)
def test_a_known_shift_is_recovered_within_the_interval(data: tuple[float, ...], shares: tuple[float, ...]) -> None:
    found = draws(data, shares)
    inside = np.mean([(one.low <= shares) & (shares <= one.high) for one in found], axis=0)
    assert (inside >= 0.9).all(), inside  # stated: 0.95
    assert np.mean([one.has_moved for one in found]) > 0.9
    assert np.mean([bool(doubts(one, NAMES)) for one in found]) <= 0.1
    np.testing.assert_allclose(np.mean([one.shares for one in found], axis=0), shares, atol=0.03)


@pytest.mark.parametrize("data", [(0.7, 0.3), (0.5, 0.3, 0.2)])
def test_without_a_shift_nothing_is_seen(data: tuple[float, ...]) -> None:
    found = draws(data, data, 60)
    assert np.mean([one.has_moved for one in found]) <= 0.1
    assert np.mean([bool(doubts(one, NAMES)) for one in found]) <= 0.1


def test_probabilities_that_were_not_fitted_on_calib_are_as_good() -> None:
    """Calib's class shares differ from what the probabilities mean by sampling noise, which must not pass into the estimate."""
    found, prior = [], np.array([0.5, 0.3, 0.2])
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, labels = rows(prior, 400, rng)
        new, _ = rows(prior, 4000, rng)
        exact = [calibration.softmax(logits(points, prior) / 1.6) for points in (x, new)]
        found.append(estimate(exact[1], labelshift.reference(exact[0], labels)))
    assert (np.mean([(one.low <= prior) & (prior <= one.high) for one in found], axis=0) >= 0.9).all()
    assert np.mean([one.has_moved for one in found]) <= 0.1


def test_a_batch_whose_classes_look_different_is_not_believed() -> None:
    assert np.mean([one.fit < priorshift.DOUBT for one in draws((0.7, 0.3), (0.7, 0.3), 30, 1.6)]) > 0.9
    (reason,) = doubts(once((0.7, 0.3), (0.7, 0.3), 1, spread=1.6, batch=4000), NAMES)[:1]
    assert reason.startswith("no class shares explain the batch's scores")


def test_golden_case() -> None:
    """Fifty rows each of two sorts; under shares (1 - s, s) a row of the second sort has the probability 0.2 + 0.6 s, so s = 0.5."""
    p = np.repeat([[0.8, 0.2], [0.2, 0.8]], 50, axis=0)
    reference = {"prior": [0.5, 0.5], "edges": [[0.0]], "counts": [[8e6, 2e6], [2e6, 8e6]]}
    found = estimate(p, reference)
    np.testing.assert_allclose(found.shares, [0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(found.histogram, [0.5, 0.5], atol=1e-6)
    # q = 0.2 + 0.6 s is a binomial share, 0.5 of 100 rows: twice the log-likelihood ratio is 3.841 at q = 0.402935
    assert found.low[1] == pytest.approx((0.402935 - 0.2) / 0.6, abs=1e-4)
    assert found.high[1] == pytest.approx(1 - found.low[1], abs=1e-4)
    assert found.moved == pytest.approx(1)


def test_a_batch_without_a_class_has_an_interval_from_zero_and_keeps_half_a_row() -> None:
    found = once((0.7, 0.3), (1.0, 0.0), 5)
    assert found.low[1] == 0 < found.high[1] < 0.1
    assert found.has_moved and not doubts(found, NAMES)
    assert found.rows == 800
    np.testing.assert_allclose(found.smoothed, (800 * found.shares + 0.5) / 801, rtol=1e-9)


def test_intervals_of_two_classes_are_one_even_of_one_row() -> None:
    reference = {"prior": [0.5, 0.5], "edges": [[0.0]], "counts": [[80, 20], [20, 80]]}
    for count in (1, 3, 60):
        found = estimate(np.tile([0.05, 0.95], (count, 1)), reference)
        assert found.shares.tolist() == [0, 1]
        np.testing.assert_allclose(found.low, 1 - found.high[::-1], atol=1e-6)
        assert found.low[1] < 0.2 if count == 1 else found.low[1] < 1
    (first, *_) = doubts(estimate(np.array([[0.05, 0.95]]), reference), NAMES)
    assert first == "the batch has 1 row, fewer than 50"


def test_classes_permute() -> None:
    p, labels = np.random.default_rng(0).dirichlet([0.5] * 3, size=800), None
    labels = (np.random.default_rng(1).random(800)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    order = np.array([2, 0, 1])
    one = estimate(p[:300], labelshift.reference(p, labels))
    other = estimate(p[:300][:, order], labelshift.reference(p[:, order], np.argsort(order)[labels]))
    for name in ("shares", "low", "high"):
        np.testing.assert_allclose(getattr(one, name)[order], getattr(other, name), atol=1e-5)
    assert other.fit == pytest.approx(one.fit, abs=1e-3)


def test_a_heavy_row_is_one_row() -> None:
    rng = np.random.default_rng(3)
    x, labels = rows([0.7, 0.3], 600, rng)
    p = calibration.softmax(logits(x, np.array([0.7, 0.3])) / 1.6)
    reference, weights = labelshift.reference(p, labels), rng.lognormal(0, 1.5, 600)
    light, heavy = estimate(p, reference, weights=np.full(600, 7.0)), estimate(p, reference, weights=weights)
    plain = estimate(p, reference)
    np.testing.assert_allclose([light.low, light.high], [plain.low, plain.high], atol=1e-5)
    assert heavy.rows == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert (heavy.high - heavy.low > plain.high - plain.low).all()


def test_what_speaks_against_an_estimate_is_said() -> None:
    few = doubts(once((0.7, 0.3), (0.7, 0.3), 0, batch=30), NAMES)
    assert few[0] == "the batch has 30 rows, fewer than 50"
    assert any("is wider than 0.25" in reason for reason in few)
    noise = np.random.default_rng(0).dirichlet([9, 9], size=400)
    alike = estimate(noise, labelshift.reference(noise, np.arange(400) % 2))
    assert alike.alike == ((0, 1),)
    assert "do not tell a and b apart" in doubts(alike, NAMES)[0]
    sparse = doubts(once((0.96, 0.04), (0.96, 0.04), 1, calib=300), NAMES)
    assert "calib has too few rows of a class to check the fit" in sparse


def test_many_classes_have_no_histogram_and_so_no_check() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.1] * 55, size=400)
    labels = (rng.random(400)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(max=54)
    found = estimate(p, labelshift.reference(p, labels))
    assert np.isnan(found.fit) and np.isnan(found.agreement)
    assert doubts(found, [str(k) for k in range(55)])
