"""README's tables of the peers, and the page with all of their figures, from benchmarks/results/peers.json."""

from __future__ import annotations

from statistics import geometric_mean
from typing import Any

from benchmarks.textpeer import TEXT


def peers(result: dict[str, Any]) -> str:
    """Cost and log loss beside the best peer's, the costs of all, and the time of training; one row per table."""
    tables = {name: entry["summary"] for name, entry in result["tables"].items() if "summary" in entry}
    return "\n".join([*_ratios(tables, result["overall"]), "", *_costs(tables), "", *_training(tables), "", *_beyond(result)]) + "\n"


def _ratios(tables: dict[str, Any], overall: dict[str, Any]) -> list[str]:
    head = (
        "mean cost per case on the holdout",
        "salts",
        "expost",
        "best peer, chosen on other salts",
        "expost's cost over its",
        "log loss likewise",
    )
    lines = _head(*head)
    for name, summary in tables.items():
        cost, loss = summary["ratio"]["cost"], summary["ratio"]["log_loss"]
        peer = summary["learners"][cost["best_peer"]]
        beside = f"{cost['best_peer']}: {peer['cost']:.3f} (expost {_difference(peer['expost_minus_this']['cost'])})"
        seeds = summary.get("seeds")
        spread = f" ± {seeds['cost']:.3f}" if seeds else ""
        cells = (f"{summary['learners']['expost']['cost']:.3f}{spread}", beside, _ratio(cost), f"{_ratio(loss)} of {loss['best_peer']}")
        lines.append(f"| {name} | {summary['salts']} | " + " | ".join(cells) + " |")
    means = (f"{overall[figure]['geometric_mean']:.3f} (aim: {overall[figure]['aim']})" for figure in ("cost", "log_loss"))
    return [*lines, "| geometric mean | | | | " + " | ".join(means) + " |"]


def _costs(tables: dict[str, Any]) -> list[str]:
    """Tables without text, then those with: other peers read them."""
    lines = list[str]()
    for kind in (False, True):
        some = {table: summary for table, summary in tables.items() if bool(TEXT.keys() & summary["learners"].keys()) == kind}
        if not some:
            continue
        names = _learners(some)
        lines += [*([""] if lines else []), *_head("mean cost per case", *names)]
        for table, summary in some.items():
            cells = (f"{summary['learners'][name]['cost']:.3f}" if name in summary["learners"] else "left out" for name in names)
            lines.append(f"| {table} | " + " | ".join(cells) + " |")
        if len(some) > 1:
            for figure, said in (("cost", "expost's cost over this one's, geometric mean"), ("log_loss", "log loss likewise")):
                lines.append(f"| {said} | " + " | ".join(_over(some, name, figure) for name in names) + " |")
    return lines


def _head(*cells: str) -> list[str]:
    return ["| " + " | ".join(cells) + " |", "|---" * len(cells) + "|"]


def _over(tables: dict[str, Any], name: str, figure: str) -> str:
    """Geometric mean over the tables of expost's figure over a learner's.

    Empty for expost itself, for one that a table leaves out, and for the log loss of one whose probabilities are of weighted classes.
    """
    learners = [summary["learners"] for summary in tables.values()]
    if name == "expost" or any(name not in one for one in learners) or (figure == "log_loss" and learners[0][name]["weighted"]):
        return ""
    return f"{geometric_mean([one['expost'][figure] / one[name][figure] for one in learners]):.3f}"


def _learners(tables: dict[str, Any]) -> list[str]:
    """expost first, the trivial policy last."""
    every = {name for summary in tables.values() for name in summary["learners"]}
    return sorted(every, key=lambda name: (name != "expost", name == "always the same action", name))


def _training(tables: dict[str, Any]) -> list[str]:
    stopped = "LightGBM early-stopped, Elkan's threshold"
    head = (
        "seconds",
        "stage `train`",
        "all stages",
        "LightGBM early-stopped",
        "half the epochs: stage `train`",
        "its log loss, minus that of the whole",
    )
    lines = _head(*head)
    for table, summary in tables.items():
        ours, theirs, halved = summary["learners"]["expost"], summary["learners"].get(stopped), summary["halved"]
        half = (
            (f"{halved['fit_seconds'][0]:.1f} to {halved['fit_seconds'][1]:.1f}", _difference(halved["log_loss"])) if halved else ("", "")
        )
        beside = f"{theirs['seconds']:.1f}" if theirs else "left out"
        cells = (f"{ours['fit_seconds']:.1f}", f"{ours['seconds']:.1f}", beside, *half)
        lines.append(f"| {table} | " + " | ".join(cells) + " |")
    return lines


def _beyond(result: dict[str, Any]) -> list[str]:
    reasons = dict(result["left_out"])
    for table, entry in result["tables"].items():
        for why in dict.fromkeys(entry["left_out"].values()):
            names = [name for name, reason in entry["left_out"].items() if reason == why]
            reasons[f"{names[0] if len(names) == 1 else f'{len(names)} peers'} on {table}"] = why
    left_out = f"Left out: {'; '.join(f'{name} ({why})' for name, why in sorted(reasons.items()))}."
    spent = "Seconds are those of whole processes, their start included; of a peer one, of expost one per stage."
    chance = "After ± stands the standard deviation over three seeds of one split's training."
    return [f"{chance} {spent} Log loss, Brier score, AUC and memory of all: [peers.md](benchmarks/results/peers.md). {left_out}"]


def _ratio(entry: dict[str, Any]) -> str:
    return "not known" if entry["ratio"] is None else f"{entry['ratio']:.3f}{_interval(entry)}"


def _difference(entry: dict[str, Any]) -> str:
    return f"{entry['mean']:+.3f}" + ("" if entry["low"] is None else f", {entry['low']:+.3f} to {entry['high']:+.3f}")


def _interval(entry: dict[str, Any]) -> str:
    return "" if entry["low"] is None else f" ({entry['low']:.3f} to {entry['high']:.3f})"


def peers_page(result: dict[str, Any]) -> str:
    """Everything that is known of every learner, a table of figures per table of data."""
    lines = [
        "# Peers, table by table",
        "",
        "Rendered from peers.json. In brackets the paired difference, expost minus this one, with a 95 % interval over the salts.",
    ]
    lines += ["Log loss and Brier score of learners marked * are of classes weighted by cost. Brier scores are summed over classes."]
    head = ("", "cost", "log loss", "Brier", "AUC", "seconds of fitting", "of all", "peak MB")
    for table, entry in result["tables"].items():
        if "summary" not in entry:
            continue
        summary = entry["summary"]
        lines += ["", f"## {table}: {entry['rows']:,} rows, {entry['classes']} classes, {summary['salts']} salts", "", *_head(*head)]
        for name in _learners({table: summary}):
            found = summary["learners"][name]
            beside = found.get("expost_minus_this", {})
            cells = [f"{found[figure]:.4f}" + _beside(beside.get(figure)) for figure in ("cost", "log_loss", "brier", "auc")]
            cells += [f"{found[spent]:,.1f}" if spent in found else "" for spent in ("fit_seconds", "seconds")]
            cells += [f"{found['peak_mb']:,.0f}" if "peak_mb" in found else ""]
            lines.append(f"| {name}{'*' if found['weighted'] else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _beside(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    return f" ({entry['mean']:+.4f}" + ("" if entry["low"] is None else f", {entry['low']:+.4f} to {entry['high']:+.4f}") + ")"
