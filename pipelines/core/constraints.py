"""Limits on actions' shares and requirements on classes' recall: fitted on rows, then each row is decided alone.

A limit becomes a price on its action, the dual variable of "at most this share of the rows"; a requirement an offset of its class,
found by order statistics. Rows count by their weights in shares; in confidences a group of rows counts as one unit, as if its
rows had all the same outcome, and unequal weights as an effective number of units: see `recall_units`. With equal weights and no
groups the confidence is exact, else it is an approximation on the safe side of the groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, stdtrit

from pipelines.core import policy
from pipelines.core.bounds import Interval
from pipelines.core.sample import Sample, Tuned
from pipelines.core.utility import expected_utility, regret_matrix, scale
from pipelines.errors import must

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

CLEAR = 4 * policy.TIE  #: a preference must exceed this share of the largest regret, or a policy may take it for a tie
ROUNDS = 60  #: of limits and requirements in turn
SWEEPS = 200


@dataclass(frozen=True)
class Recall:
    """At least this share of the rows of class `label`, called `name`, must get their best action, with this confidence."""

    label: int
    name: str
    at_least: float
    confidence: float

    @property
    def rows_needed(self) -> int:
        """Fewest independent rows of the class that can show it: all of them get their best action."""
        return math.ceil(math.log(1 - self.confidence) / math.log(self.at_least) - 1e-9)


@dataclass(frozen=True)
class Constraints:
    """`limits`: largest share of the rows per action number; `recalls`: what must be reached."""

    limits: Mapping[int, float]
    recalls: tuple[Recall, ...]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.limits or self.recalls)


@dataclass(frozen=True)
class Fitted:
    """A policy that keeps the limits on its rows, and the recalls that it reaches: lower bounds, each at its own confidence."""

    tuned: Tuned
    reached: tuple[float, ...]

    def shortfall(self, rules: Constraints) -> float:
        """How far the requirements are missed, 0 where all are met."""
        return sum(max(0.0, wanted.at_least - got) for wanted, got in zip(rules.recalls, self.reached, strict=True))


def trivial_allowed(U: Any, limits: Mapping[int, float], recalls: Any) -> Bool:
    """Whether limits and requirements allow "always action a", `(A,)`; all true where they allow no action at all.

    `limits` by action number, `recalls` the numbers of the classes whose recall is required; `U` `(K, A)`, or `(n, K, A)`, where an
    action must be best for the class in every row.
    """
    matrix = np.asarray(U, dtype=np.float64)
    allowed = np.ones(matrix.shape[-1], dtype=bool)
    allowed[list(limits)] = False
    best = regret_matrix(matrix) <= policy.TIE
    for label in recalls:
        allowed &= best[..., label, :].reshape(-1, len(allowed)).all(axis=0)
    return allowed if allowed.any() else np.ones_like(allowed)


def blind_recall(U: Any, labels: Any, label: int, weights: Any = None) -> Float:
    """Recall of class `label` that "always action a" reaches, `(A,)`: weighted share of the class's rows whose best actions hold a.

    1 for all actions where no row of `labels` `(n,)` is of the class; `U` is `(K, A)` or `(n, K, A)`.
    """
    matrix, rows = np.asarray(U, dtype=np.float64), np.asarray(labels) == label
    best = (regret_matrix(matrix) <= policy.TIE)[..., label, :]
    if best.ndim == 1:
        return np.asarray(best, dtype=np.float64)
    w = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    return np.asarray(np.average(best[rows], axis=0, weights=w[rows]) if w[rows].any() else np.ones(best.shape[1]), dtype=np.float64)


def best_blind(mean_utility: Any, limits: Mapping[int, float], recalls: Sequence[tuple[Any, float]] = ()) -> Float:
    """Shares `(A,)` of the actions in the best policy that looks at no row but draws its action, within limits and requirements.

    The linear programme max x @ `mean_utility` `(A,)` over shares x with x[a] <= `limits`[a] and, for each of `recalls`, a pair of
    `blind_recall` `(A,)` and the recall asked for, x @ blind_recall >= that recall. One action alone where nothing forbids it, and where
    no shares keep everything.
    """
    from scipy.optimize import linprog

    worth = np.asarray(mean_utility, dtype=np.float64)
    alone: Float = np.eye(len(worth))[int(worth.argmax())]
    if not limits and not recalls:
        return alone
    found = linprog(
        -worth / (float(np.abs(worth).max()) or 1.0),
        A_eq=np.ones((1, len(worth))),
        b_eq=[1.0],
        A_ub=-np.array([reached for reached, _ in recalls], dtype=np.float64) if recalls else None,
        b_ub=[-wanted for _, wanted in recalls] if recalls else None,
        bounds=[(0.0, min(1.0, limits.get(action, 1.0))) for action in range(len(worth))],
    )
    if not found.success:
        return alone
    shares = np.where(found.x > 1e-9, found.x, 0.0)
    return np.asarray(shares / shares.sum())


def blind_name(actions: Sequence[str], shares: Any) -> str:
    """What a policy that draws its action is called: "always leave", or "20 % biopsy, 80 % leave, at random"."""
    mixed = [(share, name) for share, name in zip(np.asarray(shares).tolist(), actions, strict=True) if share > 0]
    return f"always {mixed[0][1]}" if len(mixed) == 1 else ", ".join(f"{100 * share:.3g} % {name}" for share, name in mixed) + ", at random"


def effective_units(weights: Any, groups: Any) -> float:
    """Number of independent, equally weighted units that rows are worth: groups count once, (sum w)^2 / sum w^2 over them."""
    totals = np.bincount(np.unique(np.asarray(groups), return_inverse=True)[1], weights=weights)
    return float(totals.sum() ** 2 / (totals @ totals)) if totals.size else 0.0


def recall_units(hit: Any, *, weights: Any, groups: Any, confidence: float) -> Float:
    """Equally weighted, independent units `(n,)` that the weighted share of hits is worth after each row; `hit` `(n,)` 0 or 1.

    With equal weights the units of `effective_units`, whatever the rows. Else rows that miss may be the heavy ones, which that number does
    not see: of it, of p (1 - p) over the sandwich variance of p, and of its limit for few misses, the total weight over the misses' mean
    weight, each by weight, the least counts. One missed group as heavy as the heaviest joins before, since few heavy rows that all hit
    show no variance. Times (t_{G-1} / t_{units-1})^2 for G groups. Korn and Graubard (1998), section 3.
    """
    w, taken = np.asarray(weights, dtype=np.float64), np.asarray(hit, dtype=np.float64)
    kish = effective_units(w, groups)
    if not w.size or np.ptp(w) <= 1e-12 * w.max():
        return np.full(len(w), kish)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    totals, gained = np.bincount(codes, weights=w), w * taken
    before = _before(gained, codes)
    squares, products = np.cumsum(2 * before * gained + gained**2), np.cumsum(gained * totals[codes])
    heaviest = float(totals.max())
    whole = float(totals.sum()) + heaviest
    share = np.cumsum(gained) / whole
    spread = squares - 2 * share * products + share**2 * (totals @ totals + heaviest**2)
    units = np.where(spread > 0, share * (1 - share) * whole**2 / np.where(spread > 0, spread, 1.0), kish)
    missed = totals @ totals - 2 * products + squares + heaviest**2
    units = np.minimum(units, (whole - heaviest) * (whole - np.cumsum(gained)) / missed)
    quantile, wide = stdtrit(max(len(totals) - 1, 1), confidence), stdtrit(max(kish - 1, 0.1), confidence)
    return np.asarray(np.minimum(units, kish) * (quantile / wide) ** 2)


def _before(gained: Float, codes: Any) -> Float:
    """Sum `(n,)` of the values of each row's group in the rows before it."""
    order = np.argsort(codes, kind="stable")
    upto = np.cumsum(gained[order]) - gained[order]
    start = np.flatnonzero(np.append(True, np.diff(codes[order]) > 0))
    found = np.empty(len(gained))
    found[order] = upto - np.repeat(upto[start], np.diff(np.append(start, len(gained))))
    return found


