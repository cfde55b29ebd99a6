"""Maximum likelihood of shares: agrees with plain EM, at the edges too, and does not depend on how rows are scaled or blocked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.core import mixture
from pipelines.core.mixture import Mixture


def expectation_maximisation(probability: Any, prior: Any, weights: Any) -> Any:
    """Saerens, Latinne & Decaestecker (2002), equations 2.9, until nothing moves."""
    shares = prior
    for _ in range(200_000):
        posterior = probability * (shares / prior)
        posterior /= posterior.sum(axis=1, keepdims=True)
        before, shares = shares, weights @ posterior / weights.sum()
        if np.abs(shares - before).max() < 1e-15:
            break
    return shares


def posteriors(classes: int, rows: int, seed: int) -> tuple[Any, Any]:
    """Posterior probabilities under the returned prior, of rows drawn with other shares."""
    rng = np.random.default_rng(seed)
    centres, prior, shares = 2 * rng.normal(size=(classes, 2)), rng.dirichlet([3] * classes), rng.dirichlet([1] * classes)
    x = centres[rng.choice(classes, p=shares, size=rows)] + rng.normal(size=(rows, 2))
    p = prior * np.exp(-((x[:, None] - centres) ** 2).sum(axis=2) / 2)
    return p / p.sum(axis=1, keepdims=True), prior


@pytest.mark.parametrize(("classes", "rows", "seed"), [(2, 300, 0), (2, 300, 3), (3, 500, 1), (5, 800, 2)])
def test_agrees_with_plain_em(classes: int, rows: int, seed: int) -> None:
    p, prior = posteriors(classes, rows, seed)
    weights = np.random.default_rng(seed).integers(1, 9, rows).astype(float)
    found = Mixture(p, scale=prior, weights=weights).maximum()
    np.testing.assert_allclose(found, expectation_maximisation(p, prior, weights), atol=1e-8)


def test_a_weight_is_a_number_of_rows_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    p, prior = posteriors(3, 200, 4)
    weights = np.arange(200) % 3 + 1
    once = Mixture(p, scale=prior, weights=weights).maximum()
    np.testing.assert_allclose(Mixture(np.repeat(p, weights, axis=0), scale=prior).maximum(), once, atol=1e-9)
    monkeypatch.setattr(mixture, "BLOCK", 17)
    factors = np.random.default_rng(0).lognormal(size=(200, 1))
    np.testing.assert_allclose(Mixture(p * factors, scale=prior, weights=weights).maximum(), once, atol=1e-9)


def test_rows_that_say_one_class_or_nothing() -> None:
    sure = np.full((20, 2), [1e-12, 1 - 1e-12])
    np.testing.assert_allclose(Mixture(sure, scale=[0.5, 0.5]).maximum(), [0, 1], atol=1e-12)
    np.testing.assert_allclose(Mixture(np.full((20, 3), 1 / 3)).maximum(), [1 / 3] * 3, atol=1e-9)
