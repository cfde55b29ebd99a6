"""What data/decide/summary.json says of the policy chosen: figures on rows that it was not tuned on, constraints, cut-offs."""

from __future__ import annotations

import math
import re
from collections.abc import Container
from itertools import chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.candidates import Calib, interval, recall_of, share_of, utility_of
from pipelines.core import constraints, policy, threshold, tuning
from pipelines.core.bounds import Interval, effective_size
from pipelines.core.sample import Tuned
from pipelines.core.utility import difference_range, of_class, regret_of, trivial, value_range
from pipelines.params.decide import Decide
from pipelines.params.utility import Utility

Float = NDArray[np.float64]
Int = NDArray[np.int64]

WELL_BELOW = 0.9  #: share of a limit; an action that gets less where it is worth more is spoken of
CURVE = 25  #: thresholds, evenly spaced by probability and again by log-odds, at which utility is shown with its interval


def prior_summary(calib: Calib, prior: dict[str, list[float]] | None) -> dict[str, Any] | None:
    """The class prior by name, with the number of rows that calib's are worth under it."""
    if prior is None:
        return None
    named = {key: dict(zip(calib.classes, shares, strict=True)) for key, shares in prior.items()}
    return {**named, "rows": len(calib.labels), "effective_rows": effective_size(calib.weights)}


def overview(calib: Calib, utility: Utility, taken: Int, options: Decide) -> dict[str, Any]:
    """Utility of the chosen policy, cross-fitted, beside the trivial policies and argmax, and its gain over the best blind one allowed."""
    pooled, chosen = calib.pooled(), utility_of(taken, calib)
    ignoring = utility_of(policy.argmax_ignoring_costs(pooled.probability, pooled.U).reshape(calib.repeats, -1), calib)
    always = trivial(calib.labels, calib.U, calib.weights)
    allowed = constraints.trivial_allowed(calib.U, calib.rules.limits, [wanted.label for wanted in calib.rules.recalls])
    recalls = [(constraints.blind_recall(calib.U, calib.labels, r.label, calib.weights), r.at_least) for r in calib.rules.recalls]
    blind, spread = constraints.best_blind(always, calib.rules.limits, recalls), difference_range(calib.U)
    found = interval(chosen, calib, value_range(calib.U), options.confidence)
    argmax = interval(ignoring, calib, value_range(calib.U), options.confidence)
    gain = interval(chosen - of_class(calib.U, calib.labels) @ blind, calib, (-spread, spread), options.confidence)

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
        "trivial": [
            {"policy": f"always {a}", "action": a, "utility": float(u), "allowed": bool(ok)}
            for a, u, ok in zip(utility.actions, always, allowed, strict=True)
        ],
        "best_trivial": constraints.blind_name(utility.actions, blind),
        "argmax": {**_plain(argmax), "regret": regret(ignoring)},
    }


def constrained(calib: Calib, utility: Utility, taken: Int, shipped: dict[str, Any], options: Decide) -> dict[str, Any]:
    """Limits and requirements: what each costs, as a price or an offset, and what was reached on rows that the policy was not tuned on."""
    limits = [
        {
            "action": utility.actions[action],
            "at_most": share,
            "price": shipped["prices"][action],
            "share": _plain(share_of(taken, calib, action, options)),
        }
        for action, share in calib.rules.limits.items()
    ]
    requirements = [
        {
            "class": wanted.name,
            "at_least": wanted.at_least,
            "confidence": wanted.confidence,
            "offset": shipped["offsets"][wanted.label],
            "recall": _plain(recall_of(taken, calib, wanted, options)),
            "rows": int((calib.labels == wanted.label).sum()),
            "rows_needed": wanted.rows_needed,
        }
        for wanted in calib.rules.recalls
    ]
    return {"limits": limits, "requirements": requirements}


