"""Policies: maps from probabilities to actions, each row decided alone.

A policy is the analytic rule, the action with the highest expected utility, after `offsets` were added to the classes'
log-probabilities and `prices` (in the utility's unit) were taken off the actions. All zero, it is the analytic rule itself. For two
classes and two actions the offsets hold every cut-off on the probability; for more classes and two actions one price holds
every cut-off on the difference of the expected utilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.utility import regret_matrix, scale
from pipelines.errors import must

Float = NDArray[np.float64]
Int = NDArray[np.int64]

TIE = 1e-12  #: expected utilities closer than this share of the largest regret are equal
ALWAYS = 60.0  #: an offset that outweighs every probability: calibrated log-odds stay within 27.7


def analytic_actions(probability: Any, U: Any) -> Int:
    """Action `(n,)` with the highest expected utility; of equal ones the first in the matrix's order. Elkan (2001), equation 1."""
    return decide(probability, U)


def decide(probability: Any, U: Any, offsets: Any = None, prices: Any = None) -> Int:
    """Actions `(n,)` for `probability` `(n, K)` under `U` `(K, A)`, with class `offsets` `(K,)` (log units) and action `prices` `(A,)`."""
    p = np.asarray(probability, dtype=np.float64).T
    shift = np.zeros(len(p)) if offsets is None else np.asarray(offsets, dtype=np.float64)
    weight = np.exp(shift - shift.max())
    total = weight @ p  # shifted probabilities are p * weight / total; one row at a time has the same order without the division
    expected_regret = (regret_matrix(U).T * weight) @ p
    if prices is not None:
        expected_regret += np.asarray(prices, dtype=np.float64)[:, None] / (scale(U) or 1.0) * total
    least = expected_regret.min(axis=0) + TIE * total
    actions = np.zeros(p.shape[1], dtype=np.int64)
    for action in reversed(range(len(expected_regret))):
        actions[expected_regret[action] <= least] = action
    return actions


def argmax_ignoring_costs(probability: Any, U: Any) -> Int:
    """Actions `(n,)` of who ignores the costs of errors: the best action for the most probable class; ties as in `analytic_actions`."""
    best_action = (regret_matrix(U) <= TIE).argmax(axis=1)
    return np.asarray(best_action[np.asarray(probability).argmax(axis=1)], dtype=np.int64)


def make(
    kind: str,
    *,
    classes: Sequence[str],
    actions: Sequence[str],
    U: Any,
    unit: str,
    offsets: Any = None,
    prices: Any = None,
) -> dict[str, Any]:
    """Build a policy as plain numbers; `threshold` is its cut-off on the last class's probability where K = A = 2, else null."""
    K, A = np.asarray(U).shape
    b = [0.0] * K if offsets is None else [float(x) for x in offsets]
    c = [0.0] * A if prices is None else [float(x) for x in prices]
    return {
        "kind": kind,
        "classes": list(classes),
        "actions": list(actions),
        "matrix": np.asarray(U, dtype=np.float64).tolist(),
        "unit": unit,
        "offsets": b,
        "prices": c,
        "threshold": threshold_of_offset(b[1] - b[0], U) if (K, A) == (2, 2) else None,
    }


def apply(policy: dict[str, Any], probability: Any) -> Int:
    """Actions `(n,)`, indices into `policy["actions"]`, for calibrated `probability` `(n, K)`; raises ExpostError where K differs."""
    p = np.asarray(probability, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != len(policy["classes"]):
        raise must(f"probabilities must have one column per class {policy['classes']}", f"got the shape {p.shape}", "Run decide again.")
    return decide(p, policy["matrix"], policy.get("offsets"), policy.get("prices"))


def analytic_threshold(U: Any) -> float:
    """Cut-off `t*` on the last class's probability for K = A = 2: above it, the action that is best for that class.

    t* = (U00 - U01) / ((U00 - U01) + (U11 - U10)) where action 1 is best for class 1; for U = [[0, -1], [-5, 0]] it is 1/6.
    Elkan (2001), equation 2. Raises ExpostError where one action is best for both classes.
    """
    first, second = _two_by_two(U)
    return first / (first + second)


def _two_by_two(U: Any) -> tuple[float, float]:
    """Regrets of the wrong action for the first and for the second class."""
    lost = regret_matrix(U)
    wrong = lost.max(axis=1)
    if lost.shape != (2, 2) or (lost.argmin(axis=1) == lost.argmin(axis=1)[0]).all() or (wrong <= 0).any():
        raise must("each of two actions must be best for one of two classes", f"got {np.asarray(U).tolist()}", "Mend utility.matrix.")
    return float(wrong[0]), float(wrong[1])


def offset_of_cutoff(cutoff: float, U: Any) -> float:
    """Offset of the second class's log-odds that moves the analytic cut-off to `cutoff` (log-odds, may be infinite), K = A = 2."""
    first, second = _two_by_two(U)
    return float(np.clip(np.log(first / second) - cutoff, -ALWAYS, ALWAYS))


def threshold_of_offset(offset: float, U: Any) -> float:
    """Cut-off on the last class's probability under `offset`, K = A = 2; 0 and 1 where the offset means "always"."""
    if abs(offset) >= ALWAYS:
        return 0.0 if offset > 0 else 1.0
    first, second = _two_by_two(U)
    return float(1 / (1 + second / first * np.exp(offset)))
