"""Render the tables of README.md from `benchmarks/results/*.json`: `python -m benchmarks.render [--check]`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from scipy.stats import beta

from benchmarks.common import RESULTS, ROOT
from benchmarks.render_images import images
from benchmarks.render_learning import datapath, folds
from benchmarks.textpeer import TEXT


def main() -> None:
    readme = ROOT / "README.md"
    texts = {readme: render(readme.read_text()), **pages()}
    if "--check" in sys.argv[1:]:
        differ = [path.name for path, text in texts.items() if not path.exists() or path.read_text() != text]
        if differ:
            raise SystemExit(
                f"README.md and pages must show benchmarks/results, however: {differ} differ. Run `python -m benchmarks.render`."
            )
        return
    for path, text in texts.items():
        path.write_text(text)


def pages() -> dict[Path, str]:
    """Pages that are rendered whole, beside the results that they show."""
    found = {name: RESULTS / f"{name}.json" for name in PAGES}
    return {path.with_suffix(".md"): PAGES[name](json.loads(path.read_text())) for name, path in found.items() if path.exists()}


def render(text: str) -> str:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` for every table that has results."""
    for name, table in TABLES.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            body = table(json.loads(path.read_text()))
            text = re.sub(
                rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda match, body=body: match[1] + body + match[2], text, flags=re.DOTALL
            )
    return text


