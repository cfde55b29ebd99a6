"""Looks at the holdout: how often each of its rows was judged on before, and the note of a look that the ledger has not counted yet.

The mirror brings the ledger's counts into the DAG. A look is noted on disk where it happens, so that one by plain `dvc repro`, without a
network, is counted later; who can reach the ledger counts what was noted and settles it. Evaluate shows the rows' figures and the gate
judges on them: on the same rows both are one look, and each further set of criteria is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import store
from pipelines.errors import must

if TYPE_CHECKING:
    import polars as pl

Hashes = NDArray[np.uint64]

NOTED = Path("mlflow/looks")
REMEDY = "Run `expost retrain`, which mirrors the champion and its counts of looks again."
RENOTE = (
    "Delete it, and run `dvc repro --force --single-item evaluate` and the same for gate, which note the look at what stands there now "
    "again; a look at other rows that it may have noted cannot be counted any more."
)
#: Stands for the criteria in the key of a look by evaluate, which knows none.
SHOWN = "evaluate"
_HALF = 32  #: characters of a key that name the rows; those after them name the criteria


def key_of(rows_sha256: str, criteria: str) -> str:
    """Key of a look, of 64 characters: the same rows under the same criteria are one look, however often they are judged."""
    return "".join(hashlib.sha256(part.encode()).hexdigest()[:_HALF] for part in (rows_sha256, criteria))


def hashes_of(rows: pl.DataFrame) -> Hashes:
    """By which hashes `(n,)` the rows that evaluate wrote are counted."""
    return rows["look_hash" if "look_hash" in rows.columns else "row_hash"].to_numpy()


def pending() -> dict[str, Hashes]:
    """Looks noted and not settled: the hashes of the rows judged on, by key; raises ExpostError for a damaged note."""
    return {path.stem: _note(path) for path in sorted(NOTED.glob("*.npy"))}


def note(key: str, hashes: Hashes) -> None:
    """Note a look at the rows with these hashes `(n,)`; the same key is noted once."""
    with store.atomic_file(NOTED / f"{key}.npy") as temporary, temporary.open("wb") as stream:
        np.save(stream, hashes)


def settle(key: str) -> None:
    """Forget the note of a look, once the ledger has counted it or another note stands for it."""
    (NOTED / f"{key}.npy").unlink(missing_ok=True)


def uncounted(key: str, hashes: Hashes, counted: Collection[str]) -> Hashes:
    """The rows of the look `key` that are to be counted: none where the looks `counted` before cover it.

    A first verdict on rows whose evaluation was counted takes that look for its own, and an evaluation after a verdict is no new one.
    """
    same = _of_rows(key, counted)
    return hashes if _number({*same, key}) > _number(same) else hashes[:0]


def before(key: str, hashes: Hashes, folder: Path) -> NDArray[np.int64]:
    """How often each row of `hashes` `(n,)` was judged on before the look `key`, by the mirrored counts in `folder` and the notes on disk."""
    counts, counted = _mirrored(folder / "looks.npy", hashes), _keys(folder / "evaluations.json")
    for other, seen in {**pending(), key: hashes}.items():
        if uncounted(other, seen, counted).size:
            counts = counts + np.isin(hashes, seen)
        counted.add(other)
    return np.maximum(counts - 1, 0)  # without this one


def _of_rows(key: str, keys: Collection[str]) -> set[str]:
    return {other for other in keys if other[:_HALF] == key[:_HALF]}


def _number(keys: Collection[str]) -> int:
    """Number of looks that these keys, all of the same rows, are: one for each of the criteria, and at least one where there is a key."""
    return max(len({key for key in keys if key[_HALF:] != key_of("", SHOWN)[_HALF:]}), min(len(keys), 1))


def _keys(path: Path) -> set[str]:
    keys = store.read_json(path) if path.exists() else []
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise must(f"{path} must list the evaluations that were counted", f"it holds a {type(keys).__name__} of another form", REMEDY)
    return set(keys)


def _note(path: Path) -> Hashes:
    found = _loaded(path, "the hashes of the rows of a look at the holdout", RENOTE)
    if found.dtype != np.uint64 or found.ndim != 1:
        got = f"it has the type {found.dtype} and {found.ndim} dimensions"
        raise must(f"{path} must hold the hashes of the rows of a look at the holdout", got, RENOTE)
    return found


def _loaded(path: Path, what: str, remedy: str) -> NDArray[Any]:
    """An array of a file; raises ExpostError for one that is damaged, or is another kind of file."""
    try:
        with path.open("rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError, TokenError) as error:  # the last two from a damaged header
        raise must(f"{path} must hold {what}", f"it cannot be read ({' '.join(str(error).split())[:200]})", remedy) from error


def _mirrored(path: Path, hashes: Hashes) -> NDArray[np.int64]:
    if not path.exists():
        return np.zeros(hashes.size, dtype=np.int64)
    found = _loaded(path, "rows' hashes and counts", REMEDY)
    if found.dtype.names is None or not {"row_hash", "count"} <= set(found.dtype.names):
        raise must(f"{path} must hold rows' hashes and counts", f"its fields are {found.dtype.names}", REMEDY)
    if not found.size:
        return np.zeros(hashes.size, dtype=np.int64)
    order = np.argsort(found["row_hash"])
    known, counts = found["row_hash"][order], found["count"][order].astype(np.int64)
    place = np.minimum(np.searchsorted(known, hashes), known.size - 1)
    return np.where(known[place] == hashes, counts[place], 0)
