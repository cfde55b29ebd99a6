"""The model card in markdown, and the figures that the closing panel shows: the same facts, from what the stages wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def rows_said(rows: float, effective: float) -> str:
    """`107 rows`, with what they are worth where unequal weights make that another number."""
    return f"{rows} rows" + (f", which unequal weights make worth {effective:.1f}" if abs(effective - rows) >= 0.05 else "")


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


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A markdown table; pipes and line ends in cells are escaped, figures stand to the right."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---", *["---:"] * (len(head) - 1)]) + "|"]
    return [*lines, *("| " + " | ".join(cell(value) for value in row) + " |" for row in rows), ""]


def cell(value: object) -> str:
    """Text that neither breaks a table nor becomes markup: class and column names come from the data."""
    text = " ".join(str(value).split()).replace("\\", "\\\\")
    for mark in "|<>`*[]":
        text = text.replace(mark, f"\\{mark}")
    return text


def markdown(read: Mapping[str, Any], plots: Sequence[str]) -> str:
    """The model card: verdict first, then what it decides, how well, on which data, and where it ends."""
    sections = (_head, _decides, _kept, _utility, _quality, _calibration, _confusion, _data, _scope, _provenance)
    lines = [line for section in sections for line in section(read)]
    return "\n".join([*lines, "## Plots", "", *[f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in plots], ""])


def _head(read: Mapping[str, Any]) -> list[str]:
    verdict = read["verdict"]
    meaning = "identical to the champion; nothing to promote" if verdict["identical"] else VERDICT_MEANS[verdict["verdict"]]
    state = read["champion"]["state"]
    against = {
        "champion": f"Compared with the champion, version {read['champion'].get('version')}.",
        "none": "No champion reigns: judged by the absolute criteria of a first one.",
        "unsynced": "The champion was never mirrored here: judged as if none reigned, and not to be promoted by this verdict.",
    }[state]
    return [
        f"# Model card: {cell(read['schema']['target'])}",
        "",
        f"**Verdict: {verdict['verdict']}**: {meaning}. {against}",
        "",
        *[f"- {cell(reason)}" for reason in verdict["reasons"]],
        "",
    ]


def _decides(read: Mapping[str, Any]) -> list[str]:
    evaluation, decision = read["evaluation"], read["decision"]
    actions = evaluation["actions"]
    matrix = [[name, *map(worth, row)] for name, row in zip(evaluation["classes"], evaluation["matrix"], strict=True)]
    by_row = any(isinstance(value, str) for row in evaluation["matrix"] for value in row)
    return [
        "## What it decides",
        "",
        f"For each row it gives a probability of each class of {cell(read['schema']['target'])} and takes one of the actions "
        f"{', '.join(cell(repr(name)) for name in actions)}. The network learned without the utilities; the policy uses them afterwards."
        + (" Costs differ by row: a cell that is an expression is computed from each row's own columns." if by_row else ""),
        "",
        *table([f"utility ({cell(evaluation['unit'])})", *map(cell, actions)], matrix),
        f"Policy: {decision['chosen']}. {cell(decision['why'])}",
        "",
        *_thresholds(evaluation["classes"][-1], decision),
    ]


def _thresholds(positive: str, decision: Mapping[str, Any]) -> list[str]:
    found, cut = named_thresholds(decision), decision.get("threshold")
    if found is None:
        return [] if cut is None else [f"The threshold on the probability of {cell(positive)} is {cut:.4g}.", ""]
    exact = found["exact"] or {}
    limits = [exact.get("low"), exact.get("high")]
    bounds = "" if None in limits else f" [{limits[0]:.4g}, {limits[1]:.4g}]"
    named = {
        "analytic": _cut(found["analytic"]),
        "exact, with the interval of the optimum": _cut(exact.get("value")) + bounds,
        "Optuna's": _cut(found["optuna"]),
        f"ships ({decision['chosen']})": _cut(found["chosen"]),
    }
    return table([f"threshold on the probability of {cell(positive)}", "value"], list(named.items()))


def _cut(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _kept(read: Mapping[str, Any]) -> list[str]:
    """What the policy has to keep, and the class shares that it was made for; nothing where nothing was declared."""
    evaluation, prior = read["evaluation"], read["evaluation"]["prior"]
    listed = constraints(evaluation)
    if not listed and prior is None:
        return []
    lines = ["## Limits, requirements and prior", ""]
    if listed:
        champion = evaluation["champion"] is not None
        rows = [[item["what"], item["wanted"], interval(item["measured"]), interval(item["champion"])] for item in listed]
        lines += table(["holdout", "wanted", "challenger", "champion"], rows if champion else [[*row[:3], "n/a"] for row in rows])
    if prior is not None:
        lines += table(
            ["class", "share in the data", "declared for deployment"],
            [[name, share(prior["data"][name]), share(prior["deployment"][name])] for name in evaluation["classes"]],
        )
        lines += ["Probabilities are corrected for the declared shares before deciding, and rows are weighted by them in every figure.", ""]
    return lines


def _utility(read: Mapping[str, Any]) -> list[str]:
    evaluation = read["evaluation"]
    rows = [[item["policy"], number(item["mean"]), number(item["low"]), number(item["high"]), item["rows"]] for item in policies(read)]
    return [
        "## Utility per case, holdout",
        "",
        *table(["policy", "utility", "low", "high", "rows"], rows),
        f"Gain over the best trivial policy ({cell(evaluation['best_trivial'])}, chosen on calib): {interval(evaluation['gain'])}. "
        f"Gain over argmax: {interval(evaluation['gain_over_argmax'])}. Intervals are {evaluation['confidence']:.0%} and allow for a "
        "costly error that these rows happen not to show.",
        "",
    ]


def _quality(read: Mapping[str, Any]) -> list[str]:
    evaluation = read["evaluation"]
    ours, theirs = evaluation["challenger"], evaluation["champion"]
    named = {
        "regret": "regret per case",
        "log_loss": "log loss (nats)",
        "brier": "Brier score (sum over classes)",
        "auc": "AUC",
        "v_information": "V-information of a linear probe (bits)",
    }
    rows = [[title, interval(ours[name]), interval(theirs[name]) if theirs else "n/a"] for name, title in named.items()]
    rows += [
        [f"kNN probe, {name.replace('_', ' ')}", interval(ours["knn"][name]), interval(theirs["knn"][name]) if theirs else "n/a"]
        for name in ("accuracy", "log_loss")
    ]
    rows += [
        ["effective rank of the embedding", number(ours["effective_rank"], 1), number(theirs["effective_rank"], 1) if theirs else "n/a"]
    ]
    return ["## Quality, holdout", "", *table(["figure", "challenger", "champion"], rows)]


def _calibration(read: Mapping[str, Any]) -> list[str]:
    calibration, evaluation = read["calibration"], read["evaluation"]
    rows = [
        [name.replace("_", " "), interval(calibration["before"][name], 4), interval(calibration["after"][name], 4)]
        for name in ("log_loss", "brier")
    ]
    ours, theirs = (evaluation[name] and evaluation[name]["calibration"] for name in ("challenger", "champion"))
    figures = zip(reliability(ours), reliability(theirs) if theirs else [("", "n/a")] * len(reliability(ours)), strict=True)
    return [
        "## Calibration",
        "",
        f"Calibrator: {calibration['method']}. {cell(calibration['why'])} Check on calib: {cell(calibration['sentence']).rstrip('.')}.",
        "",
        *table(["calib, cross-fitted", "as trained", f"cross-fitted choice; ships: {calibration['method']}"], rows),
        f"On the holdout: {cell(ours['sentence'])}",
        "",
        *table(["holdout", "challenger", "champion"], [[name, value, other] for (name, value), (_, other) in figures]),
        "The calibration part of a score is what recalibration would take away, the refinement what is left. A perfectly calibrated model "
        "with the challenger's probabilities shows an ECE of "
        f"{number(ours['ece']['null_median'], 4)} as a median and of up to {number(ours['ece']['null_high'], 4)} (95 %) on so many rows.",
        "",
    ]


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


def _confusion(read: Mapping[str, Any]) -> list[str]:
    evaluation = read["evaluation"]
    rows = [[name, *[row[action] for action in evaluation["actions"]]] for name, row in evaluation["challenger"]["confusion"].items()]
    counted = "" if unweighted(evaluation) else ", rows counted without their weights"
    return [f"## Actions by true class, holdout{counted}", "", *table(["true class", *map(cell, evaluation["actions"])], rows)]


def unweighted(evaluation: Mapping[str, Any]) -> bool:
    """Whether each holdout row counts as one."""
    return bool(abs(evaluation["effective_rows"] - evaluation["rows"]["holdout"]) < 0.05)


def _data(read: Mapping[str, Any]) -> list[str]:
    schema, split = read["schema"], read["split"]
    features = [column for column in schema["columns"] if column["role"] in ("feature", "feature+cost")]
    rows = [[part["part"], part["rows"], *part["per_class"].values()] for part in parts(read)]
    checks = read["validation"].get("checks", [])
    return [
        "## Data",
        "",
        f"{schema['rows']} rows, {len(features)} features; parts by {cell(split['rule']['by'])} with salt {cell(split['rule']['salt'])}. "
        f"{sum(bool(item.get('ok')) for item in checks)} of {len(checks)} data checks held.",
        "",
        *table(["part", "rows", *map(cell, split["classes"])], rows),
    ]


def _scope(read: Mapping[str, Any]) -> list[str]:
    rows, counts = read["evaluation"]["rows"]["holdout"], read["evaluation"]["prevalence"]
    fewest = min(zip(counts, read["evaluation"]["classes"], strict=True))
    notes = [
        *read["schema"].get("notes", []),
        *read["calibration"].get("notes", []),
        *read["decision"].get("notes", []),
        *read["evaluation"]["notes"],
    ]
    return [
        "## Scope",
        "",
        f"- All figures rest on the holdout: {rows_said(rows, read['evaluation']['effective_rows'])}, {fewest[0]} rows of the rarest class "
        f"({cell(fewest[1])}).",
        "- They hold for rows like these: drawn as the table was, with the same meanings of columns and "
        f"{'the declared' if read['evaluation']['prior'] else 'the same'} class shares.",
        "- Every look at the holdout wears it out a little; the ledger counts them.",
        *[f"- {cell(note)}" for note in notes],
        "",
    ]


def _provenance(read: Mapping[str, Any]) -> list[str]:
    manifest = read["manifest"]
    names = ("bundle_sha256", "weights_sha256", "policy_sha256")
    return ["## Provenance", "", *table(["digest", "value"], [[name, manifest[name]] for name in names])]
