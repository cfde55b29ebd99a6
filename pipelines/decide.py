"""Stage `decide`: the utility matrix becomes a decision policy; analytic, exact and Optuna's compete on cross-fitted calib rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import search, store, utilities
from pipelines.candidates import Calib, candidate, choose, crossfitted_actions, interval, tune, utility_of
from pipelines.core import policy, threshold
from pipelines.core.bounds import Interval, effective_size
from pipelines.core.sample import Sample
from pipelines.core.utility import difference_range, of_class, regret_of, trivial, value_range
from pipelines.errors import must
from pipelines.params import load
from pipelines.params.decide import Decide
from pipelines.params.utility import Utility

if TYPE_CHECKING:
    import polars as pl

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def main() -> None:
    """Read split, calibrate and the cost columns of ingest, write `data/decide`."""
    options, utility = load(Decide), load(Utility)
    calib, prior = read_calib(utility)
    two = calib.U.shape[-1] == 2
    names: list[str] = [name for name in dict.fromkeys(("analytic", *options.policies)) if name != "exact" or two]
    per_row = {name: utility_of(crossfitted_actions(name, calib, options), calib) for name in names}
    pooled = calib.pooled()
    study = search.search(pooled, trials=options.trials, seed=options.seed) if "optuna" in names else None
    tuned = {name: tune(name, pooled, options, study=study) for name in names}
    candidates = [candidate(name, per_row, tuned[name], calib, options=options) for name in names]
    chosen, why = choose(candidates, options, utility.unit)
    shipped = policy.make(
        chosen,
        classes=calib.classes,
        actions=utility.actions,
        cells=utility.cells(calib.classes),
        unit=utility.unit,
        offsets=tuned[chosen].offsets,
        prices=tuned[chosen].prices,
        prior=prior,
    )
    summary = {
        **overview(calib, utility, per_row[chosen], options),
        "prior": prior_summary(calib, prior),
        "candidates": candidates,
        "chosen": chosen,
        "why": why,
        "threshold": shipped["threshold"],
        "notes": [] if two or "exact" not in options.policies else ["The exact cut-off is for two actions; it was left out."],
    }
    with store.stage_folder("decide") as out:
        store.write_json(out / "policy.json", shipped)
        store.write_json(out / "summary.json", summary)
        store.write_json(out / "metrics.json", flat(summary))
        write_study(out, study, calib.classes, utility.actions)
        write_curve(out / "utility_curve.csv", pooled)


def read_calib(utility: Utility) -> tuple[Calib, dict[str, list[float]] | None]:
    """Read what calibrate wrote, with the labels, groups, weights and utilities of its rows; and the class prior where one is declared."""

    def array(stage: str, name: str) -> Any:
        return np.load(store.need(store.stage_path(stage, name)), allow_pickle=False)

    rows, crossfitted = array("calibrate", "rows.npy"), array("calibrate", "crossfit.npy")
    classes = tuple(store.read_json(store.stage_path("split", "meta.json"))["classes"])
    if not np.allclose(crossfitted.sum(axis=2), 1, atol=1e-6):
        raise must("data/calibrate/crossfit.npy must hold probabilities", "rows do not sum to 1", "Run `dvc repro calibrate`.")
    labels, groups, weights = (array("split", f"{name}.npy")[rows] for name in ("labels", "groups", "weights"))
    shipped, prior = array("calibrate", "probabilities.npy"), class_prior(utility, classes, labels, weights)
    if prior is not None:
        ratio = np.array(prior["deployment"]) / np.array(prior["data"])
        weights = weights * ratio[labels]
        crossfitted, shipped = (policy.under_prior(p, prior["data"], prior["deployment"]) for p in (crossfitted, shipped))
    cells = utility.cells(classes)
    U = utilities.values(cells, cost_columns(cells, rows), _row_numbers(rows))
    masks = array("calibrate", "folds.npy")
    return Calib(crossfitted, shipped, masks, labels.astype(np.int64), groups.astype(np.int64), weights, U, classes), prior


def cost_columns(cells: utilities.Cells, rows: Int) -> pl.DataFrame | None:
    """The columns that the cells read, for these rows of the table; None where every cell is a number."""
    if not utilities.expressions(cells):
        return None
    import polars as pl

    names = utilities.columns(cells)
    frame = pl.scan_parquet(store.need(store.stage_path("ingest", "table.parquet")))
    absent = [name for name in names if name not in frame.collect_schema()]
    if absent:
        remedy = "Give it the role cost under ingest.columns, or mend the expression under utility.matrix."
        raise must("an expression in utility.matrix must name columns of the table", f"{absent[0]!r} is not in it", remedy)
    return frame.select(names).collect()[rows]


def _row_numbers(rows: Int) -> pl.Series:
    import polars as pl

    return pl.Series(rows + 1)


def class_prior(utility: Utility, classes: tuple[str, ...], labels: Int, weights: Float) -> dict[str, list[float]] | None:
    """Class shares of the data, as weighted calib rows show them, and of the deployment as declared; None where none are."""
    counts = np.maximum(np.bincount(labels, weights=weights, minlength=len(classes)), 0.5)
    data = counts / counts.sum()
    deployment = utility.class_prior(classes, data)
    return None if deployment is None else {"data": data.tolist(), "deployment": deployment}


def prior_summary(calib: Calib, prior: dict[str, list[float]] | None) -> dict[str, Any] | None:
    """The class prior by name, with the number of rows that calib's are worth under it."""
    if prior is None:
        return None
    named = {key: dict(zip(calib.classes, shares, strict=True)) for key, shares in prior.items()}
    return {**named, "rows": len(calib.labels), "effective_rows": effective_size(calib.weights)}


