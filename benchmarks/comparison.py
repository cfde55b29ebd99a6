"""From results per salt to what is reported: the best peer, chosen on other salts, differences and ratios with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peer import WEIGHTED
from benchmarks.repeated import paired, ratio
from benchmarks.textpeer import EVERY

EXPOST, HALVED, TRIVIAL = "expost", "expost, half the epochs", "always the same action"
#: The same split trained with other seeds: what chance in training alone does to a figure.
SEEDS = {f"expost, seed {seed}": seed for seed in (1, 2)}
FIGURES = ("cost", "log_loss", "brier", "auc")
SPENT = ("fit_seconds", "seconds", "peak_mb")
#: What is aimed at: the geometric mean of the ratios at most, and the end of a table's interval that must not lie above.
MEAN_AT_MOST, LOW_AT_MOST = 0.97, 1.02
#: salt -> learner -> its result
Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def best_peer(selection: Results, reported: Results, figure: str) -> str:
    """The peer with the lowest mean of `figure` over the selection's salts, among those with a result on every salt of both.

    Raises ValueError where a salt serves both purposes, which would flatter whoever was chosen, or no peer is complete.
    """
    if both := set(selection) & set(reported):
        raise ValueError(f"the best peer must be chosen on other salts than those reported, however: {sorted(both)} serve both")
    everywhere = [*selection.values(), *reported.values()]
    complete = [name for name in EVERY if all(name in learners for learners in everywhere)]
    if not selection or not complete:
        raise ValueError("a peer must have a result on every salt, however: none has")
    return min(complete, key=lambda name: values(selection, name, figure).mean())


def values(results: Results, name: str, figure: str) -> NDArray[np.float64]:
    """A learner's figure per salt `(J,)`, over the salts that have it."""
    return np.array([learners[name][figure] for learners in results.values() if name in learners], dtype=np.float64)


def summarise(reported: Results, selection: Results) -> dict[str, Any]:
    """Means per learner with the paired differences expost - learner, the ratios to the best peer, and the time that training takes."""
    share = float(np.mean([learners[EXPOST]["holdout_rows"] / learners[EXPOST]["rows_outside"] for learners in reported.values()]))
    names = [name for name in (EXPOST, *EVERY, TRIVIAL) if all(name in learners for learners in reported.values())]
    summary = {
        "salts": len(reported),
        "selection_salts": len(selection),
        "share": share,
        "learners": {name: _learner(reported, name, share) for name in names},
        "ratio": {},
    }
    for figure in ("cost", "log_loss"):
        best = best_peer(selection, reported, figure)
        found = ratio(values(reported, EXPOST, figure), values(reported, best, figure), share)
        summary["ratio"][figure] = {"best_peer": best, **_finite(found)}
    halved = {salt: learners for salt, learners in reported.items() if HALVED in learners}
    summary["halved"] = _halved(halved, share) if halved else None
    summary["seeds"] = _seeds(reported)
    return summary


def _seeds(results: Results) -> dict[str, Any] | None:
    """Standard deviation of each figure over the seeds of a training, pooled over the splits where other seeds were tried; None where none was."""
    tried = [learners for learners in results.values() if all(name in learners for name in SEEDS)]
    if not tried:
        return None
    found: dict[str, Any] = {"splits": len(tried), "seeds": 1 + len(SEEDS)}
    for figure in ("cost", "log_loss"):
        by_split = np.array([[learners[name][figure] for name in (EXPOST, *SEEDS)] for learners in tried])
        found[figure] = float(np.sqrt(by_split.var(axis=1, ddof=1).mean()))
    return found


def _learner(reported: Results, name: str, share: float) -> dict[str, Any]:
    found: dict[str, Any] = {figure: float(values(reported, name, figure).mean()) for figure in FIGURES}
    found |= {spent: float(values(reported, name, spent).mean()) for spent in SPENT if name != TRIVIAL}
    if name != EXPOST:
        against = {figure: paired(values(reported, EXPOST, figure) - values(reported, name, figure), share) for figure in FIGURES}
        found["expost_minus_this"] = {figure: _finite(difference) for figure, difference in against.items()}
    return found | {"weighted": name in WEIGHTED}


def _halved(results: Results, share: float) -> dict[str, Any]:
    """What half the epochs change, on the salts where that was tried: half minus whole."""
    found: dict[str, Any] = {"salts": len(results), "epochs": float(values(results, EXPOST, "epochs").mean())}
    for figure in ("log_loss", "cost"):
        found[figure] = _finite(paired(values(results, HALVED, figure) - values(results, EXPOST, figure), share))
    return found | {name: [float(values(results, who, name).mean()) for who in (EXPOST, HALVED)] for name in ("fit_seconds", "seconds")}


def overall(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Geometric means of the tables' ratios, and the tables whose whole interval lies above what is aimed at."""
    found: dict[str, Any] = {}
    for figure in ("cost", "log_loss"):
        ratios = {name: entry["summary"]["ratio"][figure] for name, entry in tables.items() if "summary" in entry}
        known = [entry["ratio"] for entry in ratios.values() if entry["ratio"] is not None]
        found[figure] = {
            "tables": len(known),
            "geometric_mean": float(np.exp(np.mean(np.log(known)))) if known else None,
            "aim": MEAN_AT_MOST,
            "above": [name for name, entry in ratios.items() if entry["low"] is not None and entry["low"] > LOW_AT_MOST],
        }
    return found


def _finite(found: Mapping[str, float]) -> dict[str, float | None]:
    """The same with None for what is no number: JSON has no NaN."""
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}
