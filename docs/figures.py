"""Figures of the documentation, made by code: `python docs/figures.py` writes docs/*.png."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from pipelines.core.constraints import limit_prices
from pipelines.core.policy import analytic_threshold, threshold_of_offset, under_prior
from pipelines.core.threshold import exact
from pipelines.core.utility import expected_utility, obtained

U = np.array([[0.0, -1.0], [-10.0, 0.0]])  # rows: benign, malignant; columns: leave, biopsy
BLUE, ORANGE, GREY = "#1f5fbf", "#d9730d", "#8a9099"


def incentive(weight: np.ndarray, prevalence: float) -> np.ndarray:
    """Payoff to perfect learning under weights normalised to mean one, relative to the unweighted loss: H(weighted prior) / H(prior).

    `weight` (m,) > 0 is that of the rare class relative to the other, `prevalence` in (0, 1) its share. One means that learning pays as
    before, less than one that the weighted loss pays less for learning. Derived for this project from the weighted log loss.
    """
    weighted = weight * prevalence / (weight * prevalence + 1 - prevalence)
    return entropy(weighted) / entropy(np.array(prevalence))


def effective_share(weight: np.ndarray, prevalence: float) -> np.ndarray:
    """Effective sample size over sample size, (sum w)^2 / (n sum w^2) (Kish 1965), for the same weights."""
    return (weight * prevalence + 1 - prevalence) ** 2 / (weight**2 * prevalence + 1 - prevalence)


def entropy(p: np.ndarray) -> np.ndarray:
    """Entropy in bits of a binary distribution with probability `p` in (0, 1)."""
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def drawn(rows: int, seed: int, *, slope: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels `(n,)` and probabilities `(n, 2)` whose log-odds are `slope` times the true ones plus `shift`."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1.5, 2.0, rows)
    said = 1 / (1 + np.exp(-(slope * odds + shift)))
    return (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(int), np.stack([1 - said, said], axis=1)


def why(figure: Figure) -> None:
    """What weighting does to the incentive to learn and to the effective sample."""
    weight, axes = np.geomspace(1, 100, 200), figure.subplots(1, 2)
    colours = mpl.colormaps["viridis"](np.linspace(0.1, 0.85, 4))
    for prevalence, colour in zip((0.5, 0.3, 0.1, 0.03), colours, strict=True):
        label = f"{prevalence:.0%} positive"
        axes[0].plot(weight, incentive(weight, prevalence), color=colour, label=label)
        axes[1].plot(weight, effective_share(weight, prevalence), color=colour, label=label)
    axes[0].axhline(1, color="0.6", linewidth=0.8)
    axes[0].set(title="What the weighted loss pays for perfect learning", ylabel="relative to the symmetric loss", ylim=(0, 5.3))
    axes[1].set(title="What is left of the sample", ylabel="effective rows / rows", ylim=(0, 1.05))
    for axis in axes:
        axis.set(xscale="log", xlabel="weight of a missed positive", xlim=(1, 100))
        axis.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes[0].legend(frameon=False)


def threshold(figure: Figure) -> None:
    """Utility along the threshold on 1,000 rows: with calibrated probabilities, and with over-confident, shifted ones."""
    left, right = figure.subplots(1, 2, sharey=True)
    utility_along(left, drawn(1000, 3), "Calibrated: flat, and the formula is in the middle of it")
    utility_along(right, drawn(1000, 3, slope=1.5, shift=-1.0), "Over-confident and shifted: tuning gains")
    left.set(ylabel="utility per case")
    figure.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)


def utility_along(axis: Any, rows: tuple[np.ndarray, np.ndarray], title: str) -> None:
    """Draw the mean utility per threshold, the analytic and the exact threshold, and the latter's bootstrap interval."""
    labels, p = rows
    grid = np.geomspace(0.001, 0.9, 300)
    axis.plot(grid, [obtained(labels, (p[:, 1] > t).astype(int), U).mean() for t in grid], color=BLUE)
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        at = rng.integers(len(labels), size=len(labels))
        found.append(threshold_of_offset(exact(p[at], labels[at], U)[0][1], U))
    axis.axvspan(*np.quantile(found, [0.025, 0.975]), color=ORANGE, alpha=0.15, label="95 % of the optimum's resamples")
    axis.axvline(analytic_threshold(U), color=GREY, linestyle="--", label="analytic, 1/11")
    axis.axvline(threshold_of_offset(exact(p, labels, U)[0][1], U), color=ORANGE, label="exact on these rows")
    axis.set(title=title, xscale="log", xlabel="threshold on the probability of malignant", xlim=(0.001, 0.9), ylim=(-1.6, -0.4))
    axis.set_xticks([0.01, 0.03, 0.1, 0.3], ["0.01", "0.03", "0.1", "0.3"])


