"""Score the holdout through the bundles, challenger and champion: what ships is what is measured, both under the utility now in params."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import store, utilities
from pipelines.bundle import Bundle
from pipelines.core import evaluation, partition, policy, representation
from pipelines.core.evaluation import Display, Rows, Scored
from pipelines.core.rowhash import Column, Text
from pipelines.errors import ExpostError, must
from pipelines.params import load
from pipelines.params.evaluate import Evaluate
from pipelines.params.utility import Utility

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CALIB, HOLDOUT = partition.PARTS.index("calib"), partition.PARTS.index("holdout")
#: Criteria that need the champion's scores; all are unavailable, with the reason, where it cannot be scored on the table now.
CRITERIA = ("utility", "log_loss", "brier", "v_information")


@dataclass(frozen=True)
class Table:
    """The rows with their labels, groups, hashes and parts `(n,)`, the rule behind the parts, class and action names, the utility."""

    frame: pl.DataFrame
    labels: Ints
    groups: Ints
    row_hash: NDArray[np.uint64]
    parts: NDArray[np.int8]
    rule: dict[str, Any]
    classes: list[str]
    actions: list[str]
    U: Floats
    unit: str


@dataclass(frozen=True)
class Champion:
    """The champion's scores of the rows in `index`, its parts `(n,)`, and what had to be noted."""

    scored: Scored
    parts: NDArray[np.int8]
    notes: tuple[str, ...]
    reigning: str


def read_table() -> Table:
    """Read what ingest and split wrote, and the utility now in params.yaml."""
    import polars as pl

    meta, utility = store.read_json(store.stage_path("split", "meta.json")), load(Utility)
    labels, groups, row_hash, parts = (
        np.load(store.need(store.stage_path("split", f"{name}.npy")), allow_pickle=False)
        for name in ("labels", "groups", "row_hash", "parts")
    )
    frame = pl.read_parquet(store.need(store.stage_path("ingest", "table.parquet")))
    classes = list(meta["classes"])
    U = utilities.values(utility.cells(tuple(classes)), frame)
    return Table(frame, labels, groups, row_hash, parts, meta["rule"], classes, list(utility.actions), U, utility.unit)


def score(bundle: Bundle, frame: pl.DataFrame, order: list[int]) -> Scored:
    """Score raw rows through a bundle; probability columns come in `order` of its classes, actions as its policy decides, -1 on NaN."""
    encoded = bundle.encode(frame)
    scores = bundle.score(encoded.numbers, encoded.categories, finite=False)  # the gate is to see and name what is no number
    scored = np.isfinite(scores.logits).all(axis=1)
    probability = np.full(scores.logits.shape, np.nan)
    probability[scored] = bundle.probabilities(scores.logits[scored])
    usable = np.isfinite(probability).all(axis=1)
    actions = np.full(frame.height, -1, dtype=np.int64)
    if usable.any():
        decided = bundle.decide(probability[usable], frame.filter(usable))
        probability[usable], actions[usable] = decided.probability, decided.actions
    return Scored(probability[:, order], actions, scores.embedding.astype(np.float64))


def parts_under(rule: dict[str, Any], table: Table) -> NDArray[np.int8]:
    """Parts `(n,)` that the rows of the table have under another model's split rule."""
    if rule == table.rule:
        return table.parts
    frame = table.frame
    columns: dict[str, Column] = {}
    for name in partition.needed(rule):
        if name in frame.columns:
            series = frame[name]
            columns[name] = series.cast(float).fill_null(np.nan).to_numpy() if series.dtype.is_numeric() else Text.of(series.to_list())
    holdout = frame["__holdout__"].to_numpy() if "__holdout__" in frame.columns else None
    return partition.assign_parts(rule, columns, holdout).parts


