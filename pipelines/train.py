"""A network with a symmetric, proper loss; logits and embeddings of every row outside the holdout, computed by the file that ships."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import store
from pipelines.core import encode
from pipelines.params import load
from pipelines.params.train import Train
from pipelines.scoring import Network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.network.data import Rows
    from pipelines.network.fit import Fitted

TRAIN, VALID, CALIB = 0, 1, 2
INPUTS = ("numbers.npy", "categories.npy", "labels.npy", "parts.npy", "meta.json")
CHECKPOINTS = Path(".checkpoints")


def checkpoint_path(params: Train) -> Path:
    """Where an interrupted training is kept: its name is the digest of the inputs and the parameters, so nothing else resumes from it."""
    digests = [store.sha256(store.need(store.stage_path("split", name))) for name in INPUTS]
    text = json.dumps([*digests, params.model_dump(mode="json")], sort_keys=True)
    return CHECKPOINTS / hashlib.sha256(text.encode()).hexdigest()[:32] / "last.ckpt"


def history_rows(history: list[dict[str, float]]) -> list[list[str]]:
    """Header and one line per epoch, numbered from 0."""
    lines = [[str(epoch), f"{entry['train_loss']:.6f}", f"{entry['valid_log_loss']:.6f}"] for epoch, entry in enumerate(history)]
    return [["epoch", "train_loss", "valid_log_loss"], *lines]


def _rows(chosen: NDArray[Any], numbers: NDArray[Any], categories: NDArray[Any], labels: NDArray[Any]) -> Rows:
    import torch

    from pipelines.network.data import Rows

    return Rows(
        *(torch.from_numpy(np.ascontiguousarray(array[chosen])) for array in (numbers, categories, labels)), torch.from_numpy(chosen)
    )


def main() -> None:
    """Run the stage."""
    params = load(Train)
    numbers, categories, labels, parts = (np.load(store.need(store.stage_path("split", name)), allow_pickle=False) for name in INPUTS[:4])
    meta = store.read_json(store.stage_path("split", INPUTS[4]))
    preprocessing = encode.fit(
        numbers[parts == TRAIN], categories[parts == TRAIN], meta["numbers"], meta["categories"], meta["vocabularies"]
    )
    inputs = encode.transform(
        preprocessing, encode.named(meta["numbers"], numbers), encode.named(meta["categories"], categories), meta["vocabularies"]
    )
    del numbers, categories
    fitted, model = _fit_and_export(params, preprocessing, *inputs, labels, parts, len(meta["classes"]))
    outside = np.flatnonzero(np.isin(parts, (TRAIN, VALID, CALIB)))
    scores = Network(model)(inputs[0][outside], inputs[1][outside])
    with store.stage_folder("train") as out:
        (out / "model.onnx").write_bytes(model)
        store.write_json(out / "preprocessing.json", preprocessing)
        for name, values in (("rows", outside), ("logits", scores.logits), ("embeddings", scores.embedding)):
            np.save(out / f"{name}.npy", values)
        with (out / "history.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(history_rows(fitted.history))
        store.write_json(out / "metrics.json", _metrics(fitted, model, scores.logits, labels[outside], parts[outside]))
    print(
        f"trained {len(fitted.history)} epochs, best {fitted.best_epoch} with valid log loss {fitted.valid_log_loss:.4f}", file=sys.stderr
    )


def _fit_and_export(
    params: Train,
    preprocessing: dict[str, Any],
    numbers: NDArray[np.float32],
    categories: NDArray[np.int64],
    labels: NDArray[np.int64],
    parts: NDArray[np.int8],
    classes: int,
) -> tuple[Fitted, bytes]:
    from pipelines.network.export import export
    from pipelines.network.fit import fit, use_threads

    use_threads()
    train, valid = (_rows(np.flatnonzero(parts == part), numbers, categories, labels) for part in (TRAIN, VALID))
    fitted = fit(train, valid, encode.cardinalities(preprocessing), classes, params, checkpoint_path(params))
    return fitted, export(fitted.network, valid.take(slice(0, 256)))


def _metrics(
    fitted: Fitted, model: bytes, logits: NDArray[np.float32], labels: NDArray[np.int64], parts: NDArray[np.int8]
) -> dict[str, float]:
    losses = -logits[np.arange(len(labels)), labels]
    return {
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "parameters": sum(weight.numel() for weight in fitted.network.parameters()),
        "model_bytes": len(model),
        "train_log_loss": float(losses[parts == TRAIN].mean(dtype=np.float64)),
        "valid_log_loss": float(losses[parts == VALID].mean(dtype=np.float64)),
    }


if __name__ == "__main__":
    store.run_stage(main)
