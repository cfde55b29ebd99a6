"""Stage `calibrate`: choose and fit the calibrator on calib, cross-fitted, and say what it changed. Sees no utility."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import store
from pipelines.core import calibration, crossfit, labelshift, metrics, reliability
from pipelines.errors import must
from pipelines.params import load
from pipelines.params.calibrate import Calibrate

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Calib:
    """Calib rows, or some of them: logits `(n, K)`, labels, groups and weights `(n,)`."""

    logits: Float
    labels: Int
    groups: Int
    weights: Float

    def only(self, mask: Bool) -> Calib:
        """The rows of `mask` `(n,)`."""
        return Calib(self.logits[mask], self.labels[mask], self.groups[mask], self.weights[mask])

    def fit(self, method: str) -> dict[str, Any]:
        """Calibrator fitted on these rows."""
        return calibration.fit(method, self.logits, self.labels, weights=self.weights)


def main() -> None:
    """Read split and train, write `data/calibrate`."""
    options = load(Calibrate)
    rows, calib, classes = read_calib()
    methods = suitable(options.methods, len(classes))
    folds = crossfit.feasible_folds(calib.labels, calib.groups, options.folds, classes)
    masks = crossfit.folds_of(calib.labels, calib.groups, folds=folds, repeats=options.repeats, seed=options.seed)
    choice = crossfit.simplest_not_worse(crossfitted(methods, calib, masks)[1], calib.groups, weights=calib.weights)
    method = methods[choice.chosen]
    calibrator = calib.fit(method)
    without_fold, in_folds = nested(methods, calib, masks, folds=folds, seed=options.seed)

    before, after = calibration.softmax(calib.logits), calibration.normalise(crossfit.out_of_fold(without_fold, masks).mean(axis=0))
    summary: dict[str, Any] = {
        "method": method,
        "methods_in_folds": in_folds,
        "rows": len(rows),
        "folds": folds,
        "repeats": options.repeats,
        "candidates": candidates(methods, choice),
        "why": why(methods, choice),
        "notes": notes(options, methods, folds),
        "temperature": calib.fit("temperature")["slope"],
        "before": figures(before, calib, options.seed),
        "after": figures(after, calib, options.seed),
    }
    summary |= {key: summary["after"][key] for key in ("check", "sentence")}
    with store.stage_folder("calibrate") as out:
        # of the calibrator that ships: a batch is held against it, and other folds' calibrators have their steps in other places
        shipped = calibration.apply(calibrator, calib.logits)
        reference = labelshift.reference(shipped, calib.labels, weights=calib.weights)
        store.write_json(out / "calibrator.json", {**calibrator, "reference": reference})
        np.save(out / "crossfit.npy", without_fold)
        np.save(out / "folds.npy", masks)
        np.save(out / "rows.npy", rows)
        np.save(out / "probabilities.npy", shipped)
        store.write_json(out / "summary.json", summary)
        store.write_json(out / "metrics.json", flat(summary))
        write_reliability(out / "reliability.csv", before, after, calib)


def read_calib() -> tuple[Int, Calib, list[str]]:
    """Rows that calibrator and policy are fitted on, with logits of networks that never saw them: indices, what is known, the class names."""
    classes = store.read_json(store.stage_path("split", "meta.json"))["classes"]
    rows = np.flatnonzero(_array("split", "calib.npy")).astype(np.int64)
    scored = _array("train", "rows.npy")
    order = np.argsort(scored)
    at = np.searchsorted(scored, rows, sorter=order).clip(max=max(len(scored) - 1, 0))
    if len(scored) == 0 or (scored[order[at]] != rows).any():
        raise must("data/train must hold the logits of every calib row", "some are missing", "Run `dvc repro train`.")
    logits = _array("train", "logits.npy")[order[at]].astype(np.float64)
    if logits.shape[1] != len(classes):
        raise must(f"logits must have one column per class {classes}", f"got {logits.shape[1]}", "Run `dvc repro train`.")
    labels, groups, weights = (_array("split", f"{name}.npy")[rows] for name in ("labels", "groups", "weights"))
    return rows, Calib(logits, labels.astype(np.int64), groups.astype(np.int64), weights.astype(np.float64)), classes


def _array(stage: str, name: str) -> Any:
    return np.load(store.need(store.stage_path(stage, name)), allow_pickle=False)


def suitable(methods: Sequence[str], classes: int) -> list[str]:
    """Those of `methods` that are for this number of classes; raises ExpostError where none is."""
    found = [method for method in methods if calibration.suits(method, classes)]
    if not found:
        able = [method for method in calibration.METHODS if calibration.suits(method, classes)]
        raise must(f"calibrate.methods must hold one of {able} for {classes} classes", f"got {list(methods)}", "Add one in params.yaml.")
    return found


def crossfitted(methods: Sequence[str], calib: Calib, masks: Bool) -> tuple[Float, Float]:
    """Each row by calibrators fitted without its fold: probabilities `(methods, repeats, n, K)`, log loss `(methods, n)` over the repeats."""

    def fit_predict(rest: Bool, held: Bool) -> Float:
        given = calib.only(rest)
        return np.stack([calibration.apply(given.fit(method), calib.logits[held]) for method in methods], axis=1)

    found = np.moveaxis(crossfit.crossfit(masks, fit_predict), 2, 0)
    return found, np.stack([np.mean([metrics.log_loss_rows(p, calib.labels) for p in repeats], axis=0) for repeats in found])


def nested(methods: Sequence[str], calib: Calib, masks: Bool, *, folds: int, seed: int) -> tuple[Float, list[str]]:
    """Probabilities `(J, n, K)` as whoever works without fold j would have them, and the method that was chosen without it.

    Entries of rows held out in j are by the calibrator that the rest chose and fitted. Entries of the rest are cross-fitted within the
    rest, in `folds` inner folds, by the same method: so what is tuned on the rest sees probabilities as honest as those it will meet.
    """
    found, chosen = np.empty((len(masks), *calib.logits.shape)), []
    for j, held in enumerate(masks):
        rest = calib.only(~held)
        inner = inner_folds(rest, folds, seed)
        honest, losses = crossfitted(methods, rest, inner)
        choice = crossfit.simplest_not_worse(losses, rest.groups, weights=rest.weights)
        chosen.append(methods[choice.chosen])
        found[j, ~held] = honest[choice.chosen, 0]
        found[j, held] = calibration.apply(rest.fit(chosen[-1]), calib.logits[held])
    return found, chosen


def inner_folds(rest: Calib, folds: int, seed: int) -> Bool:
    """Masks of at most `folds` folds of these rows; at least two, whatever their classes."""
    rarest = int(crossfit.units_per_class(rest.labels, rest.groups).min())
    return crossfit.folds_of(rest.labels, rest.groups, folds=max(2, min(folds, rarest)), repeats=1, seed=seed)


def figures(probability: Float, calib: Calib, seed: int) -> dict[str, Any]:
    """Log loss, Brier and calibration of `probability` `(n, K)` on these rows, with intervals."""
    return reliability.summary(probability, calib.labels, groups=calib.groups, weights=calib.weights, seed=seed)


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


def notes(options: Calibrate, methods: Sequence[str], folds: int) -> list[str]:
    """What a reader should know about the folds, and about candidates that were asked for by name and left out."""
    found = []
    if folds != options.folds:
        found.append(
            f"calibrate.folds is {options.folds}; {folds} were used, since the rarest class has only {folds} rows (groups) in calib."
        )
    left_out = [method for method in options.methods if method not in methods]
    if left_out and options.methods != Calibrate().methods:
        found.append(f"calibrate.methods: {' and '.join(left_out)} left out, being for another number of classes.")
    return found


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
        "smece_before": before["smece"]["mean"],
        "smece_after": after["smece"]["mean"],
        "slope_before": before["slope"]["mean"],
        "slope_after": after["slope"]["mean"],
        "rows": summary["rows"],
    }


def write_reliability(path: Path, before: Float, after: Float, calib: Calib) -> None:
    """Points of the reliability diagram, before and after (the mean over repeats)."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["series", "mean_probability", "observed_rate", "rows"])
        for series, probability in (("before", before), ("after", after)):
            for point in metrics.reliability_curve(*metrics.forecast_and_outcome(probability, calib.labels), weights=calib.weights):
                writer.writerow([series, f"{point['mean_probability']:.6f}", f"{point['observed_rate']:.6f}", point["rows"]])


if __name__ == "__main__":
    store.run_stage(main)
