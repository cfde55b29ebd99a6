"""Plots of the report: each a pure function of what a stage wrote, as a PNG or an SVG that is the same for the same input."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, INK, PAPER = "#1f5fbf", "#d9730d", "#8a9099", "#22262b", "#ffffff"
COLOURS = {"challenger": BLUE, "champion": ORANGE}
#: The champion's line is dashed and on top: where the models coincide both are seen.
LINES: dict[str, dict[str, Any]] = {"challenger": {}, "champion": {"linestyle": (0, (4, 4)), "zorder": 3}}
VERDICTS = {"PASS": "#2e7d4f", "FAIL": "#b3261e", "INSUFFICIENT_DATA": "#a06a00", "ERROR": "#b3261e"}
TITLES = {"log_loss": "log loss", "brier": "Brier score", "v_information": "V-information"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.parse_math": False,  # names come from the data: a dollar sign is a dollar sign
}
Draw = Callable[["Figure"], None]


@dataclass(frozen=True)
class Plot:
    """What `draw` puts on a figure of `width` x `height` inches."""

    draw: Draw
    width: float = 6.4
    height: float = 4.2

    def png(self) -> bytes:
        """PNG bytes."""
        return png(self.draw, width=self.width, height=self.height)

    def svg(self, salt: str) -> bytes:
        """SVG in points, from the upper left corner; text stays text, and ids are made from `salt`."""
        return svg(self.draw, salt, width=self.width, height=self.height)


def png(draw: Draw, *, width: float = 6.4, height: float = 4.2) -> bytes:
    """PNG bytes of a figure of `width` x `height` inches that `draw` fills; no date and no version is written into it."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor=PAPER)
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def svg(draw: Draw, salt: str, *, width: float, height: float) -> bytes:
    """SVG of the same figure; a transformation of `axes.transData` is in points, from the lower left corner, once it is drawn."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": salt}):
        figure = Figure(figsize=(width, height), dpi=72, layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", dpi=72, transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def models_in(curves: Mapping[str, Any]) -> list[str]:
    """The models that the curves hold, the challenger last so that it is drawn on top."""
    return [name for name in ("champion", "challenger") if curves.get(name)]


def reliability(curves: Mapping[str, Any], what: str) -> Plot:
    """Reliability diagram of curves.json: observed rate of `what` against the mean probability, with the band of 95 % Wilson intervals."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfect")
        for name in models_in(curves):
            points = curves[name]["reliability"]
            x, y = [p["mean_probability"] for p in points], [p["observed_rate"] for p in points]
            axes.fill_between(x, [p["low"] for p in points], [p["high"] for p in points], color=COLOURS[name], alpha=0.14, linewidth=0)
            axes.plot(x, y, color=COLOURS[name], marker="o", markersize=5, label=f"{name}, 95 % band", **LINES[name])
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=f"mean probability of {what}", ylabel="observed rate")
        axes.set_title("Reliability on the holdout, bins of equal size")
        axes.legend(loc="upper left")

    return Plot(draw, 5.4, 4.8)


