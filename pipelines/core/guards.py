"""Criteria that block only where the challenger is significantly and materially worse: Holm over all of them bounds false blocks at alpha.

Each finding brings the p-value of "it is not worse", what was measured, and whether the difference is large enough to matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import miscalibration
from pipelines.core.bounds import mean_interval, p_value_above
from pipelines.core.evidence import ERROR, FAIL, INSUFFICIENT, PASS, Constraint, Criterion, Evidence, Settings, Slice
from pipelines.core.inferiority import TITLES, UNITS, bounds, on_rows, seen_reach, sureness, turned, usable

Floats = NDArray[np.float64]

GUARDS = ("log_loss", "brier", "v_information")
#: Independent rows of the class second in number from which on calibration is judged.
FEWEST = 10
#: Direction in which a guard is worse.
WORSE = {"log_loss": 1.0, "brier": 1.0, "v_information": -1.0}


@dataclass(frozen=True)
class Finding:
    """A criterion as it would pass, the p-value of not being worse, and whether it is `material`; `says` begins its reason."""

    made: Criterion
    p_value: float
    material: bool
    says: str
    blocks: str
    allows: str


def judged(evidence: Evidence, settings: Settings) -> tuple[Criterion, ...]:
    """All blocking criteria with their verdicts; what cannot be computed is an ERROR, or INSUFFICIENT_DATA for a benign reason."""
    found = [*_floors(evidence, settings), *_scores(evidence, settings), *_calibration(evidence, settings)]
    found += [*_slices(evidence, settings), *_flips(evidence, settings), *(_kept(item, settings.alpha) for item in evidence.constraints)]
    p_values = {number: item.p_value for number, item in enumerate(found) if isinstance(item, Finding)}
    adjusted = holm({number: value for number, value in p_values.items() if np.isfinite(value)})
    adjusted |= {number: value for number, value in p_values.items() if not np.isfinite(value)}
    return tuple(item if isinstance(item, Criterion) else _decided(item, adjusted[n], settings) for n, item in enumerate(found))


def _decided(item: Finding, p_value: float, settings: Settings) -> Criterion:
    if not np.isfinite(p_value):
        return replace(item.made, verdict=ERROR, reason=f"{item.says}): its p-value is not a finite number.")
    blocked = item.material and p_value < settings.alpha
    reason = f"{item.says}, Holm p = {p_value:.2g}): {item.blocks if blocked else item.allows}."
    return replace(item.made, verdict=FAIL if blocked else PASS, p_value=p_value, reason=reason)


def holm(p_values: Mapping[int, float]) -> dict[int, float]:
    """Holm-adjusted p-values (Holm 1979): below alpha for any true null with probability at most alpha over all of them."""
    adjusted, largest = {}, 0.0
    for position, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - position)))
        adjusted[name] = largest
    return adjusted


def _p_value(worse: Floats, reach: float, evidence: Evidence) -> float:
    return p_value_above(worse, 0.0, groups=evidence.groups, weights=evidence.weights, worst=-reach, best=reach)


def _floors(evidence: Evidence, settings: Settings) -> Iterator[Criterion | Finding]:
    """Never below the best trivial policy, nor below the first champion by more than the margin: repeated small losses cannot drift."""
    if evidence.champion is None or usable("utility", evidence, evidence.challenger.utility) is not None:
        return  # the criterion of utility has found it
    yield _floor("floor_trivial", evidence, settings)
    if "floor_first" in evidence.unavailable:
        yield _floor("floor_first", evidence, settings)
    elif evidence.first is not None:
        shared = evidence.first_rows
        yield _floor("floor_first", evidence if shared is None else evidence.take(shared), settings)


def _floor(name: str, evidence: Evidence, settings: Settings) -> Criterion | Finding:
    ours = evidence.challenger.utility
    floor, what, margin = {
        "floor_trivial": (evidence.reference_utility, "the best trivial policy", 0.0),
        "floor_first": (evidence.first, "the first champion", evidence.margin(settings.margin)),
    }[name]
    refused = usable(name, evidence, ours, floor)
    if refused is not None:
        return refused
    assert ours is not None and floor is not None
    interval = bounds(ours - floor, evidence.reach, evidence, settings.alpha)
    made = Criterion(name, PASS, "", interval.mean, interval.low, interval.high, interval.high, margin, interval.rows, unit=evidence.unit)
    says = (
        f"{on_rows(interval.rows, evidence.weights)} the challenger's utility per case differs from that of {what} by {interval.mean:+z.4g} "
        f"{evidence.unit} (one-sided {sureness(settings.alpha)} bounds {interval.low:+z.4g} and {interval.high:+z.4g}"
    )
    p_value = _p_value(floor - ours, evidence.reach, evidence)
    return Finding(made, p_value, interval.mean < -margin, says, f"surely below {what}", f"not surely below {what}")


def _scores(evidence: Evidence, settings: Settings) -> Iterator[Criterion | Finding]:
    """Log loss, Brier score and V-information, paired with the champion's."""
    champion = evidence.champion
    if champion is None:
        return
    for name in GUARDS:
        ours, theirs = getattr(evidence.challenger, name), getattr(champion, name)
        confirming = [column for column in (evidence.challenger.knn, champion.knn) if name == "v_information" and column is not None]
        refused = usable(name, evidence, ours, theirs, *confirming)
        yield refused if refused is not None else _score(name, WORSE[name] * (ours - theirs), evidence, settings)


