"""Tables: read from wherever they stand, and given the types that params.yaml declares; shared by ingest, init, predict and the bundle."""

from __future__ import annotations

import csv
import gzip
import tempfile
import unicodedata
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipelines import pictures
from pipelines.errors import ExpostError, must

if TYPE_CHECKING:
    import polars as pl

    from pipelines.core.rowhash import Column

#: Suffixes that are read in a folder; other files (a README, Spark's _SUCCESS) stand beside tables and are passed over.
PARQUET = (".parquet", ".pq")
DELIMITED = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz")

#: Stands for the Wisconsin diagnostic breast-cancer table (569 biopsies, 30 measurements) that scikit-learn ships.
BUILT_IN = "sklearn:breast_cancer"

#: Boolean column that marks the rows of `ingest.holdout_source` in the typed table; there only where that is set.
HOLDOUT = "__holdout__"

_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
_RESTORE = "Check the file, and ingest.source in params.yaml."


def read_table(path: str | Path, text: Collection[str] = ()) -> pl.DataFrame:
    """Read a CSV, TSV or Parquet file, a folder or glob of parts, a URL that fsspec opens, or `sklearn:breast_cancer`; images as `pictures` does.

    CSV types are inferred over the whole file, except that the columns in `text` stay as written ("007"); empty fields are
    null. Column names are NFC-normalised and stripped. Parts must have the same columns; they follow each other in the order
    of their names. Raises ExpostError where nothing is there, a file is unreadable or truncated, or two columns have one name.
    """
    with located(str(path)) as files:
        return read_files(list(files.values()), text)


def read_files(files: Sequence[Path], text: Collection[str] = ()) -> pl.DataFrame:
    """Read local files as one table, as `read_table` does."""
    import polars as pl

    if pictures.is_picture(files[0].name):
        return pictures.read_folder(files)
    parts = [pictures.read_archive(file) if pictures.is_archive(file.name) else _read_file(file, text) for file in files]
    for file, part in zip(files[1:], parts[1:], strict=True):
        if set(part.columns) != set(parts[0].columns):
            odd = sorted(set(part.columns) ^ set(parts[0].columns))
            raise must("all parts of a table must have the same columns", f"{file.name} and {files[0].name} differ in {odd[:5]}", _RESTORE)
    mixed = [name for name in parts[0].columns if _is_mixed([part.schema[name] for part in parts])]
    if mixed:  # numbers in one part, text in another: all of it is text, as one file would have been read
        parts = [_read_file(file, {*text, *mixed}).with_columns(pl.col(mixed).cast(pl.String)) for file in files]
    return pl.concat([part.select(parts[0].columns) for part in parts], how="vertical_relaxed", rechunk=True)


def _is_mixed(types: Sequence[Any]) -> bool:
    """Whether the parts' types of a column differ by more than the width of a number."""
    import polars as pl

    kinds = {"number" if kind.is_numeric() else str(kind) for kind in types if kind != pl.Null}
    return len(kinds) > 1


@contextmanager
def located(source: str) -> Iterator[dict[str, Path]]:
    """Yield the source's files as relative name -> local path, in the order of the names; remote ones are local until the block ends."""
    if source == BUILT_IN:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "breast_cancer.csv"
            _write_breast_cancer(file)
            yield {file.name: file}
    elif "://" in source:
        with tempfile.TemporaryDirectory() as folder:
            yield _with_suffixes(_download(source, Path(folder)))
    else:
        yield _with_suffixes(_local(source))


def _with_suffixes(files: dict[str, Path]) -> dict[str, Path]:
    """Names by which the files are known again in a folder: `export?format=csv` has no suffix, and becomes `export.csv`."""
    known = {name: name.lower().endswith((*PARQUET, *DELIMITED, pictures.ARCHIVE, *pictures.FILES)) for name in files}
    return {name if known[name] else name + (PARQUET[0] if _is_parquet(path) else DELIMITED[0]): path for name, path in files.items()}


