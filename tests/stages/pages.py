"""Inputs of the review page for tests: what is not made by a small workspace is written by hand, in the stages' formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.core import evaluation, operating, reliability
from pipelines.core.evaluation import Cases, Display, Rows, Scored

DISPLAY = Display(resamples=100)


def interval(mean: float, half: float = 0.02) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "rows": 100}


def criterion(kind: str, **given: Any) -> dict[str, Any]:
    made = {
        "criterion": kind,
        "verdict": "PASS",
        "reason": f"The reason of {kind}.",
        "gated": True,
        "rows": 100,
        "unit": "euro",
        "subject": None,
    }
    measured = {"estimate": 0.01, "low": -0.02, "high": 0.04, "bound": -0.02, "margin": 0.03, "rows_needed": None, "p_value": None}
    return {**made, **measured, **given}


def case(row: int, **given: Any) -> dict[str, Any]:
    inputs = {"number": 1.25, "colour": "red", "heavy": None, "flag": True}
    made = {
        "row": row,
        "key": f"row {row}",
        "inputs": inputs,
        "label": "bad",
        "action": "pass",
        "probability": {"bad": 0.125},
        "regret": 5.0,
    }
    return {**made, **given}


def full(read: dict[str, Any]) -> dict[str, Any]:
    """`read` with all that the other stages add: slices, lessons, flips, floors, the re-decided champion, looks, changes of the data."""
    name = "number > 1.5 and colour is red"
    part = {"support": 120, "compared": 110, "challenger": interval(-0.5), "champion": interval(-0.4), "difference": interval(-0.1)}
    slices = [
        {"name": "flag", "kind": "declared", "version": None, **part, "regret": interval(0.2)},
        {"name": name, "kind": "earlier lesson", "version": 3, **part, "regret": interval(0.9)},
    ]
    added = [
        criterion("utility", subject="re-decided"),
        criterion("floor_first"),
        criterion("calibration_error", estimate=0.02, low=0.0, high=0.05, margin=0.02, unit="probability"),
        criterion("slope", estimate=0.9, low=0.8, high=1.25, margin=None, unit=None, subject="challenger"),
        criterion("slice", subject="flag", verdict="FAIL", estimate=-0.1, low=-0.12, high=-0.08),
        criterion("lesson", subject=name, gated=False),
        criterion("negative_flips", estimate=0.05, low=0.02, high=0.08, margin=0.2, unit="share"),
        criterion("limit", subject="stop", estimate=0.25, low=0.2, high=0.3, margin=0.4, unit="share"),
    ]
    moved = {"psi_noise": 0.01, "p_value": 0.0, "missing_before": 0.1, "missing_now": 0.3}
    changes = {
        "rows_before": 600,
        "rows_now": 700,
        "schema": {
            "added": ["day"],
            "removed": [],
            "retyped": [{"column": "flag", "before": "number, feature", "now": "boolean, feature"}],
        },
        "features": [
            {"feature": "heavy", "psi": 0.002, "ks": 0.01, "tv": 0.01, "word": "stable", **moved},
            {
                "feature": "colour",
                "psi": 0.4,
                "ks": None,
                "tv": 0.3,
                "word": "moved much",
                "appeared": ["mauve"],
                **moved,
                "bins": {"values": ["red"], "before": [0.6, 0.4], "now": [0.2, 0.8]},
            },
        ],
        "target": {"feature": "outcome", "psi": 0.001, "ks": None, "tv": 0.01, "word": "stable", **moved},
    }
    lesson = {
        "name": name,
        "conditions": [{"column": "colour", "op": "is", "value": "red"}],
        "support": 80,
        "share": 0.2,
        "regret": interval(0.9),
        "failures": [case(4), case(9, key=None)],
        "successes": [case(17, action="stop", regret=0.0, beside=4)],
    }
    verdict = {**read["verdict"], "verdict": "FAIL", "reasons": [item["reason"] for item in added]}
    return {
        **read,
        "verdict": {
            **verdict,
            "criteria": [*read["verdict"]["criteria"], *added],
            "looks": {"before": 7, "alpha": 0.03, "retired_rows": 0, "limit": 50},
        },
        "evaluation": {
            **read["evaluation"],
            "slices": slices,
            "redecided": interval(-0.33),
            "first": {"version": 1, "utility": interval(-0.35), "difference": interval(0.02)},
            "flips": {"negative": interval(0.05), "positive": interval(0.07)},
        },
        "lessons": {"rows": 400, "regret": 0.3, "lessons": [lesson]},
        "changes": changes,
    }


def measured(
    read: dict[str, Any], *, rows: int, U: np.ndarray, classes: list[str], actions: list[str], weighted: bool = False
) -> dict[str, Any]:
    """`read` with evaluation and curves of two made-up models on `rows` holdout rows of the decision problem `U` `(K, A)`."""
    rng, K = np.random.default_rng(5), len(classes)
    score = rng.normal(size=(rows, K)) * 1.5
    score[:, -1] -= 1.5
    true = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(0, K - 1)
    weights = rng.uniform(0.5, 3.0, rows) if weighted else np.ones(rows)
    cases = Cases(labels, np.arange(rows), weights, U, float(U.min()), float(U.max()), float(np.ptp(U, axis=1).max()))
    models = {name: _model(score + noise * rng.normal(size=score.shape), cases) for name, noise in (("challenger", 0.2), ("champion", 0.6))}
    made = {name: _summary(*model, cases, classes, actions) for name, model in models.items()}
    shown = {name: (*model, cases) for name, model in models.items()}
    scored = {name: model[0] for name, model in models.items()}
    curves = evaluation.curves(shown, 0.95) | {
        "operating": operating.along(scored, cases, classes=classes, actions=actions, display=DISPLAY)
    }
    always = {name: {**interval(float(U[labels, a].mean())), "rows": rows, "allowed": True} for a, name in enumerate(actions)}
    found = {
        **read["evaluation"],
        **made,
        "classes": classes,
        "actions": actions,
        "matrix": U.tolist(),
        "rows": {"holdout": rows, "compared": rows},
        "effective_rows": float(weights.sum() ** 2 / (weights @ weights)),
        "prevalence": np.bincount(labels, minlength=K).tolist(),
        "trivial": always,
        "best_trivial": f"always {actions[-1]}",
    }
    return {**read, "evaluation": found, "curves": curves, "decision": {**read["decision"], "thresholds": None, "threshold": None}}


def _model(score: np.ndarray, cases: Cases) -> tuple[Scored, Rows]:
    p = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    scored = Scored(p, (p @ cases.U).argmax(axis=1), np.zeros((len(p), 1)))
    lost = -np.log(p[np.arange(len(p)), cases.labels])
    return scored, Rows(evaluation.utility_rows(scored.actions, cases.labels, cases.U), lost, lost, 1 - lost, p, None)


def _summary(scored: Scored, rows: Rows, cases: Cases, classes: list[str], actions: list[str]) -> dict[str, Any]:
    confusion = {
        name: {action: int(((cases.labels == k) & (scored.actions == a)).sum()) for a, action in enumerate(actions)}
        for k, name in enumerate(classes)
    }
    few = slice(0, 2000)
    return {
        "rows": cases.labels.size,
        "utility": {**interval(float(np.average(rows.utility, weights=cases.weights))), "rows": cases.labels.size},
        "calibration": reliability.summary(scored.probability[few], cases.labels[few], groups=cases.groups[few], resamples=100),
        "confusion": confusion,
        **{name: interval(float(getattr(rows, name).mean())) for name in ("log_loss", "brier")},
        "v_information": interval(float(rows.bits.mean())),
    }
