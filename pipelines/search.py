"""Optuna's search for a policy: offsets of the log-odds that obtain the highest mean utility. The only importer of optuna."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import policy, threshold
from pipelines.core.sample import Sample, Tuned
from pipelines.core.utility import scale

Float = NDArray[np.float64]

REACH = 4.0  #: Optuna looks at offsets up to this many log units, and one beyond the exact solution
FIRST_STEP = 0.025  #: of the reach
ALIKE = 1e-12  #: mean utilities closer than this share of the largest regret are equal


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


def search_space(sample: Sample) -> Space:
    """Space around the analytic policy, at zero, and the exact one where there is one."""
    K, A = sample.shape
    priced = K > 2 and A == 2
    names = tuple([f"offset_{k}" for k in range(1, K)] + (["price_1"] if priced else []))
    known = {"analytic": np.zeros(len(names))}
    if A == 2:
        offsets, prices, _ = threshold.exact(sample.probability, sample.labels, sample.U, weights=sample.weights)
        known["exact"] = np.concatenate([offsets[1:] - offsets[0], [prices[1] - prices[0]] if priced else []])
    offsets_known = [float(np.abs(x[: K - 1]).max()) for x in known.values()]
    reach = max(REACH, *(x + 1 for x in offsets_known if x < policy.ALWAYS))
    return Space(names, np.array([reach] * (K - 1) + ([float(np.max(scale(sample.U)))] if priced else [])), known, (K, A))


def search(sample: Sample, *, trials: int, seed: int, enqueue: Sequence[str] = ("analytic", "exact")) -> Study:
    """Search for the highest mean utility with Optuna, in memory and seeded: TPE first, the last third of the trials around the best.

    The policies in `enqueue` are tried first, so the result is never worse than they are on these rows; of equally good trials the one
    nearest to the analytic policy wins. Mean utility is a step function of the offsets, which is why TPE's steps, a hundredth of
    the range at their finest, leave something to be found beside the best.
    """
    import optuna

    space = search_space(sample)

    def value(x: Float) -> float:
        return sample.value(space.unpack(x))

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
    best = np.flatnonzero(values >= values.max() - ALIKE * float(np.max(scale(sample.U))))
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
