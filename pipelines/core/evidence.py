"""What a verdict rests on and what it says: per-row results of both models, the settings, the criteria found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PASS, FAIL, INSUFFICIENT, ERROR = "PASS", "FAIL", "INSUFFICIENT_DATA", "ERROR"


@dataclass(frozen=True)
class Results:
    """Per-row results `(n,)` of one model on the rows compared; None where a column is missing, NaN where a value is.

    `right` is one where the action is the best for the row's true class, else zero; `knn` the bits of the kNN probe, which only confirms
    what the linear probe's `v_information` shows; `probability` `(n, K)` is what calibration is judged on.
    """

    utility: Floats | None
    log_loss: Floats | None
    brier: Floats | None
    v_information: Floats | None
    right: Floats | None = None
    knn: Floats | None = None
    probability: Floats | None = None


@dataclass(frozen=True)
class Rival:
    """The champion decided in some other way than the one it is compared as: utility `(n,)` and right actions `(n,)`."""

    utility: Floats | None
    right: Floats | None = None


@dataclass(frozen=True)
class Constraint:
    """What the challenger's policy is to keep: a "limit" on an action's share, a "requirement" of a class's recall.

    `values` `(m,)` are ones where the action was taken, or the right one for the class; None where they are missing. The rows are the
    challenger's whole holdout, or those of the class, with their groups and weights.
    """

    kind: str
    subject: str
    level: float
    values: Floats | None
    groups: Ints | None = None
    weights: Floats | None = None


@dataclass(frozen=True)
class Slice:
    """A named predicate on inputs: "slice" where declared, "lesson" where learnt from failures on calib; `rows` `(n,)` is its mask."""

    kind: str
    name: str
    rows: Bools


@dataclass(frozen=True)
class Evidence:
    """All that a verdict rests on; arrays are aligned to the n rows compared (the holdout of both models, or the challenger's alone).

    `weights` say how many rows each stands for, None where all stand for one. `reach` is the most that two actions can differ in utility on
    one row. `champion_gain` is the champion's utility per case above the best trivial policy, on calib, and `gain_error` its standard error.
    `reference_utility` and `reference_log_loss` are those of the best trivial policy and of the class prior, both chosen on calib.
    `redecided` is the champion decided anew by the challenger's procedure, `first` `(n,)` the utility of the first champion where it is
    another, of the rows `first_rows` `(n,)`, those that were holdout for it too.
    `unavailable` maps a criterion to the benign reason why it could not be computed; `invalid` lists what makes the rows unfit to judge from.
    `comparison` is a sentence on a champion that breaks a limit or requirement now in force, "" where it breaks none: it is then compared
    as re-decided only, or, where it cannot keep them either, it is not `comparable` and the utility is judged by the absolute criterion
    of a first champion. `looks` is how often these rows were judged on before, `retired` how many rows were left out for it.
    `ranks` are the effective ranks of the embeddings, the challenger's and the champion's.
    """

    challenger: Results
    champion: Results | None
    labels: Ints
    classes: tuple[str, ...]
    reach: float
    groups: Ints | None = None
    champion_gain: float | None = None
    reference_utility: Floats | None = None
    reference_log_loss: Floats | None = None
    unit: str = "points"
    unavailable: Mapping[str, str] = field(default_factory=dict)
    invalid: tuple[str, ...] = ()
    weights: Floats | None = None
    constraints: tuple[Constraint, ...] = ()
    comparison: str = ""
    comparable: bool = True
    gain_error: float = 0.0
    redecided: Rival | None = None
    first: Floats | None = None
    first_rows: Bools | None = None
    slices: tuple[Slice, ...] = ()
    looks: int = 0
    retired: int = 0
    ranks: tuple[float, float] | None = None

    @property
    def rival(self) -> Rival:
        """The champion as single cases are compared with it: re-decided where it was, since new costs change what is right."""
        if self.redecided is not None:
            return self.redecided
        return Rival(None) if self.champion is None else Rival(self.champion.utility, self.champion.right)

    def take(self, rows: Bools) -> Evidence:
        """What floors and slices need, for some of the rows: utility of the challenger and of the floors, labels, groups, weights."""

        def some(column: Floats | None) -> Floats | None:
            return None if column is None else column[rows]

        return replace(
            self,
            challenger=Results(some(self.challenger.utility), None, None, None),
            champion=None,
            redecided=None,
            labels=self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            weights=some(self.weights),
            reference_utility=some(self.reference_utility),
            first=some(self.first),
            first_rows=None,
        )

    def margin(self, share: float) -> float:
        """`share` of the champion's gain, in the unit of the utility; 0 where it gains nothing or the gain is unknown."""
        return share * max(0.0, self.champion_gain or 0.0)


@dataclass(frozen=True)
class Settings:
    """One-sided level, margin as a share of the champion's gain, what is material per guard, and the criteria of a first champion.

    `superiority` asks for a surely better utility instead of one that is not inferior. A slope or an intercept blocks where its interval lies
    outside its range, negative flips where they are surely more than `flips`; a slice with fewer rows than `min_support` is shown only.
    An effective rank below the share `least_rank` of the champion's blocks; where that is None it only warns below one half.
    """

    alpha: float
    margin: float
    material: Mapping[str, float]
    beats_trivial: bool = True
    max_log_loss_ratio: float = 1.0
    superiority: bool = False
    slope: tuple[float, float] = (0.8, 1.25)
    intercept: tuple[float, float] = (-0.25, 0.25)
    min_support: int = 50
    flips: float = 0.2
    least_rank: float | None = None

    def level(self, looks: int) -> float:
        """One-sided level of a PASS after so many looks: alpha / (1 + looks)^2, which over all looks ever sums to less than 1.65 alpha."""
        return self.alpha / (1 + looks) ** 2


@dataclass(frozen=True)
class Criterion:
    """One criterion's result: the estimate, challenger minus what it is compared with, its one-sided bounds, the bound that decides.

    `subject` names the rival, slice, lesson, action or class that it is about; where it is not `gated` it is shown and blocks nothing.
    """

    criterion: str
    verdict: str
    reason: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    margin: float | None = None
    rows: int = 0
    rows_needed: int | None = None
    p_value: float | None = None
    unit: str | None = None
    subject: str | None = None
    gated: bool = True


@dataclass(frozen=True)
class Verdict:
    """The verdict, its criteria and their reasons as sentences."""

    verdict: str
    criteria: tuple[Criterion, ...]
    reasons: tuple[str, ...]
    identical: bool = False
