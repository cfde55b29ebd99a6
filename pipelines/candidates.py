"""Candidate policies: tuned on calib rows, judged on those they were not tuned on, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import search
from pipelines.core import constraints, crossfit, policy, tuning
from pipelines.core.bounds import Interval, mean_interval
from pipelines.core.constraints import Constraints, Fitted, Recall
from pipelines.core.sample import Sample
from pipelines.core.utility import difference_range, obtained, regret_matrix, take, value_range
from pipelines.params.decide import Decide

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Calib:
    """Calib rows as decide sees them; under a declared class prior the probabilities are corrected and the weights hold its ratios.

    `crossfitted` `(J, n, K)` are probabilities fitted without fold j, `shipped` `(n, K)` those of the calibrator that ships, `masks`
    `(J, n)` the rows of each fold, `U` the utilities `(K, A)` or `(n, K, A)`, `rules` the limits and requirements; `labels`, `groups` and
    `weights` are `(n,)`.
    """

    crossfitted: Float
    shipped: Float
    masks: Bool
    labels: Int
    groups: Int
    weights: Float
    U: Float
    rules: Constraints
    classes: tuple[str, ...]

    @property
    def repeats(self) -> int:
        """How often each row was held out."""
        return round(float(self.masks.mean(axis=1).sum()))

    def pooled(self) -> Sample:
        """All rows with their out-of-fold probabilities, the repeats one below the other."""
        found = crossfit.out_of_fold(self.crossfitted, self.masks)
        times = len(found)
        U = self.U if self.U.ndim == 2 else np.tile(self.U, (times, 1, 1))
        p = found.reshape(-1, found.shape[2])
        return Sample(p, np.tile(self.labels, times), U, np.tile(self.weights, times), np.tile(self.groups, times))

    def whole(self) -> Sample:
        """All rows with the probabilities of the calibrator that ships, on which limits and requirements are met by what ships.

        For two classes that calibrator is monotone, so an order statistic of the rows' scores is one of their probabilities, and a bound that
        rests on it holds although the calibrator was fitted on these rows.
        """
        return Sample(self.shipped, self.labels, self.U, self.weights, self.groups)

    def rest(self, fold: int) -> Sample:
        """The rows outside a fold, with the probabilities of a calibrator that was fitted without the fold."""
        rest = ~self.masks[fold]
        return Sample(self.crossfitted[fold][rest], self.labels[rest], take(self.U, rest), self.weights[rest], self.groups[rest])


@dataclass(frozen=True)
class Tuner:
    """Tunes candidates under the same options, limits and requirements; keeps the trials of searches."""

    options: Decide
    rules: Constraints
    keeping: search.Keeping | None = None

    def search(self, sample: Sample, held: Sample, where: str) -> search.Study:
        """Optuna's study on the rows of `sample`; `where` names it among those kept."""
        trials, seed, shown = self.options.trials, self.options.seed, where == "calib"
        return search.search(sample, held, self.rules, trials=trials, seed=seed, keeping=self.keeping, name=where, explain=shown)

    def tune(self, name: str, sample: Sample, held: Sample, where: str = "calib") -> Fitted:
        """Tune one kind of policy on the rows of `sample`, within what limits and requirements allow on the rows `held`."""
        if name == "analytic":
            return tuning.analytic(held, self.rules)
        return self.search(sample, held, where).fitted if name == "optuna" else tuning.exact(sample, held, self.rules)

    def crossfitted_actions(self, name: str, calib: Calib) -> Int:
        """Actions `(repeats, n)`: in each fold the policy is tuned on the rest and decides on the fold."""
        fold = iter(range(len(calib.masks)))

        def fit_predict(rest: Bool, held: Bool) -> Float:
            j = next(fold)
            seen = calib.rest(j)
            tuned = self.tune(name, seen, seen, f"fold {j}").tuned
            return policy.decide(calib.crossfitted[j][held], take(calib.U, held), tuned.offsets, tuned.prices).astype(np.float64)

        return crossfit.crossfit(calib.masks, fit_predict).astype(np.int64)


def tuned_and_judged(
    names: Sequence[str], calib: Calib, options: Decide, journal: Path
) -> tuple[search.Study | None, dict[str, Int], dict[str, Fitted]]:
    """Optuna's study of all rows, and for each candidate the cross-fitted actions and the policy refitted on all rows.

    For two classes and two actions the exact cut-off is the optimum over the offsets, so Optuna's policy is the exact one there: its study is
    made for show, and no fold needs one. Trials are kept in the file `journal`.
    """
    pooled, whole = calib.pooled(), calib.whole()
    kinds = {name: "exact" if name == "optuna" and pooled.shape == (2, 2) else name for name in names}
    studies = (1 + len(calib.masks) * ("optuna" in kinds.values())) if "optuna" in names else 0
    with search.progress(studies * options.trials) as tick:
        tuner = Tuner(options, calib.rules, search.Keeping(search.journal(journal), tick) if studies else None)
        study = tuner.search(pooled, whole, "calib") if studies else None
        taken = {kind: tuner.crossfitted_actions(kind, calib) for kind in dict.fromkeys(kinds.values())}
        fitted = {kind: study.fitted if study and kind == "optuna" else tuner.tune(kind, pooled, whole) for kind in taken}
    return study, {name: taken[kind] for name, kind in kinds.items()}, {name: fitted[kind] for name, kind in kinds.items()}


