"""Score the holdout through the bundles, challenger and champion: what ships is what is measured, both under the utility now in params."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import comparator, drift, holdout, looks, rivals, sliced, store
from pipelines.bundle import Bundle
from pipelines.contest import Champion, Refused, Table, champion_bundle, compare, data_prior, read_table, score
from pipelines.core import constraints, evaluation, operating, partition, policy, representation
from pipelines.core import utility as worth
from pipelines.core.bounds import effective_size
from pipelines.core.evaluation import Cases, Display, Rows, Scored
from pipelines.holdout import Judged, Models
from pipelines.params import load
from pipelines.params.evaluate import Evaluate
from pipelines.rivals import First, Other

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
HOLDOUT = partition.PARTS.index("holdout")
#: Criteria that need the champion's scores; all are unavailable, with the reason, where it cannot be scored on the table now.
CRITERIA = ("utility", "log_loss", "brier", "v_information")


def main() -> None:
    """Write data/evaluate: rows.parquet, evaluation.json, curves.json; and note the look at the holdout."""
    import polars as pl

    settings = load(Evaluate)
    challenger, status = Bundle.load(store.stage_path("package", "bundle")), store.read_json(store.stage_path("champion", "status.json"))
    table, champion = read_table(deployment(challenger)), champion_bundle(status)
    names = ("weights_sha256", "policy_sha256")
    same = isinstance(champion, Bundle) and all(champion.manifest[name] == challenger.manifest[name] for name in names)
    with store.stage_folder("evaluate") as out:
        write(out, table, challenger, champion, status=status, same=same, settings=settings)
        drift.write(out, table.frame, table.weights, table.groups)
        if not same:  # figures of both models, or of one that is new, are seen from here on
            rows = pl.read_parquet(out / "rows.parquet")
            looks.note(looks.key_of(store.sha256(out / "rows.parquet"), looks.SHOWN), looks.hashes_of(rows))


def deployment(challenger: Bundle) -> Floats | None:
    """Class shares `(K,)` that the utility declares for deployment, as the challenger's policy was made for them; None for none."""
    prior = challenger.policy.get("prior")
    return None if prior is None else np.asarray(prior["deployment"], dtype=np.float64)


def write(
    out: Path,
    table: Table,
    challenger: Bundle,
    reigning: Bundle | Refused | None,
    *,
    status: dict[str, Any],
    same: bool,
    settings: Evaluate,
) -> None:
    """Score, measure and write; `same` says that the champion has the challenger's weights and policy."""
    display, neighbours = Display(settings.confidence, settings.resamples, settings.seed), settings.neighbours
    index = np.flatnonzero(table.calib | (table.parts == HOLDOUT))
    scored, procedure = score(challenger, table, index, table.unseen), rivals.procedure_of(challenger)
    found = compare(reigning, table, index, scored, same) if isinstance(reigning, Bundle) else reigning
    held, calib = table.parts[index] == HOLDOUT, table.calib[index]
    theirs, fit = held, calib
    if isinstance(found, Champion):
        theirs, fit = found.placed.parts[index] == HOLDOUT, calib & found.placed.calib[index]
    both = theirs[held]
    champion = found if isinstance(found, Champion) else None
    if champion is not None and not same:
        champion = comparator.permitted(champion, table, index, compared=held & theirs, fit=fit, procedure=procedure)
    cases, fit_cases = table.cases(index[held]), table.cases(index[fit])
    reference = trivial_reference(table, table.cases(np.flatnonzero(table.calib)))

    def results(model: Scored) -> Rows:
        return evaluation.row_results(model.take(held), cases, model.embedding[fit], fit_cases, neighbours=neighbours, seed=display.seed)

    ours = results(scored)
    models = {"challenger": (scored.take(held), ours, np.ones(cases.labels.size, dtype=bool))}
    if champion is not None:
        models["champion"] = (champion.scored.take(held), ours if same else results(champion.scored), both)
    anew = None
    if champion is not None and not same and champion.as_it_reigns is None and not champion.incomparable:
        anew = rivals.redecided(champion.scored, table, index, fit, procedure)
    redone = None if anew is None else rivals.other(anew, held, both, cases)
    first = None if same else rivals.first_champion(status, table, index, held=held, fit=fit, procedure=procedure)
    others = {"redecided": redone, "first": None if first is None else first.results}
    judged = Judged(cases, reference, models, others)
    seen = holdout.look_hashes(table.frame[index[held]], store.read_json(store.stage_path("ingest", "schema.json")))
    parts = sliced.sliced(table.frame[index[held]], challenger.schema["target"], settings)
    rows = holdout.frame_of(table, index[held], judged, seen, parts.columns())
    rows.write_parquet(out / "rows.parquet", statistics=False)
    gain = None if champion is None else best_gain([champion.scored, anew], fit, fit_cases, table)
    compared_with = None if champion is None else comparison(champion, held, both, cases, display)
    store.write_json(
        out / "evaluation.json",
        {
            **figures(table, cases, models, reference[0], display),
            "prior": named_prior(table, challenger),
            "limits": limits(table, cases, models, display),
            "requirements": requirements(table, cases, models, display),
            "identical": same,
            "calib_rows": int(fit.sum()),
            "champion_gain": gain,
            "reigning": champion.reigning if champion else None,
            "comparator": compared_with,
            "redecided": rivals.shown(redone, cases, display),
            "first": floor(first, ours, cases, display),
            "flips": turned(ours, redone, models, cases, display),
            **sliced.figures(parts, judged, display),
            "unavailable": unavailable(ours, found, gain, first),
            "broken": broken(found, first),
            "notes": [*(champion.notes if champion else ()), *([compared_with["sentence"]] if compared_with else [])],
            "digests": {"challenger": digests(challenger), "champion": digests(reigning)},
            "data_sha256": rivals.data_sha256(),
        },
    )
    shown = {name: (model.take(mask), rows.take(mask), cases.take(mask)) for name, (model, rows, mask) in models.items() if mask.any()}
    store.write_json(
        out / "curves.json", evaluation.curves(shown, display.confidence) | {"operating": operated(table, cases, models, display)}
    )


