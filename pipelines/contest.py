"""The two bundles that `evaluate` compares, scored on the same rows: the challenger as it ships, the champion as it reigns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import pictures, store, utilities
from pipelines.bundle import Bundle
from pipelines.core import calibration, evaluation, partition, policy
from pipelines.core import utility as worth
from pipelines.core.constraints import Constraints, Recall
from pipelines.core.evaluation import Cases, Scored
from pipelines.core.rowhash import Column, Text
from pipelines.errors import ExpostError, must
from pipelines.params import load
from pipelines.params.utility import Cells, Utility

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """The rows with labels, groups, hashes, parts and weights `(n,)`, the rule behind the parts, the names, and the utility now.

    `calib` `(n,)` are the rows that the challenger was calibrated and decided on, `unseen` `(n, M)` tells which of its networks never saw which.

    `U` is the utility's matrix, `(K, A)` or `(n, K, A)`, as its `cells` say; `deployment` `(K,)` are the class shares that it declares.
    """

    frame: pl.DataFrame
    labels: Ints
    groups: Ints
    row_hash: NDArray[np.uint64]
    parts: NDArray[np.int8]
    unseen: NDArray[np.bool_]
    calib: NDArray[np.bool_]
    weights: Floats
    rule: dict[str, Any]
    classes: list[str]
    utility: Utility
    cells: Cells
    U: Floats
    deployment: Floats | None = None

    @property
    def actions(self) -> list[str]:
        """Names of the actions, in the order of the utility's columns."""
        return list(self.utility.actions)

    @property
    def rules(self) -> Constraints:
        """Limits and requirements now in force, by the numbers of actions and classes."""
        limits = {self.actions.index(action): limit.at_most for action, limit in self.utility.limits.items()}
        wanted = self.utility.require.recall
        return Constraints(
            limits, tuple(Recall(self.classes.index(item.name), item.name, item.at_least, item.confidence) for item in wanted)
        )

    def cases(self, rows: Any) -> Cases:
        """Some of the rows, weighted so that their classes have the declared shares."""
        weights = evaluation.under_shares(self.weights[rows], self.labels[rows], self.deployment)
        worst, best = worth.value_range(self.U)
        U = worth.take(self.U, rows)
        return Cases(self.labels[rows], self.groups[rows], weights, U, worst, best, worth.difference_range(self.U))


@dataclass(frozen=True)
class Placed:
    """Where the rows of the table stand under a model's split rule: parts, calib `(n,)`, and unseen `(n, M)`; see `partition`."""

    parts: NDArray[np.int8]
    calib: NDArray[np.bool_]
    unseen: NDArray[np.bool_]


@dataclass(frozen=True)
class Champion:
    """The champion's scores of the rows in `index`, where its rule places the rows, what had to be noted, and how it decides.

    `as_it_reigns` are the scores before it was re-decided under limits and requirements now in force; `incomparable` says that it breaks
    them and could not be. See `comparator.permitted`.
    """

    scored: Scored
    placed: Placed
    notes: tuple[str, ...]
    reigning: str
    as_it_reigns: Scored | None = None
    incomparable: bool = False


@dataclass(frozen=True)
class Refused:
    """Why the champion cannot be scored: the table of now does not fit it, or its bundle is `broken`."""

    reason: str
    broken: bool


class MismatchError(ExpostError):
    """The table of now does not fit the champion: its classes, columns or split are others."""


def read_table(deployment: Floats | None = None) -> Table:
    """Read what ingest and split wrote, and the utility now in params.yaml; `deployment` `(K,)` are the class shares declared in it."""
    import polars as pl

    meta, utility = store.read_json(store.stage_path("split", "meta.json")), load(Utility)
    labels, groups, row_hash, parts, unseen, calib, weights = (
        np.load(store.need(store.stage_path("split", f"{name}.npy")), allow_pickle=False)
        for name in ("labels", "groups", "row_hash", "parts", "unseen", "calib", "weights")
    )
    frame = pl.read_parquet(store.need(store.stage_path("ingest", "table.parquet")))
    classes = list(meta["classes"])
    cells = utility.cells(tuple(classes))
    U = utilities.values(cells, frame)
    return Table(frame, labels, groups, row_hash, parts, unseen, calib, weights, meta["rule"], classes, utility, cells, U, deployment)


def score(bundle: Bundle, table: Table, index: Ints, unseen: NDArray[np.bool_]) -> Scored:
    """Score rows of the table through a bundle; probabilities come in the table's order of classes, actions as its policy decides.

    `unseen` (n, M) says which of its networks never saw which row of the table: rows before the holdout are scored by these alone, and
    by all where there is none, so that nothing may be judged on them.
    Probabilities are those under the class shares that the utility declares now. A row whose scores are no number has NaN and action -1.
    Raises MismatchError where the bundle does not fit the table, ExpostError where it cannot be scored.
    """
    frame = pictures.attached(table.frame, index, bundle.schema, store.stage_path("ingest", "images.npy"))
    try:
        encoded = bundle.encode(frame)
        bundle.utility(frame)
    except ExpostError as error:
        raise MismatchError(str(error)) from error
    scores = bundle.score(encoded.inputs, finite=False, unseen=unseen[index])  # the gate is to see and name what is no number
    scored = np.isfinite(scores.logits).all(axis=1)
    probability = np.full(scores.logits.shape, np.nan)
    probability[scored] = bundle.probabilities(scores.logits[scored])
    usable = np.isfinite(probability).all(axis=1)
    actions = np.full(frame.height, -1, dtype=np.int64)
    if usable.any():
        actions[usable] = bundle.decide(probability[usable], frame.filter(usable)).actions
    order = [bundle.classes.index(name) for name in table.classes]
    plain = np.full(scores.logits.shape, np.nan)
    plain[scored] = calibration.softmax(scores.logits[scored].astype(np.float64))
    return Scored(declared(bundle, probability[:, order], table), actions, scores.embedding.astype(np.float64), plain[:, order])


