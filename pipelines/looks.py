"""Looks at the holdout: how often each of its rows was judged on before, and the note of a look that the ledger has not counted yet.

The mirror brings the ledger's counts into the DAG. A look is noted on disk where it happens, so that one by plain `dvc repro`, without a
network, is counted later; who can reach the ledger counts what was noted and settles it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines import store
from pipelines.errors import must

Hashes = NDArray[np.uint64]

NOTED = Path("mlflow/looks")
REMEDY = "Run `expost retrain`, which mirrors the champion and its counts of looks again."


def key_of(rows_sha256: str, gate_sha256: str) -> str:
    """Key of a look: the same rows under the same criteria are one look, however often they are judged."""
    return hashlib.sha256(f"{rows_sha256}\n{gate_sha256}".encode()).hexdigest()


def pending() -> dict[str, Hashes]:
    """Looks noted and not settled: the hashes of the rows judged on, by key."""
    return {path.stem: np.load(path, allow_pickle=False) for path in sorted(NOTED.glob("*.npy"))}


def note(key: str, hashes: Hashes) -> None:
    """Note a look at the rows with these hashes `(n,)`; the same key is noted once."""
    with store.atomic_file(NOTED / f"{key}.npy") as temporary, temporary.open("wb") as stream:
        np.save(stream, hashes)


def settle(key: str) -> None:
    """Forget the note of a look, once the ledger has counted it."""
    (NOTED / f"{key}.npy").unlink(missing_ok=True)


def before(key: str, hashes: Hashes, folder: Path) -> NDArray[np.int64]:
    """How often each row of `hashes` `(n,)` was judged on before the look `key`, by the mirrored counts in `folder` and the notes on disk."""
    counts = _mirrored(folder / "looks.npy", hashes)
    keys = store.read_json(folder / "evaluations.json") if (folder / "evaluations.json").exists() else []
    if key in keys:
        counts = np.maximum(counts - 1, 0)
    for other, seen in pending().items():
        if other != key and other not in keys:
            counts = counts + np.isin(hashes, seen)
    return counts


def _mirrored(path: Path, hashes: Hashes) -> NDArray[np.int64]:
    if not path.exists():
        return np.zeros(hashes.size, dtype=np.int64)
    found = np.load(path, allow_pickle=False)
    if found.dtype.names is None or not {"row_hash", "count"} <= set(found.dtype.names):
        raise must(f"{path} must hold rows' hashes and counts", f"its fields are {found.dtype.names}", REMEDY)
    if not found.size:
        return np.zeros(hashes.size, dtype=np.int64)
    order = np.argsort(found["row_hash"])
    known, counts = found["row_hash"][order], found["count"][order].astype(np.int64)
    place = np.minimum(np.searchsorted(known, hashes), known.size - 1)
    return np.where(known[place] == hashes, counts[place], 0)
