"""Error rates of the gate by simulation, on the real gate function: false blocks, false passes and power, beside the naive rule.

Two models of a binormal world score the same holdout rows; their log-odds are calibrated by construction, and both act by the analytic
threshold. The challenger is as good, worse by one margin, or worse by two: by its policy, where an equally good network acts above a
higher threshold and only the test of utility can notice, or by its network, whose separation is lower. The margin is a share of the champion's gain, which the gate measures on a calib part as large as the holdout.
`python -m benchmarks.gate_characteristics [--quick] [--only NAME]` writes benchmarks/results/gate.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from benchmarks.common import machine, save
from pipelines.core import gate, metrics
from pipelines.core.bounds import augmented_moments
from pipelines.core.evidence import Evidence, Results, Rival, Settings, Slice
from pipelines.core.inferiority import rows_needed

Floats = NDArray[np.float64]

SETTINGS = Settings(0.05, 0.10, {"log_loss": 0.01, "brier": 0.005, "calibration_error": 0.02, "v_information": 0.02})
SIZES = (200, 1000, 5000, 50_000)
LOSSES = (0.0, 1.0, 2.0)  #: in margins
REPEATS = 1000


@dataclass(frozen=True)
class World:
    """Prevalence, cost of a miss (a false alarm costs 1), the champion's AUC, the correlation of both scores given the class, rows per group.

    Rows of one group share a part of the score's noise, `shared` of its variance, and of the label's chance; where groups are `uneven`, a
    third of all rows is one group and the others stand alone. Both models say log-odds `stretch` times what they should be.
    """

    name: str
    prevalence: float
    miss: float
    auc: float = 0.85
    correlation: float = 0.9
    cluster: int = 1
    shared: float = 0.3
    uneven: bool = False
    stretch: float = 1.0

    @property
    def grouped(self) -> bool:
        """Whether rows depend on each other."""
        return self.cluster > 1 or self.uneven

    @property
    def threshold(self) -> float:
        """Elkan's cut-off."""
        return 1 / (1 + self.miss)

    @property
    def separation(self) -> float:
        """Distance of the two classes' scores, in standard deviations, that gives the AUC."""
        return float(np.sqrt(2) * norm.ppf(self.auc))

    def utility(self, separation: float, threshold: float | None = None) -> float:
        """True utility per case of a model with this separation, acting above a threshold on its calibrated probability."""
        prior, at = np.log(self.prevalence / (1 - self.prevalence)), self.threshold if threshold is None else threshold
        cut = (np.log(at / (1 - at)) / self.stretch - prior) / separation + separation / 2
        missed, alarms = norm.cdf(cut - separation), norm.sf(cut)
        return float(-self.prevalence * self.miss * missed - (1 - self.prevalence) * alarms)

    @property
    def trivial(self) -> float:
        """Utility of the better trivial policy."""
        return max(-self.prevalence * self.miss, -(1 - self.prevalence))

    @property
    def gain(self) -> float:
        """The champion's true gain over it."""
        return self.utility(self.separation) - self.trivial

    def worse(self, margins: float, how: str) -> tuple[float, float]:
        """Separation and threshold of a challenger that truly loses so many margins, by its policy or by its network."""
        if margins == 0:
            return self.separation, self.threshold
        goal = self.utility(self.separation) - margins * SETTINGS.margin * self.gain
        if how == "network":
            return float(brentq(lambda d: self.utility(d) - goal, 0.05, self.separation)), self.threshold
        return self.separation, float(brentq(lambda t: self.utility(self.separation, t) - goal, self.threshold, 0.999))