def _score(name: str, worse: Floats, evidence: Evidence, settings: Settings) -> Finding:
    material, sign = settings.material[name], WORSE[name]
    interval = bounds(worse, seen_reach(worse), evidence, settings.alpha)
    estimate, low, high = turned(interval, sign)
    made = Criterion(name, PASS, "", estimate, low, high, low if sign > 0 else high, material, interval.rows, unit=UNITS[name])
    confirmed, note = (True, "") if name != "v_information" else _confirmed(evidence)
    says = (
        f"{on_rows(interval.rows, evidence.weights)} the challenger's {TITLES[name]} differs from the champion's by {estimate:+z.4g} "
        f"{UNITS[name]} (one-sided {sureness(settings.alpha)} bounds {low:+z.4g} and {high:+z.4g}{note}, material from {material:g} on"
    )
    p_value = _p_value(worse, seen_reach(worse), evidence)
    blocks, allows = "significantly and materially worse", "not both significantly and materially worse"
    return Finding(made, p_value, interval.mean > material and confirmed, says, blocks, allows)


def _confirmed(evidence: Evidence) -> tuple[bool, str]:
    """Whether the kNN probe does not contradict the linear one, and what it says; where there is none the linear one stands alone."""
    ours, theirs = evidence.challenger.knn, None if evidence.champion is None else evidence.champion.knn
    if ours is None or theirs is None:
        return True, ""
    difference = float(np.average(ours - theirs, weights=evidence.weights))
    return difference < 0, f", the kNN probe's {difference:+z.4g}"


def _calibration(evidence: Evidence, settings: Settings) -> Iterator[Criterion | Finding]:
    """Calibration error above its null band; slope and intercept outside their ranges; each beyond what the champion's may be too."""
    ours, theirs = evidence.challenger.probability, None if evidence.champion is None else evidence.champion.probability
    if ours is None or not evidence.labels.size:
        return
    rows = evidence.labels.size
    if not np.isfinite(ours).all():
        yield Criterion("calibration_error", ERROR, "The calibration error cannot be computed: a probability is no number.", rows=rows)
        return
    units = _units(evidence)
    if units < FEWEST:
        reason = f"Calibration is not judged: the class second in number has {units} independent rows, fewer than {FEWEST}."
        yield Criterion("calibration_error", PASS, reason, rows=rows, gated=False)
        return
    known = theirs if theirs is not None and np.isfinite(theirs).all() else None
    yield _error(ours, known, evidence, settings)
    yield from _recalibration(ours, known, evidence, settings)


