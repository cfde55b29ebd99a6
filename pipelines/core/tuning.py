"""The analytic and the exact policy under limits and requirements, and how sure the rows are of the best cut-off."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.core import policy, threshold
from pipelines.core.constraints import Constraints, Fitted, clearing_level, levels, order_statistic, satisfy
from pipelines.core.sample import Sample, Tuned, unchanged
from pipelines.core.utility import regret_matrix, scale

Float = NDArray[np.float64]

NEAR = 5.0  #: log units between an offset and the cut-off that a price stands for; further apart its digits would be lost
RESAMPLES = 200


def analytic(held: Sample, rules: Constraints) -> Fitted:
    """The analytic policy, changed no more than limits and requirements force on the rows `held`."""
    start = unchanged(held.shape)
    if rules.limits and held.U.shape == (2, 2):
        low, high = allowed_cutoffs(held, rules)
        cutoff = min(max(0.0, low), high)
        if low <= high and NEAR < abs(cutoff) < np.inf:
            start = _at(cutoff, start.offsets, held.U)
    return satisfy(held, rules, start)


def exact(sample: Sample, held: Sample, rules: Constraints) -> Fitted:
    """The best cut-off for two actions on the rows of `sample`, within what limits and requirements allow on the rows `held`.

    For two classes and one matrix, and for more classes and one matrix, all that is allowed is an interval of cut-offs; where utilities differ
    by row a limit's price moves each row's cut-off by its own amount and is raised afterwards.
    """
    low, high = required_cutoffs(held, rules)
    if low > high:  # no cut-off meets all: the nearest is found from the analytic policy
        return analytic(held, rules)
    offsets, prices, free = threshold.exact(sample.probability, sample.labels, sample.U, weights=sample.weights, low=low, high=high)
    if rules.limits and held.U.ndim == 2:
        low, high = allowed_cutoffs(held, rules)
        if low > high:
            return analytic(held, rules)
        within = threshold.exact(sample.probability, sample.labels, sample.U, weights=sample.weights, low=low, high=high)
        if within[2].cutoff != free.cutoff:
            return satisfy(held, rules, _at(within[2].cutoff, offsets, sample.U) if len(offsets) == 2 else Tuned(offsets, within[1]))
    elif rules.limits and np.isinf(free.cutoff):
        offsets = np.zeros(len(offsets))  # "always" leaves no order among the rows for a price to choose by
    return satisfy(held, rules, Tuned(offsets, prices))


def _at(cutoff: float, offsets: Float, U: Float) -> Tuned:
    """The policy for two classes that stands at `cutoff`: by its offset as far as it was free, the rest by a price."""
    near = float(np.clip(offsets[1], -cutoff - NEAR, -cutoff + NEAR)) if np.isfinite(cutoff) else 0.0
    prices = threshold.prices_of(policy.price_of_cutoff(cutoff, near, U))
    return Tuned(np.array([0.0, near]), prices if U[1, 1] >= U[1, 0] else prices[::-1])


def bootstrap_interval(sample: Sample, held: Sample, rules: Constraints, *, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval of the exact threshold, whole groups drawn: how little the rows say about the optimum. For display; U `(2, 2)`."""
    low, high = allowed_cutoffs(held, rules)
    found = threshold.bootstrap_cutoffs(sample, resamples=RESAMPLES, seed=seed, low=low, high=max(low, high))
    at = [policy.threshold_of_offset(float(np.clip(-cutoff, -policy.ALWAYS, policy.ALWAYS)), sample.U) for cutoff in found]
    tail = (1 - confidence) / 2
    return float(np.quantile(at, tail)), float(np.quantile(at, 1 - tail))


def allowed_cutoffs(held: Sample, rules: Constraints) -> tuple[float, float]:
    """Lowest and highest cut-off with which requirements and limits are kept on the rows `held`, U `(K, 2)`; none where low > high."""
    low, high = required_cutoffs(held, rules)
    lowest, highest = limited_cutoffs(held, rules) if rules.limits else (low, high)
    return max(low, lowest), min(high, highest)


def required_cutoffs(held: Sample, rules: Constraints) -> tuple[float, float]:
    """Lowest and highest cut-off, as `threshold.exact` counts them, with which each requirement is met on the rows `held`."""
    low, high = -np.inf, np.inf
    for wanted in rules.recalls:
        part = held.take(held.labels == wanted.label)
        if held.shape[0] == 2:
            score = levels(part, unchanged(held.shape), wanted.label)
            upwards = wanted.label == 1  # the offset of the second class lowers the cut-off, that of the first raises it
        else:
            lost = regret_matrix(held.U)[..., wanted.label, :] <= policy.TIE
            if lost.ndim == 2 or lost.all():
                continue  # the best action differs by row, or does not matter
            upwards = bool(lost[1])
            score = threshold.advantage_expected(part.probability, part.U) * (-1.0 if upwards else 1.0)
        level = order_statistic(score, wanted, weights=part.weights, groups=part.groups)
        level += 1e-9 * (1.0 if held.shape[0] == 2 else float(np.max(scale(held.U))))
        low, high = (low, min(high, -level)) if upwards else (max(low, level), high)
    return low, high


def limited_cutoffs(held: Sample, rules: Constraints) -> tuple[float, float]:
    """Lowest and highest cut-off, as `threshold.exact` counts them, with which the limits hold on the rows `held`, U `(K, 2)`."""
    low, high = -np.inf, np.inf
    if held.shape[0] == 2:
        t = policy.analytic_threshold(held.U)
        score, acting = threshold.log_odds(held.probability) - float(np.log(t / (1 - t))), int(held.U[1].argmax())
    else:
        score, acting = threshold.advantage_expected(held.probability, held.U), 1
    for action, share in rules.limits.items():
        sign = 1.0 if action == acting else -1.0
        level = clearing_level(sign * score, held.weights, share)
        low, high = (max(low, level), high) if sign > 0 else (low, min(high, -level))
    return low, high