def lower_bound(share: float, units: float, confidence: float) -> float:
    """One-sided Clopper-Pearson bound below a share seen in `units` independent rows; Clopper and Pearson (1934)."""
    hits = share * units
    return float(betaincinv(hits, units - hits + 1, 1 - confidence)) if hits > 0 else 0.0


def share_interval(taken: Any, *, weights: Any, groups: Any, confidence: float) -> Interval:
    """Two-sided Clopper-Pearson interval of a weighted mean of `taken` `(n,)` in [0, 1], on counts adjusted for groups and weights.

    The effective number of rows is p (1 - p) over the sandwich variance of the share, at most n; Korn and Graubard (1998).
    """
    values, w = np.asarray(taken, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not values.size:
        return Interval(math.nan, 0.0, 1.0, 0)
    mean = float(np.average(values, weights=w))
    residual = np.bincount(np.unique(np.asarray(groups), return_inverse=True)[1], weights=w * (values - mean))
    variance, spread = float(residual @ residual) / float(w.sum()) ** 2, mean * (1 - mean)
    units = min(float(values.size), spread / variance) if spread > 1e-12 and variance > 0 else effective_units(w, groups)
    hits, tail = mean * units, (1 - confidence) / 2
    low = float(betaincinv(hits, units - hits + 1, tail)) if hits > 1e-9 else 0.0
    high = float(betaincinv(hits + 1, units - hits, 1 - tail)) if units - hits > 1e-9 else 1.0
    return Interval(mean, low, high, values.size)


def satisfied(sample: Sample, tuned: Tuned, label: int) -> Bool:
    """Whether each row `(n,)` gets an action that is best for class `label`; rows to whom all actions are equally good do."""
    lost = regret_matrix(sample.U)[..., label, :]
    actions = sample.actions(tuned)
    return np.asarray((lost[actions] if lost.ndim == 1 else lost[np.arange(len(actions)), actions]) <= policy.TIE)


def recall_reached(sample: Sample, tuned: Tuned, wanted: Recall) -> float:
    """Lower bound, at the confidence wanted, of the recall that a policy reaches on rows of the class, all in `sample`."""
    if not len(sample.labels):
        return 0.0
    hit = satisfied(sample, tuned, wanted.label)
    units = recall_units(hit, weights=sample.weights, groups=sample.groups, confidence=wanted.confidence)[-1]
    return lower_bound(float(np.average(hit, weights=sample.weights)), float(units), wanted.confidence)


def levels(sample: Sample, tuned: Tuned, label: int) -> Float:
    """Smallest offset `(n,)` of class `label` with which each row gets an action that is best for it, all else as in `tuned`.

    The advantage of one action over another is linear in the class's weight v = exp(offset), so the level has a closed form; -inf for a row
    that gets such an action anyway, inf for one that does not whatever the offset, as a price on the action may bring about.
    """
    matrix = np.broadcast_to(sample.U, (len(sample.labels), *sample.shape))
    others = np.arange(sample.shape[0]) != label
    top = float(tuned.offsets[others].max())
    shifted = sample.probability * np.where(others, np.exp(tuned.offsets - top), 0.0)
    best = regret_matrix(matrix)[:, label] <= policy.TIE
    worth, clear = matrix - tuned.prices, CLEAR * np.asarray(scale(matrix))[:, None, None]
    found = np.full(len(matrix), np.inf)
    for action in range(sample.shape[1]):
        ahead = worth[:, :, [action]] - worth - clear
        slope, rest = sample.probability[:, [label]] * ahead[:, label], np.einsum("nk,nka->na", shifted, ahead)
        with np.errstate(divide="ignore", invalid="ignore"):
            root = -rest / slope
        low = np.where(slope > 0, np.maximum(root, 0.0), np.where(rest > 0, 0.0, np.inf))
        high = np.where((slope < 0) & (rest > 0), root, np.inf)
        low, high = np.where(best, 0.0, low).max(axis=1), np.where(best, np.inf, high).min(axis=1)
        found = np.where(best[:, action] & (low <= high), np.minimum(found, low), found)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(found) + top)