def utility_curve(curves: Mapping[str, Any], *, threshold: float | None, trivial: Mapping[str, float], unit: str, what: str) -> Plot:
    """Utility per case along the threshold on the probability of `what`, beside the trivial policies and the threshold that ships."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for style, (name, value) in zip(("--", ":"), trivial.items(), strict=False):
            axes.axhline(value, color=GREY, linewidth=1.2, linestyle=style, label=f"always {name}")
        for name in models_in(curves):
            curve = curves[name]["utility_curve"]
            axes.plot(curve["threshold"], curve["utility"], color=COLOURS[name], label=name, **LINES[name])
        if threshold is not None:
            axes.axvline(threshold, color=BLUE, linewidth=1, linestyle="--")
            axes.annotate(
                f"ships: {threshold:.3g}",
                (threshold, 0.03),
                xycoords=("data", "axes fraction"),
                xytext=(5, 0),
                textcoords="offset points",
                color=BLUE,
            )
        axes.axvline(0.5, color=GREY, linewidth=1, linestyle="-.", label="argmax (0.5)")
        axes.set(xlim=(0, 1), xlabel=f"threshold on the probability of {what}", ylabel=f"utility per case ({unit})")
        axes.set_title("Utility along the threshold, holdout")
        axes.legend(loc="best", fontsize=9)

    return Plot(draw)


def cost_curve(curves: Mapping[str, Any], what: str) -> Plot:
    """Cost per case along the share that missing `what` has in the two costs, each decided by the analytic threshold."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        first = curves[models_in(curves)[-1]]["cost_curve"]
        axes.plot(first["miss_share"], first["always"], color=GREY, linewidth=1.2, linestyle="--", label="always act")
        axes.plot(first["miss_share"], first["never"], color=GREY, linewidth=1.2, linestyle=":", label="never act")
        for name in models_in(curves):
            curve = curves[name]["cost_curve"]
            axes.plot(curve["miss_share"], curve["cost"], color=COLOURS[name], label=name, **LINES[name])
        top = max(min(a, n) for a, n in zip(first["always"], first["never"], strict=True))
        highest = max(value for name in models_in(curves) for value in curves[name]["cost_curve"]["cost"])
        axes.set(xlim=(0, 1), ylim=(0, 1.15 * max(top, highest)))
        axes.set(xlabel=f"cost of missing {what} / (that + cost of a false alarm)", ylabel="cost per case (costs sum to 1)")
        axes.set_title("Cost curve, holdout")
        axes.legend(loc="upper left", fontsize=9)

    return Plot(draw)


