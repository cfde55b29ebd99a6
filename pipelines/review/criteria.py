"""The gate's criteria as rows of a forest plot: challenger beside what it is compared with, the difference, and where it lies to the margin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines import facts
from pipelines.plots import GREY, INK, VERDICTS, Plot
from pipelines.review.svg import Drawing, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS = {"PASS": "pass", "FAIL": "fail", "INSUFFICIENT_DATA": "too few rows", "ERROR": "error"}
SIGNS = {"PASS": "✓", "FAIL": "✕", "INSUFFICIENT_DATA": "?", "ERROR": "!"}
TITLES = {
    "utility": "Utility per case",
    "floor_trivial": "Utility above the best trivial policy",
    "floor_first": "Utility against the first champion",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
    "slope": "Calibration slope",
    "intercept": "Calibration intercept",
    "v_information": "V-information of a linear probe",
    "slice": "Slice",
    "lesson": "Lesson",
    "negative_flips": "Negative flips",
    "limit": "Share of the action",
    "requirement": "Recall of class",
    "support": "Support",
    "validity": "Validity",
}
#: Which sign of the difference is better; a criterion that is not listed is drawn as it is measured.
BETTER = dict.fromkeys(("utility", "floor_trivial", "floor_first", "v_information", "slice", "lesson", "requirement"), 1) | dict.fromkeys(
    ("log_loss", "brier", "calibration_error", "negative_flips", "limit"), -1
)
#: Where a criterion that is no difference has its middle.
CENTRES = {"slope": 1.0}
#: Criteria whose margin stands on the side of what is worse; of the others the margin is the level itself.
LEVELS = ("limit", "requirement")
WIDTH, HEIGHT = 2.6, 0.3


@dataclass(frozen=True)
class Row:
    """One criterion as the page shows it; texts are "" and the strip None where there is nothing to say."""

    title: str
    subject: str
    challenger: str
    other: str
    other_name: str
    difference: str
    margin: str
    unit: str
    rows: str
    verdict: str
    word: str
    sign: str
    reason: str
    gated: bool
    decides: bool
    strip: Drawing | None


def rows(verdict: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[Row]:
    """All criteria in the gate's order, those that decide first; what is unknown here is shown as measured."""
    first = verdict.get("champion", {}).get("state") != "champion"
    return [_row(item, evaluation, f"c{number}", first=first) for number, item in enumerate(verdict.get("criteria") or [])]


def _row(item: Mapping[str, Any], evaluation: Mapping[str, Any], name: str, *, first: bool) -> Row:
    kind, subject = str(item.get("criterion")), item.get("subject")
    ours, theirs, named = sides(item, evaluation, first=first)
    measured: dict[str, Any] = {"mean": item.get("estimate"), "low": item.get("low"), "high": item.get("high")}
    known = measured["mean"] is not None
    digits = decimals(measured if known else ours)
    state = item.get("verdict") if item.get("verdict") in WORDS else "ERROR"
    return Row(
        title=TITLES.get(kind, kind.replace("_", " ")),
        subject="" if subject is None else str(subject),
        challenger=figure(ours, digits=digits),
        other=figure(theirs, digits=digits),
        other_name=named,
        difference=figure(measured, signed=kind in BETTER and kind not in (*LEVELS, "negative_flips"), digits=digits) if known else "",
        margin=_margin(item),
        unit=str(item.get("unit") or ""),
        rows="" if item.get("rows") is None else f"{item['rows']:,}",
        verdict=str(state),
        word=WORDS[str(state)] if item.get("gated", True) is not False else "shown only",
        sign=SIGNS[str(state)] if item.get("gated", True) is not False else "·",
        reason=str(item.get("reason") or ""),
        gated=item.get("gated", True) is not False,
        decides=kind == "utility",
        strip=strip(item, name) if known and None not in measured.values() else None,
    )


def figure(item: Mapping[str, Any] | None, *, signed: bool = False, digits: int | None = None) -> str:
    """`0.123 [0.100, 0.140]` with as many decimals as the interval's width is worth, or the mean alone; "" where there is none."""
    if not item or item.get("mean") is None:
        return ""
    ends = (item.get("low"), item.get("high"))
    form = f"{'+' if signed else ''}z.{decimals(item) if digits is None else digits}f"
    return f"{item['mean']:{form}}" + ("" if None in ends else f" [{ends[0]:{form}}, {ends[1]:{form}}]")


