"""Golden rows: a few rows of calib, with the probabilities and actions that the pipeline gave them, which travel with the bundle as its proof."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import store
from pipelines.bundle import Bundle
from pipelines.errors import must

if TYPE_CHECKING:
    import polars as pl

ROWS = 48
TOLERANCE = 1e-5
FILES = INPUTS, EXPECTED = "golden.parquet", "golden.json"
REMEDY = "Do not promote or serve this version; run `expost retrain` again."


def write(folder: Path, bundle: Bundle, frame: pl.DataFrame, calibrated: NDArray[np.float64]) -> None:
    """Write golden.parquet and golden.json into `folder`, chosen among the rows of `frame` (n), whose `calibrated` is (n, K).

    Only what the model reads is kept of a row. An action that a rounding could change is written as null.
    """
    columns = [name for name in frame.columns if name in {*bundle.features_in(frame.columns), *bundle.cost_columns}]
    frame = frame.select(columns)
    chosen = _spread(bundle.decide(calibrated, frame).actions, calibrated[:, -1])
    frame, calibrated = frame[chosen], calibrated[chosen]
    decided, sure = bundle.decide(calibrated, frame), certain(bundle, calibrated, frame)
    frame.write_parquet(folder / INPUTS)
    expected = {
        "bundle_sha256": bundle.manifest["bundle_sha256"],
        "inputs_sha256": store.sha256(folder / INPUTS),
        "classes": bundle.classes,
        "probabilities": decided.probability,
        "actions": [bundle.actions_named[action] if known else None for action, known in zip(decided.actions, sure, strict=True)],
    }
    store.write_json(folder / EXPECTED, expected)


def _spread(actions: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.int64]:
    """About ROWS row numbers, sorted: as many of each action that is taken, evenly along the score, its ends among them."""
    taken = np.unique(actions)
    each = max(1, ROWS // len(taken))
    found = []
    for action in taken:
        rows = np.flatnonzero(actions == action)
        ordered = rows[np.argsort(score[rows], kind="stable")]
        found.append(ordered[np.unique(np.linspace(0, len(ordered) - 1, min(each, len(ordered))).round().astype(int))])
    return np.sort(np.concatenate(found))


def certain(bundle: Bundle, calibrated: NDArray[np.float64], frame: pl.DataFrame | None) -> NDArray[np.bool_]:
    """Whether (n,) moving each class's probability (n, K) by the tolerance leaves a row's action as it is."""
    n, K = calibrated.shape
    if n == 0:
        return np.zeros(0, dtype=np.bool_)
    steps = np.concatenate([np.eye(K), -np.eye(K)]) * TOLERANCE
    moved = np.clip(calibrated[:, None, :] + steps, 0, None).reshape(-1, K)
    rows = None if frame is None else frame[np.repeat(np.arange(n), 2 * K)]
    actions = bundle.decide(moved / moved.sum(axis=1, keepdims=True), rows).actions.reshape(n, 2 * K)
    return np.asarray((actions == actions[:, :1]).all(axis=1))


def digest(folder: Path) -> str:
    """SHA-256 of golden.json, which names that of golden.parquet; raises ExpostError where it is missing."""
    return store.sha256(store.need(folder / EXPECTED))


def check(bundle: Bundle, folder: Path, golden_sha256: str) -> float:
    """Score the golden rows in `folder` with `bundle`; returns the largest difference of a probability.

    Raises ExpostError where a file is missing or has another digest, the rows belong to another bundle, a probability differs by more than
    TOLERANCE, or an action differs.
    """
    import polars as pl

    expected = json.loads(_verified(folder / EXPECTED, golden_sha256))
    inputs = _verified(folder / INPUTS, expected["inputs_sha256"])
    if expected["bundle_sha256"] != bundle.manifest["bundle_sha256"]:
        raise must("golden rows must belong to the bundle that they prove", "they were made with another bundle", REMEDY)
    frame = pl.read_parquet(io.BytesIO(inputs))
    decided = bundle.decide(bundle.calibrated(frame)[0], frame)
    worst = _difference(decided.probability, expected)
    actions = [bundle.actions_named[action] for action in decided.actions]
    wrong = [row for row, (got, want) in enumerate(zip(actions, expected["actions"], strict=True)) if want not in (got, None)]
    if wrong:
        got = f"{len(wrong)} of {len(actions)} differ: row {wrong[0]} gets {actions[wrong[0]]} instead of {expected['actions'][wrong[0]]}"
        raise must("the model must take the actions of its golden rows", got, REMEDY)
    return worst


def _verified(path: Path, sha256: str) -> bytes:
    content = store.need(path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise must(f"{path.name} must have the digest {sha256[:12]} that was registered", f"it is {found[:12]}", REMEDY)
    return content


def _difference(probability: NDArray[np.float64], expected: dict[str, Any]) -> float:
    wanted = np.asarray(expected["probabilities"], dtype=np.float64)
    if wanted.shape != probability.shape or not wanted.size:
        raise must("golden rows must hold a probability per row and class", f"{wanted.shape} instead of {probability.shape}", REMEDY)
    worst = float(np.abs(probability - wanted).max())
    if not worst <= TOLERANCE:
        raise must(f"the model must reproduce the probabilities of its golden rows to {TOLERANCE}", f"they differ by {worst:.2g}", REMEDY)
    return worst
