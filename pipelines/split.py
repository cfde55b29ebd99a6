"""Stage `split`: each row's part - train, valid, calib or holdout - by a rule that is stable as data grows, and typed arrays.

Reads data/ingest; writes the arrays of data/split and meta.json, whose `rule` ships in the bundle.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines import store
from pipelines.core import words
from pipelines.core.partition import PARTS, Assignment, assign_parts, before_holdout, calib_rows, judging, needed, unseen
from pipelines.core.rowhash import HASH, Column, Text
from pipelines.errors import must
from pipelines.params import load
from pipelines.params.split import Split
from pipelines.tables import HOLDOUT, arrays

if TYPE_CHECKING:
    from pathlib import Path

_NUMERIC = ("number", "date")


def make_rule(params: Split, schema: dict[str, Any], second_file: bool = False) -> dict[str, Any]:
    """The rule as JSON: all that `assign_parts` needs to give the same rows the same parts, in this workspace or from a bundle."""
    kinds = {column["name"]: column["kind"] for column in schema["columns"]}
    features = [column["name"] for column in schema["columns"] if column["role"] in ("feature", "feature+cost")]
    rule: dict[str, Any] = {
        "by": params.by,
        "hash": HASH,
        "salt": params.salt,
        "columns": sorted(params.columns or features),
        "shares": {part: getattr(params.shares, part) for part in PARTS},
        "group": _with_role("group", schema),
        "second_file": second_file,
    }
    if params.by == "time":
        assert params.time is not None
        valid, calib, holdout = params.time.days
        rule["time"] = {"name": _time_column(schema), "valid_from": valid, "calib_from": calib, "holdout_from": holdout}
    if params.by == "column":
        assert params.column is not None
        rule["column"] = {"name": params.column.name, "parts": dict(params.column.parts)}
    for name in needed(rule):
        if name not in kinds:
            remedy = f"Give it a role, such as key, in params.yaml, or change split; its columns are {list(kinds)[:20]}."
            raise must(f"the split needs column {name!r}", "it has no role other than ignored under ingest.columns", remedy)
    rule["types"] = {name: "number" if kinds[name] in _NUMERIC else "text" for name in needed(rule)}
    if params.by == "column" and rule["types"][rule["column"]["name"]] != "text":
        name = rule["column"]["name"]
        raise must("split.column must be of kind category or boolean", f"{name!r} is {kinds[name]}", f"Change ingest.columns.{name}.kind.")
    return rule


def _with_role(role: str, schema: dict[str, Any]) -> str | None:
    return next((column["name"] for column in schema["columns"] if column["role"] == role), None)


def _time_column(schema: dict[str, Any]) -> str:
    found = [(column["name"], column["kind"]) for column in schema["columns"] if column["role"] == "time"]
    if len(found) != 1 or found[0][1] != "date":
        got = f"found {found}" if found else "there is none"
        raise must("split.by: time needs exactly one column with role time and kind date", got, "Mend ingest.columns, or use by: hash.")
    return str(found[0][0])


#: Rows before the holdout up to which networks are trained on so many folds of them, drawn so often: each costs about a training, and they gain
#: most where rows are few (benchmarks/folds.py, LOG.md).
FOLDED = ((2_000, 5, 2), (10_000, 5, 1), (50_000, 3, 1))


def folding(params: Split, rule: dict[str, Any], assignment: Assignment, labels: npt.NDArray[np.int64], classes: list[str]) -> Any:
    """Count and repetitions of the folds as the rule records them, or None for one network on the part train.

    `auto` takes folds as `FOLDED` says, where each holds every class in rows without an equal one in another fold: then each network learns
    from every class too. Raises ExpostError where folds asked for by number lack a class.
    """
    before = before_holdout(assignment.parts)
    rows = int(before.sum())
    worth = next(((folds, times) for most, folds, times in FOLDED if rows <= most), None)
    if params.folds is None or (params.folds == "auto" and (not params.may_fold or worth is None)):
        return None
    usual, often = worth or (0, 1)
    repeats = often if params.repeats == "auto" else params.repeats
    count = usual if params.folds == "auto" else params.folds
    made = {"count": count, "repeats": repeats}
    left_out = unseen({**rule, "folds": made}, assignment.parts, assignment.draws, assignment.row_hash)[before]
    held = [np.bincount(labels[before][mask], minlength=len(classes)) for mask in judging(left_out, repeats).T]
    least, name = min((int(rows), name) for counted in held for rows, name in zip(counted, classes, strict=True))
    if least:
        return made
    if params.folds == "auto":
        return None
    total = int((labels[before] == classes.index(name)).sum())
    remedy = "Ask for fewer folds under split.folds, write folds: auto, or add rows."
    apart = " but rows with an equal one in another fold" if rule.get("group") else ""
    got = f"one holds none of the {total} rows of class {name!r}{apart}"
    raise must(f"each of the {count} folds must hold rows of every class", got, remedy)


def sizes(assignment: Assignment, labels: npt.NDArray[np.int64], classes: int) -> dict[str, Any]:
    """Rows and rows per class of each part, and how many copies were excluded and why."""
    counted: dict[str, Any] = {}
    for code, part in enumerate(PARTS):
        here = labels[assignment.parts == code]
        counted[part] = {"rows": len(here), "per_class": np.bincount(here, minlength=classes).tolist()}
    excluded = {"groups": assignment.group_copies, "duplicates": assignment.row_copies}
    return {**counted, "excluded": {"rows": sum(excluded.values()), **excluded}}


def check_sizes(counted: dict[str, Any], classes: list[str], params: Split) -> None:
    """Raise ExpostError where a part has fewer than `split.min_rows_per_class` rows of a class, with the rows needed about in total."""
    short = [(part, i) for part in PARTS for i in range(len(classes)) if counted[part]["per_class"][i] < params.min_rows_per_class]
    if not short:
        return
    part, i = min(short, key=lambda item: counted[item[0]]["per_class"][item[1]])
    got = f"{part} has {counted[part]['per_class'][i]} rows of class {classes[i]!r}"
    others = sorted({f"{other}/{classes[j]}" for other, j in short} - {f"{part}/{classes[i]}"})
    got += f" (too few also in {', '.join(others[:6])})" if others else ""
    got += f"; {counted['excluded']['rows']} copies were excluded" if counted["excluded"]["rows"] else ""
    total = sum(counted[other]["per_class"][i] for other in PARTS)
    if params.by == "hash":
        wanted = rows_needed(params.min_rows_per_class, getattr(params.shares, part))
        remedy = f"About {wanted} rows of class {classes[i]!r} are needed in total, there are {total}: add rows, or change split.shares."
    else:
        remedy = f"There are {total} rows of that class in all: move the limits under split.{params.by}, or add rows."
    raise must(f"each part must have at least {params.min_rows_per_class} rows of each class (split.min_rows_per_class)", got, remedy)


def rows_needed(least: int, share: float) -> int:
    """Rows of a class in total with which a part of this share has at least `least` of them 97 times in 100 (normal approximation)."""
    root = math.sqrt(1 - share) + math.sqrt(1 - share + least)  # solves n share - 2 sqrt(n share (1 - share)) = least for n
    return math.ceil(root**2 / share)


def feature_arrays(columns: dict[str, Column], schema: dict[str, Any]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """numbers (n, F) float64 with NaN for missing, categories (n, C) int32 with -1 for missing, text (n, T, L) uint16; names and vocabularies.

    Text is hashed here, which is fitted on nothing: L is the longest row's number of words, pairs and pieces.
    """
    kinds = {column["name"]: column["kind"] for column in schema["columns"] if column["role"] in ("feature", "feature+cost")}
    numbers = {name: column for name in kinds if not isinstance(column := columns[name], Text)}
    texts = {name: column for name, kind in kinds.items() if isinstance(column := columns[name], Text) and kind not in ("text", "image")}
    hashed = {
        name: words.ids(column.values)[column.codes]
        for name, kind in kinds.items()
        if isinstance(column := columns[name], Text) and kind == "text"
    }
    longest = max((int((found != words.FILL).sum(axis=1).max()) for found in hashed.values()), default=0)
    stacked = {
        "numbers": np.column_stack(list(numbers.values())) if numbers else np.empty((schema["rows"], 0), dtype=np.float64),
        "categories": np.column_stack([text.codes for text in texts.values()]) if texts else np.empty((schema["rows"], 0), dtype=np.int32),
        "text": np.stack([found[:, :longest] for found in hashed.values()], axis=1)
        if hashed
        else np.empty((schema["rows"], 0, 0), dtype=np.uint16),
    }
    names = {
        "numbers": list(numbers),
        "categories": list(texts),
        "texts": list(hashed),
        "vocabularies": {name: list(text.values) for name, text in texts.items()},
    }
    return stacked, names


def picture_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Name and form of the column of images, or nothing."""
    name = next((column["name"] for column in schema["columns"] if column["kind"] == "image"), None)
    return {} if name is None else {"image": {"name": name, **schema["image"]}}


