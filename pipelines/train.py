"""Networks with a symmetric, proper loss; logits and embeddings of every row outside the holdout, computed by the file that ships.

`logits.npy` are of networks that never saw the row, where there are any; `shipped.npy` are those that a scorer of the file gets.

A weight, how often an identical row occurred, counts in both losses as that many rows would; costs and utilities are not known here.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import store, usercode
from pipelines.core import encode
from pipelines.network import checkpoint
from pipelines.network.task import CALIB, TRAIN, VALID, Inputs, task_of
from pipelines.networkfile import IMAGE
from pipelines.params import load
from pipelines.params.train import Own, Train
from pipelines.scoring import Network

if TYPE_CHECKING:
    from pipelines.network.fit import Fitted
    from pipelines.network.partners import Partner

ARRAYS = ("numbers", "categories", "text", "labels", "parts", "weights", "unseen")
CHECKPOINTS = Path(".checkpoints")


def checkpoint_path(params: Train) -> Path:
    """Where an interrupted training is kept: its name is the digest of inputs, parameters and code, so nothing else resumes from it."""
    here = Path(__file__).parent
    code = sorted([*(here / "network").glob("*.py"), *(here / "core").glob("*.py")])
    code += map(Path, usercode.files(params.network.path)) if isinstance(params.network, Own) else []
    digests = [store.sha256(path) for path in code]
    digests += [store.sha256(store.need(store.stage_path("split", name))) for name in (*(f"{array}.npy" for array in ARRAYS), "meta.json")]
    images = store.stage_path("split", "images.npy")
    digests += [store.sha256(images)] if images.exists() else []
    text = json.dumps([*digests, params.model_dump(mode="json")], sort_keys=True)
    return CHECKPOINTS / hashlib.sha256(text.encode()).hexdigest()[:32] / "last.ckpt"


def history_rows(history: list[dict[str, float]]) -> list[list[str]]:
    """Header and one line per epoch, numbered from 0."""
    lines = [[str(epoch), f"{entry['train_loss']:.6f}", f"{entry['valid_log_loss']:.6f}"] for epoch, entry in enumerate(history)]
    return [["epoch", "train_loss", "valid_log_loss"], *lines]


def read_inputs() -> tuple[Inputs, dict[str, Any]]:
    """Read the split and fit the preprocessing on the rows that are learnt from; rows of the holdout are left where they are.

    The preprocessing sees no label, and counts each row once, whatever its weight: a grid of quantiles over all occurrences would resolve
    the commonest row only.
    """
    columns = {name: np.load(store.need(store.stage_path("split", f"{name}.npy")), mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    meta = store.read_json(store.stage_path("split", "meta.json"))
    rows = np.flatnonzero(np.isin(columns["parts"], (TRAIN, VALID, CALIB)))
    numbers, categories, text, labels, parts, weights, unseen = (np.asarray(columns[name][rows]) for name in ARRAYS)
    repeats = int((meta["rule"].get("folds") or {"repeats": 0})["repeats"])
    learnt = np.ones(len(rows), dtype=bool) if repeats else parts == TRAIN
    texts, images = {name: text[:, column] for column, name in enumerate(meta["texts"])}, _images(rows, meta)
    fitted = encode.fit(
        numbers[learnt],
        categories[learnt],
        meta["numbers"],
        meta["categories"],
        meta["vocabularies"],
        texts={name: found[learnt] for name, found in texts.items()},
        images={name: found[learnt] for name, found in images.items()},
    )
    encoded = encode.transform(
        fitted, encode.named(meta["numbers"], numbers), encode.named(meta["categories"], categories), meta["vocabularies"]
    )
    arrays: dict[str, NDArray[Any]] = {"numbers": encoded[0], "categories": encoded[1], "text": encode.transform_texts(fitted, texts)}
    arrays = {name: array for name, array in arrays.items() if array.shape[1]} | dict(zip((IMAGE,), images.values(), strict=False))
    counted = None if (weights == 1).all() else weights
    return Inputs(rows, arrays, labels.astype(np.int64), parts, unseen, repeats, counted, len(meta["classes"])), fitted


def _images(rows: NDArray[np.int64], meta: dict[str, Any]) -> dict[str, NDArray[np.uint8]]:
    """Images (n, C, H, W) of these rows by the name of their column, where there is one."""
    if "image" not in meta:
        return {}
    path = store.need(store.stage_path("split", "images.npy"))
    return {meta["image"]["name"]: np.load(path, mmap_mode="r", allow_pickle=False)[rows]}


@dataclass(frozen=True)
class Trained:
    """Networks, what learnt beside them with the share of each in the pool, and the file of all."""

    networks: Fitted
    beside: list[tuple[Partner, float]]
    model: bytes

    @property
    def out_of_time(self) -> bool:
        """Whether the time was up for any."""
        return self.networks.out_of_time or any(partner.out_of_time for partner, _ in self.beside)


def _fit_and_export(inputs: Inputs, preprocessing: dict[str, Any], params: Train, kept: Path) -> Trained:
    task = task_of(inputs, preprocessing)
    from pipelines.network.export import export

    started, make = time.monotonic(), task.ready(params)
    partners = task.partners(params)
    fitted = task.fit(_within(params, time.monotonic() - started), kept, make=make)
    sample = task.rows.take(task.plan.held[0][:256]).inputs
    if not partners:
        return Trained(fitted, [], export(fitted.networks, sample))
    from pipelines.network.partners import shares_of

    beside = list(zip(partners, shares_of(partners, fitted.networks, task.rows, task.plan, task.judged(params)), strict=True))
    return Trained(fitted, beside, export(fitted.networks, sample, [(partner.module, share) for partner, share in beside if share]))


def _within(params: Train, spent: float) -> Train:
    """The parameters with what is left of the time after `spent` seconds."""
    if params.max_minutes is None:
        return params
    return params.model_copy(update={"max_minutes": max(params.max_minutes - spent / 60, 1e-6)})


def _metrics(trained: Trained, logits: NDArray[np.float32], inputs: Inputs) -> dict[str, float]:
    losses, fitted = -logits[np.arange(len(logits)), inputs.labels], trained.networks
    found: dict[str, float] = {"network_log_loss": fitted.valid_log_loss} if trained.beside else {}
    for partner, share in trained.beside:
        figures = {**partner.figures, "share": round(share, 4), "log_loss": partner.log_loss, "out_of_time": int(partner.out_of_time)}
        found |= {f"{partner.name}_{key}": value for key, value in figures.items()}
    found |= {
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "networks": len(fitted.networks),
        "out_of_time": int(trained.out_of_time),
        "parameters": sum(weight.numel() for network in fitted.networks for weight in network.parameters()),
        "model_bytes": len(trained.model),
    }
    if inputs.repeats:  # of each row by the networks that never saw it
        return {**found, "valid_log_loss": _mean(losses, inputs, np.ones(len(losses), dtype=bool))}
    return {
        **found,
        "train_log_loss": _mean(losses, inputs, inputs.parts == TRAIN),
        "valid_log_loss": _mean(losses, inputs, inputs.parts == VALID),
    }


def _mean(losses: NDArray[np.float32], inputs: Inputs, chosen: NDArray[np.bool_]) -> float:
    """Mean over all occurrences of some rows."""
    if inputs.weights is None:
        return float(losses[chosen].mean(dtype=np.float64))
    return float(np.average(losses[chosen].astype(np.float64), weights=inputs.weights[chosen]))


def main() -> None:
    """Run the stage."""
    params = load(Train)
    inputs, preprocessing = read_inputs()
    kept = checkpoint_path(params)
    trained = _fit_and_export(inputs, preprocessing, params, kept)
    network = Network(trained.model)
    scores = network(inputs.arrays)
    logits = network.unseen_logits(inputs.arrays, inputs.unseen) if inputs.repeats else scores.logits
    with store.stage_folder("train") as out:
        (out / "model.onnx").write_bytes(trained.model)
        store.write_json(out / "preprocessing.json", preprocessing)
        for name, values in (("rows", inputs.rows), ("logits", logits), ("shipped", scores.logits), ("embeddings", scores.embedding)):
            np.save(out / f"{name}.npy", values)
        with (out / "history.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(history_rows(trained.networks.history))
        store.write_json(out / "metrics.json", _metrics(trained, logits, inputs))
    checkpoint.remove(kept)
    fitted = trained.networks
    several = f" of {len(fitted.networks)} networks" if len(fitted.networks) > 1 else ""
    done = f"trained {len(fitted.history)} epochs{several}, best {fitted.best_epoch} with valid log loss {fitted.valid_log_loss:.4f}"
    for partner, share in trained.beside:
        done += f"; {partner.told} with {partner.log_loss:.4f}, whose share is {share:.2f}"
    print(f"{done}; train.max_minutes cut it short" if trained.out_of_time else done, file=sys.stderr)


if __name__ == "__main__":
    store.run_stage(main)
