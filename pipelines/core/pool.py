"""Several learners' probabilities as one: the logarithmic pool, whose numbers, a share for each, are chosen by log loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

Floats = NDArray[np.floating]
#: Log loss per row, in nats, below which one more learner is not worth what it takes to score with it.
LEAST = 1e-6


def pooled(learners: Sequence[Floats], shares: Sequence[float]) -> Floats:
    """Log probability (n, K) of the pool of L learners, given as log probability or logits (n, K): the product of p_l^share_l, normalised.

    Genest and Zidek (1986), Combining probability distributions. It is sharper than the mean of probabilities where all agree, as boosted trees and networks mostly do.
    """
    return np.asarray(log_softmax(sum(share * log_softmax(one, axis=1) for one, share in zip(learners, shares, strict=True)), axis=1))


def best_shares(learners: Sequence[Floats], labels: NDArray[np.integer], weights: Floats | None = None) -> list[float]:
    """Shares, at least 0 and 1 in sum, at which the pool's log loss on rows that no learner learnt from is lowest; it is convex in them.

    A learner without which the pool loses less than `LEAST` nats a row gets exactly 0, of two alike the later one.
    """
    stack = np.stack([log_softmax(one, axis=1) for one in learners]).astype(np.float64)
    counted = np.full(len(labels), 1 / len(labels)) if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
    kept = list(range(len(stack)))
    loss, shares = _lowest(stack, labels, counted)
    while len(kept) > 1:
        rests = [[other for other in kept if other != one] for one in reversed(kept)]
        (without, fewer), rest = min(((_lowest(stack[rest], labels, counted), rest) for rest in rests), key=lambda item: item[0][0])
        if without > loss + LEAST:
            break
        kept, shares = rest, fewer
    every = np.zeros(len(stack))
    every[kept] = shares
    return [float(share) for share in every]


def _lowest(stack: NDArray[np.float64], labels: NDArray[np.integer], counted: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Lowest log loss of the pool of log probabilities (L, n, K), and its shares (L,)."""
    hits = stack[:, np.arange(len(labels)), labels]

    def loss(shares: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_probability = log_softmax((shares[:, None, None] * stack).sum(axis=0), axis=1)
        # np.sum and no product of matrices, whose last bits depend on the number of threads
        expected = (stack * np.exp(log_probability)).sum(axis=2)
        slope = ((expected - hits) * counted).sum(axis=1)
        return -float((log_probability[np.arange(len(labels)), labels] * counted).sum()), slope

    alone = np.full(len(stack), 1 / len(stack))
    if len(stack) == 1:
        return loss(alone)[0], alone
    simplex = {"type": "eq", "fun": lambda shares: shares.sum() - 1, "jac": np.ones_like}
    options = {"ftol": 1e-12, "maxiter": 500}
    found = minimize(loss, alone, jac=True, method="SLSQP", bounds=[(0, 1)] * len(stack), constraints=simplex, options=options)
    shares = np.clip(found.x, 0, 1)
    shares /= shares.sum()
    return loss(shares)[0], shares
