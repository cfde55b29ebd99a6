"""Stage `decide`: the utility matrix becomes a decision policy; analytic, exact and Optuna's compete on cross-fitted calib rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import store, utilities
from pipelines.core import crossfit, policy, threshold
from pipelines.core.bounds import Interval, mean_interval
from pipelines.core.utility import difference_range, obtained, regret, scale, trivial, value_range
from pipelines.errors import must
from pipelines.params import load
from pipelines.params.decide import Decide
from pipelines.params.utility import Utility

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

REACH = 4.0  #: Optuna looks at offsets up to this many log units, and one beyond the exact solution
FIRST_STEP = 0.025  #: of the reach
ALIKE = 1e-12  #: mean utilities closer than this share of the largest regret are equal
RESAMPLES = 200


@dataclass(frozen=True)
class Calib:
    """Calib rows: probabilities `(J, n, K)` fitted without fold j, masks `(J, n)` of the folds, labels, groups, classes."""

    crossfitted: Float
    masks: Bool
    labels: Int
    groups: Int
    classes: tuple[str, ...]

    def pooled(self) -> tuple[Float, Int]:
        """Out-of-fold probabilities of all repeats in one array `(repeats * n, K)`, with their labels."""
        found = crossfit.out_of_fold(self.crossfitted, self.masks)
        return found.reshape(-1, found.shape[2]), np.tile(self.labels, len(found))


@dataclass(frozen=True)
class Tuned:
    """A tuned policy: offsets `(K,)`, prices `(A,)`."""

    offsets: Float
    prices: Float


def main() -> None:
    """Read split and calibrate, write `data/decide`."""
    options, utility = load(Decide), load(Utility)
    calib = read_calib()
    U = utilities.values(utility.cells(calib.classes))
    names: list[str] = [name for name in dict.fromkeys(("analytic", *options.policies)) if name != "exact" or U.shape[1] == 2]
    per_row = {name: crossfitted_utility(name, calib, U, options) for name in names}
    probability, labels = calib.pooled()
    study = search(probability, labels, U, trials=options.trials, seed=options.seed) if "optuna" in names else None
    tuned = {name: tune(name, probability, labels, U, options, study=study) for name in names}
    candidates = [candidate(name, per_row, tuned[name], calib, U, options=options) for name in names]
    chosen, why = choose(candidates, options, utility.unit)
    shipped = policy.make(
        chosen,
        classes=calib.classes,
        actions=utility.actions,
        cells=utility.cells(calib.classes),
        unit=utility.unit,
        offsets=tuned[chosen].offsets,
        prices=tuned[chosen].prices,
    )
    summary = {
        **overview(calib, U, utility, per_row[chosen], options),
        "candidates": candidates,
        "chosen": chosen,
        "why": why,
        "threshold": shipped["threshold"],
        "notes": [] if U.shape[1] == 2 or "exact" not in options.policies else ["The exact cut-off is for two actions; it was left out."],
    }
    with store.stage_folder("decide") as out:
        store.write_json(out / "policy.json", shipped)
        store.write_json(out / "summary.json", summary)
        store.write_json(out / "metrics.json", flat(summary))
        write_study(out, study, calib.classes, utility.actions)
        write_curve(out / "utility_curve.csv", probability, labels, U)


def read_calib() -> Calib:
    """Read what calibrate wrote, with the labels and groups of its rows."""

    def array(stage: str, name: str) -> Any:
        return np.load(store.need(store.stage_path(stage, name)), allow_pickle=False)

    rows, crossfitted = array("calibrate", "rows.npy"), array("calibrate", "crossfit.npy")
    classes = tuple(store.read_json(store.stage_path("split", "meta.json"))["classes"])
    if not np.allclose(crossfitted.sum(axis=2), 1, atol=1e-6):
        raise must("data/calibrate/crossfit.npy must hold probabilities", "rows do not sum to 1", "Run `dvc repro calibrate`.")
    labels, groups = array("split", "labels.npy")[rows], array("split", "groups.npy")[rows]
    return Calib(crossfitted, array("calibrate", "folds.npy"), labels.astype(np.int64), groups.astype(np.int64), classes)


def tune(name: str, probability: Float, labels: Int, U: Float, options: Decide, *, study: Study | None = None) -> Tuned:
    """Tune one kind of policy on these rows; `study` is the search on them, where it was already made.

    For two classes and two actions the exact cut-off is the optimum over the offsets, so Optuna's policy is the exact one there, and
    no fold needs a search to know that.
    """
    if name == "exact" or (name == "optuna" and U.shape == (2, 2)):
        offsets, prices, _ = threshold.exact(probability, labels, U)
        return Tuned(offsets, prices)
    if name == "optuna":
        return (study or search(probability, labels, U, trials=options.trials, seed=options.seed)).tuned
    return Tuned(np.zeros(U.shape[0]), np.zeros(U.shape[1]))


def crossfitted_utility(name: str, calib: Calib, U: Float, options: Decide) -> Float:
    """Utility `(n,)` per row, averaged over the repeats: in each fold the policy is tuned on the rest and decides on the fold."""
    found = iter(calib.crossfitted)

    def fit_predict(rest: Bool, held: Bool) -> Float:
        p = next(found)
        tuned = tune(name, p[rest], calib.labels[rest], U, options)
        return obtained(calib.labels[held], policy.decide(p[held], U, tuned.offsets, tuned.prices), U)

    return np.asarray(crossfit.crossfit(calib.masks, fit_predict).mean(axis=0))


@dataclass(frozen=True)
class Study:
    """What Optuna tried: names of the numbers searched, a row of them per trial, values, where each came from, and the best."""

    names: tuple[str, ...]
    points: Float
    values: Float
    sources: tuple[str, ...]
    importance: dict[str, float]
    tuned: Tuned


@dataclass(frozen=True)
class Space:
    """What is searched: the offsets of all classes but the first and, for more than two classes and two actions, the second's price."""

    names: tuple[str, ...]
    reach: Float
    known: dict[str, Float]
    shape: tuple[int, int]

    def unpack(self, x: Float) -> Tuned:
        """Policy at the point `x`."""
        K, A = self.shape
        return Tuned(np.concatenate([[0.0], x[: K - 1]]), np.array([0.0, x[-1]]) if len(x) == K else np.zeros(A))


