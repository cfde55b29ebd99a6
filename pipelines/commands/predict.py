"""Score a file of new rows with a bundle: read and written in batches, so memory does not grow with the file. No torch, no prefect."""

from __future__ import annotations

import difflib
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines import store, utilities
from pipelines.bundle import Bundle
from pipelines.commands import held, rowfiles
from pipelines.errors import ExpostError, must
from pipelines.tables import clean_name

if TYPE_CHECKING:
    import polars as pl

MANY = 20  #: rows of which it is strange that all get one action


@dataclass(frozen=True)
class Wishes:
    """How to decide where not as the bundle does: another utility, hard counts of actions, the class shares of this batch."""

    utility: Path | None = None
    cost_fn: float | None = None
    cost_fp: float | None = None
    at_most: Mapping[str, int] = field(default_factory=dict)
    estimate_prior: bool = False


def counts(options: Sequence[str]) -> dict[str, int]:
    """Rows per action from `ACTION=ROWS`; raises ExpostError where one is of another form, or an action stands twice."""
    found: dict[str, int] = {}
    for option in options:
        name, equals, rows = option.rpartition("=")
        if not equals or not rows.strip().isdecimal():
            raise must(
                "--at-most must be ACTION=ROWS with a whole number of rows, at least 0", f"got {option!r}", "Write --at-most biopsy=100."
            )
        if (name := name.strip()) in found:
            raise must("--at-most must name each action once", f"{name!r} is named twice", "Leave one of them out.")
        found[name] = int(rows)
    return found


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
    bundle: Bundle | Path | str,
    keep: Sequence[str] | Literal["all"] = (),
    report: Callable[[str], None] = say,
    *,
    wishes: Wishes | None = None,
) -> Prediction:
    """Write `probability_<class>` per class, `action` and `expected_utility` of each input row, in order, after the columns to `keep`.

    CSV, TSV or Parquet in and out. CSV columns that are kept stay as written, as text. The output appears whole or not at all. What is
    decided over all rows together (`wishes.at_most`, `wishes.estimate_prior`) takes a second pass over the file; each row is scored once.
    Raises ExpostError for a missing or empty input, a missing column, values that cannot be read, a damaged bundle, wishes that cannot be met.
    """
    source, target = Path(input), Path(output)
    rowfiles.check_paths(source, target)
    deciding = _deciding(bundle if isinstance(bundle, Bundle) else Bundle.load(bundle), wishes or Wishes())
    job = _Job(source, deciding, keep, wishes or Wishes(), report)
    result = job.run(target)
    for line in remarks(result, deciding):
        report(line)
    return result


def _deciding(bundle: Bundle, wishes: Wishes) -> Bundle:
    """The bundle with the utility that was given, if any."""
    from pipelines.commands.costs import utility_from, with_costs
    from pipelines.params import parse
    from pipelines.params.utility import Utility

    costs = wishes.cost_fn is not None or wishes.cost_fp is not None
    if wishes.utility is not None:
        if costs:
            raise must("costs must come from one place", "both --utility and --cost-fn or --cost-fp are given", "Leave one of them out.")
        return bundle.with_utility(utility_from(wishes.utility, bundle.classes))
    if not costs:
        return bundle
    made = bundle.policy
    matrix = {name: dict(zip(made["actions"], row, strict=True)) for name, row in zip(made["classes"], made["matrix"], strict=True)}
    own = parse(Utility, {"unit": made["unit"], "matrix": matrix}, "utility")
    return bundle.with_utility(with_costs(own, bundle.classes, wishes.cost_fn, wishes.cost_fp))


