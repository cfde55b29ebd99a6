"""Candidate policies: tuned on calib rows, judged on those they were not tuned on, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import search
from pipelines.core import crossfit, policy, threshold
from pipelines.core.bounds import Interval, mean_interval
from pipelines.core.sample import Sample, Tuned, unchanged
from pipelines.core.utility import difference_range, obtained, take, value_range
from pipelines.params.decide import Decide

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

RESAMPLES = 200


@dataclass(frozen=True)
class Calib:
    """Calib rows as decide sees them; under a declared class prior the probabilities are corrected and the weights hold its ratios.

    `crossfitted` `(J, n, K)` are probabilities fitted without fold j, `shipped` `(n, K)` those of the calibrator that ships, `masks`
    `(J, n)` the rows of each fold, `U` the utilities `(K, A)` or `(n, K, A)`; `labels`, `groups` and `weights` are `(n,)`.
    """

    crossfitted: Float
    shipped: Float
    masks: Bool
    labels: Int
    groups: Int
    weights: Float
    U: Float
    classes: tuple[str, ...]

    @property
    def repeats(self) -> int:
        """How often each row was held out."""
        return round(float(self.masks.mean(axis=1).sum()))

    def pooled(self) -> Sample:
        """All rows with their out-of-fold probabilities, the repeats one below the other."""
        found = crossfit.out_of_fold(self.crossfitted, self.masks)
        times = len(found)
        U = self.U if self.U.ndim == 2 else np.tile(self.U, (times, 1, 1))
        p = found.reshape(-1, found.shape[2])
        return Sample(p, np.tile(self.labels, times), U, np.tile(self.weights, times), np.tile(self.groups, times))

    def rest(self, fold: int) -> Sample:
        """The rows outside a fold, with the probabilities of a calibrator that was fitted without the fold."""
        rest = ~self.masks[fold]
        return Sample(self.crossfitted[fold][rest], self.labels[rest], take(self.U, rest), self.weights[rest], self.groups[rest])


def tune(name: str, sample: Sample, options: Decide, *, study: search.Study | None = None) -> Tuned:
    """Tune one kind of policy on these rows; `study` is the search on them, where it was already made.

    For two classes and two actions the exact cut-off is the optimum over the offsets, so Optuna's policy is the exact one there, and
    no fold needs a search to know that.
    """
    if name == "exact" or (name == "optuna" and sample.shape == (2, 2)):
        offsets, prices, _ = threshold.exact(sample.probability, sample.labels, sample.U, weights=sample.weights)
        return Tuned(offsets, prices)
    if name == "optuna":
        return (study or search.search(sample, trials=options.trials, seed=options.seed)).tuned
    return unchanged(sample.shape)


def crossfitted_actions(name: str, calib: Calib, options: Decide) -> Int:
    """Actions `(repeats, n)`: in each fold the policy is tuned on the rest and decides on the fold."""
    fold = iter(range(len(calib.masks)))

    def fit_predict(rest: Bool, held: Bool) -> Float:
        j = next(fold)
        tuned = tune(name, calib.rest(j), options)
        return policy.decide(calib.crossfitted[j][held], take(calib.U, held), tuned.offsets, tuned.prices).astype(np.float64)

    return crossfit.crossfit(calib.masks, fit_predict).astype(np.int64)


def utility_of(actions: Int, calib: Calib) -> Float:
    """Utility `(n,)` per row of actions `(repeats, n)`, averaged over the repeats."""
    return np.asarray(np.mean([obtained(calib.labels, taken, calib.U) for taken in actions], axis=0))


def candidate(name: str, per_row: dict[str, Float], tuned: Tuned, calib: Calib, *, options: Decide) -> dict[str, Any]:
    """Cross-fitted utility of one candidate, its gain over the analytic policy, and the policy refitted on all of calib."""
    pooled, binary = calib.pooled(), calib.U.shape == (2, 2)
    utility = interval(per_row[name], calib, value_range(calib.U), options.confidence)
    spread = difference_range(calib.U)
    gain = interval(per_row[name] - per_row["analytic"], calib, (-spread, spread), options.confidence, two_sided=False)
    limits = threshold_interval(calib, options) if name == "exact" and binary else (None, None)
    taken = np.bincount(pooled.actions(tuned), weights=pooled.weights, minlength=pooled.shape[1])
    return {
        "policy": name,
        "utility": utility.mean,
        "low": utility.low,
        "high": utility.high,
        "gain_over_analytic": gain.mean,
        "gain_low": gain.low if name != "analytic" else 0.0,
        "offsets": tuned.offsets.tolist(),
        "prices": tuned.prices.tolist(),
        "threshold": policy.threshold_of(tuned.offsets, tuned.prices, calib.U) if binary else None,
        "threshold_low": limits[0],
        "threshold_high": limits[1],
        "action_shares": (taken / taken.sum()).tolist(),
    }


def interval(values: Float, calib: Calib, limits: tuple[float, float], confidence: float, *, two_sided: bool = True) -> Interval:
    """Bounds of a weighted mean over calib rows, clustered by group."""
    return mean_interval(
        values, groups=calib.groups, weights=calib.weights, confidence=confidence, worst=limits[0], best=limits[1], two_sided=two_sided
    )


def threshold_interval(calib: Calib, options: Decide) -> tuple[float | None, float | None]:
    """Percentile bootstrap of the exact threshold, whole groups drawn: it shows how little the rows say about the optimum. For display."""
    pooled = calib.pooled()
    if len(pooled.labels) > 50_000:  # the interval is narrow there, and the sorts are not free
        return None, None
    codes = np.unique(pooled.groups, return_inverse=True)[1]
    rng, groups = np.random.default_rng(options.seed), int(codes.max()) + 1
    found = []
    for _ in range(RESAMPLES):
        counts = np.bincount(rng.integers(groups, size=groups), minlength=groups)[codes]
        offsets, _, _ = threshold.exact(pooled.probability, pooled.labels, pooled.U, weights=pooled.weights * counts)
        found.append(policy.threshold_of_offset(float(offsets[1]), pooled.U))
    tail = (1 - options.confidence) / 2
    return float(np.quantile(found, tail)), float(np.quantile(found, 1 - tail))


def choose(candidates: Sequence[dict[str, Any]], options: Decide, unit: str) -> tuple[str, str]:
    """Choose the policy that ships, and say why: a tuned one only when its paired gain over the analytic one is surely above zero."""
    allowed = [c for c in candidates if c["policy"] in options.policies]
    if not allowed:
        return "analytic", "The policies under decide.policies do not fit this utility matrix, so the analytic policy decides."
    if "analytic" not in options.policies:
        best = max(allowed, key=lambda c: float(c["utility"]))
        return best["policy"], f"decide.policies leaves the analytic policy out; {best['policy']} has the highest cross-fitted utility."
    tuned = [c for c in allowed if c["policy"] != "analytic"]
    if not tuned:
        return "analytic", "The analytic policy is the only candidate."
    sure = [c for c in tuned if c["gain_low"] > 0]
    best = max(sure or tuned, key=lambda c: float(c["utility"]))
    figures = f"{best['gain_over_analytic']:+.4f} {unit} per case, lower bound {best['gain_low']:+.4f} at {options.confidence:.0%}"
    if sure:
        return best["policy"], f"The {best['policy']} policy surely gains over the analytic one on rows it was not tuned on: {figures}."
    return (
        "analytic",
        f"No tuned policy surely gains over the analytic one on rows it was not tuned on; the best, {best['policy']}: {figures}.",
    )
