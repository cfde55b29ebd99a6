"""What a range of utilities would mean: at each one the analytic policy's threshold, action shares and utility, beside doing the same always."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.bounds import mean_interval
from pipelines.core.policy import analytic_actions, analytic_threshold, under_prior
from pipelines.core.utility import difference_range, obtained, of_class, trivial, value_range
from pipelines.errors import ExpostError

Float = NDArray[np.float64]
Int = NDArray[np.int64]

#: From this ratio of its ends on, a range is walked in equal factors instead of equal steps.
LOGARITHMIC_FROM = 10.0


@dataclass(frozen=True)
class Cases:
    """Rows that a policy is judged on: probabilities `(R, n, K)`, labels `(n,)`, groups `(n,)` or None, weights `(n,)`.

    The probabilities of a row are those of who has not seen it, once for each of R repeats; without groups rows are independent.
    """

    probability: Float
    labels: Int
    groups: Int | None
    weights: Float

    @property
    def effective_rows(self) -> float:
        """Kish's effective sample size, (sum of weights)^2 / sum of their squares."""
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())


def deployed(cases: Cases, data: Any, deployment: Any) -> Cases:
    """The cases as they are where the class prior is `deployment` `(K,)` instead of `data` `(K,)`: probabilities and weights changed."""
    ratio = np.asarray(deployment, dtype=np.float64) / np.asarray(data, dtype=np.float64)
    return Cases(
        under_prior(cases.probability.reshape(-1, ratio.size), data, deployment).reshape(cases.probability.shape),
        cases.labels,
        cases.groups,
        cases.weights * ratio[cases.labels],
    )


def steps_of(low: float, high: float, steps: int) -> Float:
    """Values `(steps,)` from `low` to `high`, in equal factors where both have one sign and a ratio of ten or more, else in equal steps.

    Rounded to three digits where they stay distinct, the ends excepted.
    """
    found = np.geomspace(low, high, steps) if is_logarithmic(low, high) else np.linspace(low, high, steps)
    rounded = np.array([low, *(float(f"{value:.3g}") for value in found[1:-1]), high])
    return rounded if (np.diff(rounded) > 0).all() else found


def is_logarithmic(low: float, high: float) -> bool:
    """Whether `steps_of` walks from `low` to `high` in equal factors."""
    return low * high > 0 and max(abs(low), abs(high)) >= LOGARITHMIC_FROM * min(abs(low), abs(high))


def at(cases: Cases, U: Any, *, confidence: float) -> dict[str, Any]:
    """What the analytic policy for `U` `(K, A)` or `(n, K, A)` does and obtains on the cases, and the best trivial policy beside it.

    `shares` `(A,)` of the actions and `utility` per case, with an interval, are weighted means, averaged over the repeats; `gain` is
    above the best trivial policy. `threshold` is on the last class's probability where K = A = 2 and each action is best for one class.
    """
    matrix = np.asarray(U, dtype=np.float64)
    A, total = matrix.shape[-1], cases.weights.sum()
    actions = [analytic_actions(p, matrix) for p in cases.probability]
    per_row = np.mean([obtained(cases.labels, taken, matrix) for taken in actions], axis=0)
    always = trivial(cases.labels, matrix, cases.weights)
    best, spread = int(always.argmax()), difference_range(matrix)
    low, high = value_range(matrix)
    how: dict[str, Any] = {"groups": cases.groups, "weights": cases.weights, "confidence": confidence}
    gain = mean_interval(per_row - of_class(matrix, cases.labels)[:, best], worst=-spread, best=spread, **how)
    return {
        "threshold": _threshold(matrix),
        "shares": np.mean([np.bincount(taken, weights=cases.weights, minlength=A) / total for taken in actions], axis=0).tolist(),
        "utility": _plain(mean_interval(per_row, worst=low, best=high, **how)),
        "trivial": {"action": best, "utility": float(always[best])},
        "gain": _plain(gain),
    }


def _plain(interval: Any) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(interval).items() if name != "rows"}


def _threshold(matrix: Float) -> float | None:
    if matrix.shape != (2, 2):
        return None
    try:
        return analytic_threshold(matrix)
    except ExpostError:  # one action is best whatever happens
        return None