def score_champion(bundle: Bundle, table: Table, index: Ints) -> Champion:
    """Score the champion on the rows `index` and decide under the utility now; raises ExpostError where the table no longer fits it."""
    if sorted(bundle.classes) != sorted(table.classes):
        raise must(
            f"the champion's classes must be {table.classes}", f"they are {bundle.classes}", "Compare it by hand and promote with a reason."
        )
    scored = score(bundle, table.frame[index], [bundle.classes.index(name) for name in table.classes])
    parts = parts_under(bundle.schema["split"], table)
    known = list(bundle.policy["actions"])
    if sorted(known) == sorted(table.actions):
        moved = np.array([table.actions.index(name) for name in known], dtype=np.int64)
        actions = np.where(scored.actions >= 0, moved[np.maximum(scored.actions, 0)], -1)
        return Champion(Scored(scored.probability, actions, scored.embedding), parts, (), "as it reigns")
    note = f"The champion's actions {known} are not those of params.yaml now; it is re-decided analytically under the utility now."
    return Champion(redecided(scored, table.U), parts, (note,), "re-decided analytically")


def redecided(scored: Scored, U: Floats) -> Scored:
    """The same probabilities, decided analytically under `U`."""
    usable = np.isfinite(scored.probability).all(axis=1)
    actions = np.full(usable.size, -1, dtype=np.int64)
    actions[usable] = policy.analytic_actions(scored.probability[usable], U)
    return Scored(scored.probability, actions, scored.embedding)


def reference(table: Table, calib: NDArray[np.bool_]) -> tuple[int, Floats]:
    """Best trivial action and class prior `(K,)`, both chosen on the calib rows, so that bounds on the holdout stay valid."""
    means = table.U[table.labels[calib]].mean(axis=0) if calib.any() else table.U.mean(axis=0)
    return int(means.argmax()), representation.class_prior(table.labels[calib], len(table.classes))


def rows_frame(
    table: Table, holdout: Ints, best: int, prior: Floats, models: dict[str, tuple[Scored, Rows, NDArray[np.bool_]]]
) -> pl.DataFrame:
    """One row per holdout row; a model's columns are null where its mask is false, NaN where a number is none."""
    import polars as pl

    labels = table.labels[holdout]
    columns: list[pl.Series] = [
        pl.Series("row_hash", table.row_hash[holdout], dtype=pl.UInt64),
        pl.Series("group", table.groups[holdout], dtype=pl.Int64),
        pl.Series("label", [table.classes[k] for k in labels], dtype=pl.String),
        pl.Series("trivial_utility", table.U[labels, best]),
        pl.Series("prior_log_loss", -np.log(prior[labels])),
    ]
    for prefix, (scored, rows, mask) in models.items():
        values = {f"probability_{name}": scored.probability[:, k] for k, name in enumerate(table.classes)}
        values |= {"utility": rows.utility, "log_loss": rows.log_loss, "brier": rows.brier}
        if rows.unavailable is None:
            values["v_information"] = rows.bits
        shown = pl.Series(mask)
        names = [table.actions[a] if a >= 0 else None for a in scored.actions]
        columns += [_masked(pl.Series(f"{prefix}_action", names, dtype=pl.String), shown)]
        columns += [_masked(pl.Series(f"{prefix}_{name}", column), shown) for name, column in values.items()]
        if rows.unavailable is not None:
            columns += [pl.Series(f"{prefix}_v_information", [None] * len(labels), dtype=pl.Float64)]
    return pl.DataFrame(columns)


def _masked(series: pl.Series, shown: pl.Series) -> pl.Series:
    return series.set(~shown, None)


def champion_bundle(status: dict[str, Any]) -> Bundle | None:
    """The champion's verified bundle; raises ExpostError where it is another one than the status names."""
    if status["state"] != "champion":
        return None
    bundle = Bundle.load(store.stage_path("champion", "bundle"))
    if bundle.manifest["bundle_sha256"] != status["bundle_sha256"]:
        raise must("data/champion/bundle must be the one that status.json names", "the digests differ", "Run `dvc repro champion`.")
    return bundle


def digests(bundle: Bundle | None) -> dict[str, str] | None:
    """The digests that name a bundle."""
    return None if bundle is None else {name: bundle.manifest[name] for name in ("bundle_sha256", "weights_sha256", "policy_sha256")}


