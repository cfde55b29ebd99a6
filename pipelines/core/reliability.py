"""How far probabilities can be taken at their word: proper scores split in two, calibration errors, slope and intercept, one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from pipelines.core import calibration, grid, metrics, recalibration, resample, smooth
from pipelines.core.bounds import Interval, bootstrap_means, checked_weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 5  #: of the recalibration whose gain is the calibration part of a score
WORDS = {
    "calibrated": "calibrated: the slope is 1 within its interval, and the interval is narrow",
    "over-confident": "over-confident: probabilities are more extreme than the outcomes",
    "under-confident": "under-confident: probabilities are less extreme than the outcomes",
    "shifted": "shifted: a class is forecast too often throughout",
    "too few rows to say": "too few rows to say: the slope's interval holds 1 and is wide",
}
NONE = {"mean": float("nan"), "low": float("nan"), "high": float("nan")}


def summary(
    probability: Floats,
    labels: Ints,
    *,
    groups: ArrayLike,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of calibration of `probability` `(n, K)` for `labels` `(n,)`, JSON-ready, each with an interval; NaN where there is none.

    `log_loss` and `brier` (summed over classes) with their parts `calibration` and `refinement`, see `split_rows`; `ece` (plug-in, L1,
    over equal-mass bins; its `debiased` is the L2 error of the same bins, see `metrics.Calibration` and `debiased_interval`, and so no
    correction of `mean`) and `smece`, of the last class where K = 2, else of the most probable class;
    `slope`, `intercept` (null where K > 2), `shift_p_value` and the word `check` of `recalibration.check`; `sentence`. Rows of one of
    `groups` `(n,)` are drawn together; `weights` `(n,)` as in `bounds.mean_interval`. Deterministic under `seed`.
    """
    heavy = checked_weights(weights, labels.size)
    kept = np.ones(labels.size, dtype=bool) if heavy is None else heavy > 0
    if not kept.any() or not np.isfinite(probability).all():
        return _nothing(probability.shape[1])
    probability, labels, codes = probability[kept], labels[kept], resample.codes_of(np.asarray(groups)[kept])
    heavy = None if heavy is None or np.ptp(heavy[kept]) == 0 else heavy[kept]
    judged = recalibration.check(probability, labels, codes, weights=heavy, confidence=confidence)
    options: dict[str, Any] = {"groups": codes, "weights": heavy, "confidence": confidence}
    options |= {"resamples": resamples, "seed": seed}
    intercept = {"mean": judged.intercept, "low": judged.intercept_low, "high": judged.intercept_high}
    found = {
        **_scores(probability, labels, **options),
        **calibration_errors(*metrics.forecast_and_outcome(probability, labels), **options),
        "slope": {"mean": judged.slope, "low": judged.slope_low, "high": judged.slope_high},
        "intercept": intercept if probability.shape[1] == 2 else None,
        "shift_p_value": judged.shift_p_value,
        "check": judged.word,
    }
    return found | {"sentence": sentence(found)}


def _nothing(classes: int) -> dict[str, Any]:
    """The summary of no rows, and of probabilities of which one is no number."""
    score = NONE | {"calibration": NONE, "refinement": NONE}
    nan = float("nan")
    return {
        "log_loss": score,
        "brier": score,
        "ece": NONE | {"null_median": nan, "null_high": nan, "debiased": NONE, "bins": 0},
        "smece": NONE,
        "slope": NONE,
        "intercept": NONE if classes == 2 else None,
        "shift_p_value": nan,
        "check": "too few rows to say",
        "sentence": "too few rows to say: there is no row, or a probability is no number.",
    }


def sentence(found: dict[str, Any]) -> str:
    """Say what the check found, with the slope that it rests on."""
    slope = found["slope"]
    high = f"{slope['high']:.2f}" if np.isfinite(slope["high"]) else "no bound"
    return f"{WORDS[found['check']]} (slope {slope['mean']:.2f}, interval {slope['low']:.2f} to {high})."