def _units(evidence: Evidence) -> int:
    """Rows, or groups, that hold the class second in number: with few of them neither slope nor intercept has the error that is claimed."""
    groups = np.arange(evidence.labels.size) if evidence.groups is None else evidence.groups
    counts = sorted(np.unique(groups[evidence.labels == k]).size for k in range(len(evidence.classes)))
    return counts[-2] if len(counts) > 1 else 0


def _recalibration(ours: Floats, theirs: Floats | None, evidence: Evidence, settings: Settings) -> Iterator[Finding]:
    """Slope and intercept against their ranges, widened to where the champion's own may lie: what it shares does not make it worse."""
    given: dict[str, Any] = {"groups": evidence.groups, "weights": evidence.weights}
    wanted: dict[str, Any] = {"slope": settings.slope, "intercept": settings.intercept}
    found, beside = miscalibration.outside(ours, evidence.labels, **wanted, **given), dict.fromkeys(wanted, "")
    if theirs is not None and any(item.p_value < settings.alpha for item in found.values()):
        for name, (estimate, low, high) in miscalibration.intervals(theirs, evidence.labels, settings.alpha, **given).items():
            wanted[name] = (min(wanted[name][0], low), max(wanted[name][1], high))
            beside[name] = f"; the champion's is {estimate:.3g}, interval {low:.3g} to {high:.3g}"
        found = miscalibration.outside(ours, evidence.labels, **wanted, **given)
    for name, item in found.items():
        low, high = item.range
        made = Criterion(name, PASS, "", item.estimate, low, high, rows=evidence.labels.size)
        declared = settings.slope if name == "slope" else settings.intercept
        says = (
            f"{on_rows(evidence.labels.size, evidence.weights)} the calibration {name} is {item.estimate:.3g} "
            f"(range {declared[0]:g} to {declared[1]:g}{beside[name]}"
        )
        allows = "its interval does not lie outside the range" + (" and beyond the champion's" if beside[name] else "")
        yield Finding(made, item.p_value, True, says, "its interval lies outside the range", allows)


def _error(ours: Floats, theirs: Floats | None, evidence: Evidence, settings: Settings) -> Finding:
    """The error above its null band, and above the champion's by more than both bands, since each error has that much noise."""
    given: dict[str, Any] = {"groups": evidence.groups, "weights": evidence.weights}
    material, rows = settings.material["calibration_error"], evidence.labels.size
    found, beside = miscalibration.error_test(ours, evidence.labels, **given), ""
    worse = found.excess
    if found.excess > material:  # only then the champion's matters, and the p-value decides
        found = miscalibration.error_test(ours, evidence.labels, **given, draws=miscalibration.MANY)
        worse = found.excess
        if theirs is not None:
            other = miscalibration.error_test(theirs, evidence.labels, **given)
            worse = min(worse, found.error - other.error - found.band - other.band)
            beside = f"; the champion's is {other.error:.4f}, where {other.null_median:.4f} is chance"
    made = Criterion("calibration_error", PASS, "", found.error, 0.0, found.null_high, found.null_high, material, rows, unit="probability")
    says = (
        f"{on_rows(rows, evidence.weights)} the calibration error is {found.error:.4f} (a calibrated model shows {found.null_median:.4f}, "
        f"at most {found.null_high:.4f} in {sureness(settings.alpha)} of draws{beside}, material from {material:g} above it on"
    )
    return Finding(made, found.p_value, worse > material, says, "above its null band", "not both materially and surely above its null band")


def _slices(evidence: Evidence, settings: Settings) -> Iterator[Criterion | Finding]:
    """The difference of utility on each slice and lesson; below the least support it is shown and blocks nothing."""
    ours, theirs = evidence.challenger.utility, evidence.rival.utility
    if evidence.champion is None or "utility" in evidence.unavailable:
        return
    for item in evidence.slices:
        refused = usable("utility", evidence, ours, theirs)
        if refused is not None:
            yield replace(
                refused, criterion=item.kind, subject=item.name, reason=f"{item.kind.capitalize()} {item.name!r}: {refused.reason}"
            )
            continue
        assert ours is not None and theirs is not None
        yield _slice(item, ours - theirs, evidence, settings)


