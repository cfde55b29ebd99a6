"""Render the tables of README.md from `benchmarks/results/*.json`: `python -m benchmarks.render [--check]`."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from benchmarks.common import RESULTS, ROOT


def main() -> None:
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = render(old)
    if "--check" in sys.argv[1:]:
        if old != new:
            raise SystemExit(
                "README.md must show the tables of benchmarks/results, however: it differs. Run `python -m benchmarks.render`."
            )
        return
    readme.write_text(new)


def render(text: str) -> str:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` for every table that has results."""
    for name, table in (("speed", speed), ("peers", peers)):
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
    tables = result["tables"]
    names = sorted(next(iter(tables.values()))["summary"], key=lambda name: (name != "expost", name == "always or never act", name))
    rows = ["| mean cost per case on the holdout | " + " | ".join(f"{table} ({tables[table]['salts']} salts)" for table in tables) + " |"]
    rows.append("|---" * (len(tables) + 1) + "|")
    for name in names:
        cells = []
        for table in tables:
            entry = tables[table]["summary"][name]
            paired = "" if name == "expost" else f" (expost {entry['expost_minus_peer']:+.3f}, {entry['low']:+.3f} to {entry['high']:+.3f})"
            cells.append(f"{entry['cost']:.3f}{paired}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