def overview(calib: Calib, utility: Utility, chosen: Float, options: Decide) -> dict[str, Any]:
    """Utility of the chosen policy, cross-fitted, beside the trivial policies and argmax, and its gain over the best trivial one."""
    pooled, worth = calib.pooled(), of_class(calib.U, calib.labels)
    ignoring = utility_of(policy.argmax_ignoring_costs(pooled.probability, pooled.U).reshape(calib.repeats, -1), calib)
    always = trivial(calib.labels, calib.U, calib.weights)
    best, spread = int(always.argmax()), difference_range(calib.U)
    found = interval(chosen, calib, value_range(calib.U), options.confidence)
    argmax = interval(ignoring, calib, value_range(calib.U), options.confidence)
    gain = interval(chosen - worth[:, best], calib, (-spread, spread), options.confidence)

    def regret(values: Float) -> float:
        return float(np.average(regret_of(values, calib.labels, calib.U), weights=calib.weights))

    return {
        "classes": list(calib.classes),
        "actions": list(utility.actions),
        "unit": utility.unit,
        "matrix": utility.cells(calib.classes),
        "rows": len(calib.labels),
        "folds": len(calib.masks),
        "confidence": options.confidence,
        "utility": _plain(found),
        "regret": regret(chosen),
        "gain": _plain(gain),
        "trivial": [{"policy": f"always {a}", "action": a, "utility": float(u)} for a, u in zip(utility.actions, always, strict=True)],
        "best_trivial": f"always {utility.actions[best]}",
        "argmax": {**_plain(argmax), "regret": regret(ignoring)},
    }


def _plain(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def flat(summary: dict[str, Any]) -> dict[str, float]:
    """Figures for `dvc metrics show`, cross-fitted on calib."""
    figures = {
        "utility": summary["utility"]["mean"],
        "utility_low": summary["utility"]["low"],
        "utility_high": summary["utility"]["high"],
        "gain": summary["gain"]["mean"],
        "regret": summary["regret"],
        "utility_argmax": summary["argmax"]["mean"],
    }
    for entry in summary["trivial"]:
        figures["utility_always_" + re.sub(r"\W+", "_", entry["action"])] = entry["utility"]
    if summary["threshold"] is not None:
        figures["threshold"] = summary["threshold"]
    return figures


def write_study(out: Path, study: search.Study | None, classes: Sequence[str], actions: Sequence[str]) -> None:
    """Write the trials as CSV and, for the plots, as JSON; without a study the CSV has its header only."""
    names = [] if study is None else [_readable(name, classes, actions) for name in study.names]
    with (out / "trials.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["trial", "source", *names, "utility", "best_so_far"])
        if study is not None:
            best = np.maximum.accumulate(study.values)
            for i, (source, point) in enumerate(zip(study.sources, study.points.tolist(), strict=True)):
                writer.writerow([i, source, *point, float(study.values[i]), float(best[i])])
    data: dict[str, Any] = {}
    if study is not None:
        data = {
            "names": names,
            "points": study.points.tolist(),
            "values": study.values.tolist(),
            "best_so_far": np.maximum.accumulate(study.values).tolist(),
            "sources": list(study.sources),
            "importance": {_readable(n, classes, actions): v for n, v in study.importance.items()},
        }
    store.write_json(out / "study.json", data)


def _readable(name: str, classes: Sequence[str], actions: Sequence[str]) -> str:
    kind, index = name.split("_")
    return f"{kind} of {classes[int(index)] if kind == 'offset' else actions[int(index)]}"


def write_curve(path: Path, pooled: Sample) -> None:
    """Mean utility along the threshold, for two classes and two actions: even steps of the probability and of the log-odds."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["threshold", "utility"])
        if pooled.U.shape != (2, 2):
            return
        odds = threshold.log_odds(pooled.probability)
        grid = np.concatenate([np.linspace(0.01, 0.99, 99), 1 / (1 + np.exp(-np.linspace(odds.min(), odds.max(), 98)))])
        second = int(pooled.U[1].argmax())
        for t in np.unique(np.append(grid, policy.analytic_threshold(pooled.U))):
            taken = np.where(odds > np.log(t / (1 - t)), second, 1 - second)
            value = np.average(pooled.U[pooled.labels, taken], weights=pooled.weights)
            writer.writerow([f"{t:.6g}", f"{value:.6g}"])


if __name__ == "__main__":
    store.run_stage(main)