def remarks(result: Prediction, bundle: Bundle) -> list[str]:
    """What a user should know about a prediction, one sentence per line."""
    target = bundle.schema["target"]
    lines = [f"the input's column {target} is the target: it was not used for scoring"] if result.target_ignored else []
    texts = {fitted["name"] for fitted in bundle.preprocessing.get("texts", ())}
    for name, count in sorted(result.unseen.items()):
        plain = f"hold a value of {name} that training never saw; they were scored with a neutral one"
        text = f"hold a text in {name} of which training knew no word; it was scored by what little of it was known"
        lines.append(f"{count} of {result.rows} rows {text if name in texts else plain}")
    if result.rows >= MANY and len(result.actions) == 1 and utilities.expressions(bundle.policy["matrix"]):
        lines.append(f"all {result.rows} rows get {next(iter(result.actions))}: is every sign right? A cost is a negative utility")
    return lines


class _Job:
    """One file to score: what is read of it, and how far it is."""

    def __init__(
        self, source: Path, bundle: Bundle, keep: Sequence[str] | Literal["all"], wishes: Wishes, report: Callable[[str], None]
    ) -> None:
        self.source, self.bundle, self.wishes, self.report = source, bundle, wishes, report
        self.scan = rowfiles.scan(source)
        self.names = self.scan.collect_schema().names()
        bundle.features_in(self.names)
        self.kept = _kept(keep, self.names, bundle)
        self.limits = held.limits_of(dict(wishes.at_most), bundle)

    def run(self, target: Path) -> Prediction:
        """Score, decide and write all rows."""
        passes = 2 if self.limits or self.wishes.estimate_prior else 1
        with ExitStack() as stack:
            progress = stack.enter_context(_progress(self.report, rowfiles.known_rows(self.source), passes))
            temporary = stack.enter_context(store.atomic_file(target))
            if passes == 1:
                return self._written(temporary, target.name, self._scored(), progress)
            folder = stack.enter_context(_folder(target.with_name(f".{target.name}.held")))
            return self._written(temporary, target.name, self._in_two_passes(folder, progress), progress)

    def _frames(self, *columns: str) -> Iterator[pl.DataFrame]:
        """The file's rows in batches, with these columns, in its order of columns."""
        wanted = {*columns}
        return rowfiles.batches(self.scan.select(name for name in self.names if name in wanted), self.source)

    @property
    def _read(self) -> list[str]:
        """What scoring and deciding look at, as far as it is there: a cost column that is missing is named by what needs it."""
        features = [column["name"] for column in self.bundle.schema["columns"]]
        weights = [column["name"] for column in self.bundle.schema["others"] if column["role"] == "weight"]
        return [name for name in (*features, *self.bundle.cost_columns, *weights) if name in self.names]

    def _scored(self) -> Iterator[_Batch]:
        def scored(part: tuple[slice, pl.DataFrame, pl.Series]) -> _Batch:
            _, frame, numbers = part
            with _of(self.source):
                probability, unseen = self.bundle.calibrated(frame, numbers, threads=1)
                return _Batch(frame, self.bundle, self.bundle.decide(probability, frame, numbers), unseen)

        _ = self.bundle.network  # loaded before threads ask for it
        return held.side_by_side(scored, held.numbered(self._frames(*self._read, *self.kept)))

    def _in_two_passes(self, folder: Path, progress: Callable[[int], None]) -> Iterator[_Batch]:
        with _of(self.source):
            batch = held.hold(self.bundle, self._frames(*self._read), folder, progress)
        bundle, actions, unseen = self.bundle, None, dict(batch.unseen)
        if not len(batch.probability):
            return
        if self.wishes.estimate_prior:
            bundle, lines = held.under_estimated_prior(bundle, batch)
            self._say(lines)
        if self.limits:
            with _of(self.source):
                actions, lines = held.allotted(bundle, batch, self.limits, lambda: self._frames(*bundle.cost_columns), folder)
            self._say(lines)
        columns = [*self.kept, *bundle.cost_columns]
        for place, frame, numbers in held.numbered(self._frames(*(columns or self._read[:1]))):
            with _of(self.source):
                taken = None if actions is None else actions[place]
                decided = bundle.decide(np.asarray(batch.probability[place]), frame, numbers, actions=taken)
            yield _Batch(frame, bundle, decided, unseen)
            unseen = {}

    def _say(self, lines: list[str]) -> None:
        for line in lines:
            self.report(line)

    def _written(self, path: Path, name: str, batches: Iterator[_Batch], progress: Callable[[int], None]) -> Prediction:
        rows, unseen, actions = 0, Counter[str](), np.zeros(len(self.bundle.actions_named), dtype=np.int64)
        with rowfiles.writer(path, name) as write:
            for batch in batches:
                write(batch.table(self.kept))
                rows += len(batch.frame)
                unseen.update(batch.unseen)
                actions += np.bincount(batch.decided.actions, minlength=len(actions))
                progress(len(batch.frame))
            if not rows:
                raise must(f"{self.source} must have rows", "it has none", "Nothing was written; give a table with rows.")
        taken = {action: int(count) for action, count in zip(self.bundle.actions_named, actions, strict=True) if count}
        return Prediction(rows, dict(unseen), taken, self.bundle.schema["target"] in self.names)


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """A new folder for the length of a block, in place of one that a killed run left."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _of(source: Path) -> Iterator[None]:
    """Let an error about rows name the file that they stand in."""
    try:
        yield
    except ExpostError as error:
        raise error if str(error).startswith(str(source)) else ExpostError(f"{source}: {error}") from None


@dataclass(frozen=True)
class _Batch:
    """Rows, the bundle that decided on them, what it decided, and the values that training never saw."""

    frame: pl.DataFrame
    bundle: Bundle
    decided: Any
    unseen: dict[str, int]

    def table(self, kept: list[str]) -> pl.DataFrame:
        """What is written of these rows."""
        import polars as pl

        names = pl.Series(self.bundle.actions_named, dtype=pl.String)
        columns: list[pl.Series | NDArray[Any]] = [*self.decided.probability.T, names.gather(self.decided.actions), self.decided.expected]
        scored = pl.DataFrame(dict(zip(_columns(self.bundle), columns, strict=True)))
        return self.frame.select(kept).hstack(scored) if kept else scored


def _kept(keep: Sequence[str] | Literal["all"], names: list[str], bundle: Bundle) -> list[str]:
    """Columns to carry over; raises ExpostError for an unknown one and for one that is named like a column of the output."""
    images = {column["name"] for column in bundle.schema["columns"] if column["kind"] == "image"}
    kept = [name for name in names if name not in images] if keep == "all" else list(dict.fromkeys(clean_name(name) for name in keep))
    for name in kept:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=2)
            hint = f"; the nearest are {', '.join(close)}" if close else ""
            more = ", ..." if len(names) > 30 else ""
            raise must("a column to keep must be in the input", f"{name} is not{hint}", f"Its columns are: {', '.join(names[:30])}{more}.")
    clash = sorted({*kept} & {*_columns(bundle)})
    if clash:
        raise must("columns to keep must not be named like the output's", f"got {', '.join(clash)}", "Rename them, or do not keep them.")
    return kept


def _columns(bundle: Bundle) -> list[str]:
    return [*(f"probability_{name}" for name in bundle.classes), "action", "expected_utility"]


@contextmanager
def _progress(report: Callable[[str], None], rows: int | None, passes: int) -> Iterator[Callable[[int], None]]:
    """A function that is told of rows done: a bar on a terminal, elsewhere a line each ten seconds; `rows` are all, where known."""
    if not sys.stderr.isatty():
        done, said = 0, time.monotonic()

        def show(more: int) -> None:
            nonlocal done, said
            done += more
            if time.monotonic() - said >= 10:
                said = time.monotonic()
                report(f"{done // passes:,}{f' of {rows:,}' if rows else ''} rows scored")

        yield show
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rows", total=None if rows is None else rows * passes)
        yield lambda more: bar.advance(task, more)
