"""The profile of the table that a model was made from, and what changed since the champion's: rows, columns, and each feature's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines import store, tables
from pipelines.core import drift
from pipelines.core.bounds import effective_size

if TYPE_CHECKING:
    import polars as pl

    from pipelines.core.rowhash import Column

FORMAT = 1
#: Values that appeared or went which a comparison names at most.
NAMED = 10


def profile(
    frame: pl.DataFrame, schema: Mapping[str, Any], weights: ArrayLike | None = None, groups: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """Profile of a typed table of `n` rows: its columns, and per feature and for the target counts as `core/drift.py` makes them.

    `schema` is ingest's; a row counts `weights` times, and rows of one of the `groups` `(n,)` are worth one row in tests.
    """
    features, target = _features(schema), schema["target"]
    columns = _arrays(frame, [*features, target], schema["columns"])
    return {
        "format": FORMAT,
        "rows": frame.height,
        "effective_rows": _effective(frame.height, weights, groups),
        "columns": [*schema["columns"], {"name": target, "role": "target", "kind": "category"}],
        "features": {name: drift.describe(columns[name], weights) for name in features},
        "target": {"name": target, **drift.describe(columns[target], weights, listed=len(schema["classes"]), least=1)},
    }


def _arrays(frame: pl.DataFrame, names: Sequence[str], declared: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Columns as they are counted: free text, whose values hardly repeat, by its length in characters."""
    texts = {column["name"] for column in declared if column["kind"] == "text"}
    lengths = [frame[name].str.len_chars().cast(float) for name in names if name in texts]
    return tables.arrays(frame.with_columns(lengths), names)


def _features(schema: Mapping[str, Any]) -> list[str]:
    return [column["name"] for column in schema["columns"] if column["role"].startswith("feature") and column["kind"] != "image"]


def _effective(rows: int, weights: ArrayLike | None, groups: NDArray[np.int64] | None) -> float:
    heavy = np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)
    return effective_size(heavy if groups is None else np.bincount(np.unique(groups, return_inverse=True)[1], weights=heavy))


def compare(old: Mapping[str, Any], new: Mapping[str, Any], frame: pl.DataFrame, weights: ArrayLike | None = None) -> dict[str, Any]:
    """What changed since the table of the profile `old`; `new` is the profile of `frame`, which is counted in the bins of `old`.

    Features (and the target, in its own entry) have `psi`, `psi_noise` (what sampling alone gives), `tv`, `ks` (null for categories), `p_value`,
    `missing_before`, `missing_now` (shares), `bins` (edges or values, shares before and now), values that `appeared` or went (`gone`) and a `word`:
    stable, moved, moved much. Features of one table alone are listed under `schema` only.
    """
    kinds = [{column["name"]: column["kind"] for column in item["columns"]} for item in (old, new)]
    names = [name for name in old["features"] if name in new["features"] and kinds[0][name] == kinds[1][name]]
    target = old["target"]["name"] == new["target"]["name"]
    pairs = {name: (old["features"][name], new["features"][name]) for name in names}
    if target:
        pairs[new["target"]["name"]] = (old["target"], new["target"])
    columns = _arrays(frame, [*pairs], new["columns"])
    found = []
    for name, (before, after) in pairs.items():
        cells = drift.counted(before), drift.count(before, columns[name], weights)
        found.append(_entry(name, before, after, cells[0].scaled(old["effective_rows"]), cells[1].scaled(new["effective_rows"])))
    words = drift.words([moved for _, moved in found])
    entries = [{**entry, "word": word} for (entry, _), word in zip(found, words, strict=True)]
    return {
        "rows_before": old["rows"],
        "rows_now": new["rows"],
        "schema": _schema_changes(old["columns"], new["columns"]),
        "features": entries[: len(names)],
        "target": entries[-1] if target else None,
        "levels": {"alpha": drift.ALPHA, "moved": drift.MOVED, "moved_much": drift.MUCH},
    }


def _entry(
    name: str, before: Mapping[str, Any], after: Mapping[str, Any], old: drift.Cells, now: drift.Cells
) -> tuple[dict[str, Any], drift.Shift]:
    ordered = "edges" in before
    moved = drift.shift(old, now, ordered=ordered)
    place = "edges" if ordered else "values"
    entry = {
        "feature": name,
        "psi": moved.psi,
        "psi_noise": moved.noise,
        "tv": moved.tv,
        "ks": moved.ks,
        "p_value": moved.p_value,
        "missing_before": _share(old.missing, old),
        "missing_now": _share(now.missing, now),
        "bins": {place: before[place], "before": _shares(old, ordered), "now": _shares(now, ordered)},
    }
    if not ordered:
        entry["appeared"] = [value for value in after["values"] if value not in before["values"]][:NAMED]
        entry["gone"] = [value for value, rows in zip(before["values"], now.values, strict=True) if not rows][:NAMED]
    return entry, moved


def _share(rows: float, cells: drift.Cells) -> float:
    return rows / cells.total if cells.total else 0.0


def _shares(cells: drift.Cells, ordered: bool) -> list[float]:
    """Shares of the bins; of the listed values and, last, of all others."""
    return [_share(rows, cells) for rows in (*cells.values.tolist(), *([] if ordered else [cells.other]))]


def _schema_changes(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    before, now = ({column["name"]: f"{column['kind']}, {column['role']}" for column in columns} for columns in (old, new))
    return {
        "added": [name for name in now if name not in before],
        "removed": [name for name in before if name not in now],
        "retyped": [
            {"column": name, "before": before[name], "now": now[name]} for name in now if name in before and before[name] != now[name]
        ],
    }


def write(out: Path, frame: pl.DataFrame, weights: ArrayLike | None, groups: NDArray[np.int64] | None) -> None:
    """Write profile.json and changes.json into the folder `out`: changes since the champion's profile, null where it has none."""
    made = profile(frame, store.read_json(store.stage_path("ingest", "schema.json")), weights, groups)
    path = store.stage_path("champion", "profile.json")
    old = store.read_json(path) if path.exists() else None
    changes = compare(old, made, frame, weights) if isinstance(old, dict) and old.get("format") == FORMAT else None
    store.write_json(out / "profile.json", made)
    store.write_json(out / "changes.json", changes)