def speed(result: dict[str, Any]) -> str:
    rows = ["| default data, two cores | measured | bound |", "|---|---|---|"]
    for name, value in result["figures"].items():
        unit = "MB" if name == "largest process" else "s"
        bound = result["bounds"].get(name)
        rows.append(f"| {name} | {value:.{0 if unit == 'MB' else 1}f} {unit} | {f'{bound} {unit}' if bound else 'shown apart'} |")
    return "\n".join(rows) + "\n"


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
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
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
        names = _learners(some)
        lines += (
            [*([""] if lines else []), "| mean cost per case | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
            if some
            else []
        )
        for table, summary in some.items():
            cells = (f"{summary['learners'][name]['cost']:.3f}" if name in summary["learners"] else "left out" for name in names)
            lines.append(f"| {table} | " + " | ".join(cells) + " |")
        if len(some) > 1:
            for figure, said in (("cost", "expost's cost over this one's, geometric mean"), ("log_loss", "log loss likewise")):
                lines.append(f"| {said} | " + " | ".join(_over(some, name, figure) for name in names) + " |")
    return lines


def _over(tables: dict[str, Any], name: str, figure: str) -> str:
    """Geometric mean over the tables of expost's figure over a learner's; empty for expost itself and for one that a table leaves out."""
    learners = [summary["learners"] for summary in tables.values()]
    if name == "expost" or any(name not in one for one in learners):
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
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
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
        lines += ["", f"## {table}: {entry['rows']:,} rows, {entry['classes']} classes, {summary['salts']} salts", ""]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
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


def savings(result: dict[str, Any]) -> str:
    tables = result["tables"]
    names = sorted(next(iter(tables.values()))["summary"], key=lambda name: (name != "expost", name.startswith("act on"), name))
    rows = ["| savings on the holdout | " + " | ".join(f"{table} ({tables[table]['salts']} salts)" for table in tables) + " |"]
    rows.append("|---" * (len(tables) + 1) + "|")
    for name in names:
        cells = []
        for table in tables:
            entry = tables[table]["summary"][name]
            own = f" ({entry['savings_low']:.3f} to {entry['savings_high']:.3f})"
            against = f" (expost {entry['expost_minus_peer']:+.3f}, {entry['low']:+.3f} to {entry['high']:+.3f})"
            cells.append(f"{entry['savings']:.3f}{own if name == 'expost' else against}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def kdd99(result: dict[str, Any]) -> str:
    scoring = result["scorings"][0]
    rows = ["| mean official cost on the 311,029 test rows | cost | 95 % interval | expost minus this one |", "|---|---|---|---|"]
    for name, entry in sorted(scoring["figures"].items(), key=lambda item: (item[0] != "expost", item[0])):
        paired = entry["expost_minus_peer"]
        against = "" if name == "expost" else f"{paired['mean']:+.4f}, {paired['low']:+.4f} to {paired['high']:+.4f}"
        rows.append(f"| {name} | {entry['cost']:.4f} | {entry['low']:.4f} to {entry['high']:.4f} | {against} |")
    rows.append(
        f"| winner of 1999 (from memory) | {scoring['winner']:.4f} | | {scoring['figures']['expost']['cost'] - scoring['winner']:+.4f} |"
    )
    return "\n".join(rows) + "\n\n" + _shift(scoring)


def _shift(scoring: dict[str, Any]) -> str:
    """Per class its true and estimated share, and how rows of attack types fared that the 10 % file has and has not; what fits no shares."""
    shift = scoring["shift"]
    rows = ["| class | share of the test rows | EM estimate | rows of known types, own class given | rows of new types, own class given |"]
    rows.append("|---" * 5 + "|")
    for k, name in enumerate(shift["classes"]):
        estimate, cells = shift["estimate"], [f"{shift['true'][k]:.2%}"]
        cells.append(f"{estimate['mean'][k]:.2%} ({estimate['low'][k]:.2%} to {estimate['high'][k]:.2%})")
        for word in ("seen", "unseen"):
            entry = scoring["attacks"]["classes"][name][word]
            cells.append(f"{entry['rows']:,}" + ("" if entry["recall"] is None else f", {entry['recall']:.1%}"))
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    rows += [
        "",
        "| distinct rows, each once | rows | share that no mixture of the classes explains | p-value of the fit |",
        "|---|---|---|---|",
    ]
    for name, entry in shift["distinct"].items():
        p = entry["p_value_of_fit"]
        rows.append(f"| {name} | {entry['rows']:,} | {entry['unexplained']:.1%} | {'below 1e-16' if p < 1e-16 else f'{p:.2g}'} |")
    return "\n".join(rows) + "\n"


def threshold(result: dict[str, Any]) -> str:
    """Seconds of each method by rows; the bounds stand beside the figures that they bind."""
    by = {(entry["rows"], entry["method"]): entry for entry in result["results"]}
    counts, methods = sorted({rows for rows, _ in by}), list(dict.fromkeys(entry["method"] for entry in result["results"]))
    lines = ["| best cut-off of | " + " | ".join(methods) + " | utility above scikit-learn's |", "|---" * (len(methods) + 2) + "|"]
    above = list(result["figures"]["utility above scikit-learn"].values())
    for place, rows in enumerate(counts):
        own, cells = by[rows, methods[0]], []
        for method in methods:
            entry = by.get((rows, method))
            faster = "" if entry is None or entry is own else f" ({entry['seconds'] / own['seconds']:.0f} times)"
            cells.append("not run" if entry is None else f"{entry['seconds']:.2g} s{faster}")
        cells[0] += f", {own['peak_mb']:.0f} MB" if rows == counts[-1] else ""
        lines.append(f"| {rows:,} rows | " + " | ".join(cells) + (f" | {above[place]:+.5f} |" if place < len(above) else " | |"))
    bounds = result["bounds"]
    limits = [f"{bounds['seconds at 1e7']:g} s and {bounds['MB at 1e7']:g} MB for the most rows"]
    lines.append(
        f"| bound | {limits[0]} | " + f"{bounds['times faster at 1e5']} times at the fewest rows | " * (len(methods) - 1) + "at least 0 |"
    )
    return "\n".join(lines) + "\n"


def intervals(result: dict[str, Any]) -> str:
    """Seconds of each interval, and how far the cells of the score are from the rows."""
    lines = [
        f"| {result['resamples']:,} resamples of {result['rows']:,} rows | estimate, 95 % interval | time | bound |",
        "|---|---|---|---|",
    ]
    for name, entry in result["figures"].items():
        bound = f"{result['bound_of_a_mean']:g} s" if name.startswith("mean of") else "shown apart"
        shown = f"{entry['mean']:.5f} ({entry['low']:.5f} to {entry['high']:.5f})"
        lines.append(f"| {name} | {shown} | {entry['seconds']:.1f} s | {bound} |")
    lines += ["", "| cells of the score instead of rows | largest error | width of the interval |", "|---|---|---|"]
    lines += [f"| {name} | {entry['largest']:.1e} | {entry['width']:.1e} |" for name, entry in result["approximation"].items()]
    return "\n".join(lines) + "\n"


def scoring(result: dict[str, Any]) -> str:
    """Seconds, rows per second and peak memory of each scorer by rows."""
    lines = [f"| Parquet of {result['columns']} columns | rows | seconds | rows per second | largest memory |", "|---|---|---|---|---|"]
    for entry in result["figures"]:
        shown = f"{entry['rows']:,} | {entry['seconds']:.1f} s | {entry['rows_per_second']:,.0f} | {entry['peak_mb']:.0f} MB"
        lines.append(f"| {entry['name']} | {shown} |")
    return "\n".join(lines) + "\n"


def gate(result: dict[str, Any]) -> str:
    """Error rates of the gate per world, the largest over all sizes, and power at the size promised, beside the naive rule."""
    head = (
        "world",
        "largest false block",
        "largest false pass",
        "failed for calibration",
        "promised",
        "passes when equal",
        "not passed at two margins",
    )
    lines = ["| " + " | ".join((*head, "naive rule: blocks equal, passes a loss of one margin")) + " |", "|---" * (len(head) + 1) + "|"]
    cells = [cell for cell in result["cells"] if not cell["redecided"]]
    for world in dict.fromkeys(cell["world"] for cell in cells):
        here = [cell for cell in cells if cell["world"] == world]
        equal, one, two = ([cell for cell in here if cell["margins_lost"] == loss] for loss in (0.0, 1.0, 2.0))
        blocked = _most(equal, lambda cell: cell["verdicts"]["FAIL"])
        passed = _most(one, lambda cell: cell["verdicts"]["PASS"])
        miscalled = "not calibrated" if equal[0]["stretch"] != 1 else _most(equal, lambda cell: cell["failed_for_calibration"])
        at = next((cell for cell in equal if cell["rows"] == cell["promised_rows"]), None)
        power = "| | | | |" if at is None else _power(at, one, two)
        lines.append(f"| {world} | {blocked} | {passed} | {miscalled} {power}")
    return "\n".join(lines) + "\n"


def _power(at: dict[str, Any], one: list[dict[str, Any]], two: list[dict[str, Any]]) -> str:
    """The columns of the size promised."""
    rows = at["rows"]
    worse = max(cell["verdicts"]["PASS"] / cell["repeats"] for cell in two if cell["rows"] == rows)
    naive = next(cell for cell in one if cell["rows"] == rows and cell["how"] == "policy")
    return (
        f"| {rows:,} rows | {at['verdicts']['PASS'] / at['repeats']:.1%} | {1 - worse:.1%} | "
        f"{1 - at['naive_passes'] / at['repeats']:.0%}, {naive['naive_passes'] / naive['repeats']:.0%} |"
    )


def _most(cells: list[dict[str, Any]], count: Callable[[dict[str, Any]], int]) -> str:
    """Largest share over cells, with its rows and 95 % Clopper-Pearson interval."""
    found = max(cells, key=lambda cell: count(cell) / cell["repeats"])
    hits, repeats = count(found), found["repeats"]
    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, repeats - hits + 1))
    high = 1.0 if hits == repeats else float(beta.ppf(0.975, hits + 1, repeats - hits))
    return f"{hits / repeats:.1%} ({low:.1%} to {high:.1%}) at {found['rows']:,}"


