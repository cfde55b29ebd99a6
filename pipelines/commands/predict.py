"""Score a file of new rows with a bundle: read and written in batches, so memory does not grow with the file. No torch, no prefect."""

from __future__ import annotations

import csv
import difflib
import gzip
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from pipelines import store
from pipelines.bundle import Bundle
from pipelines.errors import must
from pipelines.tables import DELIMITED, PARQUET, check_lines, clean_name, reason

if TYPE_CHECKING:
    import polars as pl

BATCH = 50_000
FORMATS = "Use a file name that ends in .csv, .tsv or .parquet."


@dataclass(frozen=True)
class Prediction:
    """Rows scored, rows per column with a value unseen in training, rows per action, and whether a target column was ignored."""

    rows: int
    unseen: dict[str, int] = field(default_factory=dict)
    actions: dict[str, int] = field(default_factory=dict)
    target_ignored: bool = False


def say(text: str) -> None:
    """Print a remark on stderr, where it does not mix with results."""
    print(text, file=sys.stderr)


def predict(
    input: Path | str,
    output: Path | str,
    bundle_folder: Path | str,
    keep: Sequence[str] | Literal["all"] = (),
    report: Callable[[str], None] = say,
) -> Prediction:
    """Write `probability_<class>` per class, `action` and `expected_utility` of each input row, in order, after the columns to `keep`.

    CSV, TSV or Parquet in and out. CSV columns that are kept stay as written, as text. The output appears whole or not at all.
    Raises ExpostError for a missing or empty input, a missing feature column, values that cannot be read, a damaged bundle.
    """
    source, target = Path(input), Path(output)
    _check_paths(source, target)
    bundle = Bundle.load(bundle_folder)
    scan = _scan(source)
    names = scan.collect_schema().names()
    kept = _kept(keep, names, bundle)
    rows, unseen, actions = 0, Counter[str](), Counter[str]()
    progress = _Progress(report)
    with store.atomic_file(target) as temporary, _writer(temporary, target.name) as write:
        for frame in _batches(scan, source):
            scored, batch_unseen = _score(bundle, frame, first_row=rows + 1)
            write(frame.select(kept).hstack(scored) if kept else scored)
            rows += len(frame)
            unseen.update(batch_unseen)
            actions.update(scored["action"].to_list())
            progress.show(rows)
        if not rows:
            raise must(f"{source} must have rows", "it has none", "Nothing was written; give a table with rows.")
        progress.end()
    result = Prediction(rows, dict(unseen), dict(actions), bundle.schema["target"] in names)
    for line in remarks(result, bundle):
        report(line)
    return result


def remarks(result: Prediction, bundle: Bundle) -> list[str]:
    """What a user should know about a prediction, one sentence per line."""
    target = bundle.schema["target"]
    lines = [f"the input's column {target} is the target: it was not used for scoring"] if result.target_ignored else []
    for name, count in sorted(result.unseen.items()):
        lines.append(f"{count} of {result.rows} rows hold a value of {name} that training never saw; they were scored with a neutral one")
    return lines


def _check_paths(source: Path, target: Path) -> None:
    if not source.is_file():
        raise must(
            "the input must be a CSV, TSV or Parquet file", f"{source} is {'a folder' if source.is_dir() else 'missing'}", "Check the path."
        )
    if not source.name.lower().endswith((*PARQUET, *DELIMITED)):
        raise must("the input must be a CSV, TSV or Parquet file", f"it is named {source.name}", FORMATS)
    if not target.name.lower().endswith((*PARQUET, ".csv", ".tsv")):
        raise must("the output must be a CSV, TSV or Parquet file", f"it is named {target.name}", FORMATS)
    if target.is_dir() or (target.exists() and target.samefile(source)):
        raise must("the output must be another file than the input", f"got {target}", "Name another file.")


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(PARQUET)