def declared(bundle: Bundle, probability: Floats, table: Table) -> Floats:
    """Calibrated probabilities `(n, K)`, in the table's order of classes, under the class shares that the utility declares now."""
    return probability if table.deployment is None else policy.under_prior(probability, data_prior(bundle, table), table.deployment)


def data_prior(bundle: Bundle, table: Table) -> Floats:
    """Class shares `(K,)` of the rows that a bundle was calibrated on: as its policy or its calibrator says, else those of calib now."""
    own = (bundle.policy.get("prior") or {}).get("data") or (bundle.calibrator.get("reference") or {}).get("prior")
    if own is not None:
        return np.array([own[bundle.classes.index(name)] for name in table.classes], dtype=np.float64)
    calib = table.calib
    counts = np.bincount(table.labels[calib], weights=table.weights[calib], minlength=len(table.classes)) + 0.5
    return np.asarray(counts / counts.sum())


def placed_under(rule: dict[str, Any], table: Table) -> Placed:
    """Where the rows of the table of now stand under the split rule of a model that was made of an older one.

    Rows of its pool that none of its networks surely left out are not calib: it cannot be judged on them.
    """
    # With groups and folds the challenger's mask does not do under the same rule either: a row that it leaves out may be new.
    if rule == table.rule and not (rule.get("group") and rule.get("folds")):
        return Placed(table.parts, table.calib, table.unseen)
    frame = table.frame
    columns: dict[str, Column] = {}
    for name in partition.needed(rule):
        if name in frame.columns:
            series = frame[name]
            columns[name] = series.cast(float).fill_null(np.nan).to_numpy() if series.dtype.is_numeric() else Text.of(series.to_list())
    holdout = frame["__holdout__"].to_numpy() if "__holdout__" in frame.columns else None
    found = partition.assign_parts(rule, columns, holdout)
    unseen = partition.surely_unseen(rule, found.parts, found.draws, found.row_hash)
    return Placed(found.parts, partition.calib_rows(rule, found.parts) & unseen.any(axis=1), unseen)


def score_champion(bundle: Bundle, table: Table, index: Ints) -> Champion:
    """Score the champion on the rows `index`, under the utility now; raises MismatchError where the table of now does not fit it."""
    if sorted(bundle.classes) != sorted(table.classes):
        remedy = "Compare it by hand and promote with a reason."
        raise MismatchError(str(must(f"the champion's classes must be {table.classes}", f"they are {bundle.classes}", remedy)))
    try:
        placed = placed_under(bundle.schema["split"], table)
    except ExpostError as error:
        raise MismatchError(str(error)) from error
    scored = score(bundle, table, index, placed.unseen)
    known = bundle.actions_named
    if sorted(known) == sorted(table.actions):
        moved = np.array([table.actions.index(name) for name in known], dtype=np.int64)
        actions = np.where(scored.actions >= 0, moved[np.maximum(scored.actions, 0)], -1)
        return Champion(Scored(scored.probability, actions, scored.embedding), placed, (), "as it reigns")
    note = f"The champion's actions {known} are not those of params.yaml now; it is re-decided analytically under the utility now."
    return Champion(redecided(scored, worth.take(table.U, index)), placed, (note,), "re-decided analytically")


def redecided(scored: Scored, U: Floats) -> Scored:
    """The same probabilities `(n, K)`, decided analytically under `U`, one matrix or one per row."""
    usable = np.isfinite(scored.probability).all(axis=1)
    actions = np.full(usable.size, -1, dtype=np.int64)
    actions[usable] = policy.analytic_actions(scored.probability[usable], worth.take(U, usable))
    return Scored(scored.probability, actions, scored.embedding)


def champion_bundle(status: dict[str, Any]) -> Bundle | Refused | None:
    """The champion's verified bundle, None where none reigns, or why it cannot be used."""
    if status["state"] != "champion":
        return None
    return load_bundle(store.stage_path("champion", "bundle"), status["bundle_sha256"])


def load_bundle(folder: Path, bundle_sha256: str) -> Bundle | Refused:
    """The verified bundle in a folder of the stage champion, or why it cannot be used."""
    try:
        bundle = Bundle.load(folder)
    except ExpostError as error:
        return Refused(str(error), broken=True)
    if bundle.manifest["bundle_sha256"] != bundle_sha256:
        rule = f"{folder.as_posix()} must be the one that status.json names"
        return Refused(str(must(rule, "the digests differ", "Run `dvc repro champion`.")), broken=True)
    return bundle


def compare(bundle: Bundle, table: Table, index: Ints, ours: Scored, same: bool) -> Champion | Refused:
    """The champion's scores, or why it cannot be scored; an identical one is not scored twice."""
    if same:
        return Champion(ours, Placed(table.parts, table.calib, table.unseen), (), "as it reigns")
    try:
        return score_champion(bundle, table, index)
    except MismatchError as error:
        return Refused(str(error), broken=False)
    except ExpostError as error:
        return Refused(str(error), broken=True)