def weights_of(columns: dict[str, Column], schema: dict[str, Any]) -> npt.NDArray[np.float64]:
    """How often each row occurred, (n,) float64: the column with the role weight, or ones."""
    name = _with_role("weight", schema)
    return np.ones(schema["rows"]) if name is None else np.asarray(columns[name], dtype=np.float64)


def write(out: Path, saved: dict[str, npt.NDArray[Any]], meta: dict[str, Any]) -> None:
    """Write the arrays as <name>.npy, to be memory-mapped, and meta.json."""
    for name, array in saved.items():
        np.save(out / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
    store.write_json(out / "meta.json", meta)


def main() -> None:
    """Run the stage in the workspace that is the current directory."""
    import polars as pl

    params, schema = load(Split), store.read_json(store.stage_path("ingest", "schema.json"))
    table = pl.read_parquet(store.need(store.stage_path("ingest", "table.parquet")))
    rule = make_rule(params, schema, HOLDOUT in table.columns)
    columns = arrays(table, [column["name"] for column in schema["columns"]])
    second = table[HOLDOUT].to_numpy() if HOLDOUT in table.columns else None
    assignment = assign_parts(rule, columns, second)
    classes = schema["classes"]
    labels = table[schema["target"]].cast(pl.Enum(classes)).to_physical().cast(pl.Int64).to_numpy()
    counted = sizes(assignment, labels, len(classes))
    check_sizes(counted, classes, params)
    rule["folds"] = folding(params, rule, assignment, labels, classes)
    stacked, names = feature_arrays(columns, schema)
    weights = weights_of(columns, schema)
    aligned = {
        "labels": labels,
        "weights": weights,
        "parts": assignment.parts,
        "groups": assignment.groups,
        "row_hash": assignment.row_hash,
        "unseen": unseen(rule, assignment.parts, assignment.draws, assignment.row_hash),
        "calib": calib_rows(rule, assignment.parts),
    }
    with store.stage_folder("split") as out:
        write(out, {**stacked, **aligned}, {"rule": rule, **names, **picture_of(schema), "classes": classes, "sizes": counted})
        if "image" in schema:
            store.link(store.stage_path("ingest", "images.npy"), out / "images.npy")


if __name__ == "__main__":
    store.run_stage(main)
