"""A network with a symmetric, proper loss; logits and embeddings of every row outside the holdout, computed by the file that ships.

A weight, how often an identical row occurred, counts in both losses as that many rows would; costs and utilities are not known here.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import store
from pipelines.core import encode
from pipelines.params import load
from pipelines.params.train import Train
from pipelines.scoring import Network

if TYPE_CHECKING:
    from pipelines.network.data import Rows
    from pipelines.network.fit import Fitted

TRAIN, VALID, CALIB = 0, 1, 2
ARRAYS = ("numbers", "categories", "labels", "parts", "weights")
CHECKPOINTS = Path(".checkpoints")


def checkpoint_path(params: Train) -> Path:
    """Where an interrupted training is kept: its name is the digest of inputs, parameters and code, so nothing else resumes from it."""
    code = sorted([*(Path(__file__).parent / "network").glob("*.py"), Path(encode.__file__)])
    digests = [store.sha256(path) for path in code]
    digests += [store.sha256(store.need(store.stage_path("split", name))) for name in (*(f"{array}.npy" for array in ARRAYS), "meta.json")]
    text = json.dumps([*digests, params.model_dump(mode="json")], sort_keys=True)
    return CHECKPOINTS / hashlib.sha256(text.encode()).hexdigest()[:32] / "last.ckpt"


def history_rows(history: list[dict[str, float]]) -> list[list[str]]:
    """Header and one line per epoch, numbered from 0."""
    lines = [[str(epoch), f"{entry['train_loss']:.6f}", f"{entry['valid_log_loss']:.6f}"] for epoch, entry in enumerate(history)]
    return [["epoch", "train_loss", "valid_log_loss"], *lines]


@dataclass(frozen=True)
class Inputs:
    """Rows outside the holdout, as the network sees them; `rows` are their indices in the table.

    `weights` (n,) float64 say how often each row occurred, or None where each occurred once.
    """

    rows: NDArray[np.int64]
    numbers: NDArray[np.float32]
    categories: NDArray[np.int64]
    labels: NDArray[np.int64]
    parts: NDArray[np.int8]
    weights: NDArray[np.float64] | None
    classes: int


def read_inputs() -> tuple[Inputs, dict[str, Any]]:
    """Read the split and fit the preprocessing on its train rows; rows of the holdout are left where they are.

    The preprocessing counts each row once, whatever its weight: a grid of quantiles over all occurrences would resolve the commonest row only.
    """
    columns = {name: np.load(store.need(store.stage_path("split", f"{name}.npy")), mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    meta = store.read_json(store.stage_path("split", "meta.json"))
    rows = np.flatnonzero(np.isin(columns["parts"], (TRAIN, VALID, CALIB)))
    numbers, categories, labels, parts, weights = (np.asarray(columns[name][rows]) for name in ARRAYS)
    fitted = encode.fit(numbers[parts == TRAIN], categories[parts == TRAIN], meta["numbers"], meta["categories"], meta["vocabularies"])
    encoded = encode.transform(
        fitted, encode.named(meta["numbers"], numbers), encode.named(meta["categories"], categories), meta["vocabularies"]
    )
    counted = None if (weights == 1).all() else weights
    return Inputs(rows, *encoded, labels.astype(np.int64), parts, counted, len(meta["classes"])), fitted


def _part(inputs: Inputs, part: int) -> Rows:
    from pipelines.network.data import tensors

    chosen = inputs.parts == part
    counted = [] if inputs.weights is None else [inputs.weights[chosen].astype(np.float32)]
    return tensors(inputs.numbers[chosen], inputs.categories[chosen], inputs.labels[chosen], inputs.rows[chosen], *counted)


def _fit_and_export(inputs: Inputs, preprocessing: dict[str, Any], params: Train) -> tuple[Fitted, bytes]:
    # Idle threads must sleep: spinning, they take the cores from each other and from other processes (a fit of 2 s took 40 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pipelines.network.export import export
    from pipelines.network.fit import fit

    train, valid = _part(inputs, TRAIN), _part(inputs, VALID)
    fitted = fit(
        train,
        valid,
        params,
        cardinalities=encode.cardinalities(preprocessing),
        classes=inputs.classes,
        checkpoint=checkpoint_path(params),
    )
    return fitted, export(fitted.network, valid.take(slice(0, 256)))


def _metrics(fitted: Fitted, model: bytes, logits: NDArray[np.float32], inputs: Inputs) -> dict[str, float]:
    losses = -logits[np.arange(len(logits)), inputs.labels]
    return {
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "parameters": sum(weight.numel() for weight in fitted.network.parameters()),
        "model_bytes": len(model),
        "train_log_loss": _mean(losses, inputs, TRAIN),
        "valid_log_loss": _mean(losses, inputs, VALID),
    }


def _mean(losses: NDArray[np.float32], inputs: Inputs, part: int) -> float:
    """Mean over all occurrences of the rows of a part."""
    chosen = inputs.parts == part
    if inputs.weights is None:
        return float(losses[chosen].mean(dtype=np.float64))
    return float(np.average(losses[chosen].astype(np.float64), weights=inputs.weights[chosen]))


def main() -> None:
    """Run the stage."""
    params = load(Train)
    inputs, preprocessing = read_inputs()
    fitted, model = _fit_and_export(inputs, preprocessing, params)
    scores = Network(model)(inputs.numbers, inputs.categories)
    with store.stage_folder("train") as out:
        (out / "model.onnx").write_bytes(model)
        store.write_json(out / "preprocessing.json", preprocessing)
        for name, values in (("rows", inputs.rows), ("logits", scores.logits), ("embeddings", scores.embedding)):
            np.save(out / f"{name}.npy", values)
        with (out / "history.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(history_rows(fitted.history))
        store.write_json(out / "metrics.json", _metrics(fitted, model, scores.logits, inputs))
    done = f"trained {len(fitted.history)} epochs, best {fitted.best_epoch} with valid log loss {fitted.valid_log_loss:.4f}"
    print(done, file=sys.stderr)


if __name__ == "__main__":
    store.run_stage(main)
