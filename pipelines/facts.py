"""What card, panel and review page say of a challenger, as plain types: from what the stages wrote, and each said in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERDICT_MEANS = {
    "PASS": "not inferior to what it is compared with; it may be promoted",
    "FAIL": "worse than what it is compared with; it must not be promoted",
    "INSUFFICIENT_DATA": "too few holdout rows to tell; the champion stays",
    "ERROR": "something is missing or is no number; nothing may be promoted",
}
ARGMAX = "argmax, ignore the costs"


def number(value: float | None, digits: int = 3) -> str:
    """A figure as text, "n/a" where there is none."""
    return "n/a" if value is None else f"{value:z.{digits}f}"


def interval(item: Mapping[str, Any] | None, digits: int = 3) -> str:
    """`mean [low, high]`."""
    if not item or item.get("mean") is None:
        return "n/a"
    return f"{number(item['mean'], digits)} [{number(item['low'], digits)}, {number(item['high'], digits)}]"


def worth(value: float | str) -> str:
    """A cell of the utility matrix: a number, or the expression that gives one per row."""
    return value if isinstance(value, str) else f"{value:zg}"


def share(value: float | None) -> str:
    """A share as a percentage."""
    return "n/a" if value is None else f"{100 * value:.3g} %"


def constraints(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Limits and requirements with what the holdout shows: what, wanted, measured by challenger and champion."""
    listed = [
        {"what": f"share of {item['action']}", "wanted": f"at most {share(item['at_most'])}", "measured": item["share"], **_rest(item)}
        for item in evaluation["limits"]
    ]
    listed += [
        {"what": f"recall of {item['class']}", "wanted": f"at least {share(item['at_least'])}", "measured": item["recall"], **_rest(item)}
        for item in evaluation["requirements"]
    ]
    return listed


def _rest(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"champion": item["champion"], "rows": item.get("rows")}


def named_thresholds(decision: Mapping[str, Any]) -> dict[str, Any] | None:
    """Thresholds of the policies that competed, without the curve; None where a threshold says nothing."""
    found = decision.get("thresholds")
    return None if not found else {name: found.get(name) for name in ("analytic", "exact", "optuna", "chosen")}


def rows_said(rows: int, effective: float) -> str:
    """`107 rows`, with what they are worth where unequal weights make that another number."""
    return f"{rows:,} rows" + (f", which unequal weights make worth {effective:.1f}" if abs(effective - rows) >= 0.05 else "")


def unweighted(evaluation: Mapping[str, Any]) -> bool:
    """Whether each holdout row counts as one."""
    return bool(abs(evaluation["effective_rows"] - evaluation["rows"]["holdout"]) < 0.05)


