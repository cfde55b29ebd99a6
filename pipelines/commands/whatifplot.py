"""The plot of `expost whatif`, a pure function of its JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.plots import BLUE, GREY, INK, ORANGE, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (BLUE, ORANGE, "#2e7d4f", "#7a4fb5", "#b3261e", "#0f8a8a", "#a06a00", GREY)


def plot(found: Mapping[str, Any]) -> bytes:
    """PNG of utility per case with its interval beside the best trivial policy, action shares, and the threshold where there is one."""
    points, axis = found["points"], found["axis"]
    x = [point["value"] for point in points]
    with_threshold = any(point["threshold"] is not None for point in points)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2 + with_threshold, 1, sharex=True, squeeze=False, height_ratios=[2, 1.2, 1][: 2 + with_threshold])[:, 0]
        _utility(panels[0], x, points, found)
        _shares(panels[1], x, points, found["actions"])
        if with_threshold:
            panels[2].plot(x, [float("nan") if point["threshold"] is None else point["threshold"] for point in points], color=BLUE)
            panels[2].set(ylabel="threshold", ylim=(0, None))
        for panel in panels:
            _scale(panel, axis)
            for point in points:
                if point["now"]:
                    panel.axvline(point["value"], color=INK, linewidth=1, linestyle="--")
        if any(point["now"] for point in points):
            panels[0].annotate("now", (axis["now"], 0), xycoords=("data", "axes fraction"), xytext=(4, 5), textcoords="offset points")
        panels[-1].set_xlabel(f"{axis['meaning']} ({found['unit']})")

    return png(draw, width=6.4, height=5.2 + 1.2 * with_threshold)


def _utility(axes: Axes, x: list[float], points: list[dict[str, Any]], found: Mapping[str, Any]) -> None:
    means, trivial = [point["utility"]["mean"] for point in points], [point["trivial"]["utility"] for point in points]
    low, high = ([point["utility"][end] for point in points] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=BLUE, alpha=0.15, linewidth=0, label=f"{100 * found['confidence']:g} % interval")
    axes.plot(x, means, color=BLUE, label="decided by probability")
    axes.plot(x, trivial, color=GREY, linestyle="--", label="best trivial policy")
    axes.set_ylabel(f"{found['unit']} per case")
    axes.set_title(f"Utility on calib, cross-fitted, {found['rows']:,} rows")
    axes.legend(loc="best", fontsize=9)


def _shares(axes: Axes, x: list[float], points: list[dict[str, Any]], actions: list[str]) -> None:
    for number, action in enumerate(actions):
        axes.plot(x, [point["shares"][number] for point in points], color=COLOURS[number % len(COLOURS)], label=action)
    axes.set(ylabel="share of rows", ylim=(-0.02, 1.02))
    axes.legend(loc="best", fontsize=9, ncols=min(3, len(actions)))


def _scale(axes: Axes, axis: Mapping[str, Any]) -> None:
    """A logarithmic axis where the points are spaced so, for negative values too."""
    if not axis["logarithmic"]:
        return
    low, high = sorted((abs(axis["low"]), abs(axis["high"])))
    sign = -1 if axis["low"] < 0 else 1
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = sorted(sign * lead * 10.0**power for power in powers for lead in (1, 2, 5) if low <= lead * 10.0**power <= high)
    axes.set_xscale("symlog", linthresh=low)
    axes.set_xlim(*sorted((sign * low / 1.1, sign * high * 1.1)))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
