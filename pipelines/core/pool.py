"""Two learners' probabilities as one: the logarithmic pool, whose one number, a share, is chosen by log loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Floats = NDArray[np.floating]
#: Log loss per row, in nats, below which a second learner is not worth what it takes to score with it.
LEAST = 1e-6


def pooled(first: Floats, second: Floats, share: float) -> Floats:
    """Log probability (n, K) of the pool of two, given as log probability or logits (n, K): p1^(1 - share) p2^share, normalised.

    Genest and Zidek (1986), Combining probability distributions. It is sharper than the mean of probabilities where both agree, as boosted trees and networks mostly do.
    """
    return np.asarray(log_softmax((1 - share) * log_softmax(first, axis=1) + share * log_softmax(second, axis=1), axis=1))


def best_share(first: Floats, second: Floats, labels: NDArray[np.integer], weights: Floats | None = None) -> float:
    """Share of the second, in [0, 1], at which the pool's log loss on rows that neither learnt from is lowest; it is convex in the share.

    0 or 1 where the other gains less than `LEAST` nats a row.
    """
    rows = np.arange(len(labels))

    def loss(share: float) -> float:
        return float(np.average(-pooled(first, second, share)[rows, labels], weights=weights))

    found = minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-4})
    end = min((0.0, 1.0), key=loss)
    return end if loss(end) <= found.fun + LEAST else float(found.x)
