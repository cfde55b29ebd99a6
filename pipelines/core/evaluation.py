"""What one model did on the holdout, row by row and in sum, from its probabilities, actions and embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import metrics, recalibration, reliability, representation, utility
from pipelines.core.bounds import Interval, mean_interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Utilities obtained are counted value by value where one matrix has at most this many values, else in bins.
VALUES, BINS = 8, 24


@dataclass(frozen=True)
class Scored:
    """A model's probabilities `(n, K)`, actions `(n,)` and embedding `(n, D)`; an action is -1 where a probability is no number.

    `uncalibrated` `(n, K)` are its probabilities without its calibrator, where they are at hand.
    """

    probability: Floats
    actions: Ints
    embedding: Floats
    uncalibrated: Floats | None = None

    def take(self, rows: Any) -> Scored:
        """The same for some of the rows, by mask or by index."""
        plain = None if self.uncalibrated is None else self.uncalibrated[rows]
        return Scored(self.probability[rows], self.actions[rows], self.embedding[rows], plain)


@dataclass(frozen=True)
class Cases:
    """Rows to judge on: labels, groups, weights `(n,)` and utilities `U`, `(K, A)` or `(n, K, A)`.

    One row can obtain a utility from `worst` to `best`, and two actions differ on it by at most `reach`: ranges of all rows, not of these.
    """

    labels: Ints
    groups: Ints
    weights: Floats
    U: Floats
    worst: float
    best: float
    reach: float

    @property
    def unequal(self) -> Floats | None:
        """The weights, None where they are equal and so change nothing."""
        return None if not self.weights.size or (self.weights == self.weights[0]).all() else self.weights

    def take(self, rows: Any) -> Cases:
        """The same for some of the rows, by mask or by index."""
        U = utility.take(self.U, rows)
        return Cases(self.labels[rows], self.groups[rows], self.weights[rows], U, self.worst, self.best, self.reach)


@dataclass(frozen=True)
class Rows:
    """Per-row results `(n,)` of one model; NaN stays NaN, so that the gate can see it. `unavailable`: why there are no bits."""

    utility: Floats
    log_loss: Floats
    brier: Floats
    bits: Floats
    neighbours: Floats
    unavailable: str | None

    def take(self, rows: Any) -> Rows:
        """The same for some of the rows, by mask or by index."""
        return Rows(self.utility[rows], self.log_loss[rows], self.brier[rows], self.bits[rows], self.neighbours[rows], self.unavailable)


@dataclass(frozen=True)
class Display:
    """How intervals are made for people to read: confidence, bootstrap resamples and their seed."""

    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0


def under_shares(weights: Floats, labels: Ints, shares: Floats | None) -> Floats:
    """`weights` `(n,)` times the ratio that gives the classes these weighted `shares` `(K,)`; as given where there are none."""
    if shares is None:
        return weights
    total = np.bincount(labels, weights=weights, minlength=shares.size)
    ratio = np.divide(shares * total.sum(), total, out=np.ones(shares.size), where=total > 0)
    return np.asarray(weights * ratio[labels])


def utility_rows(actions: Ints, labels: Ints, U: Floats) -> Floats:
    """Obtained utility `(n,)`; NaN where no action was taken."""
    return np.asarray(np.where(actions >= 0, utility.obtained(labels, np.maximum(actions, 0), U), np.nan))


def right_rows(obtained: Floats, cases: Cases) -> Floats:
    """Whether each row got the best action for its true class, `(n,)` of ones and zeros; NaN where it got none."""
    lost = utility.regret_of(obtained, cases.labels, cases.U)
    return np.asarray(np.where(np.isfinite(lost), lost <= 1e-12 * max(1.0, cases.reach), np.nan))


def row_results(scored: Scored, cases: Cases, fit: Floats, fit_cases: Cases, *, neighbours: int, seed: int = 0) -> Rows:
    """Results of each row; the probes of the embedding are fitted on the calib rows' `fit` `(m, D)` and `fit_cases`."""
    classes = cases.U.shape[-2]
    known = (fit, fit_cases.labels, scored.embedding)
    probe = representation.v_information(*known, cases.labels, classes, weights=fit_cases.weights, seed=seed)
    return Rows(
        utility_rows(scored.actions, cases.labels, cases.U),
        metrics.log_loss_rows(scored.probability, cases.labels),
        metrics.brier_rows(scored.probability, cases.labels),
        probe.bits,
        representation.neighbours_probability(*known, classes, neighbours=neighbours, weights=fit_cases.weights),
        probe.unavailable,
    )


def bounded_interval(values: Floats, cases: Cases, display: Display, worst: float, best: float) -> Interval:
    """Interval of a mean of values from `worst` to `best`, where the pseudo-rows stand."""
    return mean_interval(values, groups=cases.groups, weights=cases.unequal, confidence=display.confidence, worst=worst, best=best)


def seen_interval(values: Floats, cases: Cases, display: Display) -> Interval:
    """Interval of a mean without natural bounds: the pseudo-row stands at the most extreme row seen."""
    finite = values[np.isfinite(values)]
    worst, best = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return bounded_interval(values, cases, display, worst, best)


def utility_interval(values: Floats, cases: Cases, display: Display) -> Interval:
    """Interval of a mean utility; the pseudo-row stands at the worst and best that a row can obtain."""
    return bounded_interval(values, cases, display, cases.worst, cases.best)