def best_gain(ways: list[Scored | None], fit: Bools, cases: Cases, table: Table) -> dict[str, Any]:
    """The larger gain on calib of the champion in the ways that it is decided: the margin is a share of what is to be kept."""
    blind = blind_shares(table, cases)
    gains = [rivals.calib_gain(scored.take(fit), cases, blind) for scored in ways if scored is not None]
    return max(gains, key=lambda gain: float("-inf") if gain["gain"] is None else gain["gain"])


def floor(first: First | None, ours: Rows, cases: Cases, display: Display) -> dict[str, Any] | None:
    """The first champion's utility and the difference to it, with intervals; None where it is the champion itself or has none."""
    if first is None:
        return None
    utility, beside = rivals.shown(first.results, cases, display), rivals.difference(ours.utility, first.results, cases, display)
    return {"version": first.version, "utility": utility, "difference": beside, "reason": first.reason}


def turned(ours: Rows, redone: Other | None, models: Models, cases: Cases, display: Display) -> dict[str, Any] | None:
    """Flips against the champion, as re-decided where it was; None without a shared row."""
    if "champion" not in models or not models["champion"][2].any():
        return None
    mask = models["champion"][2]
    theirs = evaluation.right_rows(models["champion"][1].utility, cases) if redone is None else redone.right
    return rivals.flips(evaluation.right_rows(ours.utility, cases)[mask], theirs[mask], cases.take(mask), display)


def broken(found: Champion | Refused | None, first: First | None) -> list[str]:
    """Why a bundle that is to be compared with cannot be used, as clauses."""
    listed = [f"the champion cannot be used: {found.reason.rstrip('.')}"] if isinstance(found, Refused) and found.broken else []
    return [*listed, *([str(first.reason)] if first is not None and first.broken else [])]


def operated(table: Table, cases: Cases, models: Models, display: Display) -> dict[str, Any]:
    """Both models along a range of costs, on the rows that are holdout for both; the challenger alone where there is no such row."""
    both = models["champion"][2] if "champion" in models and models["champion"][2].any() else None
    kept = {name: scored for name, (scored, _, _) in models.items() if both is not None or name == "challenger"}
    rows = slice(None) if both is None else both
    scored = {name: model.take(rows) for name, model in kept.items()}
    return operating.along(scored, cases.take(rows), classes=table.classes, actions=table.actions, display=display)


