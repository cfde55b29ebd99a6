"""Stage `calibrate`: choose and fit the calibrator on calib, cross-fitted, and say what it changed. Sees no utility."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import store
from pipelines.core import calibration, crossfit, metrics, recalibration
from pipelines.core.bounds import Interval, bootstrap_interval
from pipelines.errors import must
from pipelines.params import load
from pipelines.params.calibrate import Calibrate

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

CALIB = 2
WORDS = {
    "calibrated": "calibrated: the slope is 1 within its interval, and the interval is narrow",
    "over-confident": "over-confident: probabilities are more extreme than the outcomes",
    "under-confident": "under-confident: probabilities are less extreme than the outcomes",
    "shifted": "shifted: a class is forecast too often throughout",
    "too few rows to say": "too few rows to say: the slope's interval holds 1 and is wide",
}


def main() -> None:
    """Read split and train, write `data/calibrate`."""
    options = load(Calibrate)
    rows, logits, labels, groups, classes = read_calib()
    folds = crossfit.feasible_folds(labels, groups, options.folds, classes)
    masks = crossfit.folds_of(labels, groups, folds=folds, repeats=options.repeats, seed=options.seed)
    losses = candidate_losses(options.methods, logits, labels, masks)
    choice = crossfit.simplest_not_worse(losses, groups)
    method = options.methods[choice.chosen]
    calibrator = calibration.fit(method, logits, labels)
    fitted = [
        choose_and_fit(options.methods, logits[~held], labels[~held], groups[~held], folds=folds, seed=options.seed) for held in masks
    ]
    crossfitted = np.stack([calibration.apply(c, logits) for c in fitted])

    before, after = calibration.softmax(logits), crossfit.out_of_fold(crossfitted, masks)
    summary: dict[str, Any] = {
        "method": method,
        "methods_in_folds": [c["method"] for c in fitted],
        "rows": len(rows),
        "folds": folds,
        "repeats": options.repeats,
        "candidates": candidates(options.methods, choice),
        "why": why(options.methods, choice),
        "notes": notes(options, folds),
        "before": figures(before[None], labels, groups, options.seed),
        "after": figures(after, labels, groups, options.seed),
    }
    summary["check"] = summary["after"]["check"]
    summary["sentence"] = sentence(summary["after"])
    with store.stage_folder("calibrate") as out:
        store.write_json(out / "calibrator.json", calibrator)
        np.save(out / "crossfit.npy", crossfitted)
        np.save(out / "folds.npy", masks)
        np.save(out / "rows.npy", rows)
        np.save(out / "probabilities.npy", calibration.apply(calibrator, logits))
        store.write_json(out / "summary.json", summary)
        store.write_json(out / "metrics.json", flat(summary))
        write_reliability(out / "reliability.csv", before, after, labels)


def read_calib() -> tuple[Int, Float, Int, Int, list[str]]:
    """Rows of the part calib: indices, logits `(n, K)`, labels, groups, and the class names."""
    classes = store.read_json(store.stage_path("split", "meta.json"))["classes"]
    rows = np.flatnonzero(_array("split", "parts.npy") == CALIB).astype(np.int64)
    scored = _array("train", "rows.npy")
    order = np.argsort(scored)
    at = np.searchsorted(scored, rows, sorter=order).clip(max=max(len(scored) - 1, 0))
    if len(scored) == 0 or (scored[order[at]] != rows).any():
        raise must("data/train must hold the logits of every calib row", "some are missing", "Run `dvc repro train`.")
    logits = _array("train", "logits.npy")[order[at]].astype(np.float64)
    if logits.shape[1] != len(classes):
        raise must(f"logits must have one column per class {classes}", f"got {logits.shape[1]}", "Run `dvc repro train`.")
    labels = _array("split", "labels.npy")[rows].astype(np.int64)
    return rows, logits, labels, _array("split", "groups.npy")[rows].astype(np.int64), classes


def _array(stage: str, name: str) -> Any:
    return np.load(store.need(store.stage_path(stage, name)), allow_pickle=False)


def candidate_losses(methods: Sequence[str], logits: Float, labels: Int, masks: Bool) -> Float:
    """Cross-fitted log loss `(methods, n)` of each candidate per row, averaged over the repeats."""

    def losses(method: str) -> Float:
        def fit_predict(rest: Bool, held: Bool) -> Float:
            fitted = calibration.fit(method, logits[rest], labels[rest])
            return metrics.log_loss_rows(calibration.apply(fitted, logits[held]), labels[held])

        return np.asarray(crossfit.crossfit(masks, fit_predict).mean(axis=0))

    return np.stack([losses(method) for method in methods])


def choose_and_fit(methods: Sequence[str], logits: Float, labels: Int, groups: Int, *, folds: int, seed: int) -> dict[str, Any]:
    """Choose among `methods` by cross-fitting within these rows, once, and fit the choice on all of them."""
    if len(methods) == 1:
        return calibration.fit(methods[0], logits, labels)
    inner = min(folds, int(crossfit.units_per_class(labels, groups).min()))
    masks = crossfit.folds_of(labels, groups, folds=max(inner, 2), repeats=1, seed=seed)
    choice = crossfit.simplest_not_worse(candidate_losses(methods, logits, labels, masks), groups)
    return calibration.fit(methods[choice.chosen], logits, labels)


def figures(probability: Float, labels: Int, groups: Int, seed: int) -> dict[str, Any]:
    """Log loss, Brier and calibration of `probability` `(repeats, n, K)`, with intervals; the check looks at the mean over repeats."""
    log_loss = np.mean([metrics.log_loss_rows(p, labels) for p in probability], axis=0)
    brier = np.mean([metrics.brier_rows(p, labels) for p in probability], axis=0)
    mean = calibration.normalise(probability.mean(axis=0))
    error = metrics.calibration_error(*metrics.forecast_and_outcome(mean, labels), seed=seed)
    slope = recalibration.check(mean, labels, groups)
    return {
        "log_loss": _interval(log_loss, groups, seed),
        "brier": _interval(brier, groups, seed),
        "ece": {"mean": error.ece, "null_median": error.null_median, "null_high": error.null_high, "debiased_l2": error.debiased_l2},
        "slope": {"mean": slope.slope, "low": slope.slope_low, "high": slope.slope_high},
        "intercept": slope.intercept,
        "shift_p_value": slope.shift_p_value,
        "check": slope.word,
    }


def _interval(values: Float, groups: Int, seed: int) -> dict[str, float]:
    found: Interval = bootstrap_interval(lambda w: (w @ values) / w.sum(axis=1), len(values), groups=groups, seed=seed)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def candidates(methods: Sequence[str], choice: crossfit.Choice) -> list[dict[str, Any]]:
    """One entry per candidate, in order of simplicity: cross-fitted log loss, excess over the best, standard error of the excess."""
    keys = ("method", "log_loss", "excess", "error")
    return [dict(zip(keys, entry, strict=True)) for entry in zip(methods, choice.mean, choice.excess, choice.error, strict=True)]


def why(methods: Sequence[str], choice: crossfit.Choice) -> str:
    """Say in one sentence why the calibrator was chosen."""
    chosen, best = methods[choice.chosen], methods[choice.best]
    if len(methods) == 1:
        return f"{chosen} is the only candidate under calibrate.methods."
    if chosen == best == methods[0]:
        return f"{chosen}, the simplest candidate, has the lowest cross-fitted log loss too ({choice.mean[choice.best]:.4f})."
    if chosen == best:
        return f"{chosen} has the lowest cross-fitted log loss ({choice.mean[choice.best]:.4f}), and no simpler candidate comes near it."
    return (
        f"{chosen} is the simplest candidate that is not clearly worse than the best, {best}: its cross-fitted log loss is "
        f"{choice.excess[choice.chosen]:.4f} higher, with a standard error of {choice.error[choice.chosen]:.4f}."
    )


def sentence(found: dict[str, Any]) -> str:
    """Say what the check found, with the slope that it rests on."""
    slope = found["slope"]
    high = f"{slope['high']:.2f}" if np.isfinite(slope["high"]) else "no bound"
    return f"{WORDS[found['check']]} (slope {slope['mean']:.2f}, interval {slope['low']:.2f} to {high})."


def notes(options: Calibrate, folds: int) -> list[str]:
    """What a reader should know about the folds."""
    if folds == options.folds:
        return []
    return [f"calibrate.folds is {options.folds}; {folds} were used, since the rarest class has only {folds} rows (groups) in calib."]


def flat(summary: dict[str, Any]) -> dict[str, float]:
    """Figures for `dvc metrics show`, cross-fitted on calib."""
    before, after = summary["before"], summary["after"]
    return {
        "log_loss_before": before["log_loss"]["mean"],
        "log_loss_after": after["log_loss"]["mean"],
        "brier_before": before["brier"]["mean"],
        "brier_after": after["brier"]["mean"],
        "ece_before": before["ece"]["mean"],
        "ece_after": after["ece"]["mean"],
        "slope_before": before["slope"]["mean"],
        "slope_after": after["slope"]["mean"],
        "rows": summary["rows"],
    }


def write_reliability(path: Path, before: Float, after: Float, labels: Int) -> None:
    """Points of the reliability diagram, before and after (the mean over repeats)."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["series", "mean_probability", "observed_rate", "rows"])
        for series, probability in (("before", before), ("after", after.mean(axis=0))):
            for point in metrics.reliability_curve(*metrics.forecast_and_outcome(probability, labels)):
                writer.writerow([series, f"{point['mean_probability']:.6f}", f"{point['observed_rate']:.6f}", point["rows"]])


if __name__ == "__main__":
    store.run_stage(main)