WORLDS = (
    World("3 % at 20:1", 0.03, 20),
    World("3 % at 20:1, correlation 0.5", 0.03, 20, correlation=0.5),
    World("3 % at 20:1, groups of 5", 0.03, 20, cluster=5),
    World("10 % at 10:1", 0.10, 10),
    World("20 % at 5:1", 0.20, 5),
    World("20 % at 5:1, correlation 0.98", 0.20, 5, correlation=0.98),
    World("20 % at 5:1, groups of 5", 0.20, 5, cluster=5),
    World("50 % at 1:1", 0.50, 1),
)
#: Worlds off the grid, at two sizes: a third of the rows in one group; both models over-confident alike.
OTHERS = (World("20 % at 5:1, a third in one group", 0.20, 5, uneven=True), World("20 % at 5:1, both over-confident", 0.20, 5, stretch=1.5))


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: how many margins the challenger truly loses, and how."""

    world: World
    rows: int
    loss: float
    repeats: int
    how: str = "policy"
    redecided: bool = False


def labels_and_noise(world: World, rows: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Labels `(n,)`, noise of both scores `(2, n)` with unit variance given the class, and groups `(n,)`.

    Within a group the labels' chances depend on each other through a shared normal (a probit link keeps the prevalence), and so does the noise.
    """
    groups = np.maximum(np.arange(rows) - rows // 3, 0) if world.uneven else np.arange(rows) // world.cluster
    many = int(groups[-1]) + 1
    part = world.shared if world.grouped else 0.0

    def normal(count: int) -> Floats:
        return np.sqrt(part) * rng.standard_normal((count, many))[:, groups] + np.sqrt(1 - part) * rng.standard_normal((count, rows))

    labels = (normal(1)[0] < norm.ppf(world.prevalence)).astype(np.int64)
    common, own = normal(1), normal(2)
    return labels, np.sqrt(world.correlation) * common + np.sqrt(1 - world.correlation) * own, groups


def model(
    world: World, labels: NDArray[np.int64], noise: Floats, separation: float | None = None, threshold: float | None = None
) -> tuple[Results, Floats]:
    """Per-row results of a model whose score is separation * label + noise, and its probabilities of the positive class."""
    separation = world.separation if separation is None else separation
    odds = separation * (separation * labels + noise) - separation**2 / 2 + np.log(world.prevalence / (1 - world.prevalence))
    positive = 1 / (1 + np.exp(-world.stretch * odds))
    p = np.column_stack([1 - positive, positive])
    acted = positive > (world.threshold if threshold is None else threshold)
    utility = np.where(labels == 1, np.where(acted, 0.0, -world.miss), np.where(acted, -1.0, 0.0))
    prior = np.where(labels == 1, world.prevalence, 1 - world.prevalence)
    loss = metrics.log_loss_rows(p, labels)
    bits = -(loss + np.log(prior)) / np.log(2)
    right = (acted == (labels == 1)).astype(np.float64)
    return Results(utility, loss, metrics.brier_rows(p, labels), bits, right, bits, p), positive


def evidence(cell: Cell, rng: np.random.Generator) -> Evidence:
    """What the gate would see of one draw; with `redecided` the champion reigns with a threshold for other costs and is re-decided."""
    world, rows = cell.world, cell.rows
    labels, noise, groups = labels_and_noise(world, rows, rng)
    theirs, _ = model(world, labels, noise[1])
    ours, _ = model(world, labels, noise[0], *world.worse(cell.loss, cell.how))
    calib_labels, calib_noise, calib_groups = labels_and_noise(world, rows, rng)
    calib, _ = model(world, calib_labels, calib_noise[1])
    always = np.where(calib_labels == 1, 0.0, -1.0), np.where(calib_labels == 1, -world.miss, 0.0)
    act = bool(always[0].mean() > always[1].mean())
    assert calib.utility is not None and theirs.utility is not None
    gain = calib.utility - always[0 if act else 1]
    clustered = world.grouped
    error = augmented_moments(gain, -world.miss, calib_groups if clustered else None)[1]
    reference = np.where(labels == 1, 0.0, -1.0) if act else np.where(labels == 1, -world.miss, 0.0)
    prior = np.clip(calib_labels.mean(), 0.5 / rows, None)
    rng_slices = np.random.default_rng(7)
    slices = tuple(
        Slice("slice", name, rng_slices.random(rows) < share) for name, share in (("half", 0.5), ("tenth", 0.1), ("fiftieth", 0.02))
    )
    other = None
    if cell.redecided:
        other = Rival(theirs.utility, theirs.right)
        stale, _ = model(world, labels, noise[1], threshold=1 / (1 + 3 * world.miss))
        theirs = replace(theirs, utility=stale.utility)
    return Evidence(
        ours,
        theirs,
        labels,
        ("no", "yes"),
        world.miss,
        groups if clustered else None,
        float(gain.mean()),
        reference,
        np.where(labels == 1, -np.log(prior), -np.log(1 - prior)),
        gain_error=error,
        redecided=other,
        slices=slices,
    )


def run(cell: Cell) -> dict[str, Any]:
    """Counts of verdicts over the repeats of a cell, of blocks by criterion, and of what the naive rule "new >= old" would do."""
    seed = [
        int(cell.world.prevalence * 1000),
        int(cell.world.correlation * 100),
        cell.world.cluster,
        cell.rows,
        int(10 * cell.loss),
        cell.redecided,
    ]
    verdicts: dict[str, int] = dict.fromkeys((gate.PASS, gate.FAIL, gate.INSUFFICIENT, gate.ERROR), 0)
    blocked: dict[str, int] = {}
    naive = calibrated = 0
    started = time.perf_counter()
    for repeat in range(cell.repeats):
        seen = evidence(cell, np.random.default_rng([*seed, repeat]))
        found = gate.judge(seen, SETTINGS)
        verdicts[found.verdict] += 1
        for item in found.criteria:
            if item.verdict == gate.FAIL:
                blocked[item.criterion] = blocked.get(item.criterion, 0) + 1
        calibrated += any(
            item.verdict == gate.FAIL and item.criterion in ("calibration_error", "slope", "intercept") for item in found.criteria
        )
        assert seen.challenger.utility is not None and seen.champion is not None and seen.champion.utility is not None
        naive += bool(seen.challenger.utility.mean() >= seen.champion.utility.mean())
    return {
        "world": cell.world.name,
        **{name: value for name, value in asdict(cell.world).items() if name != "name"},
        "rows": cell.rows,
        "margins_lost": cell.loss,
        "how": cell.how,
        "redecided": cell.redecided,
        "repeats": cell.repeats,
        "verdicts": verdicts,
        "blocked": blocked,
        "failed_for_calibration": calibrated,
        "naive_passes": naive,
        "promised_rows": promised(cell.world),
        "seconds": round(time.perf_counter() - started, 1),
    }


def promised(world: World) -> int:
    """The size from which docs/gate.md promises power: `rows_needed` at the true spread of a row's difference, clusters counted."""
    rng = np.random.default_rng(0)
    labels, noise, groups = labels_and_noise(world, 200_000, rng)
    ours, theirs = (model(world, labels, one)[0].utility for one in noise)
    assert ours is not None and theirs is not None
    reference = np.where(labels == 1, 0.0, -1.0) if world.trivial == -(1 - world.prevalence) else np.where(labels == 1, -world.miss, 0.0)
    variances = []
    for values in (ours - theirs, theirs - reference):
        sums = np.bincount(groups, weights=values - values.mean())
        variances.append(float((sums**2).sum()) / values.size)
    spread = float(np.sqrt(variances[0] + SETTINGS.margin**2 * variances[1]))
    return rows_needed(spread, world.miss * world.cluster, SETTINGS.margin * world.gain, SETTINGS.alpha)


def cells(repeats: int, sizes: tuple[int, ...]) -> Iterator[Cell]:
    """The grid, and each world at the size that is promised for it."""
    for world in WORLDS:
        for loss in LOSSES:
            for rows in sorted({*sizes, promised(world)}):
                yield Cell(world, rows, loss, repeats)
        for loss in LOSSES[1:]:
            for rows in (1000, promised(world)):
                yield Cell(world, rows, loss, repeats, how="network")
    for loss in LOSSES:
        for rows in (1000, 10_000):
            yield Cell(WORLDS[4], rows, loss, repeats, redecided=True)
        for world in OTHERS:
            for rows in (1000, 5000):
                yield Cell(world, rows, loss, repeats)


def main(arguments: list[str] | None = None) -> None:
    """Run the grid on all cores and write its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats and sizes, to see that it runs; writes nothing")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args(arguments)
    listed = list(cells(40, (200, 2000))) if chosen.quick else list(cells(chosen.repeats, SIZES))
    listed.sort(key=lambda cell: -cell.rows)
    with ProcessPoolExecutor(chosen.jobs) as pool:
        found = []
        for row in pool.map(run, listed):
            found.append(row)
            print(
                f"{row['world']:<32} n={row['rows']:>6} loss={row['margins_lost']:g} {row['how']} {row['verdicts']} {row['seconds']:.0f} s",
                flush=True,
            )
    found.sort(key=lambda row: (row["world"], row["redecided"], row["how"], row["margins_lost"], row["rows"]))
    if not chosen.quick:
        save("gate", {"machine": machine(), "settings": asdict(SETTINGS), "cells": found})


if __name__ == "__main__":
    main()