def _slice(item: Slice, difference: Floats, evidence: Evidence, settings: Settings) -> Criterion | Finding:
    held = item.rows
    part = replace(
        evidence,
        labels=evidence.labels[held],
        groups=None if evidence.groups is None else evidence.groups[held],
        weights=None if evidence.weights is None else evidence.weights[held],
    )
    rows, margin, what = int(held.sum()), evidence.margin(settings.margin), f"{item.kind} {item.name!r}"
    made = Criterion(
        item.kind, PASS, "", margin=margin, rows=rows, unit=evidence.unit, subject=item.name, gated=rows >= settings.min_support
    )
    if rows == 0:
        return replace(made, reason=f"{what[0].upper()}{what[1:]} has no row here: shown, not judged.")
    interval = bounds(difference[held], evidence.reach, part, settings.alpha)
    made = replace(made, estimate=interval.mean, low=interval.low, high=interval.high, bound=interval.high)
    says = (
        f"{on_rows(rows, part.weights)} of {what} the challenger's utility per case differs from the champion's by {interval.mean:+z.4g} "
        f"{evidence.unit} (one-sided {sureness(settings.alpha)} bounds {interval.low:+z.4g} and {interval.high:+z.4g}"
    )
    if not made.gated:
        return replace(made, reason=f"{says}): fewer than {settings.min_support} rows, shown and not judged.")
    p_value = _p_value(-difference[held], evidence.reach, part)
    blocks, allows = "significantly worse there, by more than the margin", "not both significantly and materially worse there"
    return Finding(made, p_value, interval.mean < -margin, f"{says}, material from {margin:.4g} on", blocks, allows)


def _flips(evidence: Evidence, settings: Settings) -> Iterator[Criterion | Finding]:
    """Share of the cases that the champion has right and the challenger wrong, beside the share of the other way round."""
    ours, theirs, name = evidence.challenger.right, evidence.rival.right, "negative_flips"
    if evidence.champion is None or (ours is None and theirs is None) or "utility" in evidence.unavailable:
        return
    refused = usable(name, evidence, ours, theirs)
    if refused is not None:
        yield refused
        return
    assert ours is not None and theirs is not None
    lost, won = ((theirs == 1) & (ours == 0)).astype(np.float64), ((theirs == 0) & (ours == 1)).astype(np.float64)
    given = {"groups": evidence.groups, "weights": evidence.weights}
    found = mean_interval(lost, **given, confidence=1 - settings.alpha, worst=0.0, best=1.0, two_sided=False)
    made = Criterion(name, PASS, "", found.mean, found.low, found.high, found.low, settings.flips, found.rows, unit="share")
    says = (
        f"{on_rows(found.rows, evidence.weights)} {found.mean:.3f} of the cases are right with the champion and wrong with the challenger, "
        f"{np.average(won, weights=evidence.weights):.3f} the other way round (one-sided {sureness(settings.alpha)} bounds {found.low:.3f} "
        f"and {found.high:.3f}, at most {settings.flips:g} is wanted"
    )
    p_value = max(p_value_above(lost, settings.flips, **given, worst=0.0, best=1.0), _p_value(lost - won, 1.0, evidence))
    yield Finding(made, p_value, True, says, "surely more, and more than the other way round", "not surely both more and more than that")


def _kept(item: Constraint, alpha: float) -> Criterion | Finding:
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
    says = (
        f"{on_rows(found.rows, item.weights)} {what} is {found.mean:.3f} (one-sided {sureness(alpha)} bounds {found.low:.3f} and "
        f"{found.high:.3f}, {'at most' if limit else 'at least'} {item.level:g} is wanted"
    )
    sign = 1.0 if limit else -1.0
    worst, best = (0.0, 1.0) if limit else (-1.0, 0.0)
    p_value = p_value_above(sign * item.values, sign * item.level, **given, worst=worst, best=best)
    made = replace(made, estimate=found.mean, low=found.low, high=found.high, bound=found.low if limit else found.high, rows=found.rows)
    return Finding(made, p_value, True, says, "clearly not kept", "not clearly missed")
