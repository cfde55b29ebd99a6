"""The one test that decides: is the challenger's utility surely not worse, by more than a margin, than that of the champion?

Non-inferiority is shown by a one-sided t-bound with a worst-case pseudo-row. The margin is a share of the champion's gain, and that gain is
itself measured, on calib: its standard error widens the bound, as calib and holdout are independent rows.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from pipelines.core.bounds import Interval, augmented_moments, effective_size, mean_interval
from pipelines.core.evidence import ERROR, FAIL, INSUFFICIENT, PASS, Criterion, Evidence, Settings

Floats = NDArray[np.float64]

TITLES = {
    "utility": "utility",
    "log_loss": "log loss",
    "brier": "Brier score",
    "v_information": "V-information",
    "floor_first": "utility",
    "floor_trivial": "utility",
}
UNITS = {"log_loss": "nats", "brier": "Brier points", "v_information": "bits"}
#: A value beyond is no number to judge by: its square would overflow, and with it every bound.
LARGEST = 1e100
#: Probability with which the rows named by `rows_needed` let the test of utility pass an equally good challenger.
POWER = 0.85


def rows_needed(spread: float, reach: float, margin: float, alpha: float) -> int:
    """Rows at which an equally good challenger passes with probability `POWER`, in closed form; a lower bound's shortfall is solved for n.

    `spread` standard deviation of one row's difference, `reach` the pseudo-row's distance. With x = 1/sqrt(n) the low bound lies
    (1 + z) * reach * x^2 + z * spread * x below the mean at most, z the sum of the two normal quantiles.
    """
    z = float(ndtri(1 - alpha) + ndtri(POWER))
    square, linear = (1 + z) * reach, z * spread
    x = 2 * margin / (linear + math.sqrt(linear * linear + 4 * square * margin))
    return math.ceil(1 / (x * x))


def usable(name: str, evidence: Evidence, *columns: Floats | None) -> Criterion | None:
    """The criterion's result where its columns cannot be compared, else None."""
    title = TITLES.get(name, name.replace("_", " "))
    if name in evidence.unavailable:
        return Criterion(name, INSUFFICIENT, f"The {title} could not be computed: {evidence.unavailable[name]}.", rows=evidence.labels.size)
    if any(column is None for column in columns):
        return Criterion(name, ERROR, f"The {title} is missing from the evaluation.", rows=evidence.labels.size)
    bad = sum(int((~(np.abs(column) < LARGEST)).sum()) for column in columns if column is not None)  # NaN compares false
    if bad or any(column is not None and column.shape != evidence.labels.shape for column in columns):
        return Criterion(name, ERROR, f"The {title} is not a finite number in every row ({bad} are not).", rows=evidence.labels.size)
    if evidence.labels.size == 0:
        return Criterion(name, INSUFFICIENT, f"There is no row to compare the {title} on.")
    return None


def bounds(values: Floats, reach: float, evidence: Evidence, alpha: float) -> Interval:
    """One-sided bounds of a mean of values from -reach to reach, each missing with probability alpha."""
    given = {"groups": evidence.groups, "weights": evidence.weights}
    return mean_interval(values, **given, confidence=1 - alpha, worst=-reach, best=reach, two_sided=False)


def on_rows(rows: int, weights: Floats | None) -> str:
    """`On 150 rows`, with their effective number where weights make it another."""
    effective = rows if weights is None else effective_size(weights)
    return f"On {rows} rows" + (f" (effective {effective:.1f})" if abs(effective - rows) >= 0.05 else "")


def sureness(alpha: float) -> str:
    """`95%` for a one-sided level of 0.05, with as many digits as it takes."""
    return f"{100 * (1 - alpha):.6g}%"


