"""Rows that a policy is tuned or judged on, and what tuning finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.core import policy
from pipelines.core.utility import obtained, take

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class Tuned:
    """A tuned policy: offsets `(K,)`, prices `(A,)`; all zero is the analytic one."""

    offsets: Float
    prices: Float


@dataclass(frozen=True)
class Sample:
    """Rows: probabilities `(n, K)`, labels `(n,)`, utilities `(K, A)` or `(n, K, A)`, weights `(n,)`, groups `(n,)`."""

    probability: Float
    labels: Int
    U: Float
    weights: Float
    groups: Int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of classes and of actions, K and A."""
        return int(self.U.shape[-2]), int(self.U.shape[-1])

    def take(self, rows: NDArray[np.bool_]) -> Sample:
        """The rows of a mask."""
        return Sample(self.probability[rows], self.labels[rows], take(self.U, rows), self.weights[rows], self.groups[rows])

    def actions(self, tuned: Tuned) -> Int:
        """Actions `(n,)` that a policy takes."""
        return policy.decide(self.probability, self.U, tuned.offsets, tuned.prices)

    def value(self, tuned: Tuned) -> float:
        """Mean utility that a policy obtains."""
        return float(np.average(obtained(self.labels, self.actions(tuned), self.U), weights=self.weights))


def unchanged(shape: tuple[int, int]) -> Tuned:
    """The analytic policy for K classes and A actions."""
    return Tuned(np.zeros(shape[0]), np.zeros(shape[1]))
