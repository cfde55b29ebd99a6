"""The gate as a pure truth table: what was measured on the holdout becomes PASS, FAIL, INSUFFICIENT_DATA or ERROR, each with its reason.

One test decides: the challenger's utility is not inferior to the champion's, as it reigns and as re-decided by the challenger's procedure
(`inferiority`). All other criteria - floors, log loss, Brier, calibration error, slope, intercept, V-information, slices, lessons, negative
flips, limits, requirements - block only where the challenger is significantly and materially worse, Holm over all of them (`guards`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipelines.core import guards, inferiority
from pipelines.core.evidence import ERROR, FAIL, INSUFFICIENT, PASS, Criterion, Evidence, Settings, Verdict
from pipelines.core.inferiority import TITLES, UNITS, beats, bounds, on_rows, seen_reach, usable

#: Share of the champion's effective rank below which the challenger's is a warning.
WARNS = 0.5


def judge(evidence: Evidence, settings: Settings) -> Verdict:
    """Judge a challenger against the champion, or by absolute criteria where there is none."""
    basis = (*_rank(evidence, settings), _support(evidence), _validity(evidence))
    if evidence.champion is None:
        return conclude((*_absolute(evidence, settings), *guards.judged(evidence, settings), *basis))
    return conclude((*inferiority.compared(evidence, settings), *guards.judged(evidence, settings), *basis))


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


def _validity(evidence: Evidence) -> Criterion:
    if evidence.invalid:
        return Criterion("validity", ERROR, "The rows cannot be judged: " + "; ".join(evidence.invalid) + ".", rows=evidence.labels.size)
    reason = f"All probabilities and actions of the {evidence.labels.size} rows compared are valid."
    return Criterion("validity", PASS, reason, rows=evidence.labels.size)


def _support(evidence: Evidence) -> Criterion:
    rows, retired = evidence.labels.size, evidence.retired
    counts = np.bincount(evidence.labels, minlength=len(evidence.classes))
    absent = [name for name, count in zip(evidence.classes, counts, strict=True) if count == 0]
    left_out = f" {retired} rows were left out, since they have been looked at too often: fresh rows are needed." if retired else ""
    if rows == 0:
        reason = left_out.strip() or "No row was holdout for both models: fresh rows are needed."
        return Criterion("support", INSUFFICIENT, reason, rows_needed=1)
    if absent:
        named = ", ".join(map(repr, absent))
        reason = f"None of the {rows} rows compared is of class {named}: errors on it cannot be seen, more rows are needed.{left_out}"
        return Criterion("support", INSUFFICIENT, reason, rows=rows, rows_needed=rows + 1)
    return Criterion("support", PASS, f"Every class has rows among the {rows} compared (fewest: {counts.min()}).{left_out}", rows=rows)


def _rank(evidence: Evidence, settings: Settings) -> tuple[Criterion, ...]:
    """The effective rank of the embeddings: shown, a warning where it fell by half, and a block only where that was asked for."""
    if evidence.ranks is None:
        return ()
    ours, theirs = evidence.ranks
    least, asked = theirs * (WARNS if settings.least_rank is None else settings.least_rank), settings.least_rank is not None
    if not np.isfinite(evidence.ranks).all():
        return (Criterion("effective_rank", ERROR if asked else PASS, "The effective rank is not a finite number.", gated=asked),)
    said = f"The embedding's effective rank is {ours:.2f}, the champion's {theirs:.2f}"
    low = ours < least
    end = (
        f": below {least:.2f}, {'which blocks' if asked else 'a warning; it blocks nothing, since good binary networks tend to one'}"
        if low
        else ""
    )
    verdict = FAIL if low and asked else PASS
    return (Criterion("effective_rank", verdict, f"{said}{end}.", ours, bound=least, unit="dimensions", gated=asked),)


def _absolute(evidence: Evidence, settings: Settings) -> tuple[Criterion, ...]:
    """Criteria of a first champion: surely better than the best trivial policy and than the class prior, every number finite."""
    ours = evidence.challenger
    criteria = []
    if settings.beats_trivial:
        criteria.append(beats("utility", ours.utility, evidence.reference_utility, evidence, settings))
    criteria.append(beats("log_loss", ours.log_loss, evidence.reference_log_loss, evidence, settings))
    for name in ("brier", "v_information"):
        values = getattr(ours, name)
        refused = usable(name, evidence, values)
        if refused is None:
            interval = bounds(values, seen_reach(values), evidence, settings.alpha)
            on = on_rows(interval.rows, evidence.weights)
            reason = f"{on} the {TITLES[name]} is {interval.mean:.4g} {UNITS[name]}, a finite number in every row."
            refused = Criterion(name, PASS, reason, interval.mean, interval.low, interval.high, rows=interval.rows, unit=UNITS[name])
        criteria.append(refused)
    return tuple(criteria)