def compare(bundle: Bundle, table: Table, index: Ints, ours: Scored, same: bool) -> tuple[Champion | None, str | None]:
    """The champion's scores, or why the table now cannot be scored with it; an identical one is not scored twice."""
    if same:
        return Champion(ours, table.parts, (), "as it reigns"), None
    try:
        return score_champion(bundle, table, index), None
    except ExpostError as error:
        return None, str(error)


def calib_gain(champion: Champion, table: Table, index: Ints, shared: NDArray[np.bool_]) -> dict[str, Any]:
    """The champion's utility per case above the best trivial policy, on rows that are calib for both models: it fixes the margin."""
    labels = table.labels[index][shared]
    if not labels.size:
        return {"rows": 0, "utility": None, "trivial": None, "gain": None}
    utility = float(evaluation.utility_rows(champion.scored.actions[shared], labels, table.U).mean())
    trivial = float(table.U[labels].mean(axis=0).max())
    return {"rows": int(labels.size), "utility": utility, "trivial": trivial, "gain": utility - trivial}


def main() -> None:
    """Write data/evaluate: rows.parquet, evaluation.json, curves.json."""
    settings, table = load(Evaluate), read_table()
    display = Display(settings.confidence, settings.resamples, settings.seed)
    challenger, status = Bundle.load(store.stage_path("package", "bundle")), store.read_json(store.stage_path("champion", "status.json"))
    champion = champion_bundle(status)
    names = ("weights_sha256", "policy_sha256")
    same = champion is not None and all(champion.manifest[name] == challenger.manifest[name] for name in names)
    with store.stage_folder("evaluate") as out:
        write(out, table, challenger, champion, same=same, display=display, neighbours=settings.neighbours)


def write(out: Path, table: Table, challenger: Bundle, reigning: Bundle | None, *, same: bool, display: Display, neighbours: int) -> None:
    """Score, measure and write; `same` says that the champion has the challenger's weights and policy."""
    index = np.flatnonzero((table.parts == CALIB) | (table.parts == HOLDOUT))
    scored = score(challenger, table.frame[index], [challenger.classes.index(name) for name in table.classes])
    champion, impossible = (None, None) if reigning is None else compare(reigning, table, index, scored, same)
    theirs = table.parts[index] if champion is None else champion.parts[index]
    held, calib = table.parts[index] == HOLDOUT, table.parts[index] == CALIB
    fit, fit_labels = calib & (theirs == CALIB), table.labels[index][calib & (theirs == CALIB)]
    holdout, labels, shared = index[held], table.labels[index][held], theirs[held] == HOLDOUT
    best, prior = reference(table, table.parts == CALIB)

    def results(model: Scored) -> Rows:
        return evaluation.row_results(
            model.take(held), labels, table.U, model.embedding[fit], fit_labels, neighbours=neighbours, seed=display.seed
        )

    ours = results(scored)
    models = {"challenger": (scored.take(held), ours, np.ones(labels.size, dtype=bool))}
    if champion is not None:
        models["champion"] = (champion.scored.take(held), ours if same else results(champion.scored), shared)
    rows_frame(table, holdout, best, prior, models).write_parquet(out / "rows.parquet", statistics=False)
    notes = list(champion.notes) if champion else []
    unavailable = {} if ours.unavailable is None else {"v_information": ours.unavailable}
    if impossible is not None:
        unavailable |= {name: impossible.rstrip(".") for name in CRITERIA}
    gain = None if champion is None else calib_gain(champion, table, index, fit)
    if gain is not None and gain["gain"] is None:
        unavailable["utility"] = "no row is calib for both models, so the champion's gain, which fixes the margin, is unknown"
    described = figures(table, holdout, models, best, display)
    store.write_json(
        out / "evaluation.json",
        {
            **described,
            "identical": same,
            "calib_rows": int(fit.sum()),
            "champion_gain": gain,
            "reigning": champion.reigning if champion else None,
            "redecided": redecided_utility(
                champion, reigning, table=table, index=index, shared=held & (theirs == HOLDOUT), display=display
            ),
            "unavailable": unavailable,
            "notes": notes,
            "digests": {"challenger": digests(challenger), "champion": digests(reigning)},
        },
    )
    shown = {name: (model.take(mask), rows.take(mask), labels[mask]) for name, (model, rows, mask) in models.items() if mask.any()}
    store.write_json(out / "curves.json", evaluation.curves(shown, table.U, display.confidence))