def _local(source: str) -> dict[str, Path]:
    path = Path(source).expanduser()
    if path.is_file():
        return {path.name: path}
    if path.is_dir():
        root, found = path, sorted(path.rglob("*"))
    else:
        parts = path.parts
        fixed = next((i for i, part in enumerate(parts) if any(mark in part for mark in "*?[")), None)
        if fixed is None:
            raise must("a table must be a file, a folder, a glob or a URL that exists", f"{source} is missing", _RESTORE)
        root = Path(*parts[:fixed]) if fixed else Path()
        found = sorted(root.glob("/".join(parts[fixed:])))
    plain = {file.relative_to(root).as_posix(): file for file in found if file.is_file() and not _is_hidden(file.relative_to(root))}
    files = {name: file for name, file in plain.items() if _is_table(name)} or {
        name: file for name, file in plain.items() if pictures.is_picture(name)
    }
    if not files:
        known = ", ".join((*PARQUET, *DELIMITED, pictures.ARCHIVE, *pictures.FILES))
        raise must(
            f"{source} must hold at least one table ({known})",
            "none is there",
            "Put the parts there, or change ingest.source in params.yaml.",
        )
    return files


def _is_hidden(name: Path) -> bool:
    return any(part.startswith((".", "_")) for part in name.parts)


def _is_table(name: str) -> bool:
    return name.lower().endswith((*PARQUET, *DELIMITED, pictures.ARCHIVE))


def _download(source: str, folder: Path) -> dict[str, Path]:
    remedy = "Check the address, the network and your access rights; what stood in data/raw stands unchanged."
    try:
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(source)
        http = source.startswith(("http://", "https://"))
        if any(mark in root for mark in "*[") or (not http and filesystem.isdir(root)):
            names = sorted(filesystem.glob(root) if "*" in root or "[" in root else filesystem.find(root))
            names = [name for name in names if _is_table(name) and not _is_hidden(Path(name.rsplit("/", 1)[-1]))]
        else:
            names = [root]
        files = {}
        for name in names:
            local = folder / (name.split("?")[0].rstrip("/").rsplit("/", 1)[-1] or "table")
            if local.name in files:
                raise must(
                    "the parts of a remote table must have distinct file names", f"{local.name} occurs twice under {source}", "Rename one."
                )
            filesystem.get_file(name, str(local))
            files[local.name] = local
    except ExpostError:
        raise
    except Exception as error:  # each of fsspec's backends raises kinds of its own
        raise must(f"{source} must be readable", f"{type(error).__name__}: {' '.join(str(error).split())}"[:400], remedy) from error
    if not files:
        raise must(f"{source} must hold at least one table", "none is there", remedy)
    return files


def _write_breast_cancer(path: Path) -> None:
    """Write the table as CSV, whose bytes depend on no library's version, unlike Parquet's."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*map(str, data.feature_names), "diagnosis"])
        for row, label in zip(data.data.tolist(), data.target.tolist(), strict=True):
            writer.writerow([*map(repr, row), str(data.target_names[label])])


def _read_file(file: Path, text: Collection[str]) -> pl.DataFrame:
    import polars as pl

    try:
        frame = pl.read_parquet(file, hive_partitioning=False) if _is_parquet(file) else _read_delimited(file, text)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        remedy = "It may be truncated, or of another form or encoding (UTF-8) than its name says; put the whole file there again."
        raise must(f"{file.name} must be a readable table", reason(error), remedy) from error
    names = [clean_name(name) for name in frame.columns]
    _check_distinct(names, file)
    return frame.rename(dict(zip(frame.columns, names, strict=True)))


def reason(error: BaseException) -> str:
    """What a reader's error says, on one line, without the advice that Polars gives to programmers."""
    text = " ".join(str(error).split())
    for advice in ("The current offset in the file", "You might want to try", "Consider setting"):
        text = text.split(advice)[0]
    return text.strip(" .:")[:300]


def _is_parquet(file: Path) -> bool:
    if file.name.lower().endswith(PARQUET):
        return True
    if file.name.lower().endswith(DELIMITED):
        return False
    try:
        with file.open("rb") as stream:
            return stream.read(4) == b"PAR1"
    except OSError:
        return False  # reading it will say why


def _read_delimited(file: Path, text: Collection[str]) -> pl.DataFrame:
    import polars as pl

    with _open_text(file) as stream:
        first = stream.readline()
        if any(ord(character) < 32 and character not in "\t\r\n" for character in first):
            raise OSError("its first line is no text")  # a spreadsheet, an archive
        tab = file.name.lower().removesuffix(".gz").endswith((".tsv", ".tab"))
        separator = "\t" if tab else max(",;\t|", key=first.count)  # the first of them where none occurs: a single column
        stream.seek(0)
        header = next(csv.reader(stream, delimiter=separator), [])
    _check_distinct([clean_name(name) for name in header], file)  # Polars would rename the second one in silence
    check_lines(file, len(header), separator)
    overrides = {name: pl.String for name in header if clean_name(name) in text}
    frame = pl.read_csv(file, separator=separator, infer_schema_length=None, schema_overrides=overrides)
    return frame.with_columns(
        [_as_dates(frame[name]) for name in frame.columns if name not in overrides and frame.schema[name] == pl.String]
    )