def policies(read: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Utility per case on the holdout: the model's policy, the champion, who ignores the costs, and the trivial policies."""
    evaluation = read["evaluation"]
    listed = [{"policy": f"expost ({read['decision']['chosen']})", "kind": "challenger", **evaluation["challenger"]["utility"]}]
    if evaluation["champion"] and not evaluation["identical"]:
        name, comparator = f"champion, version {read['champion'].get('version')}", evaluation.get("comparator")
        redone = bool(comparator and comparator["possible"])
        listed.append({"policy": f"{name}{', re-decided' * redone}", "kind": "champion", **evaluation["champion"]["utility"]})
        if comparator and redone:
            listed.append({"policy": f"{name}, as it reigns (not allowed)", "kind": "champion as it reigns", **comparator["as_it_reigns"]})
    listed.append({"policy": ARGMAX, "kind": "argmax", **evaluation["argmax"]})
    for name, item in evaluation["trivial"].items():
        forbidden = "" if item["allowed"] else " (not allowed)"
        listed.append({"policy": f"always {name}{forbidden}", "kind": "trivial", **item})
    if evaluation["best_trivial"] not in {item["policy"] for item in listed}:
        listed.append({"policy": evaluation["best_trivial"], "kind": "trivial", **evaluation["reference"]})
    return listed


def parts(read: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of each part, by class."""
    classes, sizes = read["split"]["classes"], read["split"]["sizes"]
    names = [name for name in ("train", "valid", "calib", "holdout") if name in sizes]
    return [
        {"part": name, "rows": sizes[name]["rows"], "per_class": dict(zip(classes, sizes[name]["per_class"], strict=True))}
        for name in names
    ]


def pooled(read: Mapping[str, Any]) -> str | None:
    """What becomes of train, valid and calib where networks are trained on folds of them; None where one network is trained on train."""
    folds = read["split"]["rule"].get("folds")
    if not folds:
        return None
    count, repeats = folds["count"], folds["repeats"]
    times = {1: "", 2: ", twice"}.get(repeats, f", {repeats} times")
    return (
        f"train, valid and calib are one pool: {count * repeats} networks, of {count} folds{times}; each row calibrates as those see it that never "
        "learnt from it"
    )


#: What learns beside the network, by the name that its figures start with, and how large it is.
BESIDE = {
    "tree": ("trees", "boosted trees (rounds: {tree_rounds})"),
    "logistic": ("logistic regression", "logistic regression (strength: {logistic_strength:g})"),
}


def learners(read: Mapping[str, Any]) -> str | None:
    """What the network and the learners beside it are worth alone and together; None where it is alone, or the training's figures are not at hand."""
    found = read.get("training", {})
    beside = [name for name in BESIDE if f"{name}_share" in found]
    if not beside:
        return None
    shares = {BESIDE[name][1].format(**found): found[f"{name}_share"] for name in beside if found[f"{name}_share"]}
    told = ", ".join(f"{share:.2f} of {what}" for what, share in {**shares, "the network": 1 - sum(shares.values())}.items())
    ships = (
        f"probabilities are pooled, with shares of {told}" if shares else "the network ships alone, since nothing beside it made it better"
    )
    several = " (the mean of each alone)" if found["networks"] > 1 else ""
    losses = ", ".join(f"{BESIDE[name][0]} {found[f'{name}_log_loss']:.4f}" for name in beside)
    return f"{ships}; log loss on held-out rows{several}: network {found['network_log_loss']:.4f}, {losses}, all together {found['valid_log_loss']:.4f}"


def slopes(read: Mapping[str, Any]) -> str:
    """How steep the probabilities that ship are on the holdout without a calibrator, with one fitted on held-out logits, and with the one that ships."""
    calibration, evaluation = read["calibration"], read["evaluation"]
    plain, factor = evaluation["slope_uncalibrated"], calibration["temperature"]
    fitted = {end: None if value is None else value / factor for end, value in plain.items()} if plain and factor else None
    return (
        f"Slope left on the holdout (1 is right, above it too mild): {interval(plain)} without a calibrator, {interval(fitted)} with a temperature "
        f"fitted on logits of networks that never saw the row, {interval(evaluation['challenger']['calibration']['slope'])} with what ships, "
        f"{calibration['method']}, which cross-fitting chose."
    )


def reliability(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Figures of calibration by name."""
    parts = [
        (f"{title}, {part} part", interval(found[name][part], 4))
        for name, title in (("log_loss", "log loss"), ("brier", "Brier score"))
        for part in ("calibration", "refinement")
    ]
    ece = found["ece"]
    return [
        *parts,
        ("slope (1 is right)", interval(found["slope"])),
        ("intercept (0 is right)", interval(found["intercept"])),
        ("smECE", interval(found["smece"], 4)),
        (f"ECE, {ece['bins']} bins", interval(ece, 4)),
        ("debiased calibration error (L2)", interval(ece["debiased"], 4)),
    ]


def panel(read: Mapping[str, Any]) -> dict[str, Any]:
    """What the closing panel of a retraining shows, as plain types."""
    evaluation, calibration, decision, verdict = (read[name] for name in ("evaluation", "calibration", "decision", "verdict"))
    return {
        "target": read["schema"]["target"],
        "rows": read["schema"]["rows"],
        "classes": evaluation["classes"],
        "unit": evaluation["unit"],
        "confidence": evaluation["confidence"],
        "parts": parts(read),
        "pooled": pooled(read),
        "learners": learners(read),
        "excluded": read["split"]["sizes"].get("excluded", {}).get("rows", 0),
        "utility": policies(read),
        "gain": evaluation["gain"],
        "best_trivial": evaluation["best_trivial"],
        "calibration": {
            "method": calibration["method"],
            "before": calibration["before"],
            "after": calibration["after"],
            "sentence": calibration["sentence"],
            "holdout": evaluation["challenger"]["calibration"]["sentence"],
            "why": calibration["why"],
        },
        "policy": {
            "chosen": decision["chosen"],
            "why": decision["why"],
            "threshold": decision.get("threshold"),
            "thresholds": named_thresholds(decision),
        },
        "holdout": {"rows": evaluation["rows"]["holdout"], "effective_rows": evaluation["effective_rows"]},
        "constraints": constraints(evaluation),
        "prior": evaluation["prior"],
        "verdict": verdict["verdict"],
        "identical": verdict["identical"],
        "reasons": verdict["reasons"],
        "criteria": verdict["criteria"],
        "champion": verdict["champion"],
        "challenger": verdict["challenger"],
    }