def decimals(item: Mapping[str, Any] | None) -> int:
    """Decimals that show three digits of the interval's width."""
    ends = [(item or {}).get(name) for name in ("low", "high", "mean")]
    width = abs(ends[1] - ends[0]) if ends[0] is not None and ends[1] is not None else abs(ends[2] or 0.0)
    return min(6, max(0, 2 - math.floor(math.log10(width)))) if width > 0 else 3


def _margin(item: Mapping[str, Any]) -> str:
    if item.get("margin") is None:
        return ""
    return (
        f"{'at most ' if item['criterion'] == 'limit' else 'at least ' if item['criterion'] == 'requirement' else ''}{item['margin']:.3g}"
    )


def sides(item: Mapping[str, Any], evaluation: Mapping[str, Any], *, first: bool) -> tuple[Any, Any, str]:
    """The challenger's own figure for a criterion, that of what it is compared with, and what this is; None where there is none."""
    kind, subject = str(item.get("criterion")), item.get("subject")
    ours, theirs = evaluation.get("challenger") or {}, evaluation.get("champion") or {}
    utility, name = ours.get("utility"), "champion"
    pair: tuple[Any, Any]
    if kind == "floor_trivial" or (kind == "utility" and first):
        return utility, evaluation.get("reference"), f"best trivial policy: {evaluation.get('best_trivial')}"
    if kind == "floor_first":
        anchor = evaluation.get("first") or {}
        return utility, anchor.get("utility"), f"first champion, version {anchor.get('version')}"
    if kind == "utility" and subject == "re-decided":
        pair = (utility, evaluation.get("redecided"))
        name = "champion, re-decided"
    elif kind in ("slope", "intercept", "calibration_error"):
        key = "ece" if kind == "calibration_error" else kind
        pair = (ours.get("calibration") or {}).get(key), (theirs.get("calibration") or {}).get(key)
    elif kind in ("slice", "lesson"):
        pair = _listed(evaluation.get("slices"), "name", subject, "challenger")
    elif kind == "limit":
        pair = _listed(evaluation.get("limits"), "action", subject, "share")
    elif kind == "requirement":
        pair = _listed(evaluation.get("requirements"), "class", subject, "recall")
    elif kind == "negative_flips":
        pair = ((evaluation.get("flips") or {}).get("negative"), None)
    else:
        pair = ours.get(kind), theirs.get(kind)
    known = [side if isinstance(side, Mapping) else None for side in pair]
    return known[0], known[1], name


def _listed(items: Any, key: str, subject: Any, measured: str) -> tuple[Any, Any]:
    """The challenger's and the champion's figure in the item that is named `subject`."""
    found: Mapping[str, Any] = next((item for item in items or [] if item.get(key) == subject), {})
    return found.get(measured), found.get("champion")


def strip(item: Mapping[str, Any], name: str) -> Drawing:
    """The interval on a scale of its own with zero in the middle, to the right what is better, and the margin as a tick."""
    kind = item.get("criterion")
    turn = BETTER.get(str(kind), 1)
    middle = item["margin"] if kind in LEVELS and item.get("margin") is not None else CENTRES.get(str(kind), 0.0)
    at = [turn * (item[key] - middle) for key in ("estimate", "low", "high")]
    margin = 0.0 if kind in LEVELS else float(item.get("margin") or 0.0)
    reach = max(1e-12, *(abs(value) for value in at), abs(margin))

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(-1.12, 1.12), ylim=(-1, 1))
        axes.plot([-1.12, 1.12], [0, 0], color=GREY, linewidth=0.5)
        axes.plot([0, 0], [-1, 1], color=INK, linewidth=0.9)
        sides_of = (-1, 1) if kind in ("slope", "intercept") else (-1,)
        for side in sides_of if margin else ():
            axes.plot([side * margin / reach] * 2, [-0.8, 0.8], color=GREY, linewidth=1.4, linestyle=(0, (2, 1.2)))
        colour = VERDICTS.get(str(item.get("verdict")), INK)
        axes.plot([at[1] / reach, at[2] / reach], [0, 0], color=colour, linewidth=3.2, solid_capstyle="butt")
        axes.plot([at[0] / reach], [0], color=colour, marker="D", markersize=5.5)

    return drawing(Plot(draw, WIDTH, HEIGHT), name, title="", hidden=True)


def policies(read: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Utility per case of all policies, as texts, with what kind each is."""
    return [{**item, "text": facts.interval(item)} for item in facts.policies(read)]
