"""Files of rows: read and written in batches, CSV, TSV or Parquet, so that memory does not grow with the file."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipelines import pictures
from pipelines.errors import must
from pipelines.tables import DELIMITED, PARQUET, check_lines, clean_name, read_table, reason

if TYPE_CHECKING:
    import polars as pl

BATCH, IMAGES = 50_000, 500
FORMATS = "Use a file name that ends in .csv, .tsv or .parquet."


def check_paths(source: Path, target: Path) -> None:
    """Raise ExpostError unless `source` is a file of a known format and `target` can be another one."""
    if not source.exists() or (source.is_dir() and not has_images(source)):
        got = f"{source} is {'a folder without images' if source.is_dir() else 'missing'}"
        raise must("the input must be a CSV, TSV or Parquet file, or images", got, "Check the path.")
    if not has_images(source) and not source.name.lower().endswith((*PARQUET, *DELIMITED)):
        raise must("the input must be a CSV, TSV or Parquet file", f"it is named {source.name}", FORMATS)
    if not target.name.lower().endswith((*PARQUET, ".csv", ".tsv")):
        raise must("the output must be a CSV, TSV or Parquet file", f"it is named {target.name}", FORMATS)
    if not target.parent.is_dir():
        raise must("the output's folder must exist", f"there is no folder {target.parent}", "Make it, or mend the path.")
    if target.is_dir() or (target.exists() and target.samefile(source)):
        raise must("the output must be another file than the input", f"got {target}", "Name another file.")


def has_images(source: Path) -> bool:
    """Whether a source is an archive of images, one image, or a folder that holds some."""
    if source.is_dir():
        return any(pictures.is_picture(path.name) for path in source.rglob("*"))
    return pictures.is_archive(source.name) or pictures.is_picture(source.name)


def is_parquet(name: str) -> bool:
    """Whether a file of this name is Parquet."""
    return name.lower().endswith(PARQUET)


def scan(source: Path) -> pl.LazyFrame:
    """A lazy frame over the file, its columns named as everywhere; CSV fields are text, as the bundle reads every kind from text."""
    import polars as pl

    if has_images(source):
        return read_table(source).lazy()
    if is_parquet(source.name):
        with readable(source):
            frame = pl.scan_parquet(source)
            names = frame.collect_schema().names()
    else:
        with readable(source), _open(source) as stream:
            first = stream.readline()
            tab = source.name.lower().removesuffix(".gz").endswith((".tsv", ".tab"))
            separator = "\t" if tab else max(",;\t|", key=first.count)
            stream.seek(0)
            names = next(csv.reader(stream, delimiter=separator), [])
            if not names:
                raise must(f"{source} must have rows", "it is empty", "Nothing was written; give a table with rows.")
            check_lines(source, len(names), separator)
            frame = pl.scan_csv(source, separator=separator, infer_schema=False)
    clean = [clean_name(name) for name in names]
    twice = sorted(name for name, count in Counter(clean).items() if count > 1)
    if twice:
        raise must(f"the columns of {source.name} must have distinct names", f"{', '.join(twice)} occurs twice", "Rename one of them.")
    return frame.rename(dict(zip(frame.collect_schema().names(), clean, strict=True)))


def known_rows(source: Path) -> int | None:
    """Number of rows where the file says it without being read: Parquet's footer."""
    if has_images(source) or not is_parquet(source.name):
        return None
    import polars as pl

    with readable(source):
        return int(pl.scan_parquet(source).select(pl.len()).collect().item())


def _open(source: Path) -> IO[str]:
    if source.name.lower().endswith(".gz"):
        return gzip.open(source, "rt", encoding="utf-8-sig", newline="")
    return source.open(encoding="utf-8-sig", newline="")


@contextmanager
def readable(source: Path) -> Iterator[None]:
    """Turn what a reader raises into one ExpostError that names the file."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise must(f"{source} must be a readable table", reason(error), "It may be truncated or not UTF-8; fetch it again.") from error


def batches(frame: pl.LazyFrame, source: Path) -> Iterator[pl.DataFrame]:
    """Frames of at most `BATCH` rows, far fewer of images, in the file's order."""
    import polars as pl

    with readable(source):
        plain = not any(kind.is_nested() or kind.is_(pl.Binary) for kind in frame.collect_schema().dtypes())
        size = BATCH if plain else IMAGES
        found = iter(frame.collect_batches(chunk_size=size, maintain_order=True))
    while True:
        with readable(source):
            batch = next(found, None)
        if batch is None:
            return
        if len(batch):
            yield from batch.iter_slices(size)


@contextmanager
def writer(path: Path, name: str) -> Iterator[Callable[[pl.DataFrame], None]]:
    """A function that appends frames to `path` in the format that `name` ends with."""
    if not is_parquet(name):
        separator = "\t" if name.lower().endswith(".tsv") else ","
        with path.open("wb") as stream:
            yield lambda frame: frame.write_csv(stream, include_header=stream.tell() == 0, separator=separator)
        return
    import pyarrow.parquet as pq

    made = None

    def write(frame: pl.DataFrame) -> None:
        nonlocal made
        table = frame.to_arrow()
        made = made or pq.ParquetWriter(path, table.schema, compression="zstd")
        made.write_table(table)

    try:
        yield write
    finally:
        if made is not None:
            made.close()
