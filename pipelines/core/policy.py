"""Policies: maps from probabilities to actions, each row decided alone.

A policy is the analytic rule, the action with the highest expected utility, after `offsets` were added to the classes'
log-probabilities and `prices` (in the utility's unit) were taken off the actions. All zero, it is the analytic rule itself. For two
classes and two actions the offsets hold every cut-off on the probability; for more classes and two actions one price holds
every cut-off on the difference of the expected utilities. A limit on an action's share is a price above zero, a requirement on a
class's recall an offset of that class, and a class prior other than the data's a correction of the probabilities before all this.
`U` is `(K, A)`, or `(n, K, A)` where costs differ by row; prices are then in the same unit for every row.
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
    """Actions `(n,)` for `probability` `(n, K)` under `U`, with class `offsets` `(K,)` (log units) and action `prices` `(A,)`."""
    p, matrix = np.asarray(probability, dtype=np.float64), np.asarray(U, dtype=np.float64)
    shift = np.zeros(p.shape[1]) if offsets is None else np.asarray(offsets, dtype=np.float64)
    weight = np.exp(shift - shift.max())
    total = p @ weight  # shifted probabilities are p * weight / total; one row at a time has the same order without the division
    lost = regret_matrix(matrix)
    expected_regret = (lost.T * weight) @ p.T if matrix.ndim == 2 else np.einsum("nk,nka->an", p * weight, lost)
    if prices is not None:
        unit = np.where((largest := np.asarray(scale(matrix))) > 0, largest, 1.0)
        expected_regret += np.asarray(prices, dtype=np.float64)[:, None] * (total / unit)
    least = expected_regret.min(axis=0) + TIE * total
    actions = np.zeros(len(p), dtype=np.int64)
    for action in reversed(range(len(expected_regret))):
        actions[expected_regret[action] <= least] = action
    return actions


def under_prior(probability: Any, data: Any, deployment: Any) -> Float:
    """Probabilities `(..., K)` where the class prior is `deployment` `(K,)` instead of `data` `(K,)`; Saerens et al. (2002), equation 2.4."""
    weighted = np.asarray(probability, dtype=np.float64) * (np.asarray(deployment, dtype=np.float64) / np.asarray(data, dtype=np.float64))
    return np.asarray(weighted / weighted.sum(axis=-1, keepdims=True))


def corrected(policy: dict[str, Any], probability: Any) -> Float:
    """Calibrated `probability` `(n, K)` under the class prior that the policy was made for: as given where none was declared."""
    prior = policy.get("prior")
    p = np.asarray(probability, dtype=np.float64)
    return p if prior is None else under_prior(p, prior["data"], prior["deployment"])


def argmax_ignoring_costs(probability: Any, U: Any) -> Int:
    """Actions `(n,)` of who ignores the costs of errors: the best action for the most probable class; ties as in `analytic_actions`."""
    best, top = (regret_matrix(U) <= TIE).argmax(axis=-1), np.asarray(probability).argmax(axis=1)
    return np.asarray(best[top] if best.ndim == 1 else best[np.arange(len(top)), top], dtype=np.int64)


def make(
    kind: str,
    *,
    classes: Sequence[str],
    actions: Sequence[str],
    cells: Sequence[Sequence[float | str]],
    unit: str,
    offsets: Any = None,
    prices: Any = None,
    prior: dict[str, list[float]] | None = None,
) -> dict[str, Any]:
    """Build a policy as plain numbers; `threshold` is its cut-off on the last class's probability where K = A = 2, else null.

    `cells` `K x A` are numbers, or expressions over cost columns as text; `prior` has the class shares of `data` and `deployment`.
    """
    K, A = len(cells), len(cells[0])
    b = [0.0] * K if offsets is None else [float(x) for x in offsets]
    c = [0.0] * A if prices is None else [float(x) for x in prices]
    return {
        "kind": kind,
        "classes": list(classes),
        "actions": list(actions),
        "matrix": [list(row) for row in cells],
        "unit": unit,
        "offsets": b,
        "prices": c,
        "prior": prior,
        "threshold": threshold_of(b, c, cells) if (K, A) == (2, 2) and not by_row(cells) else None,
    }


def by_row(cells: Sequence[Sequence[float | str]]) -> bool:
    """Whether a cell is an expression, so that utilities differ by row."""
    return any(isinstance(cell, str) for row in cells for cell in row)


def apply(policy: dict[str, Any], probability: Any, U: Any = None) -> Int:
    """Actions `(n,)`, indices into `policy["actions"]`, for calibrated `probability` `(n, K)`; raises ExpostError where K differs.

    `U` `(n, K, A)` are the rows' utilities where the policy's cells are expressions; else the policy's own matrix is used.
    """
    p = np.asarray(probability, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != len(policy["classes"]):
        raise must(f"probabilities must have one column per class {policy['classes']}", f"got the shape {p.shape}", "Run decide again.")
    matrix = policy["matrix"] if U is None else U
    return decide(corrected(policy, p), matrix, policy.get("offsets"), policy.get("prices"))


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


def price_of_cutoff(cutoff: float, offset: float, U: Any) -> float:
    """Price of the second class's best action that moves the cut-off to `cutoff` (log-odds beyond the analytic one), K = A = 2.

    `offset` of the second class stays; below 0 it is the price, times -1, of the other action. At an infinite cut-off the price outweighs
    every probability.
    """
    matrix = np.asarray(U, dtype=np.float64)
    worth = np.abs(matrix[:, 0] - matrix[:, 1])
    if np.isinf(cutoff):
        return float(2 * worth[1] if cutoff > 0 else -2 * worth[0])
    odds = float(np.exp(np.clip(cutoff + offset, -ALWAYS, ALWAYS))) * worth[0] / worth[1]
    return float((odds * worth[1] - worth[0]) / (1 + odds))


def threshold_of_offset(offset: float, U: Any) -> float:
    """Cut-off on the last class's probability under `offset`, K = A = 2; 0 and 1 where the offset means "always"."""
    if abs(offset) >= ALWAYS:
        return 0.0 if offset > 0 else 1.0
    first, second = _two_by_two(U)
    return float(1 / (1 + second / first * np.exp(offset)))


def threshold_of(offsets: Any, prices: Any, U: Any) -> float:
    """Cut-off on the last class's probability of a policy with `offsets` `(2,)` and `prices` `(2,)`, U `(2, 2)`; clipped to [0, 1].

    With w = exp(offset) and prices taken off the action that is best for each class, the cut-off solves a linear equation in the odds.
    """
    matrix, b, c = np.asarray(U, dtype=np.float64), np.asarray(offsets, dtype=np.float64), np.asarray(prices, dtype=np.float64)
    second = int(matrix[1].argmax())
    if not c.any():
        return threshold_of_offset(float(b[1] - b[0]), matrix)
    price = float(c[second] - c[1 - second])
    first = float(matrix[0, 1 - second] - matrix[0, second]) + price
    last = float(matrix[1, second] - matrix[1, 1 - second]) - price
    if first <= 0 or last <= 0:
        return 0.0 if first <= 0 else 1.0
    odds = first / last * float(np.exp(np.clip(b[0] - b[1], -ALWAYS, ALWAYS)))
    return odds / (1 + odds)
