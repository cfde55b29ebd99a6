"""What the challenger is compared with beside the champion as it reigns: that champion re-decided, and the first champion as a floor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import comparator, store
from pipelines.bundle import Bundle
from pipelines.comparator import Procedure
from pipelines.contest import MismatchError, Refused, Table, load_bundle, score_champion
from pipelines.core import evaluation, partition
from pipelines.core import utility as worth
from pipelines.core.bounds import augmented_moments
from pipelines.core.evaluation import Cases, Display, Scored
from pipelines.errors import ExpostError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
HOLDOUT = partition.PARTS.index("holdout")


@dataclass(frozen=True)
class Other:
    """Utility `(n,)` of a rival on the holdout rows, whether its action is right `(n,)`, and the rows `(n,)` that it may be judged on."""

    utility: Floats
    right: Floats
    mask: Bools


def procedure_of(challenger: Bundle) -> Procedure:
    """How the challenger was decided, by its policy and, for a study of Optuna's, by what decide wrote of it."""
    kind = str(challenger.policy["kind"])
    if kind != "optuna":
        return Procedure(kind)
    study = store.read_json(store.stage_path("decide", "summary.json"))["search"]
    return Procedure(kind, int(study["trials"]), int(study["seed"]))


def redecided(champion: Scored, table: Table, index: Ints, fit: Bools, procedure: Procedure) -> Scored | None:
    """The champion decided anew on the rows `fit` of `index`; None where there is none, where nothing changes, or where it cannot be."""
    if not fit.any():
        return None
    try:
        made = comparator.redecided(champion, table, index, fit, procedure)
    except ExpostError:  # requirements that its probabilities cannot meet: as it reigns it keeps them, or it would not be compared so
        return None
    return None if np.array_equal(made.actions, champion.actions) else made


def other(scored: Scored, held: Bools, mask: Bools, cases: Cases) -> Other:
    """What a rival obtains on the holdout rows, `cases`; `held` are these among the rows scored, `mask` the comparable ones of them."""
    obtained = evaluation.utility_rows(scored.actions[held], cases.labels, cases.U)
    return Other(obtained, evaluation.right_rows(obtained, cases), mask)


@dataclass(frozen=True)
class First:
    """The first champion, or the latest that a person promoted by override: its version and results, or why it has none."""

    version: int | None
    results: Other | None
    reason: str | None = None
    broken: bool = False


def first_champion(status: dict[str, Any], table: Table, index: Ints, *, held: Bools, fit: Bools, procedure: Procedure) -> First | None:
    """Score the floor's anchor under the utility now, re-decided by the challenger's procedure; None where it is the champion itself."""
    anchor = status.get("first")
    if status["state"] != "champion" or not anchor:
        return None
    version = anchor.get("version")
    bundle = load_bundle(store.stage_path("champion", "first"), str(anchor.get("bundle_sha256")))
    if isinstance(bundle, Refused):
        return First(version, None, f"the first champion, version {version}, cannot be used: {bundle.reason.rstrip('.')}", broken=True)
    try:
        found = score_champion(bundle, table, index)
    except MismatchError as error:
        remedy = "Promote by hand with --override to make that version the floor"
        return First(
            version, None, f"the first champion, version {version}, does not fit the table now: {str(error).rstrip('.')}. {remedy}"
        )
    except ExpostError as error:
        return First(version, None, f"the first champion, version {version}, cannot be scored: {str(error).rstrip('.')}", broken=True)
    scored = redecided(found.scored, table, index, fit & found.placed.calib[index], procedure) or found.scored
    mask = found.placed.parts[index][held] == HOLDOUT
    if not mask.any():
        return First(version, None, f"no row was holdout for the first champion, version {version}, too")
    return First(version, other(scored, held, mask, table.cases(index[held])))


def shown(rival: Other | None, cases: Cases, display: Display) -> dict[str, Any] | None:
    """Utility of a rival on its rows with its interval; None where there is none."""
    if rival is None or not rival.mask.any():
        return None
    return asdict(evaluation.utility_interval(rival.utility[rival.mask], cases.take(rival.mask), display))


def difference(ours: Floats, rival: Other | None, cases: Cases, display: Display) -> dict[str, Any] | None:
    """Challenger minus rival on the rival's rows, with its interval."""
    if rival is None or not rival.mask.any():
        return None
    return asdict(evaluation.difference_interval((ours - rival.utility)[rival.mask], cases.take(rival.mask), display))


def calib_gain(champion: Scored, cases: Cases, blind: Floats) -> dict[str, Any]:
    """The champion's utility per case above the best blind policy's, of shares `blind` `(A,)`, on rows that are calib for both.

    It fixes the margin, and its standard error (with a worst-case pseudo-row) widens the test by how little is known of it.
    """
    if not cases.labels.size:
        return {"rows": 0, "utility": None, "trivial": None, "gain": None, "error": None}
    obtained = evaluation.utility_rows(champion.actions, cases.labels, cases.U)
    reference = worth.of_class(cases.U, cases.labels) @ blind
    error = augmented_moments(obtained - reference, -cases.reach, cases.groups, cases.unequal)[1]
    utility, trivial = (float(np.average(values, weights=cases.weights)) for values in (obtained, reference))
    return {"rows": int(cases.labels.size), "utility": utility, "trivial": trivial, "gain": utility - trivial, "error": error}


def flips(ours: Floats, theirs: Floats, cases: Cases, display: Display) -> dict[str, Any]:
    """Shares of the cases that the rival has right and the challenger wrong, and the other way round, with their intervals."""
    lost, won = ((theirs == 1) & (ours == 0)).astype(np.float64), ((theirs == 0) & (ours == 1)).astype(np.float64)
    named = {"negative": lost, "positive": won}
    return {name: asdict(evaluation.bounded_interval(values, cases, display, 0.0, 1.0)) for name, values in named.items()}


def data_sha256() -> str:
    """Digest of the table and of the parts that an evaluation was computed from."""
    import hashlib

    paths: tuple[Path, ...] = (store.stage_path("ingest", "table.parquet"), store.stage_path("split", "meta.json"))
    return hashlib.sha256("".join(store.sha256(store.need(path)) for path in paths).encode()).hexdigest()