def trivial_allowed(table: Table) -> Bools:
    """Whether limits and requirements allow "always action a" `(A,)`: what they forbid is nothing to be compared with."""
    return constraints.trivial_allowed(table.U, table.rules.limits, [wanted.label for wanted in table.rules.recalls])


def blind_shares(table: Table, calib: Cases) -> Floats:
    """Shares `(A,)` of the actions in the best policy that looks at no row and keeps limits and requirements, chosen on rows of calib."""
    if not calib.labels.size:
        return constraints.best_blind(table.U.reshape(-1, len(table.actions)).mean(axis=0), table.rules.limits)
    always = worth.trivial(calib.labels, calib.U, calib.weights)
    recalls = [
        (constraints.blind_recall(calib.U, calib.labels, wanted.label, weights=calib.weights), wanted.at_least)
        for wanted in table.rules.recalls
    ]
    return constraints.best_blind(always, table.rules.limits, recalls)


def trivial_reference(table: Table, calib: Cases) -> tuple[Floats, Floats]:
    """Best blind policy's shares `(A,)` and class prior `(K,)`, both chosen on the calib rows, so that bounds on the holdout stay valid."""
    weights = calib.weights if calib.labels.size else None
    return blind_shares(table, calib), representation.class_prior(calib.labels, len(table.classes), weights)


def comparison(champion: Champion, held: Bools, mask: Bools, cases: Cases, display: Display) -> dict[str, Any] | None:
    """How a champion that breaks what is now in force is compared, in one sentence, and its utility as it reigns; None where it breaks nothing.

    `held` is a mask of the rows scored, `mask` one of the holdout rows among them: those that are holdout for both models.
    """
    if champion.as_it_reigns is None and not champion.incomparable:
        return None
    shared = cases.take(mask)
    actions = (champion.as_it_reigns or champion.scored).actions[held][mask]
    own = asdict(evaluation.utility_interval(evaluation.utility_rows(actions, shared.labels, shared.U), shared, display))
    instead = "; its utility is not compared, the absolute criterion of a first champion decides" if champion.incomparable else ""
    sentence = f"The champion is {champion.reigning}{instead}; as it reigns its utility per case is {own['mean']:z.4g}."
    return {"possible": not champion.incomparable, "sentence": sentence, "as_it_reigns": own}


def unavailable(ours: Rows, champion: Champion | Refused | None, gain: dict[str, Any] | None, first: First | None) -> dict[str, str]:
    """Criteria that cannot be computed, with the benign reason."""
    found = {} if ours.unavailable is None else {"v_information": ours.unavailable}
    if isinstance(champion, Refused):
        found |= {name: champion.reason.rstrip(".") for name in CRITERIA}
    if gain is not None and gain["gain"] is None:
        found["utility"] = "no row is calib for both models, so the champion's gain, which fixes the margin, is unknown"
    if first is not None and first.reason is not None and not first.broken:
        found["floor_first"] = first.reason
    return found


def digests(bundle: Bundle | Refused | None) -> dict[str, str] | None:
    """The digests that name a bundle."""
    if not isinstance(bundle, Bundle):
        return None
    return {name: bundle.manifest[name] for name in ("bundle_sha256", "weights_sha256", "policy_sha256")}