def recalibrated(
    probability: Floats, labels: Ints, *, groups: ArrayLike | None = None, weights: Floats | None = None, seed: int = 0
) -> Floats:
    """Probabilities `(n, K)` after logistic recalibration (one slope, a bias per class), each row's fitted on rows of other folds and groups.

    All NaN where there are fewer than two rows (groups).
    """
    codes = np.arange(labels.size) if groups is None else resample.codes_of(groups)
    fold = _folds(labels, codes, seed)
    if fold.max(initial=0) < 1:
        return np.full(probability.shape, np.nan)
    found = np.empty(probability.shape)
    logits = np.log(np.maximum(probability, metrics.SMALLEST))
    for j in range(int(fold.max()) + 1):
        rest, held = fold != j, fold == j
        fitted = calibration.fit("affine", logits[rest], labels[rest], weights=None if weights is None else weights[rest])
        found[held] = calibration.apply(fitted, logits[held])
    return found


def split_rows(probability: Floats, labels: Ints, better: Floats) -> dict[str, Floats]:
    """Rows `(3, n)` of log loss and of Brier score: as it is, its calibration part, its refinement.

    Refinement is the score of `better`, the recalibrated probabilities, and calibration what recalibration takes away: the decomposition
    of proper scores (Bröcker 2009) with its infimum over all recalibrations estimated by the cross-fitted logistic one, the variational
    form of Berta, Bach and Jordan (2024). Cross-fitting makes it honest: the part may be below zero, where there is nothing to repair.
    """
    return {
        name: np.stack([score(probability, labels), score(probability, labels) - score(better, labels), score(better, labels)])
        for name, score in (("log_loss", metrics.log_loss_rows), ("brier", metrics.brier_rows))
    }


def _scores(probability: Floats, labels: Ints, *, seed: int, **options: Any) -> dict[str, Any]:
    """Log loss and Brier score with their parts; all six on the same draws, so that the parts add up in each."""
    better = recalibrated(probability, labels, groups=options["groups"], weights=options["weights"], seed=seed)
    rows = split_rows(probability, labels, better)
    whole = np.stack([parts[0] for parts in rows.values()])
    usable = bool(np.isfinite(better).all())
    series = np.concatenate(list(rows.values())) if usable else np.repeat(whole, 3, axis=0)
    intervals = [_plain(interval) for interval in bootstrap_means(series, seed=seed, **options)]
    parts = [interval if usable else NONE for interval in intervals]
    return {name: intervals[3 * i] | {"calibration": parts[3 * i + 1], "refinement": parts[3 * i + 2]} for i, name in enumerate(rows)}


def calibration_errors(
    forecast: Floats, outcome: NDArray[np.bool_], *, confidence: float, seed: int, weights: Floats | None, **options: Any
) -> dict[str, Any]:
    """ECE, its debiased L2 relative and smECE, with intervals from the same draws."""
    binned = metrics.calibration_error(forecast, outcome, weights=weights, seed=seed)
    row = np.ones(forecast.size) if weights is None else weights
    residual = row[None] @ smooth.mesh_matrix(forecast, outcome - forecast)
    smoothed = float(smooth.smooth_error(residual, row.sum(keepdims=True))[0])
    cells, statistic = error_cells(forecast, outcome, weights)
    drawn = grid.resampled(statistic, [cells], weights=weights, seed=seed, **options)
    plug_in = float(statistic(np.bincount(cells, weights=weights)[None].astype(np.float64))[0, 5])
    ece = error_interval(binned.ece, drawn[:, 0], drawn[:, 1], confidence, floor=binned.null_high)
    debiased = debiased_interval(binned.debiased_l2, plug_in, drawn[:, 4], confidence, floor=ece["high"])
    more = {"null_median": binned.null_median, "null_high": binned.null_high, "debiased": debiased, "bins": binned.bins}
    return {
        "ece": ece | more,
        "smece": error_interval(smoothed, drawn[:, 2], drawn[:, 3], confidence),
    }


