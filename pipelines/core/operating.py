"""What models would do and obtain along a range of costs: for each step, rows by true class and action, and utility per case.

Decisions are the analytic ones for the costs of the step, on the probabilities as they are: how a policy that was tuned or limited would
move is not known without deciding anew. For two classes and two actions under one matrix the steps are ratios, the cost of a miss over
that of a false alarm; for other problems they are factors on all costs of the dearest class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import metrics, policy, utility
from pipelines.core.bounds import mean_interval
from pipelines.core.evaluation import Cases, Display, Scored, utility_rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FACTORS = (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 4.5, *range(5, 21), 22, 24, 25, 26, 28, 30, 33, 36, 40, 45, 50)
#: Leading digits of the ratios beyond those, and the most cells of a table of classes by actions that is worth a slider.
LEADS, CELLS = (1, 1.5, 2, 3, 4, 5, 7), 400
#: Factors on the costs of one class; few, since with costs by row each takes a second for 200,000 rows.
FEW = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0)


def along(
    models: Mapping[str, Scored], cases: Cases, *, classes: Sequence[str], actions: Sequence[str], display: Display
) -> dict[str, Any]:
    """Per step and model counts `(K, A)` and the utility, and the models' difference with its interval, on rows that all models share.

    `{"reason": ...}` where there is nothing to move. Counts are of rows, in weights where these are unequal. `ideal` is the utility of who
    knows each row's class, `scale` the sum of the two costs where the steps are ratios, `shipped` what the actions taken obtained.
    """
    reason = _absent(models, cases, classes, actions)
    if reason is not None:
        return {"reason": reason}
    label, now, kind = _moved(cases.U)
    sizes = steps_around(now) if kind == "ratio" else [*(1 / factor for factor in FEW[:0:-1]), *FEW]
    matrices = [scaled(cases.U, label, size / now) for size in sizes]
    weights = np.ones(cases.labels.size) if cases.unequal is None else cases.weights
    made: dict[str, Any] = {
        "reason": None,
        "kind": kind,
        "label": classes[label],
        "best": [actions[a] for a in utility.best_action(cases.U)] if cases.U.ndim == 2 else None,
        "sizes": sizes,
        "now": sizes.index(now),
        "thresholds": [policy.analytic_threshold(U) for U in matrices] if kind == "ratio" else None,
        "rows": int(cases.labels.size),
        "weighted": cases.unequal is not None,
        "classes": list(classes),
        "actions": list(actions),
        "ideal": [float(np.average(utility.of_class(U, cases.labels).max(axis=1), weights=weights)) for U in matrices],
        "scale": [float(np.ptp(U, axis=-1).sum()) if kind == "ratio" else 1.0 for U in matrices],
        "always": {name: [float(utility.trivial(cases.labels, U, weights)[a]) for U in matrices] for a, name in enumerate(actions)},
        "shipped": {name: _result(scored.actions, cases, weights, cases.U) for name, scored in models.items()},
    }
    taken = {name: [policy.analytic_actions(scored.probability, U) for U in matrices] for name, scored in models.items()}
    made["models"] = {
        name: [_result(actions_at, cases, weights, U) for actions_at, U in zip(found, matrices, strict=True)]
        for name, found in taken.items()
    }
    made["difference"] = _differences(taken, cases, matrices, display) if len(models) == 2 else None
    return made


def steps_around(now: float) -> list[float]:
    """Sizes in ascending order, from 1/50 to 50 or to ten times beyond `now`, `now` itself among them."""
    beyond = max(now, 1 / now)
    more = [lead * 10.0**power for power in range(1, math.ceil(math.log10(beyond)) + 2) for lead in LEADS] if beyond > FACTORS[-1] else []
    up = sorted({*map(float, FACTORS), *(size for size in more if FACTORS[-1] < size <= 10 * beyond)})
    known = sorted({*up, *(1 / size for size in up)})
    return sorted([*(size for size in known if not math.isclose(size, now, rel_tol=1e-6)), now])


def scaled(U: Floats, label: int, factor: float) -> Floats:
    """The utilities where all that errors on class `label` cost, against its best action, is `factor` times what it was."""
    if factor == 1:
        return U
    moved = U.copy()
    best = U[..., label, :].max(axis=-1, keepdims=True)
    moved[..., label, :] = best - factor * (best - U[..., label, :])
    return moved


def _absent(models: Mapping[str, Scored], cases: Cases, classes: Sequence[str], actions: Sequence[str]) -> str | None:
    if not cases.labels.size:
        return "no row was holdout for both models"
    if any(not np.isfinite(scored.probability).all() or (scored.actions < 0).any() for scored in models.values()):
        return "a probability is no number"
    if len(classes) * len(actions) > CELLS:
        return f"{len(classes)} classes by {len(actions)} actions are too many to be shown along a slider"
    if not np.ptp(utility.best_action(cases.U), axis=-1).any():
        return "one action is best for every class, whatever the probabilities"
    if cases.U.shape == (2, 2) and not np.ptp(cases.U, axis=1).all():
        return "for one class both actions are worth the same"
    return None


def _moved(U: Floats) -> tuple[int, float, str]:
    """The class whose costs are moved, their size now, and what a size is: a ratio of costs, or a factor on those of now."""
    lost = np.ptp(U, axis=-1)
    if U.shape == (2, 2):
        return 1, float(lost[1] / lost[0]), "ratio"
    return int((lost if lost.ndim == 1 else lost.mean(axis=0)).argmax()), 1.0, "factor"


def _result(actions: Ints, cases: Cases, weights: Floats, U: Floats) -> dict[str, Any]:
    """Counts `(K, A)` and utility per case of these actions `(n,)` under `U`."""
    K, A = U.shape[-2:]
    counts = np.bincount(cases.labels * A + actions, weights=weights, minlength=K * A).reshape(K, A)
    plain = metrics.confusion_by_action(cases.labels, actions, K, A).tolist() if cases.unequal is None else counts.tolist()
    return {"counts": plain, "utility": float(np.average(utility_rows(actions, cases.labels, U), weights=weights))}


def _differences(taken: Mapping[str, Sequence[Ints]], cases: Cases, matrices: Sequence[Floats], display: Display) -> list[dict[str, Any]]:
    """First model minus second, per step, as `mean`, `low`, `high`."""
    ours, theirs = taken.values()
    groups = cases.groups if np.unique(cases.groups).size < cases.groups.size else None  # distinct groups are rows, at a tenth of the time
    found = []
    for a, b, U in zip(ours, theirs, matrices, strict=True):
        reach, values = utility.difference_range(U), utility_rows(a, cases.labels, U) - utility_rows(b, cases.labels, U)
        interval = mean_interval(values, groups=groups, weights=cases.unequal, confidence=display.confidence, worst=-reach, best=reach)
        found.append({name: value for name, value in asdict(interval).items() if name != "rows"})
    return found
