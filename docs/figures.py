"""Figures of the documentation, made by code: `python docs/figures.py` writes docs/why.png."""

from pathlib import Path

import numpy as np


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


def main(path: Path = Path(__file__).parent / "why.png") -> None:
    """Draw what weighting does to the incentive to learn and to the effective sample."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    weight = np.geomspace(1, 100, 200)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    colours = plt.get_cmap("viridis")(np.linspace(0.1, 0.85, 4))
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
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