def error_interval(estimate: float, draws: Floats, noise: Floats, confidence: float, *, floor: float = 0.0) -> dict[str, float]:
    """Interval of a calibration error, which chance alone makes positive: `draws` `(b,)` resampled, `noise` `(b,)` under no error.

    The basic bootstrap (Davison and Hinkley 1997, section 5.2) takes away the bias of resampling, but too much of it where an error is
    real: so the high bound is at least the estimate plus the upper spread of the draws, without their bias. Nor is it below the upper
    quantile of the noise or `floor` (what a calibrated model shows): an estimate that is small by luck does not show a small error. The
    low bound is 0 where noise alone reaches the estimate too often to exclude it.
    """
    lower, middle, upper = np.quantile(draws, [(1 - confidence) / 2, 0.5, (1 + confidence) / 2])
    by_noise = float(np.quantile(noise, (1 + confidence) / 2))
    low = 0.0 if estimate <= by_noise else float(np.clip(2 * estimate - upper, 0, estimate))
    high = max(2 * estimate - lower, estimate + upper - middle, by_noise, floor, estimate)
    return {"mean": estimate, "low": low, "high": float(min(high, 1.0))}


def debiased_interval(estimate: float, plug_in: float, draws: Floats, confidence: float, *, floor: float) -> dict[str, float]:
    """Interval of `metrics.Calibration.debiased_l2`, by the basic bootstrap of its square, with bounds of at least 0.

    `draws` `(b,)` of the debiased square; they estimate `plug_in`, the square of the bins' own gaps, the truth of the law drawn from.
    The high bound is at least `floor`, that of ECE: a mean absolute gap is never above the root of the mean square. Where the estimate is
    below 0 it is the low bound.
    """
    square = np.sign(estimate) * estimate**2
    lower, upper = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = (float(np.sqrt(max(square + plug_in - bound, 0.0))) for bound in (upper, lower))
    return {"mean": estimate, "low": min(low, estimate), "high": float(min(max(high, estimate, floor), 1.0))}


def error_cells(forecast: Floats, outcome: NDArray[np.bool_], weights: Floats | None = None) -> tuple[Ints, Callable[[Floats], Floats]]:
    """Cells `(n,)` of forecast, bin and outcome, and the statistic of their weights `(b, cells)`: ECE, in the bins of all rows, and smECE.

    It gives `(b, 6)`: ECE, ECE around no error, smECE, smECE around no error, squared L2 error of the bins, debiased and plug-in. Around
    no error: residuals less those of all rows, which leaves the noise of this many rows with their groups and weights. In a cell every
    forecast counts as the cell's mean.
    """
    bins = metrics.equal_mass_bins(forecast, weights=weights)
    cells = grid.cells_of(forecast, bins, outcome.astype(np.int64))
    place, residual = grid.cell_means(forecast, cells, weights), grid.cell_means(outcome - forecast, cells, weights)
    first = np.unique(cells, return_index=True)[1]
    to_bin = sparse.csr_array((residual, (np.arange(place.size), bins[first])))
    to_mesh = smooth.mesh_matrix(place, residual)
    to_mass, to_hits = (
        sparse.csr_array((value, (np.arange(place.size), bins[first]))) for value in (np.ones(place.size), 1.0 * outcome[first])
    )
    row = np.ones(forecast.size) if weights is None else weights
    per_mass = np.bincount(bins, weights=row) / np.bincount(bins, weights=row**2)
    shares = np.bincount(cells, weights=weights) / (forecast.size if weights is None else weights.sum())

    def statistic(drawn: Floats) -> Floats:
        total = drawn.sum(axis=1)
        both = np.concatenate([drawn, drawn - total[:, None] * shares])
        twice = np.concatenate([total, total])
        binned = np.abs(both @ to_bin).sum(axis=1) / twice
        mass = np.maximum(drawn @ to_mass, 1e-300)
        gap, rate = drawn @ to_bin / mass, drawn @ to_hits / mass
        squares = [metrics.debiased_square(gap, rate, mass, per_mass), (gap**2 * mass).sum(axis=1) / mass.sum(axis=1)]
        return np.concatenate([binned, smooth.smooth_error(both @ to_mesh, twice), *squares]).reshape(6, -1).T

    return cells, statistic


def _folds(labels: Ints, codes: Ints, seed: int) -> Ints:
    """Fold `(n,)` of each row: groups stay whole, and the classes of their first rows are dealt evenly, in random order."""
    _, first = np.unique(codes, return_index=True)
    shuffled = np.random.default_rng(seed).permutation(first.size)
    order = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    fold = np.empty(first.size, dtype=np.int64)
    fold[order] = np.arange(first.size) % FOLDS
    return np.asarray(fold[codes], dtype=np.int64)


def _plain(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