def redecided_utility(
    champion: Champion | None, reigning: Bundle | None, *, table: Table, index: Ints, shared: NDArray[np.bool_], display: Display
) -> dict[str, Any] | None:
    """The champion's utility had it decided analytically under the utility now; None where its own matrix is the same."""
    if champion is None or reigning is None or not shared.any():
        return None
    own = reigning.policy
    if own["actions"] == table.actions and own["classes"] == table.classes and np.array_equal(own["matrix"], table.U):
        return None
    actions = redecided(champion.scored.take(shared), table.U).actions
    utility = evaluation.utility_rows(actions, table.labels[index][shared], table.U)
    return asdict(evaluation.utility_interval(utility, table.groups[index][shared], table.U, display))


def figures(
    table: Table, holdout: Ints, models: dict[str, tuple[Scored, Rows, NDArray[np.bool_]]], best: int, display: Display
) -> dict[str, Any]:
    """Figures of both models, of the trivial policies and of who ignores the costs, each with its interval."""
    labels, groups, U = table.labels[holdout], table.groups[holdout], table.U
    scored, rows, _ = models["challenger"]
    plain = evaluation.utility_rows(ignoring_costs(scored.probability, U), labels, U)
    made: dict[str, Any] = {
        "classes": table.classes,
        "actions": table.actions,
        "matrix": U.tolist(),
        "unit": table.unit,
        "confidence": display.confidence,
        "rows": {"holdout": int(labels.size), "compared": int(models["champion"][2].sum()) if "champion" in models else 0},
        "prevalence": np.bincount(labels, minlength=len(table.classes)).tolist(),
        "trivial": {name: asdict(evaluation.utility_interval(U[labels, a], groups, U, display)) for a, name in enumerate(table.actions)},
        "best_trivial": table.actions[best],
        "argmax": asdict(evaluation.utility_interval(plain, groups, U, display)),
        "gain": asdict(evaluation.difference_interval(rows.utility - U[labels, best], groups, U, display)),
        "gain_over_argmax": asdict(evaluation.difference_interval(rows.utility - plain, groups, U, display)),
        "champion": None,
        "difference": None,
    }
    for name, (model, results, mask) in models.items():
        made[name] = evaluation.summary(
            model.take(mask),
            results.take(mask),
            labels[mask],
            groups[mask],
            U=U,
            classes=table.classes,
            actions=table.actions,
            display=display,
        )
    if "champion" in models:
        _, other, mask = models["champion"]
        made["difference"] = {
            "utility": asdict(evaluation.difference_interval((rows.utility - other.utility)[mask], groups[mask], U, display)),
            "log_loss": asdict(evaluation.seen_interval((rows.log_loss - other.log_loss)[mask], groups[mask], display)),
            "brier": asdict(evaluation.seen_interval((rows.brier - other.brier)[mask], groups[mask], display)),
            "v_information": asdict(evaluation.seen_interval((rows.bits - other.bits)[mask], groups[mask], display)),
        }
    return made


def ignoring_costs(probability: Floats, U: Floats) -> Ints:
    """Actions `(n,)` of who takes the most probable class's best action; -1 where a probability is no number."""
    usable = np.isfinite(probability).all(axis=1)
    actions = np.full(usable.size, -1, dtype=np.int64)
    actions[usable] = policy.argmax_ignoring_costs(probability[usable], U)
    return actions


if __name__ == "__main__":
    store.run_stage(main)