def utility_of(actions: Int, calib: Calib) -> Float:
    """Utility `(n,)` per row of actions `(repeats, n)`, averaged over the repeats."""
    return np.asarray(np.mean([obtained(calib.labels, taken, calib.U) for taken in actions], axis=0))


def candidate(name: str, taken: dict[str, Int], fitted: Fitted, calib: Calib, *, options: Decide) -> dict[str, Any]:
    """Cross-fitted utility of one candidate, its gain over the analytic policy, and the policy refitted on all of calib.

    `taken` are each candidate's cross-fitted actions `(repeats, n)`.
    """
    utility, yardstick = utility_of(taken[name], calib), utility_of(taken["analytic"], calib)
    found = interval(utility, calib, value_range(calib.U), options.confidence)
    spread = difference_range(calib.U)
    gain = interval(utility - yardstick, calib, (-spread, spread), options.confidence, two_sided=False)
    tuned, frequencies = fitted.tuned, [(taken[name] == action).mean(axis=0) for action in range(calib.U.shape[-1])]
    return {
        "policy": name,
        "utility": found.mean,
        "low": found.low,
        "high": found.high,
        "gain_over_analytic": gain.mean,
        "gain_low": gain.low if name != "analytic" else 0.0,
        "offsets": tuned.offsets.tolist(),
        "prices": tuned.prices.tolist(),
        "threshold": policy.threshold_of(tuned.offsets, tuned.prices, calib.U) if calib.U.shape == (2, 2) else None,
        "action_shares": [float(np.average(frequency, weights=calib.weights)) for frequency in frequencies],
        "meets_requirements": fitted.shortfall(calib.rules) == 0
        and all(recall_of(taken[name], calib, wanted, options).mean >= wanted.at_least for wanted in calib.rules.recalls),
    }


def recall_of(taken: Int, calib: Calib, wanted: Recall, options: Decide) -> Interval:
    """Cross-fitted recall of a class: share of its rows that get an action that is best for it, in actions `(repeats, n)`."""
    rows = calib.labels == wanted.label
    lost = regret_matrix(take(calib.U, rows))[..., wanted.label, :]
    lost = np.broadcast_to(lost, (int(rows.sum()), lost.shape[-1]))
    best = np.mean([np.take_along_axis(lost, actions[rows][:, None], axis=1)[:, 0] <= policy.TIE for actions in taken], axis=0)
    return constraints.share_interval(best, weights=calib.weights[rows], groups=calib.groups[rows], confidence=options.confidence)


def share_of(taken: Int, calib: Calib, action: int, options: Decide) -> Interval:
    """Cross-fitted share of the rows that get an action, in actions `(repeats, n)`."""
    values = (taken == action).mean(axis=0)
    return constraints.share_interval(values, weights=calib.weights, groups=calib.groups, confidence=options.confidence)


def interval(values: Float, calib: Calib, limits: tuple[float, float], confidence: float, *, two_sided: bool = True) -> Interval:
    """Bounds of a weighted mean over calib rows, clustered by group."""
    return mean_interval(
        values, groups=calib.groups, weights=calib.weights, confidence=confidence, worst=limits[0], best=limits[1], two_sided=two_sided
    )


def choose(candidates: Sequence[dict[str, Any]], options: Decide, unit: str) -> tuple[str, str]:
    """Choose the policy that ships, and say why: a tuned one only when its paired gain over the analytic one is surely above zero."""
    allowed = [c for c in candidates if c["policy"] in options.policies]
    if not allowed:
        return "analytic", "The policies under decide.policies do not fit this utility matrix, so the analytic policy decides."
    if "analytic" not in options.policies:
        meeting = [c for c in allowed if c["meets_requirements"]]
        if not meeting:
            return (
                "analytic",
                "No policy under decide.policies meets utility.require on rows it was not tuned on: the analytic one decides.",
            )
        best = max(meeting, key=lambda c: float(c["utility"]))
        return best["policy"], f"decide.policies leaves the analytic policy out; {best['policy']} has the highest cross-fitted utility."
    tuned = [c for c in allowed if c["policy"] != "analytic" and c["meets_requirements"]]
    if not tuned:
        missed = " that meets utility.require on rows it was not tuned on" if len(allowed) > 1 else ""
        return "analytic", f"The analytic policy is the only candidate{missed}."
    sure = [c for c in tuned if c["gain_low"] > 0]
    best = max(sure or tuned, key=lambda c: float(c["utility"]))
    figures = f"{signed(best['gain_over_analytic'])} {unit} per case, lower bound {signed(best['gain_low'])} at {options.confidence:.0%}"
    if sure:
        return best["policy"], f"The {best['policy']} policy surely gains over the analytic one on rows it was not tuned on: {figures}."
    return (
        "analytic",
        f"No tuned policy surely gains over the analytic one on rows it was not tuned on; the best, {best['policy']}: {figures}.",
    )


def signed(value: float) -> str:
    """A number with its sign to four places, where none is left +0.0000."""
    return f"{round(value, 4) + 0.0:+.4f}"
