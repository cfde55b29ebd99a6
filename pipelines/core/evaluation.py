"""What one model did on the holdout, row by row and in sum, from its probabilities, actions and embedding."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import metrics, representation
from pipelines.core.bounds import Interval, bootstrap_interval, mean_interval
from pipelines.core.utility import regret_of, utility_along_threshold

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """A model's probabilities `(n, K)`, actions `(n,)` and embedding `(n, D)`; an action is -1 where a probability is no number."""

    probability: Floats
    actions: Ints
    embedding: Floats

    def take(self, rows: Any) -> Scored:
        """The same for some of the rows, by mask or by index."""
        return Scored(self.probability[rows], self.actions[rows], self.embedding[rows])


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


def utility_rows(actions: Ints, labels: Ints, U: Floats) -> Floats:
    """Obtained utility `(n,)`; NaN where no action was taken."""
    return np.asarray(np.where(actions >= 0, U[labels, np.maximum(actions, 0)], np.nan))


def row_results(scored: Scored, labels: Ints, U: Floats, fit: Floats, fit_labels: Ints, *, neighbours: int, seed: int = 0) -> Rows:
    """Results of each row; the probes of the embedding are fitted on the calib rows' `fit` `(m, D)` and `fit_labels` `(m,)`."""
    probe = representation.v_information(fit, fit_labels, scored.embedding, labels, U.shape[0], seed=seed)
    return Rows(
        utility_rows(scored.actions, labels, U),
        metrics.log_loss_rows(scored.probability, labels),
        metrics.brier_rows(scored.probability, labels),
        probe.bits,
        representation.neighbours_probability(fit, fit_labels, scored.embedding, U.shape[0], neighbours=neighbours),
        probe.unavailable,
    )


def seen_interval(values: Floats, groups: Ints, display: Display) -> Interval:
    """Interval of a mean without natural bounds: the pseudo-row stands at the most extreme row seen."""
    finite = values[np.isfinite(values)]
    worst, best = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return mean_interval(values, groups=groups, confidence=display.confidence, worst=worst, best=best)


def utility_interval(values: Floats, groups: Ints, U: Floats, display: Display) -> Interval:
    """Interval of a mean utility; the pseudo-row stands at the matrix's worst and best entry."""
    return mean_interval(values, groups=groups, confidence=display.confidence, worst=float(U.min()), best=float(U.max()))


def difference_interval(values: Floats, groups: Ints, U: Floats, display: Display) -> Interval:
    """Interval of a paired mean difference of utilities; the pseudo-row stands at the largest difference within a class."""
    reach = float(np.ptp(U, axis=1).max())
    return mean_interval(values, groups=groups, confidence=display.confidence, worst=-reach, best=reach)


def regret_interval(values: Floats, groups: Ints, U: Floats, display: Display) -> Interval:
    """Interval of a mean regret, which lies between 0 and the largest difference within a class."""
    return mean_interval(values, groups=groups, confidence=display.confidence, worst=0.0, best=float(np.ptp(U, axis=1).max()))


def summary(
    scored: Scored, rows: Rows, labels: Ints, groups: Ints, *, U: Floats, classes: list[str], actions: list[str], display: Display
) -> dict[str, Any]:
    """All figures of one model on n rows as plain types, each mean with its interval."""
    forecast, outcome = metrics.forecast_and_outcome(scored.probability, labels)
    taken = scored.actions >= 0
    confusion = metrics.confusion_by_action(labels[taken], scored.actions[taken], len(classes), len(actions))
    area = bootstrap_interval(
        lambda weights: metrics.auc(scored.probability, labels, weights),
        labels.size,
        groups=groups,
        confidence=display.confidence,
        resamples=display.resamples,
        seed=display.seed,
    )
    regret = regret_of(rows.utility, labels, U)
    right = (np.nan_to_num(rows.neighbours, nan=-1.0).argmax(axis=1) == labels).astype(np.float64)
    return {
        "rows": int(labels.size),
        "utility": asdict(utility_interval(rows.utility, groups, U, display)),
        "regret": asdict(regret_interval(regret, groups, U, display)),
        "log_loss": asdict(seen_interval(rows.log_loss, groups, display)),
        "brier": asdict(seen_interval(rows.brier, groups, display)),
        "auc": asdict(area),
        "calibration": asdict(metrics.calibration_error(forecast, outcome, seed=display.seed)),
        "confusion": {name: dict(zip(actions, map(int, row), strict=True)) for name, row in zip(classes, confusion, strict=True)},
        "v_information": asdict(seen_interval(rows.bits, groups, display)),
        "knn": {
            "log_loss": asdict(seen_interval(metrics.log_loss_rows(rows.neighbours, labels), groups, display)),
            "accuracy": asdict(seen_interval(right, groups, display)),
        },
        "effective_rank": representation.effective_rank(scored.embedding),
    }


def curves(models: dict[str, tuple[Scored, Rows, Ints]], U: Floats, confidence: float) -> dict[str, Any]:
    """Plots' data per model name, given its (scored, rows, labels): reliability, utility histogram; cost curves where K = A = 2."""
    values = np.unique(U)
    made: dict[str, Any] = {"utility_values": values.tolist()}
    for name, (scored, rows, labels) in models.items():
        forecast, outcome = metrics.forecast_and_outcome(scored.probability, labels)
        finite = bool(np.isfinite(scored.probability).all())
        two = finite and U.shape == (2, 2)
        made[name] = {
            "reliability": metrics.reliability_curve(forecast, outcome, confidence=confidence),
            "utility_rows": [int((rows.utility == value).sum()) for value in values],
            "utility_curve": utility_along_threshold(scored.probability[:, 1], labels, U) if two else None,
            "cost_curve": metrics.cost_curve(scored.probability[:, 1], labels) if finite and U.shape[0] == 2 else None,
        }
    return made
