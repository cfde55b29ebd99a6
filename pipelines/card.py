"""The model card in markdown, from what the stages wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines import facts
from pipelines.review.brief import brief


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
    sections = (_head, _reviewed, _decides, _kept, _utility, _quality, _calibration, _confusion, _data, _scope, _provenance)
    lines = [line for section in sections for line in section(read)]
    return "\n".join([*lines, "## Plots", "", *[f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in plots], ""])


def _head(read: Mapping[str, Any]) -> list[str]:
    verdict = read["verdict"]
    meaning = "identical to the champion; nothing to promote" if verdict["identical"] else facts.VERDICT_MEANS[verdict["verdict"]]
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


def _reviewed(read: Mapping[str, Any]) -> list[str]:
    """Criteria, slices, lessons and data in short; the review page says them at length."""
    lines = []
    for part in brief(read):
        lines += [f"## {part['title']}", "", *[f"- {cell(line)}" for line in part["lines"]], *([""] if part["lines"] else [])]
        lines += table(part["head"], part["rows"]) if part["rows"] else []
    return [*lines, "All of it, with plots and a slider over the costs: `report/review.html`.", ""]


def _decides(read: Mapping[str, Any]) -> list[str]:
    evaluation, decision = read["evaluation"], read["decision"]
    actions = evaluation["actions"]
    matrix = [[name, *map(facts.worth, row)] for name, row in zip(evaluation["classes"], evaluation["matrix"], strict=True)]
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
    found, cut = facts.named_thresholds(decision), decision.get("threshold")
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
    listed = facts.constraints(evaluation)
    if not listed and prior is None:
        return []
    lines = ["## Limits, requirements and prior", ""]
    if listed:
        champion = evaluation["champion"] is not None
        rows = [[item["what"], item["wanted"], facts.interval(item["measured"]), facts.interval(item["champion"])] for item in listed]
        lines += table(["holdout", "wanted", "challenger", "champion"], rows if champion else [[*row[:3], "n/a"] for row in rows])
    if prior is not None:
        lines += table(
            ["class", "share in the data", "declared for deployment"],
            [[name, facts.share(prior["data"][name]), facts.share(prior["deployment"][name])] for name in evaluation["classes"]],
        )
        lines += ["Probabilities are corrected for the declared shares before deciding, and rows are weighted by them in every figure.", ""]
    return lines


def _utility(read: Mapping[str, Any]) -> list[str]:
    evaluation = read["evaluation"]
    rows = [
        [item["policy"], facts.number(item["mean"]), facts.number(item["low"]), facts.number(item["high"]), item["rows"]]
        for item in facts.policies(read)
    ]
    return [
        "## Utility per case, holdout",
        "",
        *table(["policy", "utility", "low", "high", "rows"], rows),
        f"Gain over the best trivial policy ({cell(evaluation['best_trivial'])}, chosen on calib): {facts.interval(evaluation['gain'])}. "
        f"Gain over argmax: {facts.interval(evaluation['gain_over_argmax'])}. Intervals are {evaluation['confidence']:.0%} and allow for a "
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
    rows = [[title, facts.interval(ours[name]), facts.interval(theirs[name]) if theirs else "n/a"] for name, title in named.items()]
    rows += [
        [
            f"kNN probe, {name.replace('_', ' ')}",
            facts.interval(ours["knn"][name]),
            facts.interval(theirs["knn"][name]) if theirs else "n/a",
        ]
        for name in ("accuracy", "log_loss")
    ]
    rows += [
        [
            "effective rank of the embedding",
            facts.number(ours["effective_rank"], 1),
            facts.number(theirs["effective_rank"], 1) if theirs else "n/a",
        ]
    ]
    return ["## Quality, holdout", "", *table(["figure", "challenger", "champion"], rows)]


def _calibration(read: Mapping[str, Any]) -> list[str]:
    calibration, evaluation = read["calibration"], read["evaluation"]
    rows = [
        [name.replace("_", " "), facts.interval(calibration["before"][name], 4), facts.interval(calibration["after"][name], 4)]
        for name in ("log_loss", "brier")
    ]
    ours, theirs = (evaluation[name] and evaluation[name]["calibration"] for name in ("challenger", "champion"))
    figures = zip(
        facts.reliability(ours), facts.reliability(theirs) if theirs else [("", "n/a")] * len(facts.reliability(ours)), strict=True
    )
    return [
        "## Calibration",
        "",
        f"Calibrator: {calibration['method']}. {cell(calibration['why'])} Check on calib: {cell(calibration['sentence']).rstrip('.')}.",
        "",
        *table(["calib, cross-fitted", "as trained", f"cross-fitted choice; ships: {calibration['method']}"], rows),
        f"On the holdout: {cell(ours['sentence'])}",
        "",
        facts.slopes(read),
        "",
        *table(["holdout", "challenger", "champion"], [[name, value, other] for (name, value), (_, other) in figures]),
        "The calibration part of a score is what recalibration would take away, the refinement what is left. A perfectly calibrated model "
        "with the challenger's probabilities shows an ECE of "
        f"{facts.number(ours['ece']['null_median'], 4)} as a median and of up to {facts.number(ours['ece']['null_high'], 4)} (95 %) on so many rows.",
        "",
    ]


def _confusion(read: Mapping[str, Any]) -> list[str]:
    evaluation = read["evaluation"]
    rows = [[name, *[row[action] for action in evaluation["actions"]]] for name, row in evaluation["challenger"]["confusion"].items()]
    counted = "" if facts.unweighted(evaluation) else ", rows counted without their weights"
    return [f"## Actions by true class, holdout{counted}", "", *table(["true class", *map(cell, evaluation["actions"])], rows)]


def _data(read: Mapping[str, Any]) -> list[str]:
    schema, split = read["schema"], read["split"]
    features = [column for column in schema["columns"] if column["role"] in ("feature", "feature+cost")]
    rows = [[part["part"], part["rows"], *part["per_class"].values()] for part in facts.parts(read)]
    checks = read["validation"].get("checks", [])
    return [
        "## Data and learners",
        "",
        f"{schema['rows']} rows, {len(features)} features; parts by {cell(split['rule']['by'])} with salt {cell(split['rule']['salt'])}. "
        f"{sum(bool(item.get('ok')) for item in checks)} of {len(checks)} data checks held.",
        "",
        *table(["part", "rows", *map(cell, split["classes"])], rows),
        *(line for said in (facts.pooled(read), facts.learners(read)) if said for line in ("", f"{said[0].upper()}{said[1:]}.")),
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
        f"- All figures rest on the holdout: {facts.rows_said(rows, read['evaluation']['effective_rows'])}, {fewest[0]} rows of the rarest class "
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
