"""The champion re-decided by the challenger's procedure: new costs must not carry a worse network through.

It is compared as it reigns and as re-decided; where limits or requirements now in force forbid it as it reigns, as re-decided alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines import search
from pipelines.contest import Champion, Table
from pipelines.core import constraints, evaluation, policy, tuning
from pipelines.core import utility as worth
from pipelines.core.evaluation import Cases, Scored
from pipelines.core.sample import Sample
from pipelines.errors import ExpostError


@dataclass(frozen=True)
class Procedure:
    """How the challenger was decided: the kind of its policy, and the trials and seed of the study where Optuna found it."""

    kind: str
    trials: int = 0
    seed: int = 0

    def fit(self, sample: Sample, rules: constraints.Constraints) -> constraints.Fitted:
        """A policy of this kind, fitted on the rows of `sample`; for two classes and two actions Optuna's is the exact one."""
        if self.kind == "analytic":
            return tuning.analytic(sample, rules)
        if self.kind == "optuna" and sample.shape != (2, 2):
            return search.search(sample, sample, rules, trials=self.trials, seed=self.seed, explain=False).fitted
        return tuning.exact(sample, sample, rules)


def permitted(champion: Champion, table: Table, index: Any, *, compared: Any, fit: Any, procedure: Procedure) -> Champion:
    """The champion that may be compared with; `compared` and `fit` are masks of `index`: rows that are holdout, or calib, for both models.

    A binding limit only lowers what can be reached, so a champion that breaks it would beat every challenger that keeps it. Such a
    champion is re-decided with its own probabilities by the challenger's procedure, on the rows `fit`. Where these cannot show that it keeps them, it stays as it reigns and is marked
    `incomparable`. Without rows to fit on nothing is changed: the margin is unknown then, and utility is not compared at all.
    """
    broken = breaches(champion.scored.take(compared), table.cases(index[compared]), table)
    if not broken or not np.any(fit):
        return champion
    which = " and ".join(name for name, found in (("limits", table.rules.limits), ("requirements", table.rules.recalls)) if found)
    why = "since it breaks " + " and ".join(broken)
    try:
        scored = redecided(champion.scored, table, index, fit, procedure)
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


def redecided(scored: Scored, table: Table, index: Any, fit: Any, procedure: Procedure) -> Scored:
    """The same probabilities, decided under the utility now by a policy fitted on the rows `fit`; raises ExpostError where it cannot be."""
    usable = np.isfinite(scored.probability).all(axis=1)
    cases = table.cases(index[fit & usable])
    sample = Sample(scored.probability[fit & usable], cases.labels, cases.U, cases.weights, cases.groups)
    fitted = procedure.fit(sample, table.rules)
    constraints.check(sample, table.rules, fitted)
    actions = np.full(usable.size, -1, dtype=np.int64)
    U, tuned = worth.take(table.U, index[usable]), fitted.tuned
    actions[usable] = policy.decide(scored.probability[usable], U, tuned.offsets, tuned.prices)
    return replace(scored, actions=actions)