def utility_histogram(curves: Mapping[str, Any], unit: str) -> Plot:
    """Share of holdout rows by the utility that they obtained: value by value with the counts, or in bins where values are many."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        values, edges, names = curves["utility_values"], curves.get("utility_edges"), models_in(curves)
        width, places = 0.8 / len(names), len(values) if edges is None else len(edges) - 1
        for position, name in enumerate(names):
            rows = curves[name]["utility_rows"]
            total = max(1, sum(rows))
            x = [i + (position - (len(names) - 1) / 2) * width for i in range(places)]
            bars = axes.bar(x, [count / total for count in rows], width=0.92 * width, color=COLOURS[name], label=name)
            if edges is None:
                axes.bar_label(bars, labels=[str(count) for count in rows], padding=2, fontsize=9)
        axes.grid(visible=False, axis="x")
        if edges is None:
            axes.set_xticks(range(places), tick_labels(values))
            axes.set(ylim=(0, 1.1), xlabel=f"utility obtained ({unit})")
            axes.set_title("What the actions were worth, rows counted")
        else:
            marks = range(0, places + 1, max(1, places // 6))
            axes.set_xticks([mark - 0.5 for mark in marks], tick_labels([edges[mark] for mark in marks]))
            axes.set(xlabel=f"utility obtained ({unit}); the outer bins hold what lies beyond")
            axes.set_title("What the actions were worth, rows counted in bins")
        axes.set_ylabel("share of holdout rows")
        axes.legend(loc="upper left")

    return Plot(draw)


def tick_labels(values: Sequence[float]) -> list[str]:
    """Values as text, rounded to what tells each from the next, two decimals more at most."""
    steps = [abs(b - a) for a, b in itertools.pairwise(sorted(values)) if b != a]
    digits = max(0, math.ceil(1 - math.log10(min(steps)))) if steps else 3
    if digits > 8:
        return [f"{value:z.3g}" for value in values]
    texts = [f"{value:z,.{digits}f}" for value in values]
    return [text.rstrip("0").rstrip(".") if "." in text else text for text in texts]


def policy(thresholds: Mapping[str, Any], unit: str, what: str) -> Plot:
    """Utility per case along the threshold on calib, with its band, and where the policies cut: all of it, and near the best."""

    def draw(figure: Figure) -> None:
        whole, near = figure.subplots(1, 2)
        low, high = _marked(thresholds)
        pad = max(0.03, 0.35 * (high - low))
        for axes in (whole, near):
            _thresholds(axes, thresholds)
            axes.set_xlabel(f"threshold on the probability of {what}")
        whole.set(xlim=(0, 1), ylabel=f"utility per case ({unit})")
        whole.set_title("Utility along the threshold, calib")
        shown = [point for point in thresholds["curve"] if low <= point["threshold"] <= high]
        if shown:
            heights = [value for point in shown for value in (point["utility"], point["low"], point["high"]) if value is not None]
            bottom, top = min(heights), max(heights)  # the band is part of the picture: without it every wiggle looks like a peak
            space = 0.1 * max(top - bottom, 1e-9 + 0.02 * abs(top))
            near.set_ylim(bottom - space, top + space)
        near.set_xlim(max(0.0, low - pad), min(1.0, high + pad))
        near.set_title("The same near the best: how flat it is")
        figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8.5)

    return Plot(draw, 9.6, 4.4)


def _marked(thresholds: Mapping[str, Any]) -> tuple[float, float]:
    """Range of the thresholds that are marked, the interval of the exact one among them."""
    exact = thresholds["exact"]
    marked = [
        thresholds["analytic"],
        thresholds["chosen"],
        thresholds.get("optuna"),
        *(exact.get(name) for name in ("value", "low", "high")),
    ]
    known = [value for value in marked if value is not None and math.isfinite(value)]
    return min(known), max(known)


def _thresholds(axes: Axes, thresholds: Mapping[str, Any]) -> None:
    curve, exact = thresholds["curve"], thresholds["exact"]
    x = [point["threshold"] for point in curve]
    if all(point.get("low") is not None and point.get("high") is not None for point in curve):
        axes.fill_between(
            x,
            [point["low"] for point in curve],
            [point["high"] for point in curve],
            color=GREY,
            alpha=0.22,
            linewidth=0,
            label="band of the curve",
        )
    axes.plot(x, [point["utility"] for point in curve], color=INK, linewidth=1.4)
    if exact.get("low") is not None and exact.get("high") is not None:
        said = f"exact's interval: {exact['low']:.3g} to {exact['high']:.3g}"
        axes.axvspan(exact["low"], exact["high"], color=VERDICTS["PASS"], alpha=0.13, linewidth=0, label=said)
    # what ships is drawn first and broad, since it lies under one of the others
    marks = (
        ("chosen", BLUE, "-", 5.0),
        ("analytic", ORANGE, "--", 1.5),
        ("optuna", GREY, "-.", 1.5),
        ("exact", VERDICTS["PASS"], ":", 2.2),
    )
    for name, colour, style, width in marks:
        value = exact.get("value") if name == "exact" else thresholds.get(name)
        if value is not None:
            label = f"{'ships' if name == 'chosen' else name}: {value:.3g}"
            axes.axvline(value, color=colour, linestyle=style, linewidth=width, alpha=0.45 if name == "chosen" else 1.0, label=label)


#: Numbers of a study that get a panel of their own: the most important ones, where there are more.
SLICES = 6


def study(found: Mapping[str, Any], unit: str) -> Plot:
    """Optuna's study of decide: utility per trial in the order tried, and along each number searched, the most important first.

    Trials that miss a limit or a requirement are crosses.
    """
    values, sources, names = found["values"], found["sources"], list(found["names"])
    missed = [amount > 0 for amount in found.get("missed") or [0.0] * len(values)]
    colours = {"analytic": ORANGE, "exact": VERDICTS["PASS"]}
    importance = found.get("importance") or {}
    ranked = sorted(range(len(names)), key=lambda at: -importance.get(names[at], 0.0))[:SLICES]

    def scatter(axes: Axes, x: Sequence[float]) -> None:
        for crossed, marker, label in ((False, "o", "tried"), (True, "x", "misses a limit or requirement")):
            at = [number for number, cross in enumerate(missed) if cross == crossed]
            if at:
                axes.scatter([x[n] for n in at], [values[n] for n in at], s=12, color=GREY, alpha=0.6, marker=marker, label=label)
        for source, colour in colours.items():
            at = [number for number, name in enumerate(sources) if name == source]
            if at:
                axes.scatter([x[number] for number in at], [values[number] for number in at], s=42, color=colour, label=source, zorder=3)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        scatter(grid[0], range(len(values)))
        grid[0].plot(found["best_so_far"], color=BLUE, label="best so far")
        grid[0].set(xlabel="trial", ylabel=f"utility per case ({unit})")
        grid[0].set_title("Optuna's study, calib")
        grid[0].legend(fontsize=9)
        for axes, at in zip(grid[1:], ranked, strict=False):
            scatter(axes, [point[at] for point in found["points"]])
            axes.set(xlabel=names[at].replace("_", " "))
            axes.set_title("Utility along it" if len(names) == 1 else f"importance {importance.get(names[at], 0.0):.0%}")
        for axes in grid[1 + len(ranked) :]:
            axes.set_axis_off()

    columns = min(3, 1 + len(ranked)) if len(ranked) != 3 else 2
    rows = -(-(1 + len(ranked)) // columns)
    return Plot(draw, 1.6 + 4.0 * columns, 0.4 + 3.4 * rows)


def training(history: Sequence[Mapping[str, float]], best_epoch: float | None) -> Plot:
    """Train loss and valid log loss per epoch of history.csv, on a logarithmic scale."""
    from matplotlib.ticker import NullFormatter

    def draw(figure: Figure) -> None:
        axes, seen = figure.subplots(), []
        for key, colour, label in (("train_loss", GREY, "train loss"), ("valid_log_loss", BLUE, "valid log loss")):
            points = [(row["epoch"], row[key]) for row in history if math.isfinite(row.get(key, math.nan)) and row[key] > 0]
            axes.plot([x for x, _ in points], [y for _, y in points], color=colour, label=label)
            seen += [y for _, y in points]
        if best_epoch is not None:
            axes.axvline(best_epoch, color=BLUE, linewidth=1, linestyle="--", label=f"best epoch ({best_epoch:g})")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if seen and max(seen) < 10 * min(seen) else NullFormatter())
        axes.set(xlabel="epoch", ylabel="nats per row (log scale)")
        axes.set_title("Loss per epoch")
        axes.legend()

    return Plot(draw)


def forest(criteria: Sequence[Mapping[str, Any]], verdict: str, *, identical: bool = False) -> Plot:
    """Forest plot of the gate: each criterion's estimate and one-sided bounds on its own scale, zero and the margin marked."""
    shown = [item for item in criteria if item.get("estimate") is not None and item.get("low") is not None]

    def draw(figure: Figure) -> None:
        what = "\nestimate and one-sided bounds; dashed: the margin" if shown else ""
        title = f"Gate: {verdict.replace('_', ' ')}{what}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=VERDICTS.get(verdict, INK))
        panels = figure.subplots(max(1, len(shown)), 1, squeeze=False)
        for axes, item in zip(panels[:, 0], shown, strict=False):
            _forest_row(axes, item)
        if not shown:
            said = "identical to the champion" if identical else "nothing was compared"
            panels[0, 0].text(0.5, 0.5, said, ha="center", va="center", color=GREY)
            panels[0, 0].set_axis_off()

    return Plot(draw, 7.2, 0.7 + 1.0 * max(1, len(shown)))


