"""Render the tables of README.md from `benchmarks/results/*.json`: `python -m benchmarks.render [--check]`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy.stats import beta

from benchmarks.common import RESULTS, ROOT
from benchmarks.render_images import images
from benchmarks.render_learning import datapath, datapath_gpu, folds
from benchmarks.render_peers import peers, peers_page


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
    "datapath_gpu": datapath_gpu,
    "folds": folds,
    "kdd99": kdd99,
    "threshold": threshold,
    "intervals": intervals,
    "scoring": scoring,
}

PAGES = {"peers": peers_page}


if __name__ == "__main__":
    main()