def thresholds(calib: Calib, found: dict[str, float | None], chosen: float | None, options: Decide) -> dict[str, Any] | None:
    """The analytic, exact, tuned and chosen cut-off, how sure the rows are of the best one, and the utility along it with its interval.

    For two classes, two actions and one matrix; else None.
    """
    if calib.U.shape != (2, 2):
        return None
    pooled, whole, elkan = calib.pooled(), calib.whole(), policy.analytic_threshold(calib.U)
    best = found.get("exact")
    if best is None:
        tuned = tuning.exact(pooled, whole, calib.rules).tuned
        best = policy.threshold_of(tuned.offsets, tuned.prices, calib.U)
    low, high = tuning.bootstrap_interval(pooled, whole, calib.rules, confidence=options.confidence, seed=options.seed)
    odds = threshold.log_odds(pooled.probability)
    steps = 1 / (1 + np.exp(-np.linspace(float(np.quantile(odds, 0.01)), float(np.quantile(odds, 0.99)), CURVE)))
    at = np.unique(np.concatenate([np.linspace(0.02, 0.98, CURVE), steps, [elkan, best, elkan if chosen is None else chosen]]))
    curve = [{"threshold": t, **_along(t, calib, pooled.probability[:, 1], options)} for t in at.tolist()]
    exact = {"value": best, "low": low, "high": high}
    return {"analytic": elkan, "exact": exact, "optuna": found.get("optuna"), "chosen": chosen, "curve": curve}


def _along(cutoff: float, calib: Calib, positive: Float, options: Decide) -> dict[str, float]:
    """Mean utility, with its interval, of the cut-off on out-of-fold probabilities `(repeats * n,)`."""
    second = int(calib.U[1].argmax())
    taken = np.where(positive >= cutoff, second, 1 - second).reshape(calib.repeats, -1)
    found = interval(utility_of(taken, calib), calib, value_range(calib.U), options.confidence)
    return {"utility": found.mean, "low": found.low, "high": found.high}


def notes(calib: Calib, utility: Utility, taken: Int, tuned: Tuned, options: Decide) -> list[str]:
    """What a reader should know about the candidates and the policy chosen, cross-fitted and, as `tuned`, refitted on all of calib."""
    said = blocked(calib, utility, tuned)
    if "exact" in options.policies and calib.U.shape[-1] > 2:
        said.append("The exact cut-off is for two actions; it was left out.")
    never = [repr(name) for action, name in enumerate(utility.actions) if not (taken == action).any()]
    if never:
        said.append(f"The policy takes {' and '.join(never)} for no row of calib.")
    return said


def blocked(calib: Calib, utility: Utility, tuned: Tuned) -> list[str]:
    """Limits that leave an action to far fewer rows than they allow, as the next rows are worth the same and do not fit together."""
    whole, said = calib.whole(), []
    actions, heavy = whole.actions(tuned), whole.weights / whole.weights.sum()
    for action, most in calib.rules.limits.items():
        share, block = float(heavy[actions == action].sum()), constraints.next_block(whole, tuned, action)
        if tuned.prices[action] > 0 and block.sum() > 1 and share < WELL_BELOW * most < most < share + float(heavy[block].sum()):
            needed = math.ceil(1000 * (share + float(heavy[block].sum())) - 1e-6) / 1000
            said.append(
                f"The limit of {most:.4g} leaves {utility.actions[action]!r} to {share:.1%} of the rows: the next {block.sum()} rows of calib "
                f"are worth exactly the same, and a policy that decides each row alone takes all of them or none. Raise at_most to {needed:g}, or "
                "use a calibrator that tells these rows apart: calibrate.methods without isotonic, or a model that saturates less."
            )
    return said


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
        figures[_unused("utility_always_" + re.sub(r"\W+", "_", entry["action"]), figures)] = entry["utility"]
    if summary["threshold"] is not None:
        figures["threshold"] = summary["threshold"]
    return figures


def _unused(key: str, keys: Container[str]) -> str:
    """The key, or, as two actions' names may differ in signs alone, the key and the first number that makes it another."""
    return next(name for name in chain([key], (f"{key}_{number}" for number in count(2))) if name not in keys)