def gate_real(result: dict[str, Any]) -> str:
    """Verdicts of pairs of seeds and of mutants per real table."""
    lines = ["| real table | what | judged | PASS | FAIL | INSUFFICIENT_DATA | ERROR |", "|---|---|---|---|---|---|---|"]
    for name, table in result["tables"].items():
        groups = {"A/A, two seeds": [pair["verdict"] for pair in table["pairs"]]}
        for mutated in table["mutants"]:
            for mutant, found in mutated.items():
                if mutant != "salt":
                    groups.setdefault(mutant, []).append(found["verdict"])
        for what, verdicts in groups.items():
            counts = " | ".join(str(verdicts.count(kind)) for kind in ("PASS", "FAIL", "INSUFFICIENT_DATA", "ERROR"))
            lines.append(f"| {name} | {what} | {len(verdicts)} | {counts} |")
    return "\n".join(lines) + "\n"


TABLES = {
    "gate": gate,
    "gate_real": gate_real,
    "speed": speed,
    "peers": peers,
    "savings": savings,
    "images": images,
    "datapath": datapath,
    "folds": folds,
    "kdd99": kdd99,
    "threshold": threshold,
    "intervals": intervals,
    "scoring": scoring,
}

PAGES = {"peers": peers_page}


if __name__ == "__main__":
    main()
