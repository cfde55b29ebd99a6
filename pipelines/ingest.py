"""Stage `ingest`: the source becomes one typed Parquet table with a role per column.

Reads data/raw; writes data/ingest/table.parquet and schema.json, and images.npy where a column holds images: the table then has a name of
each image's pixels.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import pictures, store
from pipelines.errors import must
from pipelines.params import load, short
from pipelines.params.ingest import Ingest
from pipelines.tables import HOLDOUT, as_text, raw_path, read_table, typed

if TYPE_CHECKING:
    import polars as pl

_ROW = "__row__"


def read_source(path: Path, params: Ingest) -> pl.DataFrame:
    """Read one raw table, number its rows (`__row__`, from 1, for messages) and keep those that `where` accepts."""
    import polars as pl

    if not path.exists() and not any(mark in str(path) for mark in "*?["):
        rule = f"{path} must hold the table that ingest.source names"
        raise must(rule, "it is missing", "Run `expost retrain`, which reads the source, or `dvc pull` where it was pushed before.")
    text = [name for name, column in params.columns.items() if column.kind in ("category", "text")]
    frame = read_table(path, text).with_row_index(_ROW, offset=1)
    if not params.where:
        return frame
    try:
        # Types as `init` saw them, since a condition must mean the same here, where CSV categories are read as text.
        kept = read_table(path).with_row_index(_ROW, offset=1).filter(pl.sql_expr(params.where))[_ROW]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        got = f"{params.where!r} gives: {' '.join(str(error).split())[:300]}"
        remedy = "Mend it; text stands in single quotes, names of columns in double quotes."
        raise must("ingest.where must be an SQL condition over the table's columns", got, remedy) from error
    return frame[kept - 1]


def check_columns(found: Sequence[str], params: Ingest, path: Path) -> None:
    """Raise ExpostError where the target or a declared column is not in the table, naming the nearest names."""
    for name in (params.target, *(name for name, column in params.columns.items() if column.role != "ignored")):
        if name not in found:
            folded = {other.casefold(): other for other in found if other != _ROW}
            close = [folded[near] for near in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
            hint = f"the nearest names are {close}" if close else f"it has {[other for other in found if other != _ROW][:10]}"
            what, key = ("the target", "ingest.target") if name == params.target else ("column", f"ingest.columns.{name}")
            raise must(
                f"the table in {path} must have {what} {name!r}", f"it has none; {hint}", f"Mend {key} in params.yaml, or the table."
            )


def read_images(frame: pl.DataFrame, params: Ingest) -> pictures.Pixels | None:
    """Images (n, C, H, W) of the table in their declared form, None where it has no column of them; errors as `pictures.pixels`."""
    if params.picture is None or params.image is None:
        return None
    files = frame[pictures.FILE] if pictures.FILE in frame.columns else None
    return pictures.pixels(frame[params.picture], params.image.model_dump(), frame[_ROW], files)


def type_table(frame: pl.DataFrame, params: Ingest, images: pictures.Pixels | None = None) -> pl.DataFrame:
    """Typed columns with a role other than ignored, then the target as text; raises ExpostError for values that have no such form."""
    import polars as pl

    rows = frame[_ROW]
    kinds: dict[str, str] = {name: column.kind for name, column in params.columns.items() if column.role != "ignored"}
    picture = params.picture
    table = typed(frame, {name: kind for name, kind in kinds.items() if name != picture}, rows)
    if images is not None and picture is not None:  # in its place: the name of its pixels, by which equal images are found
        table = pictures.placed(table, pl.Series(picture, pictures.digests(images), dtype=pl.String), list(kinds))
    for name, kind in kinds.items():
        if kind in ("number", "date") and (infinite := table[name].is_infinite().fill_null(False)).any():
            where = ", ".join(f"row {row}" for row in rows.filter(infinite).head(5))
            remedy = "Mend the values, write missing ones as empty, or drop the rows with ingest.where."
            raise must(f"column {name!r} must hold finite numbers", f"{int(infinite.sum())} are infinite ({where})", remedy)
    return table.with_columns(as_text(frame[params.target]).alias(params.target))


def check_target(target: pl.Series, classes: Sequence[str]) -> None:
    """Raise ExpostError where the target is missing, constant, of an undeclared class, or a declared class never occurs."""
    name, quoted = target.name, "Class names are text: quote them in params.yaml."
    if target.has_nulls():
        remedy = f"Fill them in, or drop the rows with ingest.where: '\"{name}\" IS NOT NULL'."
        raise must(f"the target {name!r} must be there in every row", f"{target.null_count()} of {len(target)} rows have none", remedy)
    counts = dict(sorted(target.value_counts().iter_rows()))
    if len(counts) == 1:
        raise must(
            f"the target {name!r} must not be constant", f"every row has {next(iter(counts))!r}", "Check ingest.target and ingest.where."
        )
    if undeclared := [value for value in counts if value not in classes]:
        got = ", ".join(f"{value!r} ({counts[value]} rows)" for value in undeclared[:10])
        raise must(f"the target {name!r} must have the classes {list(classes)}", f"it also has {got}", f"Declare or mend them. {quoted}")
    if absent := [value for value in classes if value not in counts]:
        raise must(
            f"every class of {name!r} must occur", f"{absent} never does; the table has {list(counts)}", f"Mend ingest.classes. {quoted}"
        )


def check_features(table: pl.DataFrame, features: Sequence[str]) -> None:
    """Raise ExpostError where a feature holds nothing to learn from: all missing, or one value and none missing."""
    for name in features:
        column = table[name]
        if column.null_count() == len(column):
            got = "every value is missing"
        elif not column.has_nulls() and column.n_unique() == 1:
            got = f"every row has {column[0]!r}"
        else:
            continue
        raise must(f"feature {name!r} must vary", got, f"Mend the source, or set ingest.columns.{name}.role to ignored in params.yaml.")


#: Distinct values of a category above which it may be none: names of things and sentences have about as many as there are rows.
SUSPICIOUS, MOST_VALUES = 10_000, 200_000


def check_categories(table: pl.DataFrame, names: Sequence[str]) -> None:
    """Raise ExpostError where a category is no category: more than 10,000 values in over half of its rows, or more than 200,000."""
    for name in names:
        column = table[name].drop_nulls()
        distinct = column.n_unique()
        if distinct <= SUSPICIOUS or (distinct <= MOST_VALUES and 2 * distinct <= len(column)):
            continue
        key = f"ingest.columns.{name}"
        remedy = (
            f"Set {key}.kind to text in params.yaml where it holds words, or {key}.role to key, group or ignored where it names rows or things; "
            "where it is a code, keep the part of it that groups the rows."
        )
        got = f"it has {distinct} in {len(column)} rows, such as {short(column[0])!r}"
        raise must(f"feature {name!r} is declared as a category, whose values must repeat", got, remedy)


def check_weights(table: pl.DataFrame, name: str, rows: pl.Series) -> None:
    """Raise ExpostError where the column with the role weight, a count of identical rows, is missing, below 1 or no whole number."""
    column = table[name]
    wrong = column.is_null() | (column < 1).fill_null(False) | (column != column.round(0)).fill_null(False)
    if wrong.any():
        shown = ", ".join(
            f"row {row}: {'missing' if value is None else f'{value:g}'}"
            for row, value in zip(rows.filter(wrong).head(5), column.filter(wrong).head(5), strict=True)
        )
        rule = f"column {name!r} has the role weight: it counts how often an identical row occurred, and must hold whole numbers from 1"
        remedy = "Mend the counts, or drop the rows with ingest.where. Costs are no weights: they belong to utility.matrix, which training never sees."
        raise must(rule, f"{int(wrong.sum())} of {len(column)} are not ({shown})", remedy)


def schema_of(params: Ingest, rows: int, notes: list[str]) -> dict[str, Any]:
    """The content of schema.json: target, classes, columns with a role other than ignored in the order declared, rows, notes."""
    kept = [(name, column) for name, column in params.columns.items() if column.role != "ignored"]
    columns = [{"name": name, "role": column.role, "kind": column.kind} for name, column in kept]
    schema = {"target": params.target, "classes": list(params.classes), "columns": columns, "rows": rows, "notes": notes}
    return schema if params.picture is None or params.image is None else {**schema, "image": params.image.model_dump()}


def notes_on(frame: pl.DataFrame, rows: int, params: Ingest) -> list[str]:
    """What a reader should know: columns of the table that params.yaml does not declare, images whose colours are lost, rows kept."""
    unknown = [name for name in frame.columns if name not in params.columns and name not in (params.target, _ROW)]
    notes = [f"columns without a role in params.yaml are left out: {', '.join(unknown)}"] if unknown else []
    if params.picture is not None and params.image is not None and params.image.channels == 1:
        coloured = pictures.looks_of(frame[params.picture]).coloured
        notes += [f"{coloured} of {rows} images are stored in colours and read as grey: ingest.image.channels is 1"] if coloured else []
    return [*notes, f"ingest.where keeps {rows} rows: {params.where}"] if params.where else notes


def main() -> None:
    """Run the stage in the workspace that is the current directory."""
    import polars as pl

    params = load(Ingest)
    tables, notes, found = [], list[str](), list[pictures.Pixels]()
    for source, name in ((params.source, "table"), (params.holdout_source, "holdout")):
        if source is None:
            continue
        path = raw_path(source, name)
        frame = read_source(path, params)
        check_columns(frame.columns, params, path)
        if frame.is_empty():
            raise must(
                f"the table in {path} must have rows",
                "it has none" + (" that ingest.where accepts" if params.where else ""),
                "Check the source.",
            )
        images = read_images(frame, params)
        found += [] if images is None else [images]
        table = type_table(frame, params, images)
        if params.weight is not None:
            check_weights(table, params.weight, frame[_ROW])
        tables.append(table if params.holdout_source is None else table.with_columns(pl.lit(name == "holdout").alias(HOLDOUT)))
        notes += [note for note in notes_on(frame, len(frame), params) if note not in notes]
    table = pl.concat(tables, rechunk=True)
    check_target(table[params.target], params.classes)
    check_features(table, params.features)
    check_categories(table, [name for name in params.features if params.columns[name].kind == "category"])
    with store.stage_folder("ingest") as out:
        table.write_parquet(out / "table.parquet", compression="zstd", compression_level=3, statistics=False, row_group_size=250_000)
        store.write_json(out / "schema.json", schema_of(params, len(table), notes))
        if found:
            np.save(out / "images.npy", np.concatenate(found), allow_pickle=False)


if __name__ == "__main__":
    store.run_stage(main)