def check_lines(file: Path, fields: int, separator: str) -> None:
    """Raise OSError where a line of a delimited file has another number of fields than `fields`.

    Polars fills a short one up with nulls in silence, and cuts a long one where not all columns are read.
    """
    wanted, mark, quoted = fields - 1, separator.encode(), False
    with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if b'"' in line:  # may hold separators, and go on in the next line
                quoted ^= line.count(b'"') % 2 == 1
            elif not quoted and line.count(mark) != wanted and line.strip():
                found = line.count(mark) + 1
                what = f"{found} of {fields} fields" if found < fields else f"more fields ({found}) than the head ({fields})"
                raise OSError(f"line {number} has {what}")


def _as_dates(series: pl.Series) -> pl.Series:
    """Date or Datetime where every value is an ISO 8601 date; other orders of day and month are anybody's guess and stay text."""
    import polars as pl

    given = series.drop_nulls()
    if given.is_empty() or not given.str.contains(r"^\s*\d{4}[-/]\d{2}[-/]\d{2}([T ]|\s*$)").all():
        return series
    days = _as_days(series)
    if (days.is_null() & series.is_not_null()).any():
        return series
    whole = bool((days == days.round(0)).drop_nulls().all()) and not bool(given.str.contains(":").any())
    return days.cast(pl.Int32).cast(pl.Date) if whole else (days * 86_400_000_000.0).round(0).cast(pl.Int64).cast(pl.Datetime("us"))


def _open_text(file: Path) -> IO[str]:
    if file.name.endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def clean_name(name: str) -> str:
    """Column name as it is compared everywhere: NFC-normalised and stripped."""
    return unicodedata.normalize("NFC", name).strip()


def _check_distinct(names: Sequence[str], file: Path) -> None:
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFKC", name)
        if key in seen:
            got = f"{name!r} occurs twice" if seen[key] == name else f"{name!r} and {seen[key]!r} look alike"
            raise must(f"the columns of {file.name} must have distinct names", got, "Rename one of them in the file.")
        seen[key] = name


def as_text(series: pl.Series) -> pl.Series:
    """String form of a column: text NFC-normalised and stripped, "" null; integers "1", booleans "true", integral floats "1.0"."""
    import polars as pl

    if series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object, pl.Duration):
        rule = f"column {series.name!r} must hold plain values"
        raise must(rule, f"it holds {series.dtype}", "Give it the role ignored in params.yaml.")
    if series.dtype.is_float():
        series = series.fill_nan(None)
    text = series.cast(pl.String).str.normalize("NFC").str.strip_chars()
    return text.set(text == "", None)


def class_names(series: pl.Series) -> list[str]:
    """Distinct non-missing class names of a target column, numbers in numeric order and other names in alphabetical order."""
    return sorted(as_text(series).drop_nulls().unique().to_list(), key=lambda name: (_number(name) is None, _number(name) or 0.0, name))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def typed(frame: pl.DataFrame, kinds: Mapping[str, str], rows: pl.Series | None = None, remedy: str | None = None) -> pl.DataFrame:
    """Give each column of `kinds` (name -> number, category, boolean, date or text) its type, in that order; other columns are left out.

    number and date become Float64 (days since 1970-01-01 for dates), category, text and boolean String ("true"/"false"), missing
    null. `rows` are the row numbers to name in messages, 1.. by default. Raises ExpostError naming the column, the rows and
    the values that have no such form; its `remedy` is a change of the values or of params.yaml where none is given.
    """
    import polars as pl

    return pl.DataFrame([_typed_series(frame[name], kind, rows, remedy) for name, kind in kinds.items()])


def _typed_series(series: pl.Series, kind: str, rows: pl.Series | None, remedy: str | None) -> pl.Series:
    convert = {"number": _as_number, "category": _as_category, "boolean": _as_boolean, "date": _as_days, "text": as_text}[kind]
    result = convert(series)
    lost = result.is_null() & _is_given(series)
    if lost.any():
        raise must(
            f"column {series.name!r} must hold values of kind {kind}", _sample(series, lost, rows), remedy or _kind_remedy(series.name)
        )
    return result.fill_nan(None) if kind == "number" else result