def needed(values: Floats, reach: float, margin: float, evidence: Evidence, alpha: float, *, margin_error: float = 0.0) -> int:
    """Rows needed, weighted as those compared, given the spread seen in these, clusters counted; at least one more than there are."""
    rows, groups, weights = values.size, evidence.groups, evidence.weights
    if groups is None and weights is None:
        spread, pseudo = float(values.std()), 1.0
    else:
        row = np.ones(rows) if weights is None else weights
        heaviest = row.max() if groups is None else np.bincount(np.unique(groups, return_inverse=True)[1], weights=row).max()
        pseudo = float(heaviest / row.mean())  # the pseudo-row's weight, in rows of mean weight
        error = augmented_moments(values, float(np.average(values, weights=weights)), groups, weights)[1]
        spread = error * (rows + pseudo) / math.sqrt(rows)
    spread = math.hypot(spread, margin_error * math.sqrt(rows))  # calib grows as the holdout does
    return max(rows + 1, rows_needed(spread, reach * pseudo, margin, alpha))


def low_bound(values: Floats, reach: float, evidence: Evidence, alpha: float, margin_error: float) -> float:
    """Low bound of the mean difference, widened by the standard error of the margin that it is compared with."""
    mean, error, freedom = augmented_moments(values, -reach, evidence.groups, evidence.weights)
    return max(-reach, mean - float(stdtrit(freedom, 1 - alpha)) * math.hypot(error, margin_error))


def compared(evidence: Evidence, settings: Settings) -> tuple[Criterion, ...]:
    """The criterion of utility: against the champion in each way that it is decided, or against the best blind policy where it may not be."""
    if not evidence.comparable:
        found = beats("utility", evidence.challenger.utility, evidence.reference_utility, evidence, settings)
        return (replace(found, reason=f"{found.reason} {evidence.comparison}".rstrip()),)
    ways = _ways(evidence)
    criteria = [_not_inferior(subject, theirs, evidence, settings, len(ways)) for subject, theirs in ways]
    return tuple(replace(item, reason=f"{item.reason} {evidence.comparison}".rstrip()) for item in criteria)


def _ways(evidence: Evidence) -> list[tuple[str, Floats | None]]:
    """The champion's utilities to be compared with: as it reigns, and as re-decided where that is another or the first is not allowed."""
    assert evidence.champion is not None
    own, other = evidence.champion.utility, None if evidence.redecided is None else evidence.redecided.utility
    if evidence.comparison:
        return [("re-decided", own if evidence.redecided is None else other)]
    if evidence.redecided is None or (own is not None and other is not None and np.array_equal(own, other)):
        return [("as it reigns", own)]
    return [("as it reigns", own), ("re-decided", other)]


def _not_inferior(subject: str, theirs: Floats | None, evidence: Evidence, settings: Settings, ways: int) -> Criterion:
    """Both must be passed, so each may use the whole level; each can block, so each has its share of the level for that."""
    ours, name = evidence.challenger.utility, "utility"
    refused = usable(name, evidence, ours, theirs)
    if refused is not None:
        return replace(refused, subject=subject)
    if evidence.champion_gain is None or not math.isfinite(evidence.champion_gain) or not math.isfinite(evidence.gain_error):
        reason = "The champion's gain on calib, which fixes the margin, is missing from the evaluation."
        return Criterion(name, ERROR, reason, rows=evidence.labels.size, subject=subject)
    assert ours is not None and theirs is not None
    difference, level = ours - theirs, settings.level(evidence.looks)
    margin = 0.0 if settings.superiority else evidence.margin(settings.margin)
    error = settings.margin * evidence.gain_error if margin > 0 else 0.0
    interval = bounds(difference, evidence.reach, evidence, settings.alpha / ways)
    low = low_bound(difference, evidence.reach, evidence, level, error)
    made = Criterion(name, PASS, "", interval.mean, low, interval.high, low, margin, interval.rows, unit=evidence.unit, subject=subject)
    text = _said(subject, made, evidence, level)
    goal = f"the margin of {-margin:.4g}" if margin > 0 else _zero(settings)
    if low > -margin:
        return replace(made, reason=f"{text}: {'better' if settings.superiority else 'not inferior'}, the lower bound lies above {goal}.")
    if interval.high < 0:
        return replace(made, verdict=FAIL, bound=interval.high, reason=f"{text}: worse, the upper bound lies below 0.")
    rows = needed(difference, evidence.reach, margin, evidence, level, margin_error=error) if margin > 0 else None
    rest = (
        f"about {rows} holdout rows are needed to see that an equally good challenger is one" if rows else "only clearly better ones pass"
    )
    reason = f"{text}: too few rows to tell, the lower bound does not lie above {goal}; {rest}."
    return replace(made, verdict=INSUFFICIENT, rows_needed=rows, reason=reason)


