"""The slider over costs: the curve that its marker walks along, and for each step the texts that the page shows, made here, not in the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.plots import COLOURS, GREY, INK, LINES, Plot
from pipelines.review.svg import Drawing, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODELS = ("challenger", "champion")
TICKS = (1 / 50, 1 / 20, 1 / 10, 1 / 5, 1 / 2, 1, 2, 5, 10, 20, 50)
#: Steps of the table that says the same without the slider, and the room around the curves.
STATIC, ROOM = 11, 0.06


@dataclass(frozen=True)
class Slider:
    """What the page needs: the drawing, the data of the script, the cells at the step now in force, and the table of some steps."""

    drawing: Drawing
    data: dict[str, Any]
    now: dict[str, str]
    models: tuple[str, ...]
    classes: list[str]
    actions: list[str]
    static: list[dict[str, Any]]
    names: dict[tuple[int, int], str]
    what: str
    note: str


def make(operating: Mapping[str, Any], unit: str) -> Slider | str:
    """The slider of `curves.json`'s "operating", or the reason why there is none."""
    if operating.get("reason"):
        return str(operating["reason"])
    models = tuple(name for name in MODELS if name in operating["models"])
    found: dict[str, Any] = {}
    made = drawing(
        Plot(lambda figure: _draw(figure, operating, models, unit, found), 7.4, 3.7),
        "costs",
        title="Cost per case along the costs of errors",
        description="Both models along the slider; the table below says the same in numbers.",
    )
    steps = [_texts(operating, number, models, unit) for number in range(len(operating["sizes"]))]
    data = {"now": operating["now"], "texts": steps, **found}
    return Slider(
        made,
        data,
        steps[operating["now"]],
        models,
        operating["classes"],
        operating["actions"],
        _static(operating, steps),
        _names(operating),
        *_words(operating),
    )


def _names(operating: Mapping[str, Any]) -> dict[tuple[int, int], str]:
    """What a class with an action is called where there are two of each: hit, miss, false alarm, left alone."""
    if operating["kind"] != "ratio":
        return {}
    leave, act = (operating["actions"].index(name) for name in operating["best"])
    return {(1, act): "hits", (1, leave): "misses", (0, act): "false alarms", (0, leave): "left alone"}


def size_text(operating: Mapping[str, Any], number: int) -> str:
    """A step's name: `10 : 1`, `1 : 4`, or a factor, `× 2`."""
    size = operating["sizes"][number]
    if operating["kind"] == "ratio":
        return f"{size:.4g} : 1" if size >= 1 else f"1 : {1 / size:.4g}"
    return f"× {size:.4g}" if size >= 1 else f"÷ {1 / size:.4g}"


def count_text(value: float, *, weighted: bool) -> str:
    """Rows, or the weight of rows with one decimal."""
    return f"{value:,.1f}" if weighted else f"{round(value):,}"


def _texts(operating: Mapping[str, Any], number: int, models: Sequence[str], unit: str) -> dict[str, str]:
    """Texts of one step by the name of the cell that shows them."""
    size = size_text(operating, number)
    made = {"size": size, "threshold": f"{operating['thresholds'][number]:.4f}" if operating["thresholds"] else "", "difference": ""}
    for name in models:
        result = operating["models"][name][number]
        made[f"{name}-utility"] = f"{result['utility']:z.4f}"
        for k, row in enumerate(result["counts"]):
            for a, value in enumerate(row):
                made[f"{name}-{k}-{a}"] = count_text(value, weighted=operating["weighted"])
    best = max(operating["always"], key=lambda action: operating["always"][action][number])
    made["trivial"] = f"{operating['always'][best][number]:z.4f} (always {best})"
    if operating["difference"]:
        item = operating["difference"][number]
        made["difference"] = f"{item['mean']:+z.4f} [{item['low']:+z.4f}, {item['high']:+z.4f}]"
    said = ", ".join(f"{name} {made[f'{name}-utility']}" for name in models)
    cut = f"threshold {made['threshold']}, " if made["threshold"] else ""
    made["said"] = f"At {size}: {cut}{unit} per case: {said}."
    return made


def _static(operating: Mapping[str, Any], steps: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    last = len(steps) - 1
    chosen = sorted({round(last * place / (STATIC - 1)) for place in range(STATIC)} | {operating["now"]})
    return [{**steps[number], "is_now": number == operating["now"]} for number in chosen]


def _words(operating: Mapping[str, Any]) -> tuple[str, str]:
    label = operating["label"]
    if operating["kind"] == "ratio":
        leave = operating["best"][0]
        act = operating["best"][1]
        what = f"Cost of a missed {label} : cost of a false alarm"
        note = (
            f"A miss is the action “{leave}” where the truth is “{label}”, a false alarm “{act}” where it is “{operating['classes'][0]}”. What "
            f"a false alarm costs stays as it is in params.yaml; “{act}” is taken where the probability of “{label}” is above 1 / (1 + ratio)."
        )
        return what, note
    return (
        f"Factor on all costs of errors on {label}",
        f"What errors on “{label}” cost against its best action is multiplied; all else stays as it is in params.yaml.",
    )


def _draw(figure: Figure, operating: Mapping[str, Any], models: Sequence[str], unit: str, found: dict[str, Any]) -> None:
    """Loss per case against the best action for each row, in false alarms or as a share, and the places of the marker in points."""
    axes = figure.subplots()
    x = [math.log(size) for size in operating["sizes"]]
    lines = {name: _scale(operating, [step["utility"] for step in operating["models"][name]]) for name in models}
    for (name, values), style in zip(operating["always"].items(), ("--", ":", "-.", (0, (1, 3))), strict=False):
        axes.plot(x, _scale(operating, values), color=GREY, linewidth=1.2, linestyle=style, label=f"always {name}")
    for name in reversed(models):
        axes.plot(x, lines[name], color=COLOURS[name], label=name, **LINES[name])
    trivial = [max(values) for values in zip(*operating["always"].values(), strict=True)]
    top = max([*_scale(operating, trivial), *(value for line in lines.values() for value in line)])
    axes.set_ylim(-0.03 * top, 1.15 * top or 1)
    axes.set_xlim(x[0] - ROOM, x[-1] + ROOM)
    _ticks(axes, operating)
    axes.axvline(x[operating["now"]], color=INK, linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        "in force", (x[operating["now"]], 0.98), xycoords=("data", "axes fraction"), xytext=(4, -8), textcoords="offset points", fontsize=9
    )
    ratio = operating["kind"] == "ratio"
    axes.set_xlabel("cost of a miss : cost of a false alarm" if ratio else f"factor on the costs of errors on {operating['label']}")
    axes.set_ylabel(
        "cost per case (a miss and a false\nalarm together cost 1)" if ratio else f"lost per case against\nknowing the truth ({unit})"
    )
    axes.set_title("Cost per case, holdout: lower is better")
    axes.legend(loc="upper left", fontsize=9, ncols=2)
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
