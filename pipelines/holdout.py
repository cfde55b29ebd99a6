"""The rows of the holdout with what each model did on them: what evaluate hands to the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contest import Table
from pipelines.core import evaluation, metrics
from pipelines.core import utility as worth
from pipelines.core.evaluation import Cases, Rows, Scored
from pipelines.core.rowhash import row_hashes
from pipelines.rivals import Other
from pipelines.tables import arrays

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Models = Mapping[str, tuple[Scored, Rows, Bools]]


@dataclass(frozen=True)
class Judged:
    """The holdout's cases, the best blind policy's shares `(A,)` and the class prior `(K,)`, and each model's scores, results and mask.

    `others` are the champion re-decided and the first champion, where there are any.
    """

    cases: Cases
    reference: tuple[Floats, Floats]
    models: Models
    others: Mapping[str, Other | None]


def look_hashes(frame: pl.DataFrame, schema: Mapping[str, Any]) -> NDArray[np.uint64]:
    """Hashes `(n,)` of the rows of the ingested table, by which looks at them are counted, whatever the split and the features are.

    A row is named by its values with the role key; one without any by all of its values but the target.
    """
    import polars as pl

    names = [column["name"] for column in schema["columns"]]
    keys = [column["name"] for column in schema["columns"] if column["role"] == "key"]
    every = row_hashes(arrays(frame, names))
    if not keys:
        return every
    named = frame.select(pl.any_horizontal(pl.col(keys).is_not_null())).to_series().to_numpy()
    return np.where(named, row_hashes(arrays(frame, keys)), every)


def frame_of(table: Table, holdout: Ints, judged: Judged, looked: NDArray[np.uint64], masks: Sequence[pl.Series] = ()) -> pl.DataFrame:
    """One row per holdout row; a model's columns are null where its mask is false, NaN where a number is none.

    `looked` `(n,)` are the hashes by which looks at these rows are counted, `masks` the slices'.
    """
    import polars as pl

    cases, (blind, prior) = judged.cases, judged.reference
    columns: list[pl.Series] = [
        pl.Series("row_hash", table.row_hash[holdout], dtype=pl.UInt64),
        pl.Series("look_hash", looked, dtype=pl.UInt64),
        pl.Series("group", cases.groups, dtype=pl.Int64),
        pl.Series("weight", cases.weights, dtype=pl.Float64),
        pl.Series("label", [table.classes[k] for k in cases.labels], dtype=pl.String),
        pl.Series("trivial_utility", worth.of_class(cases.U, cases.labels) @ blind),
        pl.Series("prior_log_loss", -np.log(prior[cases.labels])),
    ]
    for prefix, (scored, rows, mask) in judged.models.items():
        values = {f"probability_{name}": scored.probability[:, k] for k, name in enumerate(table.classes)}
        values |= {"utility": rows.utility, "log_loss": rows.log_loss, "brier": rows.brier}
        if rows.unavailable is None:
            values["v_information"] = rows.bits
        values["right"] = evaluation.right_rows(rows.utility, cases)
        values["knn"] = -(metrics.log_loss_rows(rows.neighbours, cases.labels) + np.log(prior[cases.labels])) / np.log(2)
        shown = pl.Series(mask)
        names = [table.actions[a] if a >= 0 else None for a in scored.actions]
        columns += [_masked(pl.Series(f"{prefix}_action", names, dtype=pl.String), shown)]
        columns += [_masked(pl.Series(f"{prefix}_{name}", column), shown) for name, column in values.items()]
        if rows.unavailable is not None:
            columns += [pl.Series(f"{prefix}_v_information", [None] * len(mask), dtype=pl.Float64)]
    for prefix, other in judged.others.items():
        if other is not None:
            pairs = {"utility": other.utility} | ({"right": other.right} if prefix == "redecided" else {})
            columns += [_masked(pl.Series(f"{prefix}_{name}", column), pl.Series(other.mask)) for name, column in pairs.items()]
    return pl.DataFrame([*columns, *masks])


def _masked(series: pl.Series, shown: pl.Series) -> pl.Series:
    return series.set(~shown, None)