def figures(table: Table, cases: Cases, models: Models, blind: Floats, display: Display) -> dict[str, Any]:
    """Figures of both models, of the trivial policies and of who ignores the costs, each with its interval."""
    scored, rows, _ = models["challenger"]
    plain = evaluation.utility_rows(ignoring_costs(scored.probability, cases.U), cases.labels, cases.U)
    always = worth.of_class(cases.U, cases.labels)
    made: dict[str, Any] = {
        "classes": table.classes,
        "actions": table.actions,
        "matrix": [list(row) for row in table.cells],
        "unit": table.utility.unit,
        "reach": cases.reach,
        "confidence": display.confidence,
        "rows": {"holdout": int(cases.labels.size), "compared": int(models["champion"][2].sum()) if "champion" in models else 0},
        "effective_rows": effective_size(cases.weights),
        "prevalence": np.bincount(cases.labels, minlength=len(table.classes)).tolist(),
        "trivial": {
            name: {**asdict(evaluation.utility_interval(always[:, a], cases, display)), "allowed": bool(trivial_allowed(table)[a])}
            for a, name in enumerate(table.actions)
        },
        "best_trivial": constraints.blind_name(table.actions, blind),
        "reference": asdict(evaluation.utility_interval(always @ blind, cases, display)),
        "slope_uncalibrated": None if scored.uncalibrated is None else evaluation.slope(scored.uncalibrated, cases, display),
        "argmax": asdict(evaluation.utility_interval(plain, cases, display)),
        "gain": asdict(evaluation.difference_interval(rows.utility - always @ blind, cases, display)),
        "gain_over_argmax": asdict(evaluation.difference_interval(rows.utility - plain, cases, display)),
        "champion": None,
        "difference": None,
    }
    for name, (model, results, mask) in models.items():
        made[name] = evaluation.summary(
            model.take(mask), results.take(mask), cases.take(mask), classes=table.classes, actions=table.actions, display=display
        )
    if "champion" in models:
        made["difference"] = differences(rows, *models["champion"][1:], cases, display)
    return made


def limits(table: Table, cases: Cases, models: Models, display: Display) -> list[dict[str, Any]]:
    """Each limit with the share of the holdout rows for which a model takes that action."""

    def measured(name: str, action: str) -> dict[str, Any]:
        scored, _, mask = models[name]
        taken = np.where(scored.actions >= 0, scored.actions == table.actions.index(action), np.nan)
        return asdict(evaluation.bounded_interval(taken[mask], cases.take(mask), display, 0.0, 1.0))

    return [
        {
            "action": action,
            "at_most": limit.at_most,
            "share": measured("challenger", action),
            "champion": measured("champion", action) if "champion" in models else None,
        }
        for action, limit in table.utility.limits.items()
    ]


def requirements(table: Table, cases: Cases, models: Models, display: Display) -> list[dict[str, Any]]:
    """Each requirement with the share of the class's holdout rows that get their best action from a model."""

    def measured(name: str, label: int) -> dict[str, Any]:
        _, rows, mask = models[name]
        shown = mask & (cases.labels == label)
        right = evaluation.right_rows(rows.utility, cases)
        return asdict(evaluation.bounded_interval(right[shown], cases.take(shown), display, 0.0, 1.0))

    return [
        {
            "class": item.name,
            "at_least": item.at_least,
            "confidence": item.confidence,
            "recall": measured("challenger", table.classes.index(item.name)),
            "rows": int((cases.labels == table.classes.index(item.name)).sum()),
            "champion": measured("champion", table.classes.index(item.name)) if "champion" in models else None,
        }
        for item in table.utility.require.recall
    ]


def named_prior(table: Table, challenger: Bundle) -> dict[str, dict[str, float]] | None:
    """Class shares by name, of the challenger's data and of the deployment declared; None where none is declared."""
    if table.deployment is None:
        return None
    shares = {"data": data_prior(challenger, table), "deployment": table.deployment}
    return {name: dict(zip(table.classes, values.tolist(), strict=True)) for name, values in shares.items()}


def differences(ours: Rows, theirs: Rows, mask: Bools, cases: Cases, display: Display) -> dict[str, Any]:
    """Challenger minus champion on the rows that were holdout for both, with intervals."""
    shared, a, b = cases.take(mask), ours.take(mask), theirs.take(mask)
    return {
        "utility": asdict(evaluation.difference_interval(a.utility - b.utility, shared, display)),
        "log_loss": asdict(evaluation.seen_interval(a.log_loss - b.log_loss, shared, display)),
        "brier": asdict(evaluation.seen_interval(a.brier - b.brier, shared, display)),
        "v_information": asdict(evaluation.seen_interval(a.bits - b.bits, shared, display)),
    }


def ignoring_costs(probability: Floats, U: Floats) -> Ints:
    """Actions `(n,)` of who takes the most probable class's best action; -1 where a probability is no number."""
    usable = np.isfinite(probability).all(axis=1)
    actions = np.full(usable.size, -1, dtype=np.int64)
    actions[usable] = policy.argmax_ignoring_costs(probability[usable], worth.take(U, usable))
    return actions


if __name__ == "__main__":
    store.run_stage(main)