def _scan(source: Path) -> pl.LazyFrame:
    """A lazy frame over the file; CSV fields are text, as the bundle reads every kind from text."""
    import polars as pl

    if _is_parquet(source.name):
        with _readable(source):
            scan = pl.scan_parquet(source)
            names = scan.collect_schema().names()
    else:
        with _readable(source), _open(source) as stream:
            first = stream.readline()
            tab = source.name.lower().removesuffix(".gz").endswith((".tsv", ".tab"))
            separator = "\t" if tab else max(",;\t|", key=first.count)
            stream.seek(0)
            names = next(csv.reader(stream, delimiter=separator), [])
            if not names:
                raise must(f"{source} must have rows", "it is empty", "Nothing was written; give a table with rows.")
            check_lines(source, len(names), separator)
            scan = pl.scan_csv(source, separator=separator, infer_schema=False)
    clean = [clean_name(name) for name in names]
    twice = sorted(name for name, count in Counter(clean).items() if count > 1)
    if twice:
        raise must(f"the columns of {source.name} must have distinct names", f"{', '.join(twice)} occurs twice", "Rename one of them.")
    return scan.rename(dict(zip(scan.collect_schema().names(), clean, strict=True)))


def _open(source: Path) -> IO[str]:
    if source.name.lower().endswith(".gz"):
        return gzip.open(source, "rt", encoding="utf-8-sig", newline="")
    return source.open(encoding="utf-8-sig", newline="")


@contextmanager
def _readable(source: Path) -> Iterator[None]:
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise must(f"{source} must be a readable table", reason(error), "It may be truncated or not UTF-8; fetch it again.") from error


def _batches(scan: pl.LazyFrame, source: Path) -> Iterator[pl.DataFrame]:
    """Frames of at most `BATCH` rows, in the file's order."""
    with _readable(source):
        batches = iter(scan.collect_batches(chunk_size=BATCH, maintain_order=True))
    while True:
        with _readable(source):
            frame = next(batches, None)
        if frame is None:
            return
        if len(frame):
            yield from frame.iter_slices(BATCH)


def _kept(keep: Sequence[str] | Literal["all"], names: list[str], bundle: Bundle) -> list[str]:
    """Columns to carry over; raises ExpostError for an unknown one and for one that is named like a column of the output."""
    kept = names if keep == "all" else list(dict.fromkeys(clean_name(name) for name in keep))
    for name in kept:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=2)
            hint = f"; the nearest are {', '.join(close)}" if close else ""
            raise must("a column to keep must be in the input", f"{name} is not{hint}", f"Its columns are: {', '.join(names[:30])}.")
    clash = sorted({*kept} & {*_columns(bundle)})
    if clash:
        raise must("columns to keep must not be named like the output's", f"got {', '.join(clash)}", "Rename them, or do not keep them.")
    return kept


def _columns(bundle: Bundle) -> list[str]:
    return [*(f"probability_{name}" for name in bundle.classes), "action", "expected_utility"]


def _score(bundle: Bundle, frame: pl.DataFrame, *, first_row: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """The output's columns for a batch, and the rows per column with an unseen value; `first_row` counts from 1."""
    import polars as pl

    numbers = pl.Series(range(first_row, first_row + len(frame)), dtype=pl.Int64)
    encoded = bundle.encode(frame, numbers)
    decided = bundle.decide(bundle.probabilities(bundle.score(encoded.numbers, encoded.categories).logits), frame, numbers)
    values: list[Any] = [*decided.probability.T, np.array(bundle.actions_named)[decided.actions].tolist(), decided.expected]
    return pl.DataFrame(dict(zip(_columns(bundle), values, strict=True))), encoded.unseen


@contextmanager
def _writer(path: Path, name: str) -> Iterator[Callable[[pl.DataFrame], None]]:
    """A function that appends frames to `path` in the format that `name` ends with."""
    if not _is_parquet(name):
        separator = "\t" if name.lower().endswith(".tsv") else ","
        with path.open("wb") as stream:
            yield lambda frame: frame.write_csv(stream, include_header=stream.tell() == 0, separator=separator)
        return
    import pyarrow.parquet as pq

    writer = None

    def write(frame: pl.DataFrame) -> None:
        nonlocal writer
        table = frame.to_arrow()
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


class _Progress:
    """Rows scored so far: a line that renews itself on a terminal, elsewhere a line each ten seconds."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report, self.tty, self.said, self.shown = report, sys.stderr.isatty(), time.monotonic(), False

    def show(self, rows: int) -> None:
        """Say how far it is, unless that was said a moment ago."""
        if time.monotonic() - self.said < (0.2 if self.tty else 10):
            return
        self.said, self.shown = time.monotonic(), True
        if self.tty:
            print(f"\r{rows:,} rows scored", end="", file=sys.stderr, flush=True)
        else:
            self.report(f"{rows:,} rows scored")

    def end(self) -> None:
        """Leave the line that renews itself."""
        if self.tty and self.shown:
            print(file=sys.stderr)