def _is_given(series: pl.Series) -> pl.Series:
    import polars as pl

    if series.dtype.is_float():
        return series.fill_nan(None).is_not_null()
    return as_text(series).is_not_null() if series.dtype == pl.String else series.is_not_null()


def _kind_remedy(name: str) -> str:
    return f"Mend the values, or change the kind under ingest.columns.{name} in params.yaml."


def _sample(series: pl.Series, wrong: pl.Series, rows: pl.Series | None) -> str:
    """`3 values do not, row 7: 'x', row 9: 'y'`, at most five of them."""
    import polars as pl

    numbers = rows if rows is not None else pl.Series(range(1, len(series) + 1), dtype=pl.Int64)
    shown = ", ".join(
        f"row {row}: {value!r}" for row, value in zip(numbers.filter(wrong).head(5), series.filter(wrong).head(5), strict=True)
    )
    count = int(wrong.sum())
    return f"{count} {'value does' if count == 1 else 'values do'} not ({shown}{', ...' if count > 5 else ''})"


def _as_number(series: pl.Series) -> pl.Series:
    import polars as pl

    plain = series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Null)
    return series.cast(pl.Float64) if plain else as_text(series).cast(pl.Float64, strict=False)


def _as_category(series: pl.Series) -> pl.Series:
    """Text; an integral float is written as an integer, since one missing value elsewhere turns a column of codes into floats."""
    import polars as pl

    if series.dtype.is_float():
        whole = series.fill_nan(None)
        if bool(((whole == whole.round(0)) & (whole.abs() < 2**53)).drop_nulls().all()):
            series = whole.cast(pl.Int64)
    return as_text(series)


def _as_boolean(series: pl.Series) -> pl.Series:
    import polars as pl

    table = {**dict.fromkeys(_TRUE, "true"), **dict.fromkeys(_FALSE, "false")}
    return as_text(series).str.to_lowercase().replace_strict(table, default=None, return_dtype=pl.String)


def _as_days(series: pl.Series) -> pl.Series:
    import polars as pl

    if series.dtype == pl.Date:
        return series.cast(pl.Int32).cast(pl.Float64)
    if isinstance(series.dtype, pl.Datetime):
        moment = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if series.dtype.time_zone else series
        return moment.cast(pl.Datetime("us")).cast(pl.Int64) / 86_400_000_000.0
    text = as_text(series)
    days = pl.Series(series.name, [None] * len(series), dtype=pl.Float64)
    for form in ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d"):
        days = days.fill_null(text.str.to_date(form, strict=False).cast(pl.Int32).cast(pl.Float64)) if days.has_nulls() else days
    for form in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"):
        if days.has_nulls():
            stamp = text.str.strip_suffix("Z").str.to_datetime(form, strict=False, time_unit="us").cast(pl.Int64)
            days = days.fill_null(stamp / 86_400_000_000.0)
    return days


def arrays(frame: pl.DataFrame, names: Sequence[str]) -> dict[str, Column]:
    """Columns of a typed table as the core takes them: float64 (n,) with NaN for missing, or `Text` with its values sorted."""
    return {name: _array(frame[name]) for name in names}


def _array(series: pl.Series) -> Column:
    import numpy as np
    import polars as pl

    from pipelines.core.rowhash import Text

    if series.dtype != pl.String:
        return np.ascontiguousarray(series.cast(pl.Float64).fill_null(float("nan")).to_numpy(), dtype=np.float64)
    values = series.drop_nulls().unique().sort()
    codes = series.cast(pl.Enum(values)).to_physical().cast(pl.Int32).fill_null(-1)
    return Text(np.array(codes.to_numpy(), dtype=np.int32), tuple(values.to_list()))


def inside_raw(source: str) -> bool:
    """Whether a source is a place inside data/raw, where DVC versions it without a copy."""
    return "://" not in source and source != BUILT_IN and Path(source).absolute().is_relative_to(Path("data", "raw").absolute())


def raw_path(source: str, name: str) -> Path:
    """Where the versioned copy of a source stands: `data/raw/<name>`, or the source itself where it is inside data/raw."""
    return Path(source) if inside_raw(source) else Path("data", "raw", name)