def _zero(settings: Settings) -> str:
    return "0" if settings.superiority else "0, since the champion gains nothing over the best trivial policy on calib"


def _said(subject: str, made: Criterion, evidence: Evidence, level: float) -> str:
    who = "the champion's" if subject == "as it reigns" else "the re-decided champion's"
    looked = f", look {evidence.looks + 1} at these rows" if evidence.looks else ""
    sure = f"one-sided {sureness(level)} bound {made.low:+z.4g}{looked}; upper bound {made.high:+z.4g}"
    return (
        f"{on_rows(made.rows, evidence.weights)} the challenger's utility per case differs from {who} by {made.estimate:+z.4g} "
        f"{evidence.unit} ({sure})"
    )


def beats(name: str, ours: Floats | None, reference: Floats | None, evidence: Evidence, settings: Settings) -> Criterion:
    """Whether the model is surely better than the reference: more utility, or less log loss than `max_log_loss_ratio` times as much."""
    refused = usable(name, evidence, ours, reference)
    if refused is not None:
        return refused
    assert ours is not None and reference is not None
    sign, ratio = (1.0, 1.0) if name == "utility" else (-1.0, settings.max_log_loss_ratio)
    better, level = sign * (ours - ratio * reference), settings.level(evidence.looks)
    distance = evidence.reach if name == "utility" else seen_reach(better)
    interval = bounds(better, distance, evidence, level)
    estimate, low, high = turned(interval, sign)
    unit, times = (evidence.unit, "") if name == "utility" else (UNITS[name], f"{ratio:g} times " if ratio != 1 else "")
    than = "the best trivial policy's" if name == "utility" else f"{times}the class prior's"
    text = (
        f"{on_rows(interval.rows, evidence.weights)} the challenger's {TITLES[name]} per case differs from {than} by {estimate:+z.4g} {unit} "
        f"(one-sided {sureness(level)} bounds {low:+z.4g} and {high:+z.4g})"
    )
    made = Criterion(
        name, PASS, f"{text}: surely better.", sign * interval.mean, low, high, sign * interval.low, 0.0, interval.rows, unit=unit
    )
    if interval.low > 0:
        return made
    if interval.high < 0:
        return replace(made, verdict=FAIL, bound=sign * interval.high, reason=f"{text}: surely worse.")
    more = needed(better, distance, interval.mean, evidence, level) if interval.mean > 0 else None
    rest = f"; about {more} holdout rows are needed if the difference is as measured" if more else ""
    return replace(made, verdict=INSUFFICIENT, rows_needed=more, reason=f"{text}: not surely better, too few rows to tell{rest}.")


def seen_reach(values: Floats) -> float:
    """Pseudo-row of a difference without natural bounds: as far from zero as the farthest row seen."""
    return float(np.abs(values).max()) if values.size else 0.0


def turned(interval: Interval, sign: float) -> tuple[float, float, float]:
    """Estimate, low and high of the interval, or of its mirror image where `sign` is negative; never a negative zero."""
    low, high = (interval.low, interval.high) if sign > 0 else (-interval.high, -interval.low)
    return sign * interval.mean + 0.0, low + 0.0, high + 0.0
