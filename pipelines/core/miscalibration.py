"""Tests of calibration that a perfectly calibrated model passes at any number of rows: error above its null band, slope and intercept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.core import metrics, recalibration, resample
from pipelines.core.bounds import effective_size
from pipelines.core.recalibration import FEW, Outside

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS, MANY = 200, 1999  #: outcomes drawn from the forecasts: for the null band, and for a p-value that may decide


@dataclass(frozen=True)
class ErrorTest:
    """Calibration error (plug-in, over equal-mass bins), what a calibrated model shows, and the p-value of being one."""

    error: float
    null_median: float
    null_high: float
    p_value: float

    @property
    def excess(self) -> float:
        """The error above the median of a calibrated model."""
        return self.error - self.null_median

    @property
    def band(self) -> float:
        """Upper half of the null band: how far noise alone lifts the error above its median."""
        return self.null_high - self.null_median


def error_test(
    probability: Floats, labels: Ints, *, groups: Ints | None = None, weights: Floats | None = None, draws: int = DRAWS, seed: int = 0
) -> ErrorTest:
    """Compare the calibration error of `probability` `(n, K)`, finite, n >= 1, with its distribution where outcomes are drawn from them.

    Of the last class where K = 2, else of the most probable one. Outcomes within a group depend on each other, which widens the null band
    by the root of the design effect of the bins' residuals, pooled with 20 effective rows without one. The least p-value is 1 / (1 + draws).
    """
    forecast, outcome = metrics.forecast_and_outcome(probability, labels)
    weight = np.ones(forecast.size) if weights is None else weights
    place = metrics.equal_mass_bins(forecast, weights=weight)
    gap = np.bincount(place, weights=weight * (outcome - forecast))
    null = metrics.null_errors(forecast, weight, place, draws, seed)
    null = null * np.sqrt(_design_effect(outcome - forecast, forecast, place, weight, groups))
    error = float(np.abs(gap).sum() / weight.sum())
    median, high = np.quantile(null, [0.5, 0.95])
    p_value = (1 + int((null >= error * (1 - 1e-12)).sum())) / (1 + draws)
    return ErrorTest(error, float(median), float(high), p_value)


def _design_effect(residual: Floats, forecast: Floats, place: Ints, weight: Floats, groups: Ints | None) -> float:
    """Variance of the bins' sums of residuals, summed by group, over that of independent rows; at least 1."""
    if groups is None:
        return 1.0
    codes = resample.codes_of(groups)
    if int(codes.max()) + 1 == residual.size:
        return 1.0
    cells = np.unique(codes * (int(place.max()) + 1) + place, return_inverse=True)[1]
    weighted = weight * residual
    grouped, alone = float((np.bincount(cells, weights=weighted) ** 2).sum()), float(weighted @ weighted)
    rows = effective_size(weight)
    raw = grouped / alone if alone > 0 else 1.0
    return max(1.0, (rows * raw + FEW) / (rows + FEW))


def outside(
    probability: Floats,
    labels: Ints,
    *,
    slope: tuple[float, float],
    intercept: tuple[float, float],
    groups: Ints | None = None,
    weights: Floats | None = None,
) -> dict[str, Outside]:
    """Slope, and for two classes intercept, with the p-value of lying within their ranges; see `recalibration.outside`."""
    codes = np.arange(labels.size) if groups is None else groups
    return recalibration.outside(probability, labels, codes, slope=slope, intercept=intercept, weights=weights)


def intervals(
    probability: Floats, labels: Ints, alpha: float, *, groups: Ints | None = None, weights: Floats | None = None
) -> dict[str, tuple[float, float, float]]:
    """Slope, and for two classes intercept, each with the bounds that it lies beyond with probability alpha on either side."""
    codes = np.arange(labels.size) if groups is None else groups
    found = recalibration.check(probability, labels, codes, weights=weights, confidence=1 - 2 * alpha)
    made = {"slope": (found.slope, found.slope_low, found.slope_high)}
    if probability.shape[1] == 2:
        made["intercept"] = (found.intercept, found.intercept_low, found.intercept_high)
    return made
