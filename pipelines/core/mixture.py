"""Mixtures: the class shares under which rows are likeliest, given how likely each class makes each row.

`likelihood` `(n, K)` may be known up to a factor per row, and may lie in a file (a memory map): it is read in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

BLOCK = 65_536
ITERATIONS = 200
STEP = 1e-9  #: of the shares, after which the next one would be lost in rounding: convergence is quadratic


class Mixture:
    """Rows `(n, K)` of likelihoods, divided by `scale` `(K,)`, and their `weights` `(n,)`; answers for shares `(K,)`."""

    def __init__(self, likelihood: Any, *, scale: Any = None, weights: Any = None) -> None:
        self.likelihood = likelihood
        self.classes = int(likelihood.shape[1])
        self.scale = np.ones(self.classes) if scale is None else np.asarray(scale, dtype=np.float64)
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        self.total = float(len(likelihood) if self.weights is None else self.weights.sum())

    def blocks(self) -> Iterator[tuple[slice, Float, Float]]:
        """Place, likelihoods `(b, K)` and weights `(b,)` of successive rows."""
        for start in range(0, len(self.likelihood), BLOCK):
            place = slice(start, start + BLOCK)
            f = np.asarray(self.likelihood[place], dtype=np.float64) / self.scale
            yield place, f, np.ones(len(f)) if self.weights is None else self.weights[place]

    def log_likelihood(self, shares: Float) -> float:
        """Weighted sum of log(f . shares): minus infinity where the shares make a row impossible."""
        with np.errstate(divide="ignore"):
            return float(sum(w @ np.log(f @ shares) for _, f, w in self.blocks()))

    def moments(self, shares: Float) -> tuple[float, Float, Float]:
        """Mean log-likelihood, its gradient `(K,)` and the information `(K, K)`, the mean of s s' with s = f / (f . shares)."""
        value, gradient, information = 0.0, np.zeros(self.classes), np.zeros((self.classes, self.classes))
        for _, f, w in self.blocks():
            mixed = f @ shares
            score = f / mixed[:, None]
            weighted = score * w[:, None]
            value += float(w @ np.log(mixed))
            gradient += weighted.sum(axis=0)
            information += weighted.T @ score
        return value / self.total, gradient / self.total, information / self.total

    def maximum(self) -> Float:
        """The shares `(K,)`, at least 0 and summing to 1, that maximise the likelihood.

        What the EM of Saerens, Latinne & Decaestecker (2002) converges to, by sequential quadratic programming instead: a few passes over the
        rows where EM needs hundreds. Kim, Carbonetto, Stephens & Anitescu (2020), algorithm 1.
        """
        shares = np.full(self.classes, 1 / self.classes)
        value, gradient, information = self.moments(shares)
        for _ in range(ITERATIONS):
            aim = _quadratic_optimum(gradient, information)
            size, step = 1.0, aim - shares
            while True:  # halve the step until the likelihood grows; near the optimum rounding alone decides, and a whole step is right
                trial = np.maximum(shares + size * step, 0)
                trial /= trial.sum()
                found = self.moments(trial)
                if found[0] >= value - 1e-13 or size < 1e-8:
                    break
                size /= 2
            shares, (value, gradient, information) = trial, found
            if np.abs(step).max() < STEP:
                break
        return shares


def _quadratic_optimum(gradient: Float, information: Float) -> Float:
    """Minimum over y >= 0 of y' H y / 2 - (2 g - 1)' y, the objective's second-order model: without the constraint that shares sum to 1."""
    from scipy.optimize import nnls

    size = len(gradient)
    root = np.linalg.cholesky(information + 1e-10 * np.trace(information) / size * np.eye(size))
    return np.asarray(nnls(root.T, np.linalg.solve(root, 2 * gradient - 1), maxiter=50 * size)[0])
