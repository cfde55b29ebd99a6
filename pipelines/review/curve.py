"""The curve under the slider: cost per case of both models along the costs, and where its marker stands at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.plots import COLOURS, GREY, INK, LINES, Plot
from pipelines.review.criteria import short
from pipelines.review.svg import Drawing, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = (1 / 50, 1 / 20, 1 / 10, 1 / 5, 1 / 2, 1, 2, 5, 10, 20, 50)
ROOM = 0.06  #: beside the curves, in units of the logarithm of the costs


def drawn(operating: Mapping[str, Any], models: Sequence[str], unit: str) -> tuple[Drawing, dict[str, Any]]:
    """The drawing, and in its points the places of the marker: `x` per step, `y` per model and step, `top` and `bottom`."""
    found: dict[str, Any] = {}
    made = drawing(
        Plot(lambda figure: _draw(figure, operating, models, unit, found), 7.4, 4.0),
        "costs",
        title="Cost per case along the costs of errors",
        description="Both models along the slider; the table beside it says the same in numbers.",
    )
    return made, found


def _draw(figure: Figure, operating: Mapping[str, Any], models: Sequence[str], unit: str, found: dict[str, Any]) -> None:
    axes, ratio = figure.subplots(), operating["kind"] == "ratio"
    x = [math.log(size) for size in operating["sizes"]]
    lines = {name: _scale(operating, [step["utility"] for step in operating["models"][name]]) for name in models}
    trivial = [max(values) for values in zip(*operating["always"].values(), strict=True)]
    always = (
        {f"always {short(name, 30)}": values for name, values in operating["always"].items()}
        if ratio
        else {"best without looking": trivial}
    )
    for (name, values), style in zip(always.items(), ("--", ":"), strict=False):
        axes.plot(x, _scale(operating, values), color=GREY, linewidth=1.2, linestyle=style, label=name)
    for name in reversed(models):
        axes.plot(x, lines[name], color=COLOURS[name], label=name, **LINES[name])
    top = max([*_scale(operating, trivial), *(value for line in lines.values() for value in line)])
    axes.set_ylim(-0.03 * top, 1.15 * top or 1)
    axes.set_xlim(x[0] - ROOM, x[-1] + ROOM)
    _ticks(axes, operating)
    axes.axvline(x[operating["now"]], color=INK, linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        "in force", (x[operating["now"]], 0.98), xycoords=("data", "axes fraction"), xytext=(4, -8), textcoords="offset points", fontsize=9
    )
    axes.set_xlabel(
        "cost of a miss : cost of a false alarm" if ratio else f"factor on the costs of errors on {short(operating['label'], 60)}"
    )
    axes.set_ylabel(
        "cost per case (a miss and a false\nalarm together cost 1)" if ratio else f"lost per case against\nknowing the truth ({unit})"
    )
    axes.set_title("Cost per case, holdout: lower is better")
    figure.legend(loc="outside lower center", fontsize=9, ncols=4)
    figure.draw_without_rendering()
    high = 72 * figure.get_figheight()
    places = axes.transData.transform

    def down(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(round(float(px), 2), round(float(high - py), 2)) for px, py in places(points)]

    found["x"] = [px for px, _ in down([(value, 0.0) for value in x])]
    found["y"] = {name: [py for _, py in down(list(zip(x, line, strict=True)))] for name, line in lines.items()}
    (_, bottom), (_, above) = down([(x[0], axes.get_ylim()[0]), (x[0], axes.get_ylim()[1])])
    found |= {"top": above, "bottom": bottom}


def _scale(operating: Mapping[str, Any], values: Sequence[float]) -> list[float]:
    """What is lost per case against the best action for each row's class; where there is a ratio, with both costs scaled to sum to 1."""
    return [(best - value) / scale for best, value, scale in zip(operating["ideal"], values, operating["scale"], strict=True)]


def _ticks(axes: Axes, operating: Mapping[str, Any]) -> None:
    sizes = operating["sizes"]
    shown = [tick for tick in TICKS if sizes[0] <= tick <= sizes[-1]] if sizes[-1] <= 50 else _decades(sizes)
    ratio = operating["kind"] == "ratio"
    names = [
        (f"{tick:g}:1" if tick >= 1 else f"1:{1 / tick:g}") if ratio else (f"×{tick:g}" if tick >= 1 else f"÷{1 / tick:g}")
        for tick in shown
    ]
    axes.set_xticks([math.log(tick) for tick in shown], names)


def _decades(sizes: Sequence[float]) -> list[float]:
    first, last = math.ceil(math.log10(sizes[0])), math.floor(math.log10(sizes[-1]))
    step = max(1, (last - first) // 8)
    return [10.0**power for power in range(first, last + 1, step)]