def difference_interval(values: Floats, cases: Cases, display: Display) -> Interval:
    """Interval of a paired mean difference of utilities; the pseudo-row stands at the largest difference of two actions on one row."""
    return bounded_interval(values, cases, display, -cases.reach, cases.reach)


def regret_interval(values: Floats, cases: Cases, display: Display) -> Interval:
    """Interval of a mean regret, which lies between 0 and the largest difference of two actions on one row."""
    return bounded_interval(values, cases, display, 0.0, cases.reach)


def slope(probability: Floats, cases: Cases, display: Display) -> dict[str, float]:
    """Slope that probabilities `(n, K)` would need to be right, 1 where they are, with an interval; see `recalibration.check`."""
    found = recalibration.check(probability, cases.labels, cases.groups, weights=cases.unequal, confidence=display.confidence)
    return {"mean": found.slope, "low": found.slope_low, "high": found.slope_high}


def summary(
    scored: Scored, rows: Rows, cases: Cases, *, classes: Sequence[str], actions: Sequence[str], display: Display
) -> dict[str, Any]:
    """All figures of one model on n rows as plain types, each mean with its interval; the confusion counts rows, without weights."""
    labels = cases.labels
    taken = scored.actions >= 0
    confusion = metrics.confusion_by_action(labels[taken], scored.actions[taken], len(classes), len(actions))
    drawn: dict[str, Any] = {"weights": cases.unequal, **asdict(display)}
    groups = cases.groups if np.unique(cases.groups).size < labels.size else None
    regret = utility.regret_of(rows.utility, labels, cases.U)
    hit = (np.nan_to_num(rows.neighbours, nan=-1.0).argmax(axis=1) == labels).astype(np.float64)
    return {
        "rows": int(labels.size),
        "utility": asdict(utility_interval(rows.utility, cases, display)),
        "regret": asdict(regret_interval(regret, cases, display)),
        "log_loss": asdict(seen_interval(rows.log_loss, cases, display)),
        "brier": asdict(seen_interval(rows.brier, cases, display)),
        "auc": asdict(metrics.auc_interval(scored.probability, labels, groups=groups, **drawn)),
        "calibration": reliability.summary(scored.probability, labels, groups=cases.groups, **drawn),
        "confusion": {name: dict(zip(actions, map(int, row), strict=True)) for name, row in zip(classes, confusion, strict=True)},
        "v_information": asdict(seen_interval(rows.bits, cases, display)),
        "knn": {
            "log_loss": asdict(seen_interval(metrics.log_loss_rows(rows.neighbours, labels), cases, display)),
            "accuracy": asdict(seen_interval(hit, cases, display)),
        },
        "effective_rank": representation.effective_rank(scored.embedding, cases.weights),
    }


def curves(models: Mapping[str, tuple[Scored, Rows, Cases]], confidence: float) -> dict[str, Any]:
    """Plots' data per model name: reliability and a histogram of the utilities obtained; cost curves where one matrix has K = A = 2."""
    values, edges = histogram_scale(list(models.values()))
    made: dict[str, Any] = {"utility_values": values, "utility_edges": edges}
    for name, (scored, rows, cases) in models.items():
        forecast, outcome = metrics.forecast_and_outcome(scored.probability, cases.labels)
        finite, positive = bool(np.isfinite(scored.probability).all()), scored.probability[:, 1]
        two = finite and cases.U.shape == (2, 2)
        made[name] = {
            "reliability": metrics.reliability_curve(forecast, outcome, weights=cases.unequal, confidence=confidence),
            "utility_rows": histogram(rows.utility, values, edges),
            "utility_curve": utility.utility_along_threshold(positive, cases.labels, cases.U, weights=cases.unequal) if two else None,
            "cost_curve": metrics.cost_curve(positive, cases.labels, weights=cases.unequal) if finite and cases.U.shape[-2] == 2 else None,
        }
    return made


def histogram_scale(models: Sequence[tuple[Scored, Rows, Cases]]) -> tuple[list[float] | None, list[float] | None]:
    """The values of one matrix where they are few, else the edges of bins of equal width, the outer 1 % of the rows left out."""
    one_matrix = [cases.U for _, _, cases in models if cases.U.ndim == 2]
    seen = np.concatenate([rows.utility[np.isfinite(rows.utility)] for _, rows, _ in models] or [np.zeros(0)])
    values = np.unique(np.concatenate(one_matrix or [seen], axis=None))
    if values.size <= (VALUES if one_matrix else 1):
        return values.tolist(), None
    low, high = np.quantile(seen, [0.005, 0.995]) if seen.size else (values[0], values[-1])
    if not high > low:
        low, high = values[0], values[-1]
    return None, np.linspace(low, high, BINS + 1).tolist()


def histogram(obtained: Floats, values: Sequence[float] | None, edges: Sequence[float] | None) -> list[int]:
    """Rows per value, or per bin, where the outer bins hold what lies beyond them too; a NaN is in none."""
    if edges is None:
        return [int((obtained == value).sum()) for value in values or ()]
    finite = obtained[np.isfinite(obtained)]
    return list(map(int, np.histogram(np.clip(finite, edges[0], edges[-1]), bins=np.asarray(edges))[0]))