def order_statistic(values: Any, wanted: Recall, *, weights: Any, groups: Any) -> float:
    """Smallest of `values` `(n,)` below or at which at least the share wanted of all such values lies, with the confidence wanted.

    The k-th largest of n independent values, where P(Beta(n-k+1, k) >= share) >= confidence; the largest finite one where n is too small.
    Unequal weights may make more hits prove less, so all values from there on must prove it too.
    """
    order = np.argsort(values, kind="stable")
    ordered, w = np.asarray(values, dtype=np.float64)[order], np.asarray(weights, dtype=np.float64)[order]
    if not ordered.size or not np.isfinite(ordered[ordered > -np.inf]).any():
        return -np.inf
    share = np.cumsum(w) / w.sum()
    units = recall_units(np.ones(len(w)), weights=w, groups=np.asarray(groups)[order], confidence=wanted.confidence)
    hits = np.minimum(share, 1.0) * units
    enough = betainc(hits, units - hits + 1, wanted.at_least) <= 1 - wanted.confidence + 1e-12
    enough = np.logical_and.accumulate(enough[::-1])[::-1]
    found = float(ordered[int(enough.argmax())]) if enough.any() else np.inf
    return found if found < np.inf else float(ordered[np.isfinite(ordered)].max())


def proof_rows(sample: Sample, rules: Constraints, seed: int) -> Bool:
    """Rows `(n,)` that a search must not look at, so that they can prove the requirements on what it found.

    Half of the groups with a row of a class whose recall is required, all their rows; none where nothing is required.
    """
    asked = np.unique(sample.groups[np.isin(sample.labels, [wanted.label for wanted in rules.recalls])])
    drawn = np.random.default_rng(seed).permutation(asked)[: len(asked) // 2]
    return np.asarray(np.isin(sample.groups, drawn))


def without(sample: Sample, rows: Bool) -> Sample:
    """The other rows, their weights raised so that each class has the weight that it had."""
    K, kept = sample.shape[0], sample.take(~rows)
    had, has = (np.bincount(part.labels, weights=part.weights, minlength=K) for part in (sample, kept))
    return replace(kept, weights=kept.weights * (had / np.where(has > 0, has, 1.0))[kept.labels])


def satisfy(sample: Sample, rules: Constraints, start: Tuned, *, proof: Bool | None = None) -> Fitted:
    """Raise prices and offsets from those of `start` until the rows show that limits and requirements are met; no more than needed.

    Limits always hold on the rows. Where the requirements cannot be met too, the policy that comes nearest; see `check`. Where `start` was
    chosen among many by rows of the classes required, only rows `proof` that had no part in it can show that they are met.
    """
    offsets, best = start.offsets.copy(), None
    proving = sample if proof is None else sample.take(proof)
    parts = [proving.take(proving.labels == wanted.label) for wanted in rules.recalls]
    for _ in range(ROUNDS):
        tuned = Tuned(offsets.copy(), priced(sample, rules.limits, offsets, start.prices))
        reached = tuple(recall_reached(part, tuned, wanted) for part, wanted in zip(parts, rules.recalls, strict=True))
        fitted = Fitted(tuned, reached)
        if best is None or fitted.shortfall(rules) < best.shortfall(rules):
            best = fitted
        if not best.shortfall(rules):
            break
        for part, wanted in zip(parts, rules.recalls, strict=True):
            needed = order_statistic(
                levels(part, Tuned(offsets, tuned.prices), wanted.label), wanted, weights=part.weights, groups=part.groups
            )
            offsets[wanted.label] = max(offsets[wanted.label], needed)
        if (offsets == tuned.offsets).all() or np.ptp(offsets) > policy.ALWAYS:
            break
    assert best is not None
    return best


def check(sample: Sample, rules: Constraints, fitted: Fitted) -> None:
    """Raise ExpostError where the rows cannot show that a requirement is met: how many are needed, or what can be reached."""
    for wanted, reached in zip(rules.recalls, fitted.reached, strict=True):
        if reached >= wanted.at_least:
            continue
        part = sample.take(sample.labels == wanted.label)
        best = recall_units(np.ones(len(part.labels)), weights=part.weights, groups=part.groups, confidence=wanted.confidence)
        units, what = float(best[-1]) if best.size else 0.0, f"a recall of {wanted.at_least:g} of class {wanted.name!r}"
        if lower_bound(1.0, units, wanted.confidence) < wanted.at_least:
            got = f"calib has {len(part.labels)}" + (f", worth {units:.1f}" if units < len(part.labels) - 1e-6 else "")
            remedy = "Add rows, raise split.shares.calib, or ask for a lower recall or confidence under utility.require."
            raise must(
                f"{what} with confidence {wanted.confidence:g} needs {wanted.rows_needed} independent rows of the class", got, remedy
            )
        under = " under utility.limits" if rules.limits else " together with the other requirements" if len(rules.recalls) > 1 else ""
        raise must(
            f"utility.require must be reachable{under}: {what} with confidence {wanted.confidence:g}",
            f"the best reachable recall is {reached:.3f} at that confidence",
            "Lower at_least or confidence, or give more room under utility.limits.",
        )


def priced(sample: Sample, limits: Mapping[int, float], offsets: Float, floor: Float) -> Float:
    """Prices `(A,)`, at least `floor`, with which a policy of these offsets keeps the limits on the rows."""
    if not limits:
        return floor
    weighted = sample.probability * np.exp(offsets - offsets.max())
    expected = expected_utility(weighted / weighted.sum(axis=1, keepdims=True), sample.U)
    return limit_prices(expected, limits, weights=sample.weights, floor=floor, slack=CLEAR * float(np.max(scale(sample.U))))


def limit_prices(expected: Any, limits: Mapping[int, float], *, weights: Any = None, floor: Any = None, slack: float = 0.0) -> Float:
    """Prices `(A,)`, at least `floor`, with which no limited action is the best one in more than its share of the rows.

    `expected` `(n, A)` are expected utilities, `limits` shares by action number, and the actions' worth is `expected` minus prices. For
    one limit the price is the smallest that does, midway to the next row's; for several they are those of the dual of the linear
    programme that maximises the expected utility, raised where a row stands between two limited actions. Worths within `slack` are
    equal and count against the limited action. Raises ExpostError where all actions are limited and no prices keep all limits.
    """
    value = np.asarray(expected, dtype=np.float64)
    w = np.ones(len(value)) if weights is None else np.asarray(weights, dtype=np.float64)
    lowest = np.zeros(value.shape[1]) if floor is None else np.array(floor, dtype=np.float64)
    if not len(value):
        return lowest
    room = {action: share * float(w.sum()) * (1 + 1e-12) for action, share in limits.items()}
    for spare in _spares(room, w) if len(room) == value.shape[1] else [0.0]:
        start = dual_prices(value, {a: most - spare for a, most in room.items()}, w, lowest) if len(room) > 1 else lowest.copy()
        prices = _raised(value, room, w, start, slack)
        if prices is not None:
            return prices
    raise must(
        "utility.limits must leave an action for every row",
        "all actions are limited, and no prices were found that divide the rows of calib among them within the limits",
        "Raise a limit, or leave one action without a limit.",
    )


def next_block(sample: Sample, tuned: Tuned, action: int) -> Bool:
    """Of the rows `(n,)` that do not get `action`, those that would get it next were its price lower: all are worth the same for it.

    No policy that decides each row alone can divide them. For two classes and one matrix rows are the same whose log-odds are.
    """
    p, untaken = sample.probability, sample.actions(tuned) != action
    if sample.U.shape == (2, 2):
        with np.errstate(divide="ignore"):
            margin, close = (np.log(p[:, 1]) - np.log(p[:, 0])) * (1.0 if sample.U[1].argmax() == action else -1.0), 1e-9
    else:
        weighted = p * np.exp(tuned.offsets - tuned.offsets.max())
        expected = expected_utility(weighted / weighted.sum(axis=1, keepdims=True), sample.U)
        margin, close = _margin(expected - tuned.prices, [action]), CLEAR * float(np.max(scale(sample.U)))
    return np.asarray(untaken & (margin >= margin[untaken].max(initial=-np.inf) - close))


def _spares(room: Mapping[int, float], w: Float) -> list[float]:
    """Weights to keep free in each room, where all actions are limited: the dual fills rooms to the brim, and rows that waver need some."""
    most = (sum(room.values()) - float(w.sum())) / len(room)
    if most <= 0:
        return [0.0]
    rows = float(w.mean()) * 2.0 ** np.arange(-1, 20)
    return [0.0, *np.unique(np.concatenate([rows[rows < most], most * np.arange(1, 8) / 8])).tolist()]


def _raised(value: Float, room: Mapping[int, float], w: Float, start: Float, slack: float) -> Float | None:
    """Prices raised from `start` until no limited action has more than its room; None where that does not end."""
    prices, least = start, 1e-12 * float(np.ptp(value, axis=1).max())
    for sweep in range(ROUNDS):
        over = False
        for action, most in room.items():
            margin = _margin(value - prices, [action])
            if float(w[margin >= -slack].sum()) > most:
                # Rows that waver between limited actions would be handed to and fro for ever, but for the growing least step.
                prices[action] += max(_clearing(margin, w, most, slack, least), least * 2.0**sweep)
                over = True
        if not over:
            return prices
    return None


def _margin(worth: Float, actions: list[int]) -> Float:
    """By how much the best of `actions` is worth more than the best of the others, `(n,)`."""
    inside = np.zeros(worth.shape[1], dtype=bool)
    inside[actions] = True
    return np.asarray(worth[:, inside].max(axis=1) - worth[:, ~inside].max(axis=1))


def _clearing(margin: Float, w: Float, most: float, slack: float, least: float) -> float:
    """Smallest rise in price that leaves at most the weight `most` of rows with a margin, midway to the next margin."""
    order = np.argsort(-margin)
    ordered = margin[order]
    kept = int(np.searchsorted(np.cumsum(w[order]), most, side="right"))
    kept = int(np.searchsorted(-ordered, -(ordered[kept] + 2 * slack), side="left"))
    out = float(ordered[kept])
    return max(out + 2 * slack, (out + float(ordered[kept - 1])) / 2 if kept else out + least * 1e3)


def clearing_level(score: Any, weights: Any, share: float) -> float:
    """Level of `score` `(n,)` that at most this weighted share of the rows exceeds, midway to the next row's; -inf where all may."""
    values, w = np.asarray(score, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    most, gap = share * float(w.sum()) * (1 + 1e-12), 1e-9
    return _clearing(values, w, most, gap, gap) if values.size and float(w.sum()) > most else -np.inf


def dual_prices(value: Float, room: Mapping[int, float], w: Float, floor: Float) -> Float:
    """Prices `(A,)` that minimise the dual: the sum of w * max(value - prices) plus room * prices, prices at least `floor`.

    The dual is convex and L-natural, so a point that no uniform change of a set of prices improves is a minimum (Murota 2003, theorem
    7.14); along each set the best change is a quantile of the rows' margins.
    """
    sets = [list(chosen) for size in range(1, len(room) + 1) for chosen in combinations(room, size) if size < value.shape[1]]
    prices, settled = floor.copy(), 1e-12 * float(np.ptp(value, axis=1).max())
    for _ in range(SWEEPS):
        largest = 0.0
        for chosen in sets:
            margin = _margin(value - prices, chosen)
            order = np.argsort(-margin)
            kept = int(np.searchsorted(np.cumsum(w[order]), sum(room[a] for a in chosen), side="right"))
            change = float(margin[order[kept]]) if kept < len(order) else -np.inf
            change = max(change, float((floor - prices)[chosen].max()))
            prices[chosen] += change
            largest = max(largest, abs(change))
        if largest <= settled:
            break
    return prices