def _forest_row(axes: Axes, item: Mapping[str, Any]) -> None:
    colour = VERDICTS.get(item["verdict"], INK)
    axes.plot([item["low"], item["high"]], [0, 0], color=colour, linewidth=2.4, solid_capstyle="butt")
    axes.plot([item["estimate"]], [0], color=colour, marker="D", markersize=6)
    absolute = item["criterion"] in ("limit", "requirement")
    if not absolute:
        axes.axvline(0, color=INK, linewidth=0.9)
    if item.get("margin"):
        side = -1 if item["criterion"] in ("utility", "v_information") else 1
        axes.axvline(side * item["margin"], color=ORANGE, linewidth=1.2, linestyle="--")
    axes.set_ylim(-1, 1)
    title = TITLES.get(item["criterion"], item["criterion"])
    name = f"{title}: {item['subject']}" if item.get("subject") else title
    axes.set_yticks([0], [f"{name[:28]}\n{item['verdict'].replace('_', ' ').lower()}"])
    axes.tick_params(axis="y", length=0, labelcolor=colour)
    axes.grid(visible=False, axis="y")
    unit = f"share, {'at most' if item['criterion'] == 'limit' else 'at least'} {item['margin']:g}" if absolute else item.get("unit") or ""
    axes.set_xlabel(unit, fontsize=8.5, labelpad=1)
