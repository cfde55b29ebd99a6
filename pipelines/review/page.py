"""The review page: one HTML file without any request, from the JSON that the stages wrote. Names from the data are text, never markup."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, Template
from markupsafe import Markup

from pipelines import facts, plots
from pipelines.review import criteria, drift, forest, sections, slider
from pipelines.review.svg import Drawing, drawing

CONTENTS = (
    ("verdict", "Verdict"),
    ("criteria", "Criteria"),
    ("costs", "Costs"),
    ("calibration", "Calibration"),
    ("slices", "Slices and lessons"),
    ("data", "Data"),
    ("training", "Training"),
    ("provenance", "Provenance"),
)
MOST_STRIPS = 100
#: What would end a script element, or a line of JavaScript before ECMAScript 2019.
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def html(read: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> str:
    """The page for what `report.read_all` and `report.read_history` give; the same input gives the same bytes."""
    evaluation, curves = read["evaluation"], read["curves"]
    rows = criteria.rows(read["verdict"], evaluation)
    moved = slider.make(curves.get("operating") or {"reason": "the evaluation holds no operating points"}, evaluation["unit"])
    binary = len(evaluation["classes"]) == 2
    what = criteria.short(evaluation["classes"][-1]) if binary else "the most probable class"
    shown = {
        "reliability": drawing(
            plots.reliability(curves, what),
            "reliability",
            title="Reliability on the holdout",
            description="Observed rate against mean probability of both models; the table beside it has the figures.",
        ),
        "training": drawing(
            plots.training(history, read["training"].get("best_epoch")),
            "training",
            title="Training",
            description="Train loss and valid log loss per epoch.",
        ),
    }
    strips = [
        forest.strip(row.marks, row.verdict if row.gated else "", f"c{at}") if row.marks and at < MOST_STRIPS else None
        for at, row in enumerate(rows)
    ]
    data = sections.data(read)
    drifts = drift.pictures((data["changes"] or {}).get("features", []))
    drawings = [
        *shown.values(),
        *(strip for strip in strips if strip),
        *drifts.values(),
        *([moved.drawing] if isinstance(moved, slider.Slider) else []),
    ]
    css, script = _resource("page.css") + _rules(drawings), _resource("page.js")
    return _template().render(
        **shown,
        css=Markup(css),
        script=Markup(script),
        policy=csp(css, script),
        contents=CONTENTS,
        target=criteria.short(read["schema"]["target"]),
        unit=evaluation["unit"],
        confidence=f"{evaluation['confidence']:.0%}",
        has_champion=bool(evaluation["champion"]),
        verdict=sections.verdict(read),
        tiles=sections.tiles(read),
        notes=notes(read),
        rows=list(zip(rows, strips, strict=True)),
        policies=[{**item, "text": facts.interval(item)} for item in facts.policies(read)],
        slider=moved,
        slider_rows=facts.rows_said(curves["operating"]["rows"], _effective(read)) if isinstance(moved, slider.Slider) else "",
        shipped=shipped(read),
        calibration=sections.calibration(read),
        slices=sections.slices(evaluation),
        lessons=sections.lessons(read.get("lessons")),
        flips=flips(evaluation),
        data=data,
        drifts=drifts,
        provenance=sections.provenance(read),
        steps=Markup(embedded(moved.data)) if isinstance(moved, slider.Slider) else Markup("null"),
    )


def csp(css: str, script: str) -> str:
    """A policy that allows this one script and this one style sheet, by their digests, and no request at all."""
    return (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(css)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def embedded(value: Any) -> str:
    """JSON that can stand in a script element whatever its texts are."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return "".join(UNSAFE.get(character, character) for character in text)


def notes(read: Mapping[str, Any]) -> list[str]:
    """What the stages noted, each once."""
    found = [*read["schema"].get("notes", []), *read["calibration"].get("notes", []), *read["decision"].get("notes", [])]
    return list(dict.fromkeys([*found, *read["evaluation"]["notes"]]))


def shipped(read: Mapping[str, Any]) -> str:
    """How what ships may differ from the formula that the slider moves."""
    decision, evaluation = read["decision"], read["evaluation"]
    if evaluation["limits"] or evaluation["requirements"]:
        return "Limits and requirements are not kept along the slider; what ships keeps them."
    if decision["chosen"] == "analytic":
        return "What ships is decided by the same formula."
    cut = f" (threshold {decision['threshold']:.4f})" if isinstance(decision.get("threshold"), int | float) else ""
    return f"What ships was tuned on calib instead: {decision['chosen']}{cut}."


def flips(evaluation: Mapping[str, Any]) -> str:
    """Cases that the champion had right and the challenger has wrong, and the other way round, in one sentence."""
    found = evaluation.get("flips") or {}
    if not found.get("negative"):
        return ""
    better = f", {criteria.figure(found['positive'])} the other way round" if found.get("positive") else ""
    return f"Share of cases that the champion had right and the challenger has wrong: {criteria.figure(found['negative'])}{better}."


def _effective(read: Mapping[str, Any]) -> float:
    found = read["curves"]["operating"]
    return float(read["evaluation"]["effective_rows"] if found["weighted"] else found["rows"])


def _rules(drawings: Sequence[Drawing]) -> str:
    """Style rules of all drawings, each once."""
    rules = {name: rule for made in drawings for rule, name in made.rules.items()}
    return "".join(f".{name} {{{rule}}}\n" for name, rule in sorted(rules.items()))


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _resource(name: str) -> str:
    return files("pipelines.review").joinpath(name).read_text(encoding="utf-8")


def _template() -> Template:
    environment = Environment(
        loader=DictLoader({"page.html": _resource("page.html")}), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html")
