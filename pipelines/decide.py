"""Stage `decide`: the utility matrix becomes a decision policy; analytic, exact and Optuna's compete on cross-fitted calib rows."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import lessons, search, store, utilities
from pipelines.candidates import Calib, candidate, choose, tuned_and_judged
from pipelines.core import constraints, policy, sample, threshold, tuning
from pipelines.core.constraints import Constraints, Recall
from pipelines.core.utility import utility_along_threshold
from pipelines.decision import constrained, flat, notes, overview, prior_summary, thresholds
from pipelines.errors import must
from pipelines.params import load
from pipelines.params.decide import Decide
from pipelines.params.utility import Utility

if TYPE_CHECKING:
    import polars as pl

Float = NDArray[np.float64]
Int = NDArray[np.int64]

CHECKPOINTS = Path(".checkpoints")


def main() -> None:
    """Read split, calibrate and the cost columns of ingest, write `data/decide`."""
    options, utility = load(Decide), load(Utility)
    calib, prior = read_calib(utility)
    constraints.check(calib.whole(), calib.rules, tuning.analytic(calib.whole(), calib.rules))
    names: list[str] = [name for name in dict.fromkeys(("analytic", *options.policies)) if name != "exact" or calib.U.shape[-1] == 2]
    study, taken, fitted = tuned_and_judged(names, calib, options, journal_path(calib, utility, options))
    candidates = [candidate(name, taken, fitted[name], calib, options=options) for name in names]
    chosen, why = choose(candidates, options, utility.unit)
    shipped = policy.make(
        chosen,
        classes=calib.classes,
        actions=utility.actions,
        cells=utility.cells(calib.classes),
        unit=utility.unit,
        offsets=fitted[chosen].tuned.offsets,
        prices=fitted[chosen].tuned.prices,
        prior=prior,
    )
    summary = {
        **overview(calib, utility, taken[chosen], options),
        **constrained(calib, utility, taken[chosen], shipped, options),
        "prior": prior_summary(calib, prior),
        "candidates": candidates,
        "search": {"trials": options.trials, "seed": options.seed},
        "chosen": chosen,
        "why": why,
        "threshold": shipped["threshold"],
        "thresholds": thresholds(calib, {c["policy"]: c["threshold"] for c in candidates}, shipped["threshold"], options),
        "notes": notes(calib, utility, taken[chosen], fitted[chosen].tuned, options),
    }
    learned = lessons.summary(calib, calib_rows(), taken[chosen], utility.actions, options)
    with store.stage_folder("decide") as out:
        store.write_json(out / "policy.json", shipped)
        store.write_json(out / "lessons.json", learned)
        store.write_json(out / "summary.json", summary)
        store.write_json(out / "metrics.json", flat(summary))
        write_study(out, study, calib.classes, utility.actions)
        write_curve(out / "utility_curve.csv", calib.pooled())


def journal_path(calib: Calib, utility: Utility, options: Decide) -> Path:
    """Where the trials are kept: the name is a digest of inputs, parameters but `trials`, and code, so nothing else goes on from them."""
    code = [store.sha256(Path(str(module.__file__))) for module in (search, constraints, policy, sample, threshold, tuning)]
    text = json.dumps([code, options.model_dump(mode="json", exclude={"trials"}), utility.model_dump(mode="json"), calib.classes])
    digest = hashlib.sha256(text.encode())
    for array in (calib.crossfitted, calib.shipped, calib.masks, calib.labels, calib.groups, calib.weights, calib.U):
        digest.update(np.ascontiguousarray(array).data)
    return CHECKPOINTS / f"decide-{digest.hexdigest()[:32]}.journal"


def calib_rows() -> Int:
    """Numbers of the calib rows in the table, from 0."""
    return np.asarray(np.load(store.need(store.stage_path("calibrate", "rows.npy")), allow_pickle=False))


def read_calib(utility: Utility) -> tuple[Calib, dict[str, list[float]] | None]:
    """Read what calibrate wrote, with the labels, groups, weights and utilities of its rows; and the class prior where one is declared."""

    def array(stage: str, name: str) -> Any:
        return np.load(store.need(store.stage_path(stage, name)), allow_pickle=False)

    rows, crossfitted = calib_rows(), array("calibrate", "crossfit.npy")
    classes = tuple(store.read_json(store.stage_path("split", "meta.json"))["classes"])
    if not np.allclose(crossfitted.sum(axis=2), 1, atol=1e-6):
        raise must("data/calibrate/crossfit.npy must hold probabilities", "rows do not sum to 1", "Run `dvc repro calibrate`.")
    labels, groups, weights = (array("split", f"{name}.npy")[rows] for name in ("labels", "groups", "weights"))
    shipped, prior = array("calibrate", "probabilities.npy"), class_prior(utility, classes)
    if prior is not None:
        ratio = np.array(prior["deployment"]) / np.array(prior["data"])
        weights = weights * ratio[labels]
        crossfitted, shipped = (policy.under_prior(p, prior["data"], prior["deployment"]) for p in (crossfitted, shipped))
    cells = utility.cells(classes)
    U = utilities.values(cells, cost_columns(cells, rows), _row_numbers(rows))
    utilities.check_choice(U, utility.actions)
    masks, rules = array("calibrate", "folds.npy"), rules_of(utility, classes)
    return Calib(crossfitted, shipped, masks, labels.astype(np.int64), groups.astype(np.int64), weights, U, rules, classes), prior


def rules_of(utility: Utility, classes: tuple[str, ...]) -> Constraints:
    """Limits and requirements by the numbers of actions and classes."""
    recalls = [Recall(classes.index(item.name), item.name, item.at_least, item.confidence) for item in utility.require.recall]
    return Constraints({utility.actions.index(action): limit.at_most for action, limit in utility.limits.items()}, tuple(recalls))


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


def class_prior(utility: Utility, classes: tuple[str, ...]) -> dict[str, list[float]] | None:
    """Class shares of the data, those that the calibrator took down of calib, and of the deployment as declared; None where none are."""
    if not utility.prior:
        return None
    data = store.read_json(store.need(store.stage_path("calibrate", "calibrator.json")))["reference"]["prior"]
    deployment = utility.class_prior(classes, data)
    return None if deployment is None else {"data": data, "deployment": deployment}


def write_study(out: Path, study: search.Study | None, classes: Sequence[str], actions: Sequence[str]) -> None:
    """Write the trials as CSV and, for the plots, as JSON; without a study the CSV has its header only."""
    names = [] if study is None else [_readable(name, classes, actions) for name in study.names]
    best = [] if study is None else [float(study.values[i]) for i in study.leads]
    with (out / "trials.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["trial", "source", *names, "utility", "missed", "best_so_far"])
        if study is not None:
            for i, (source, point) in enumerate(zip(study.sources, study.points.tolist(), strict=True)):
                writer.writerow([i, source, *point, float(study.values[i]), float(study.short[i]), best[i]])
    data: dict[str, Any] = {}
    if study is not None:
        data = {
            "names": names,
            "points": study.points.tolist(),
            "values": study.values.tolist(),
            "missed": study.short.tolist(),
            "best_so_far": best,
            "sources": list(study.sources),
            "importance": {_readable(n, classes, actions): v for n, v in study.importance.items()},
        }
    store.write_json(out / "study.json", data)


def _readable(name: str, classes: Sequence[str], actions: Sequence[str]) -> str:
    kind, index = name.split("_")
    return f"{kind} of {classes[int(index)] if kind == 'offset' else actions[int(index)]}"


def write_curve(path: Path, pooled: sample.Sample) -> None:
    """Mean utility along the threshold, for two classes and two actions: even steps of the probability and of the log-odds."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["threshold", "utility"])
        if pooled.U.shape != (2, 2):
            return
        odds, positive = threshold.log_odds(pooled.probability), pooled.probability[:, 1]
        grid = np.concatenate([np.linspace(0.01, 0.99, 99), 1 / (1 + np.exp(-np.linspace(odds.min(), odds.max(), 98)))])
        at = np.unique(np.append(grid, policy.analytic_threshold(pooled.U)))
        curve = utility_along_threshold(positive, pooled.labels, pooled.U, thresholds=at, weights=pooled.weights)
        writer.writerows([f"{t:.6g}", f"{u:.6g}"] for t, u in zip(curve["threshold"], curve["utility"], strict=True))


if __name__ == "__main__":
    store.run_stage(main)
