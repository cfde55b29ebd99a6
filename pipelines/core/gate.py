"""The gate as a pure truth table: what was measured on the holdout becomes PASS, FAIL, INSUFFICIENT_DATA or ERROR, each with its reason.

One test decides: the challenger's utility is not inferior to the champion's (one-sided t-bound with a worst-case pseudo-row). The
guards - log loss, Brier, V-information - block only where the challenger is significantly (Holm over the guards) and materially worse,
and a declared limit or requirement only where the holdout clearly shows that the challenger does not keep it. A champion that breaks a
limit or requirement is compared as re-decided under it: no challenger that keeps it could beat the one that need not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from pipelines.core.bounds import Interval, augmented_moments, effective_size, mean_interval, p_value_above

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PASS, FAIL, INSUFFICIENT, ERROR = "PASS", "FAIL", "INSUFFICIENT_DATA", "ERROR"
GUARDS = ("log_loss", "brier", "v_information")
TITLES = {"utility": "utility", "log_loss": "log loss", "brier": "Brier score", "v_information": "V-information"}
#: Direction in which a guard is worse, and the unit it is measured in.
WORSE = {"log_loss": 1.0, "brier": 1.0, "v_information": -1.0}
UNITS = {"log_loss": "nats", "brier": "Brier points", "v_information": "bits"}
#: Probability with which the rows named by `rows_needed` let an equally good challenger pass.
POWER = 0.8


@dataclass(frozen=True)
class Results:
    """Per-row results `(n,)` of one model on the rows compared; None where a column is missing, NaN where a value is."""

    utility: Floats | None
    log_loss: Floats | None
    brier: Floats | None
    v_information: Floats | None


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
class Evidence:
    """All that a verdict rests on; arrays are aligned to the n rows compared (the holdout of both models, or the challenger's alone).

    `weights` say how many rows each stands for, None where all stand for one. `reach` is the most that two actions can differ in utility on
    one row. `champion_gain` is the champion's utility per case above the best trivial policy, on calib. `reference_utility` and
    `reference_log_loss` are those of the best trivial policy and of the class prior, both chosen on calib. `unavailable` maps a criterion
    to the benign reason why it could not be computed; `invalid` lists what makes the rows unfit to judge from.
    `comparison` is a sentence on a champion that breaks a limit or requirement now in force, "" where it breaks none: its utility is the
    one that it has when re-decided under them, or, where it cannot keep them either, it is not `comparable` and the utility is judged by
    the absolute criterion of a first champion.
    """

    challenger: Results
    champion: Results | None
    labels: Ints
    classes: tuple[str, ...]
    reach: float
    groups: NDArray[np.int64] | None = None
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


@dataclass(frozen=True)
class Settings:
    """One-sided level, margin as a share of the champion's gain, what is material per guard, and the criteria of a first champion."""

    alpha: float
    margin: float
    material: Mapping[str, float]
    beats_trivial: bool = True
    max_log_loss_ratio: float = 1.0


@dataclass(frozen=True)
class Criterion:
    """One criterion's result: the estimate, challenger minus what it is compared with, its one-sided bounds, the bound that decides."""

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


@dataclass(frozen=True)
class Verdict:
    """The verdict, its criteria and their reasons as sentences."""

    verdict: str
    criteria: tuple[Criterion, ...]
    reasons: tuple[str, ...]
    identical: bool = False


def judge(evidence: Evidence, settings: Settings) -> Verdict:
    """Judge a challenger against the champion, or by absolute criteria where there is none."""
    basis = (*(_kept(item, settings.alpha) for item in evidence.constraints), _support(evidence), _validity(evidence))
    if evidence.champion is None:
        return conclude((*_absolute(evidence, settings), *basis))
    return conclude((*_compared(evidence, settings), *_guards(evidence, settings), *basis))


def identical(what: str) -> Verdict:
    """Verdict on a challenger with the champion's weights and policy: nothing to compare and nothing to promote."""
    return Verdict(PASS, (), (f"The challenger is identical to the champion ({what}): nothing to compare, nothing to promote.",), True)


def conclude(criteria: Iterable[Criterion]) -> Verdict:
    """Truth table over criteria: ERROR over FAIL over INSUFFICIENT_DATA over PASS; no criterion at all is an ERROR."""
    listed = tuple(criteria)
    found = {item.verdict for item in listed}
    if not listed or not found <= {PASS, FAIL, INSUFFICIENT, ERROR}:
        return Verdict(ERROR, listed, ("There is no criterion to judge by: nothing is promoted without one.",))
    verdict = next(kind for kind in (ERROR, FAIL, INSUFFICIENT, PASS) if kind in found)
    return Verdict(
        verdict, listed, tuple(item.reason for kind in (ERROR, FAIL, INSUFFICIENT, PASS) for item in listed if item.verdict == kind)
    )


def rows_needed(spread: float, reach: float, margin: float, alpha: float) -> int:
    """Rows at which an equally good challenger passes with 80 % probability, in closed form; a lower bound's shortfall is solved for n.

    `spread` standard deviation of one row's difference, `reach` the pseudo-row's distance. With x = 1/sqrt(n) the low bound lies
    (1 + z) * reach * x^2 + z * spread * x below the mean at most, z the sum of the two normal quantiles.
    """
    z = float(ndtri(1 - alpha) + ndtri(POWER))
    square, linear = (1 + z) * reach, z * spread
    x = 2 * margin / (linear + math.sqrt(linear * linear + 4 * square * margin))
    return math.ceil(1 / (x * x))


def _validity(evidence: Evidence) -> Criterion:
    if evidence.invalid:
        return Criterion("validity", ERROR, "The rows cannot be judged: " + "; ".join(evidence.invalid) + ".", rows=evidence.labels.size)
    reason = f"All probabilities and actions of the {evidence.labels.size} rows compared are valid."
    return Criterion("validity", PASS, reason, rows=evidence.labels.size)


def _support(evidence: Evidence) -> Criterion:
    rows = evidence.labels.size
    counts = np.bincount(evidence.labels, minlength=len(evidence.classes))
    absent = [name for name, count in zip(evidence.classes, counts, strict=True) if count == 0]
    if rows == 0:
        return Criterion("support", INSUFFICIENT, "No row was holdout for both models: fresh rows are needed.", rows_needed=1)
    if absent:
        reason = f"None of the {rows} rows compared is of class {', '.join(map(repr, absent))}: errors on it cannot be seen, more rows are needed."
        return Criterion("support", INSUFFICIENT, reason, rows=rows, rows_needed=rows + 1)
    return Criterion("support", PASS, f"Every class has rows among the {rows} compared (fewest: {counts.min()}).", rows=rows)


def _usable(name: str, evidence: Evidence, *columns: Floats | None) -> Criterion | None:
    """The criterion's result where its columns cannot be compared, else None."""
    title = TITLES[name]
    if name in evidence.unavailable:
        return Criterion(name, INSUFFICIENT, f"The {title} could not be computed: {evidence.unavailable[name]}.", rows=evidence.labels.size)
    if any(column is None for column in columns):
        return Criterion(name, ERROR, f"The {title} is missing from the evaluation.", rows=evidence.labels.size)
    bad = sum(int((~np.isfinite(column)).sum()) for column in columns if column is not None)
    if bad or any(column is not None and column.shape != evidence.labels.shape for column in columns):
        return Criterion(name, ERROR, f"The {title} is not a finite number in every row ({bad} are not).", rows=evidence.labels.size)
    if evidence.labels.size == 0:
        return Criterion(name, INSUFFICIENT, f"There is no row to compare the {title} on.")
    return None


def _bounds(values: Floats, reach: float, evidence: Evidence, alpha: float) -> Interval:
    given = {"groups": evidence.groups, "weights": evidence.weights}
    return mean_interval(values, **given, confidence=1 - alpha, worst=-reach, best=reach, two_sided=False)


def _on(rows: int, weights: Floats | None) -> str:
    """`On 150 rows`, with their effective number where weights make it another."""
    effective = rows if weights is None else effective_size(weights)
    return f"On {rows} rows" + (f" (effective {effective:.1f})" if abs(effective - rows) >= 0.05 else "")


def _needed(values: Floats, reach: float, margin: float, evidence: Evidence, alpha: float) -> int:
    """Rows needed, weighted as those compared, given the spread seen in these, clusters counted; at least one more than there are."""
    rows, groups, weights = values.size, evidence.groups, evidence.weights
    if groups is None and weights is None:
        spread, pseudo = float(values.std()), 1.0
    else:
        pseudo = rows / (rows if groups is None else np.unique(groups).size)  # the pseudo-row's weight, in rows of mean weight
        pseudo *= 1.0 if weights is None else float(weights.max() / weights.mean())
        error = augmented_moments(values, float(np.average(values, weights=weights)), groups, weights)[1]
        spread = error * (rows + pseudo) / math.sqrt(rows)
    return max(rows + 1, rows_needed(spread, reach * pseudo, margin, alpha))


def _kept(item: Constraint, alpha: float) -> Criterion:
    """Whether the holdout lets the challenger's policy keep a limit or a requirement: it fails only where it clearly does not."""
    limit = item.kind == "limit"
    what = f"the share of the action {item.subject!r}" if limit else f"the recall of class {item.subject!r}"
    made = Criterion(item.kind, PASS, "", margin=item.level, unit="share", subject=item.subject)
    if item.values is None or not np.isfinite(item.values).all():
        return replace(made, verdict=ERROR, reason=f"{what[0].upper()}{what[1:]} cannot be computed: a number is missing.")
    if item.values.size == 0:
        reason = f"No row tells of {what}: rows are needed to see whether the {item.kind} is kept."
        return replace(made, verdict=INSUFFICIENT, reason=reason, rows_needed=1)
    given = {"groups": item.groups, "weights": item.weights}
    found = mean_interval(item.values, **given, confidence=1 - alpha, worst=0.0, best=1.0, two_sided=False)
    broken = found.low > item.level if limit else found.high < item.level
    reason = (
        f"{_on(found.rows, item.weights)} {what} is {found.mean:.3f} "
        f"(one-sided {1 - alpha:.0%} bounds {found.low:.3f} and {found.high:.3f}), "
        f"{'at most' if limit else 'at least'} {item.level:g} is wanted: {'clearly not kept' if broken else 'not clearly missed'}."
    )
    bound = found.low if limit else found.high
    made = replace(made, estimate=found.mean, low=found.low, high=found.high, bound=bound, rows=found.rows, reason=reason)
    return replace(made, verdict=FAIL) if broken else made


def _compared(evidence: Evidence, settings: Settings) -> tuple[Criterion, ...]:
    """The criterion of utility: against the champion, or against the best blind policy where no champion may be compared with."""
    if evidence.comparable:
        found = _utility(evidence, settings)
    elif settings.beats_trivial:
        found = _beats("utility", evidence.challenger.utility, evidence.reference_utility, evidence, settings)
    else:
        return ()
    return (replace(found, reason=f"{found.reason} {evidence.comparison}".rstrip()),)


def _utility(evidence: Evidence, settings: Settings) -> Criterion:
    champion = evidence.champion
    assert champion is not None
    refused = _usable("utility", evidence, evidence.challenger.utility, champion.utility)
    if refused is not None:
        return refused
    if evidence.champion_gain is None or not math.isfinite(evidence.champion_gain):
        reason = "The champion's gain on calib, which fixes the margin, is missing from the evaluation."
        return Criterion("utility", ERROR, reason, rows=evidence.labels.size)
    assert evidence.challenger.utility is not None and champion.utility is not None
    difference = evidence.challenger.utility - champion.utility
    margin = settings.margin * max(0.0, evidence.champion_gain)
    interval = _bounds(difference, evidence.reach, evidence, settings.alpha)
    measured = Criterion(
        "utility", PASS, "", interval.mean, interval.low, interval.high, interval.low, margin, interval.rows, unit=evidence.unit
    )
    sure = f"one-sided {1 - settings.alpha:.0%} bounds {interval.low:+z.4g} and {interval.high:+z.4g}"
    differs = f"differs from the {'re-decided ' if evidence.comparison else ''}champion's by {interval.mean:+z.4g} {evidence.unit} ({sure})"
    text = f"{_on(interval.rows, evidence.weights)} the challenger's utility per case {differs}"
    goal = f"the margin of {-margin:.4g}" if margin > 0 else "0, since the champion gains nothing over the best trivial policy on calib"
    if interval.low > -margin:
        return replace(measured, reason=f"{text}: not inferior, the lower bound lies above {goal}.")
    if interval.high < 0:
        return replace(measured, verdict=FAIL, bound=interval.high, reason=f"{text}: worse, the upper bound lies below 0.")
    needed = _needed(difference, evidence.reach, margin, evidence, settings.alpha) if margin > 0 else None
    rest = (
        f"about {needed} holdout rows are needed to see that an equally good challenger is one"
        if needed
        else "only clearly better ones pass"
    )
    reason = f"{text}: too few rows to tell, the lower bound does not lie above {goal}; {rest}."
    return replace(measured, verdict=INSUFFICIENT, rows_needed=needed, reason=reason)


def _guards(evidence: Evidence, settings: Settings) -> tuple[Criterion, ...]:
    champion = evidence.champion
    assert champion is not None
    refused: dict[str, Criterion] = {}
    worse: dict[str, Floats] = {}
    for name in GUARDS:
        ours, theirs = getattr(evidence.challenger, name), getattr(champion, name)
        stopped = _usable(name, evidence, ours, theirs)
        if stopped is None:
            worse[name] = WORSE[name] * (ours - theirs)
        else:
            refused[name] = stopped
    adjusted = holm({name: _p_value(values, evidence) for name, values in worse.items()})
    return tuple(refused[name] if name in refused else _guard(name, worse[name], adjusted[name], evidence, settings) for name in GUARDS)


def _reach(values: Floats) -> float:
    """Pseudo-row of a difference without natural bounds: as far from zero as the farthest row seen."""
    return float(np.abs(values).max()) if values.size else 0.0


def _p_value(worse: Floats, evidence: Evidence) -> float:
    reach = _reach(worse)
    return p_value_above(worse, 0.0, groups=evidence.groups, weights=evidence.weights, worst=-reach, best=reach)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values (Holm 1979): below alpha for any true null with probability at most alpha over all of them."""
    adjusted, largest = {}, 0.0
    for position, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - position)))
        adjusted[name] = largest
    return adjusted


def _guard(name: str, worse: Floats, p_value: float, evidence: Evidence, settings: Settings) -> Criterion:
    material, sign = settings.material[name], WORSE[name]
    interval = _bounds(worse, _reach(worse), evidence, settings.alpha)
    estimate, low, high = _turned(interval, sign)
    blocked = p_value < settings.alpha and interval.mean > material
    what = "significantly and materially worse" if blocked else "not both significantly and materially worse"
    reason = (
        f"{_on(interval.rows, evidence.weights)} the challenger's {TITLES[name]} differs from the champion's by {estimate:+z.4g} "
        f"{UNITS[name]} (one-sided {1 - settings.alpha:.0%} bounds {low:+z.4g} and {high:+z.4g}, Holm p = {p_value:.2g}, material from "
        f"{material:g} on): {what}."
    )
    made = Criterion(name, FAIL if blocked else PASS, reason, estimate, low, high, rows=interval.rows, p_value=p_value, unit=UNITS[name])
    return replace(made, bound=low if sign > 0 else high, margin=material)


def _turned(interval: Interval, sign: float) -> tuple[float, float, float]:
    """Estimate, low and high of the interval, or of its mirror image where `sign` is negative; never a negative zero."""
    low, high = (interval.low, interval.high) if sign > 0 else (-interval.high, -interval.low)
    return sign * interval.mean + 0.0, low + 0.0, high + 0.0


def _absolute(evidence: Evidence, settings: Settings) -> tuple[Criterion, ...]:
    """Criteria of a first champion: surely better than the best trivial policy and than the class prior, every number finite."""
    ours = evidence.challenger
    criteria = []
    if settings.beats_trivial:
        criteria.append(_beats("utility", ours.utility, evidence.reference_utility, evidence, settings))
    criteria.append(_beats("log_loss", ours.log_loss, evidence.reference_log_loss, evidence, settings))
    for name in ("brier", "v_information"):
        values = getattr(ours, name)
        refused = _usable(name, evidence, values)
        if refused is None:
            interval = _bounds(values, _reach(values), evidence, settings.alpha)
            on = _on(interval.rows, evidence.weights)
            reason = f"{on} the {TITLES[name]} is {interval.mean:.4g} {UNITS[name]}, a finite number in every row."
            refused = Criterion(name, PASS, reason, interval.mean, interval.low, interval.high, rows=interval.rows, unit=UNITS[name])
        criteria.append(refused)
    return tuple(criteria)


def _beats(name: str, ours: Floats | None, reference: Floats | None, evidence: Evidence, settings: Settings) -> Criterion:
    """Whether the model is surely better than the reference: more utility, or less log loss than `max_log_loss_ratio` times as much."""
    refused = _usable(name, evidence, ours, reference)
    if refused is not None:
        return refused
    assert ours is not None and reference is not None
    sign, ratio = (1.0, 1.0) if name == "utility" else (-1.0, settings.max_log_loss_ratio)
    better = sign * (ours - ratio * reference)
    distance = evidence.reach if name == "utility" else _reach(better)
    interval = _bounds(better, distance, evidence, settings.alpha)
    estimate, low, high = _turned(interval, sign)
    unit, times = (evidence.unit, "") if name == "utility" else (UNITS[name], f"{ratio:g} times " if ratio != 1 else "")
    than = "the best trivial policy's" if name == "utility" else f"{times}the class prior's"
    text = (
        f"{_on(interval.rows, evidence.weights)} the challenger's {TITLES[name]} per case differs from {than} by {estimate:+z.4g} {unit} "
        f"(one-sided {1 - settings.alpha:.0%} bounds {low:+z.4g} and {high:+z.4g})"
    )
    made = Criterion(
        name, PASS, f"{text}: surely better.", sign * interval.mean, low, high, sign * interval.low, 0.0, interval.rows, unit=unit
    )
    if interval.low > 0:
        return made
    if interval.high < 0:
        return replace(made, verdict=FAIL, bound=sign * interval.high, reason=f"{text}: surely worse.")
    needed = _needed(better, distance, interval.mean, evidence, settings.alpha) if interval.mean > 0 else None
    rest = f"; about {needed} holdout rows are needed if the difference is as measured" if needed else ""
    return replace(made, verdict=INSUFFICIENT, rows_needed=needed, reason=f"{text}: not surely better, too few rows to tell{rest}.")
