"""Strips of the forest plot: one criterion each, zero in the middle, better to the right, on a scale of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.plots import GREY, INK, VERDICTS, Plot
from pipelines.review.svg import Drawing, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Which sign of what was measured is better; a criterion that is not listed is drawn as it is measured.
BETTER = dict.fromkeys(("utility", "floor_trivial", "floor_first", "v_information", "slice", "lesson", "requirement"), 1) | dict.fromkeys(
    ("log_loss", "brier", "calibration_error", "negative_flips", "limit"), -1
)
#: Criteria whose margin is a level to keep, and those whose `low` and `high` are a range that is right, with its middle.
LEVELS = ("limit", "requirement", "negative_flips")
RANGES = {"slope": 1.0, "intercept": 0.0, "calibration_error": 0.0}
WIDTH, HEIGHT, EDGE = 2.2, 0.3, 1.12


@dataclass(frozen=True)
class Marks:
    """Places on a strip from -1 to 1: the estimate and its interval, margins, the range that is right."""

    estimate: float
    low: float
    high: float
    margins: tuple[float, ...] = ()
    right: tuple[float, float] | None = None


def marks(item: Mapping[str, Any], own: Mapping[str, Any] | None) -> Marks | None:
    """Marks of a criterion; `own` is the challenger's figure with its interval, for criteria that hold a range. None without numbers."""
    kind, turn = str(item.get("criterion")), BETTER.get(str(item.get("criterion")), 1)
    given = [item.get(name) for name in ("estimate", "low", "high")]
    margin = item.get("margin")
    if None in given or (kind in LEVELS and margin is None):
        return None
    if kind in RANGES:
        return _in_range(given, [(own or {}).get(name) for name in ("low", "high")], RANGES[kind], turn)
    middle = margin if kind in LEVELS else 0.0
    estimate, one, other = (turn * (value - middle) for value in given if value is not None)
    tick = 0.0 if kind in LEVELS else float(margin or 0.0)
    reach = max(1e-12, abs(estimate), abs(one), abs(other), tick)
    return Marks(estimate / reach, min(one, other) / reach, max(one, other) / reach, (-tick / reach,) if tick else ())


def _in_range(given: list[Any], interval: list[Any], middle: float, turn: int) -> Marks:
    """The estimate and its interval beside the range, cut off at the edge where they lie too far out."""
    estimate, *right = (turn * (value - middle) for value in given)
    ends = [estimate if value is None else turn * (value - middle) for value in interval]
    widest = max(1e-12, *map(abs, right))
    reach = 1.5 * max(widest, min(abs(estimate), 3 * widest))
    low, middle_of, high = (max(-1.0, min(1.0, value / reach)) for value in (min(ends), estimate, max(ends)))
    return Marks(middle_of, low, high, (), (min(right) / reach, max(right) / reach))


def strip(found: Marks, verdict: str, name: str) -> Drawing:
    """Draw the marks; screen readers are spared it, since the row says the same in numbers."""

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(-EDGE, EDGE), ylim=(-1, 1))
        axes.plot([-EDGE, EDGE], [0, 0], color=GREY, linewidth=0.5)
        if found.right is not None:
            axes.fill_between(found.right, -0.75, 0.75, color=GREY, alpha=0.28, linewidth=0)
        axes.plot([0, 0], [-1, 1], color=INK, linewidth=0.9)
        for margin in found.margins:
            axes.plot([margin, margin], [-0.8, 0.8], color=GREY, linewidth=1.4, linestyle=(0, (2, 1.2)))
        colour = VERDICTS.get(verdict, INK)
        axes.plot([found.low, found.high], [0, 0], color=colour, linewidth=3.2, solid_capstyle="butt")
        axes.plot([found.estimate], [0], color=colour, marker="D", markersize=5.5)

    return drawing(Plot(draw, WIDTH, HEIGHT), name, title="", hidden=True)
