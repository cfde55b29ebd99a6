"""Seconds, memory and error of intervals over a million rows: `python -m benchmarks.intervals`.

Means are resampled row by row. AUC, ECE and smECE are resampled by fine cells of the score; what that costs in accuracy is measured on
the same draws of rows, the statistic of the cells beside the exact one.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import machine, save
from pipelines.core import grid, metrics, reliability, smooth
from pipelines.core.bounds import bootstrap_mean

ROWS, RESAMPLES, COMPARED = 1_000_000, 1000, 10
BOUND = 20.0  #: seconds that the project promises for 1,000 resamples of a mean over 1e6 rows on two cores


def main() -> None:
    probability, labels = draw(ROWS)
    taken = means(probability, labels) | ranks(probability, labels) | summaries()
    errors = approximation(probability, labels)
    found = {"rows": ROWS, "resamples": RESAMPLES, "figures": taken, "approximation": errors, "bound_of_a_mean": BOUND}
    save("intervals", {"machine": machine(), **found, "largest_process_mb": peak_mb()})
    for name, figure in taken.items():
        print(
            f"{name:44s} {figure['seconds']:8.1f} s  {figure['cpu_seconds']:8.1f} s of CPU   {figure['mean']:.5f} ({figure['low']:.5f} to {figure['high']:.5f})"
        )
    for name, error in errors.items():
        print(f"{name:44s} {error['largest']:.1e} off at most, on {COMPARED} draws of an interval {error['width']:.1e} wide")
    print(f"largest process {peak_mb():.0f} MB")


def draw(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, 1e6 distinct scores, slightly over-confident, a tenth positive."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-3, 2, rows)
    positive = 1 / (1 + np.exp(-odds))
    labels = (rng.random(rows) < 1 / (1 + np.exp(-0.9 * odds))).astype(np.int64)
    return np.stack([1 - positive, positive], axis=1), labels


def means(probability: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Utility at 5:1 under Elkan's threshold, log loss and Brier score."""
    utility = np.array([[0.0, -1.0], [-5.0, 0.0]])[labels, (probability[:, 1] >= 1 / 6).astype(int)]
    series = {"utility": utility, "log loss": metrics.log_loss_rows(probability, labels), "Brier": metrics.brier_rows(probability, labels)}
    return {f"mean of {name}": timed(lambda v=values: vars(bootstrap_mean(v, resamples=RESAMPLES))) for name, values in series.items()}


def ranks(probability: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """AUC, and ECE with smECE, from cells of the score."""
    forecast, outcome = metrics.forecast_and_outcome(probability, labels)
    errors: dict[str, Any] = {}

    def both() -> dict[str, Any]:
        options = {"groups": None, "weights": None, "resamples": RESAMPLES, "seed": 0, "confidence": 0.95}
        errors.update(reliability.calibration_errors(forecast, outcome, **options))
        return errors["smece"]

    auc = timed(lambda: vars(metrics.auc_interval(probability, labels, resamples=RESAMPLES)))
    smece = timed(both)
    ece = {key: errors["ece"][key] for key in ("mean", "low", "high")}
    return {
        "AUC": auc,
        "smECE (time with ECE)": smece,
        "ECE (time with smECE)": ece | {key: smece[key] for key in ("seconds", "cpu_seconds")},
    }


def summaries() -> dict[str, Any]:
    """The whole summary of reliability, its smECE shown."""
    found = {}
    for rows in (100_000, ROWS):
        probability, labels = draw(rows, 1)
        groups = np.arange(rows)
        made = timed(lambda p=probability, y=labels, g=groups: reliability.summary(p, y, groups=g, resamples=RESAMPLES)["smece"])
        found[f"reliability summary, {rows:,} rows"] = made
    return found


def approximation(probability: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Largest difference between cells and rows over draws of rows, beside the spread of the statistic and seconds of one exact draw."""
    forecast, outcome = metrics.forecast_and_outcome(probability, labels)
    cells, statistic = reliability.error_cells(forecast, outcome)
    ranked = 2 * grid.cells_of(forecast) + labels
    bins, mesh = metrics.equal_mass_bins(forecast), smooth.mesh_matrix(forecast, outcome - forecast)
    rng, exact, quick = np.random.default_rng(0), [], []
    started = time.perf_counter()
    for _ in range(COMPARED):
        drawn = np.bincount(rng.integers(ROWS, size=ROWS), minlength=ROWS).astype(float)
        binned = np.abs(np.bincount(bins, weights=drawn * (outcome - forecast))).sum() / ROWS
        smoothed = smooth.smooth_error(drawn[None] @ mesh, np.array([float(ROWS)]))[0]
        exact.append([metrics.weighted_auc(forecast, outcome, drawn[None])[0], binned, smoothed])
        error = statistic(np.bincount(cells, weights=drawn)[None])[0]
        quick.append([metrics.grid_auc(np.bincount(ranked, weights=drawn)[None])[0], error[0], error[2]])
    seconds = (time.perf_counter() - started) / COMPARED
    off, spread = np.abs(np.array(quick) - exact).max(axis=0), 2 * 1.96 * np.std(exact, axis=0)
    names = ("AUC", "ECE", "smECE")
    return {
        name: {"largest": float(o), "width": float(w), "seconds_of_an_exact_draw": seconds}
        for name, o, w in zip(names, off, spread, strict=True)
    }


def timed(make: Callable[[], dict[str, Any]]) -> dict[str, float]:
    """Mean, low and high of what `make` gives, and the seconds it took, by the clock and of all cores together."""
    started, spent = time.perf_counter(), time.process_time()
    found = make()
    taken = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - spent}
    return {**taken, **{key: found[key] for key in ("mean", "low", "high")}}


def peak_mb() -> float:
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