def limit(figure: Figure) -> None:
    """Rows in order of what a biopsy is worth to them beyond leaving; the price that only a fifth of them pays."""
    _, p = drawn(1000, 3)
    expected = expected_utility(p, U)
    worth, price = np.sort(expected[:, 1] - expected[:, 0])[::-1], float(limit_prices(expected, {1: 0.2})[1])
    axis, share = figure.subplots(), np.arange(1, len(worth) + 1) / len(worth)
    axis.plot(share, worth, color=BLUE, label="worth of a biopsy beyond leaving")
    axis.fill_between(share, worth, price, where=share <= 0.2, color=BLUE, alpha=0.15)
    axis.axhline(0, color=GREY, linewidth=0.9)
    axis.axhline(price, color=ORANGE, label=f"price {price:.2f}: biopsy above it")
    axis.axvline(0.2, color=ORANGE, linestyle="--", label="limit: 20 % of rows")
    axis.axvline((worth > 0).mean(), color=GREY, linestyle="--", label=f"without a limit: {100 * (worth > 0).mean():.0f} % of rows")
    axis.set(xlabel="share of rows, dearest first", ylabel="expected utility", xlim=(0, 1))
    axis.legend(frameon=False, loc="upper right", facecolor="white", framealpha=1)


def prior(figure: Figure) -> None:
    """The probability under the data's prior from which to act, along the prior of the place where the model works."""
    data, goal, axis = 0.37, analytic_threshold(U), figure.subplots()
    deployed = np.geomspace(0.005, 0.8, 200)
    odds = goal / (1 - goal) * (data / (1 - data)) / (deployed / (1 - deployed))
    cut = odds / (1 + odds)
    shares = np.array([1 - data, data])
    back = [under_prior(np.array([[1 - t, t]]), shares, [1 - d, d])[0, 1] for t, d in zip(cut, deployed, strict=True)]
    np.testing.assert_allclose(back, goal)
    axis.plot(deployed, cut, color=BLUE)
    axis.plot([data], [goal], "o", color=ORANGE, label=f"prior of the data, {data:.0%}: threshold 1/11")
    axis.set(xscale="log", ylim=(0, 1), xlabel="share of malignant where the model works", ylabel="threshold on the model's probability")
    axis.set_xticks([0.01, 0.03, 0.1, 0.3, 0.8], ["1 %", "3 %", "10 %", "30 %", "80 %"])
    axis.legend(frameon=False)


def gate(figure: Figure) -> None:
    """How often the gate passes an equal and a worse challenger by the size of the holdout, beside the naive rule."""
    cells = json.loads((Path(__file__).parents[1] / "benchmarks/results/gate.json").read_text())["cells"]
    worlds = ("3 % at 20:1", "20 % at 5:1", "50 % at 1:1")
    for axes, world in zip(figure.subplots(1, len(worlds), sharey=True), worlds, strict=True):
        here = [cell for cell in cells if cell["world"] == world and cell["how"] == "policy" and not cell["redecided"]]
        for loss, colour, label in ((0.0, BLUE, "equal"), (1.0, ORANGE, "worse by one margin"), (2.0, GREY, "worse by two")):
            some = sorted((cell for cell in here if cell["margins_lost"] == loss), key=lambda cell: cell["rows"])
            rows = [cell["rows"] for cell in some]
            axes.plot(
                rows, [cell["verdicts"]["PASS"] / cell["repeats"] for cell in some], color=colour, marker="o", markersize=4, label=label
            )
            if loss < 2:
                naive = [cell["naive_passes"] / cell["repeats"] for cell in some]
                axes.plot(rows, naive, color=colour, linestyle=":", label=f"{label}, naive rule")
        axes.axhline(0.05, color=GREY, linewidth=0.8, linestyle="--")
        axes.axvline(here[0]["promised_rows"], color=GREY, linewidth=0.8)
        axes.set(xscale="log", xlabel="holdout rows", xlim=(150, 70_000), ylim=(-0.02, 1.02), title=world)
        axes.xaxis.set_minor_formatter(NullFormatter())
    figure.axes[0].set_ylabel("share of draws that pass")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8.5)


FIGURES: dict[str, tuple[Callable[[Figure], None], tuple[float, float]]] = {
    "why": (why, (10, 3.8)),
    "deciding_threshold": (threshold, (10, 4.1)),
    "deciding_limit": (limit, (6.4, 3.6)),
    "deciding_prior": (prior, (6.4, 3.6)),
    "gate": (gate, (10, 4.0)),
}


def main(folder: Path = Path(__file__).parent) -> None:
    """Draw every figure."""
    mpl.use("Agg")
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11}):
        for name, (draw, size) in FIGURES.items():
            figure = plt.figure(figsize=size, layout="constrained")
            draw(figure)
            figure.savefig(folder / f"{name}.png", dpi=130, metadata={"Software": None})
            plt.close(figure)


if __name__ == "__main__":
    main()
