"""The champion as limits and requirements now in force permit it: as it reigns where it keeps them, else re-decided under them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.contest import Champion, Table
from pipelines.core import constraints, evaluation, policy, tuning
from pipelines.core import utility as worth
from pipelines.core.evaluation import Cases, Scored
from pipelines.core.sample import Sample
from pipelines.errors import ExpostError


def permitted(champion: Champion, table: Table, index: Any, *, compared: Any, fit: Any) -> Champion:
    """The champion that may be compared with; `compared` and `fit` are masks of `index`: rows that are holdout, or calib, for both models.

    A binding limit only lowers what can be reached, so a champion that breaks it would beat every challenger that keeps it. Such a
    champion is re-decided with its own probabilities, as `decide` makes the analytic policy: under the utility now, changed no more than
    limits and requirements force on the rows `fit`. Where these cannot show that it keeps them, it stays as it reigns and is marked
    `incomparable`. Without rows to fit on nothing is changed: the margin is unknown then, and utility is not compared at all.
    """
    broken = breaches(champion.scored.take(compared), table.cases(index[compared]), table)
    if not broken or not np.any(fit):
        return champion
    which = " and ".join(name for name, found in (("limits", table.rules.limits), ("requirements", table.rules.recalls)) if found)
    why = "since it breaks " + " and ".join(broken)
    try:
        scored = redecided(champion.scored, table, index, fit)
    except ExpostError as error:
        said = f"not comparable under the {which} now in force, {why}, and re-decided it cannot keep them ({str(error).rstrip('.')})"
        return replace(champion, reigning=said, incomparable=True)
    return replace(champion, scored=scored, reigning=f"re-decided under the {which} now in force, {why}", as_it_reigns=champion.scored)


def breaches(scored: Scored, cases: Cases, table: Table) -> list[str]:
    """Limits and requirements that actions `(n,)` break on these rows, as clauses; by estimate, since the policy was not made for them."""
    found = []
    for action, most in table.rules.limits.items():
        share = _share(scored.actions == action, cases.weights)
        if share > most + 1e-12:
            found.append(f"the limit on {table.actions[action]!r} (its share is {share:.3f}, at most {most:g} is allowed)")
    right = evaluation.right_rows(evaluation.utility_rows(scored.actions, cases.labels, cases.U), cases) == 1
    for wanted in table.rules.recalls:
        rows = cases.labels == wanted.label
        recall = _share(right[rows], cases.weights[rows])
        if recall < wanted.at_least - 1e-12:
            found.append(f"the requirement on class {wanted.name!r} (its recall is {recall:.3f}, at least {wanted.at_least:g} is wanted)")
    return found


def _share(taken: Any, weights: Any) -> float:
    """Weighted share, NaN without rows: what nothing shows is not broken."""
    return float(np.average(taken, weights=weights)) if taken.size else float("nan")


def redecided(scored: Scored, table: Table, index: Any, fit: Any) -> Scored:
    """The same probabilities, decided by the analytic policy that keeps limits and requirements on the rows `fit`; raises ExpostError."""
    usable = np.isfinite(scored.probability).all(axis=1)
    cases = table.cases(index[fit & usable])
    sample = Sample(scored.probability[fit & usable], cases.labels, cases.U, cases.weights, cases.groups)
    fitted = tuning.analytic(sample, table.rules)
    constraints.check(sample, table.rules, fitted)
    actions = np.full(usable.size, -1, dtype=np.int64)
    U, tuned = worth.take(table.U, index[usable]), fitted.tuned
    actions[usable] = policy.decide(scored.probability[usable], U, tuned.offsets, tuned.prices)
    return replace(scored, actions=actions)
