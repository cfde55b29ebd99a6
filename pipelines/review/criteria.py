"""The gate's criteria as rows of a forest plot: challenger beside what it is compared with, the difference, and where it lies to the margin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.review.forest import LEVELS, RANGES, Marks, marks

WORDS = {"PASS": "pass", "FAIL": "fail", "INSUFFICIENT_DATA": "too few rows", "ERROR": "error"}
SIGNS = {"PASS": "✓", "FAIL": "✕", "INSUFFICIENT_DATA": "?", "ERROR": "!"}
#: Names of the criteria, in the order in which they are shown.
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
#: Most characters of a text that comes from the data.
LONGEST = 90
#: Criteria of a first champion that only ask for finite numbers: what they measured is no difference.
FINITE = ("brier", "v_information")


@dataclass(frozen=True)
class Row:
    """One criterion as the page shows it; texts are "" and marks None where there is nothing to say."""

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
    marks: Marks | None


def rows(verdict: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[Row]:
    """All criteria, those that decide first, checks of the rows last; what is unknown here is shown as measured."""
    first = verdict.get("champion", {}).get("state") != "champion"
    place = {name: number for number, name in enumerate(TITLES)}
    listed = sorted(verdict.get("criteria") or [], key=lambda item: place.get(str(item.get("criterion")), place["support"] - 0.5))
    return [_row(item, evaluation, first=first) for item in listed]


def _row(item: Mapping[str, Any], evaluation: Mapping[str, Any], *, first: bool) -> Row:
    kind, subject = str(item.get("criterion")), item.get("subject")
    ours, theirs, named = sides(item, evaluation, first=first)
    difference = None if first and kind in FINITE else item.get("estimate")
    digits = max(2, decimals(ours)) if kind in RANGES else decimals(_interval(item) if difference is not None else ours)
    gated = item.get("gated", True) is not False
    state = str(item.get("verdict")) if item.get("verdict") in WORDS else "ERROR"
    return Row(
        title=TITLES.get(kind, kind.replace("_", " ")),
        subject="" if subject is None or kind in RANGES else short(subject, 2 * LONGEST),
        challenger=figure(ours, digits=digits),
        other=figure(theirs, digits=digits),
        other_name=named,
        difference=figure(_interval(item), signed=True, digits=digits) if difference is not None and kind not in (*LEVELS, *RANGES) else "",
        margin=_margin(item, kind, digits),
        unit=str(item.get("unit") or ""),
        rows="" if item.get("rows") is None else f"{item['rows']:,}",
        verdict=state,
        word=WORDS[state] if gated else "shown only",
        sign=SIGNS[state] if gated else "·",
        reason=str(item.get("reason") or ""),
        gated=gated,
        decides=kind == "utility",
        marks=None if difference is None else marks(item, ours),
    )


def _interval(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"mean": item.get("estimate"), "low": item.get("low"), "high": item.get("high")}


def _margin(item: Mapping[str, Any], kind: str, digits: int) -> str:
    """What the criterion allows: a margin, a level, or a range."""
    low, high, margin = item.get("low"), item.get("high"), item.get("margin")
    if kind in RANGES:
        return "" if low is None or high is None else f"up to {high:.{digits}f}" if kind == "calibration_error" else f"{low:g} to {high:g}"
    if margin is None:
        return ""
    return f"{'at least ' if kind == 'requirement' else 'at most ' if kind in LEVELS else ''}{margin:.3g}"


def short(value: Any, longest: int = LONGEST) -> str:
    """A value from the data as text of bounded length."""
    if value is None:
        return "missing"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


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


def sides(item: Mapping[str, Any], evaluation: Mapping[str, Any], *, first: bool) -> tuple[Any, Any, str]:
    """The challenger's own figure for a criterion, that of what it is compared with, and what this is; None where there is none."""
    kind, subject = str(item.get("criterion")), item.get("subject")
    ours, theirs = evaluation.get("challenger") or {}, evaluation.get("champion") or {}
    utility, name = ours.get("utility"), "class shares" if first else "champion"
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
        pair = (evaluation.get("flips") or {}).get("negative"), None
    else:
        pair = ours.get(kind), theirs.get(kind)
    known = [side if isinstance(side, Mapping) else None for side in pair]
    return known[0] or (_interval(item) if kind in LEVELS else None), known[1], name


def _listed(items: Any, key: str, subject: Any, measured: str) -> tuple[Any, Any]:
    """The challenger's and the champion's figure in the item that is named `subject`."""
    found: Mapping[str, Any] = next((item for item in items or [] if item.get(key) == subject), {})
    return found.get(measured), found.get("champion")