def search_space(probability: Float, labels: Int, U: Float) -> Space:
    """Space around the analytic policy, at zero, and the exact one where there is one."""
    K, A = U.shape
    priced = K > 2 and A == 2
    names = tuple([f"offset_{k}" for k in range(1, K)] + (["price_1"] if priced else []))
    known = {"analytic": np.zeros(len(names))}
    if A == 2:
        offsets, prices, _ = threshold.exact(probability, labels, U)
        known["exact"] = np.concatenate([offsets[1:] - offsets[0], prices[1:] if priced else []])
    offsets_known = [float(np.abs(x[: K - 1]).max()) for x in known.values()]
    reach = max(REACH, *(x + 1 for x in offsets_known if x < policy.ALWAYS))
    return Space(names, np.array([reach] * (K - 1) + ([scale(U)] if priced else [])), known, (K, A))


def search(probability: Float, labels: Int, U: Float, *, trials: int, seed: int, enqueue: Sequence[str] = ("analytic", "exact")) -> Study:
    """Search for the highest mean utility with Optuna, in memory and seeded: TPE first, the last third of the trials around the best.

    The policies in `enqueue` are tried first, so the result is never worse than they are on these rows; of equally good trials the one
    nearest to the analytic policy wins. Mean utility is a step function of the offsets, which is why TPE's steps, a hundredth of
    the range at their finest, leave something to be found beside the best.
    """
    import optuna

    space = search_space(probability, labels, U)

    def value(x: Float) -> float:
        tuned = space.unpack(x)
        return float(obtained(labels, policy.decide(probability, U, tuned.offsets, tuned.prices), U).mean())

    def objective(trial: optuna.Trial) -> float:
        return value(np.array([trial.suggest_float(n, -r, r) for n, r in zip(space.names, space.reach.tolist(), strict=True)]))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=20)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    known = [name for name in enqueue if name in space.known]
    first = [name for name in known if (np.abs(space.known[name]) <= space.reach).all()]
    for name in first:
        study.enqueue_trial(dict(zip(space.names, space.known[name].tolist(), strict=True)))
    refined = trials // 3
    study.optimize(objective, n_trials=trials - refined)
    refine(study, objective, space, trials=refined, seed=seed)
    beyond = [name for name in known if name not in first]  # an exact policy that always acts, or never
    points = np.array([[trial.params[n] for n in space.names] for trial in study.trials] + [space.known[n].tolist() for n in beyond])
    values = np.array([trial.value for trial in study.trials] + [value(space.known[n]) for n in beyond])
    sources = [*first, *["tpe"] * trials][: trials - refined] + ["refined"] * refined + beyond
    best = np.flatnonzero(values >= values.max() - ALIKE * scale(U))
    nearest = points[best[np.abs(points[best] / space.reach).max(axis=1).argmin()]]
    return Study(space.names, points, values, tuple(sources), importances(study, space.names), space.unpack(nearest))


def refine(study: Any, objective: Any, space: Space, *, trials: int, seed: int) -> None:
    """Try points around the best, wider after a success, nearer after a failure: a (1+1) evolution strategy (Rechenberg 1973)."""
    rng, step = np.random.default_rng(seed), FIRST_STEP
    for _ in range(trials):
        best = study.best_trial
        centre = np.array([best.params[n] for n in space.names])
        point = np.clip(centre + step * space.reach * rng.normal(size=len(centre)), -space.reach, space.reach)
        study.enqueue_trial(dict(zip(space.names, point.tolist(), strict=True)))
        study.optimize(objective, n_trials=1)
        step *= 1.5 if study.best_trial.number != best.number else 0.93


def importances(study: Any, names: tuple[str, ...]) -> dict[str, float]:
    """Share of the values' variation that each number explains, where there is more than one."""
    import optuna

    if len(names) < 2 or len({trial.value for trial in study.trials}) < 2:
        return dict.fromkeys(names, 1.0 if len(names) == 1 else 0.0)
    return dict(optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()))


