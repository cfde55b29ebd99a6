"""The README's words and tables on images, from benchmarks/results/images.json."""

from __future__ import annotations

from typing import Any

HEAD = ("test part", "AUC", "accuracy", "log loss", "weights", "training")


def images(result: dict[str, Any]) -> str:
    """Each seed with its intervals, the spread over seeds, the published network; then costs by policy where there are costs."""
    lines = ["### Images", "", _words(result), "", "| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for name, entry in result["data"].items():
        lines += _figures(name, entry)
    with_costs = {name: entry for name, entry in result["data"].items() if entry["costs"]}
    return "\n".join([*lines, *(_costs(with_costs) if with_costs else [])]) + "\n"


def _words(result: dict[str, Any]) -> str:
    sentences = [
        "Official parts: the test part is the holdout, the rest is drawn into train, valid and calib; `expost init`'s defaults, mirror images off.",
        "In brackets a 95 % bootstrap interval over the test part, or the standard deviation over seeds. Published figures are from memory.",
    ]
    for name, entry in result["data"].items():
        if entry["minutes"] is not None:
            cut = [seed for seed in entry["summary"]["seeds"] if entry["seeds"][seed]["out_of_time"]]
            said = f"which cut {len(cut)} of {len(entry['summary']['seeds'])} short" if cut else "more than any needed"
            sentences.append(f"Each training on {name} had {entry['minutes']:g} minutes on {result['machine']['cores']} cores, {said}.")
    return " ".join(sentences)


def _figures(name: str, entry: dict[str, Any]) -> list[str]:
    summary, lines = entry["summary"], list[str]()
    for seed in summary["seeds"]:
        found = entry["seeds"][seed]
        cells = [_interval(found[figure]) for figure in ("auc", "accuracy", "log_loss")]
        took = f"{found['epochs']} epoch{'' if found['epochs'] == 1 else 's'}, {found['train_seconds']:,.0f} s"
        rows = f"{name} ({found['rows']['holdout']:,} rows, {found['rows']['train']:,} train)"
        lines.append(f"| {rows}: expost, seed {seed} | " + " | ".join(cells) + f" | {found['parameters']:,} | {took} |")
    if len(summary["seeds"]) > 1:
        cells = [_spread(summary[figure]) for figure in ("auc", "accuracy", "log_loss")]
        took = f"{summary['train_seconds']['mean']:,.0f} s"
        lines.append(f"| {name}: expost, mean of {len(summary['seeds'])} seeds | " + " | ".join(cells) + f" | | {took} |")
    other = entry["published"]
    auc = "" if other["auc"] is None else f"{other['auc']:.3f}"
    cells = [auc, f"{other['accuracy']:.4f}".rstrip("0"), "", f"{other['parameters']:,}", other["training"]]
    return [*lines, f"| {name}: {other['name']} | " + " | ".join(cells) + " |"]


def _costs(data: dict[str, Any]) -> list[str]:
    ways = sorted(next(iter(data.values()))["summary"]["cost"], key=lambda name: (not name.startswith("expost"), name))
    lines = ["", "| mean cost per case on the test part | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for name, entry in data.items():
        for seed in entry["summary"]["seeds"]:
            cells = [_interval(entry["seeds"][seed]["cost"][way]) for way in ways]
            lines.append(f"| {name}, seed {seed} | " + " | ".join(cells) + " |")
        if len(entry["summary"]["seeds"]) > 1:
            cells = [_spread(entry["summary"]["cost"][way]) for way in ways]
            lines.append(f"| {name}, mean of {len(entry['summary']['seeds'])} seeds | " + " | ".join(cells) + " |")
    return lines


def _interval(found: dict[str, float]) -> str:
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _spread(found: dict[str, Any]) -> str:
    return f"{found['mean']:.3f}" + ("" if found["sd"] is None else f" ({found['sd']:.3f})")