def candidate(name: str, per_row: dict[str, Float], tuned: Tuned, calib: Calib, U: Float, *, options: Decide) -> dict[str, Any]:
    """Cross-fitted utility of one candidate, its gain over the analytic policy, and the policy refitted on all of calib."""
    probability = calib.pooled()[0]
    utility = interval(per_row[name], calib, value_range(U), options.confidence)
    spread = difference_range(U)
    gain = interval(per_row[name] - per_row["analytic"], calib, (-spread, spread), options.confidence, two_sided=False)
    actions = policy.decide(probability, U, tuned.offsets, tuned.prices)
    binary = U.shape == (2, 2)
    limits = threshold_interval(calib, U, options) if name == "exact" and binary else (None, None)
    return {
        "policy": name,
        "utility": utility.mean,
        "low": utility.low,
        "high": utility.high,
        "gain_over_analytic": gain.mean,
        "gain_low": gain.low if name != "analytic" else 0.0,
        "offsets": tuned.offsets.tolist(),
        "prices": tuned.prices.tolist(),
        "threshold": policy.threshold_of_offset(float(tuned.offsets[1] - tuned.offsets[0]), U) if binary else None,
        "threshold_low": limits[0],
        "threshold_high": limits[1],
        "action_shares": (np.bincount(actions, minlength=U.shape[1]) / len(actions)).tolist(),
    }


def interval(values: Float, calib: Calib, limits: tuple[float, float], confidence: float, *, two_sided: bool = True) -> Interval:
    """Bounds of a mean over calib rows, clustered by group."""
    return mean_interval(values, groups=calib.groups, confidence=confidence, worst=limits[0], best=limits[1], two_sided=two_sided)


def threshold_interval(calib: Calib, U: Float, options: Decide) -> tuple[float | None, float | None]:
    """Percentile bootstrap of the exact threshold, whole groups drawn: it shows how little the rows say about the optimum. For display."""
    probability, labels = calib.pooled()
    if len(probability) > 50_000:  # the interval is narrow there, and the sorts are not free
        return None, None
    codes = np.tile(np.unique(calib.groups, return_inverse=True)[1], len(labels) // len(calib.groups))
    rng, groups = np.random.default_rng(options.seed), int(codes.max()) + 1
    found = []
    for _ in range(RESAMPLES):
        drawn = np.repeat(np.arange(len(codes)), np.bincount(rng.integers(groups, size=groups), minlength=groups)[codes])
        offsets, _, _ = threshold.exact(probability[drawn], labels[drawn], U)
        found.append(policy.threshold_of_offset(float(offsets[1]), U))
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


def overview(calib: Calib, U: Float, utility: Utility, chosen: Float, options: Decide) -> dict[str, Any]:
    """Utility of the chosen policy, cross-fitted, beside the trivial policies and argmax, and its gain over the best trivial one."""
    probability, labels = calib.pooled()
    ignoring = obtained(labels, policy.argmax_ignoring_costs(probability, U), U).reshape(-1, len(calib.labels)).mean(axis=0)
    always = trivial(calib.labels, U)
    best, spread = int(always.argmax()), difference_range(U)
    found = interval(chosen, calib, value_range(U), options.confidence)
    argmax = interval(ignoring, calib, value_range(U), options.confidence)
    gain = interval(chosen - U[calib.labels, best], calib, (-spread, spread), options.confidence)
    attainable = U.max(axis=1)[calib.labels]
    return {
        "classes": list(calib.classes),
        "actions": list(utility.actions),
        "unit": utility.unit,
        "matrix": U.tolist(),
        "rows": len(calib.labels),
        "folds": len(calib.masks),
        "confidence": options.confidence,
        "utility": _plain(found),
        "regret": float((attainable - chosen).mean()),
        "gain": _plain(gain),
        "trivial": [{"policy": f"always {a}", "action": a, "utility": float(u)} for a, u in zip(utility.actions, always, strict=True)],
        "best_trivial": f"always {utility.actions[best]}",
        "argmax": {**_plain(argmax), "regret": float(regret(labels, policy.argmax_ignoring_costs(probability, U), U).mean())},
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


def write_study(out: Path, study: Study | None, classes: Sequence[str], actions: Sequence[str]) -> None:
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


def write_curve(path: Path, probability: Float, labels: Int, U: Float) -> None:
    """Mean utility along the threshold, for two classes and two actions: even steps of the probability and of the log-odds."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["threshold", "utility"])
        if U.shape != (2, 2):
            return
        odds = threshold.log_odds(probability)
        grid = np.concatenate([np.linspace(0.01, 0.99, 99), 1 / (1 + np.exp(-np.linspace(odds.min(), odds.max(), 98)))])
        second = int(U[1].argmax())
        for t in np.unique(np.append(grid, policy.analytic_threshold(U))):
            act = odds > np.log(t / (1 - t))
            writer.writerow([f"{t:.6g}", f"{U[labels, np.where(act, second, 1 - second)].mean():.6g}"])


if __name__ == "__main__":
    store.run_stage(main)
