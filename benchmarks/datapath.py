"""The data path: an epoch as `train` runs it beside a hand-written tensor loop with the same network, and batches beside a default DataLoader.

`python -m benchmarks.datapath [--rows N] [--images N] [--rounds N]` writes benchmarks/results/datapath.json, of a table and of grey images of
28 by 28 pixels. Both sides of a ratio run in turn in one process; the figure is the median over the rounds, with the lowest and highest.
`--accelerator gpu` runs the same on a GPU, with rows that are on it and with rows that do not fit, and writes benchmarks/results/datapath_gpu.json;
there the file that ships is also compared with the networks as they run on the GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import machine, save
from pipelines.network.augment import augmentation
from pipelines.network.build import builder
from pipelines.network.data import Training, plan_of, tensors
from pipelines.network.export import export
from pipelines.network.fit import batch_size, use_threads
from pipelines.network.stack import Exported
from pipelines.network.task import Task
from pipelines.networkfile import IMAGE
from pipelines.params.train import Augment, Residual, Train
from pipelines.scoring import Network

NUMBERS, CATEGORIES, CARDINALITY, CLASSES, PIXELS = 12, 6, 10, 2, 28
LOADED = 256  #: rows of a batch where nothing is done with them
EPOCHS = {"cpu": 3, "gpu": 11}  #: short on a GPU
JUDGED = {"table": 4096, "images": 256}  #: rows judged at once, as `Task.fit` has it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="of the table; default 20,000")
    parser.add_argument("--images", type=int, default=3_000, help="default 3,000")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": machine()}
    device = torch.device("cuda" if arguments.accelerator == "gpu" else "cpu")
    for name, (task, plain) in {"table": table(arguments.rows), "images": images(arguments.images)}.items():
        params = plain.model_copy(update={"accelerator": arguments.accelerator})
        ours, theirs = partial(epoch_seconds, task, params), partial(hand_written, task, params, JUDGED[name], device)
        found[name] = {"rows": len(task.rows), "epoch": rounds(arguments.rounds, ours, theirs)}
        if device.type == "cpu":
            found[name]["batches"] = rounds(arguments.rounds, partial(batches, task), partial(default_loader, task))
        else:
            with mock.patch("pipelines.network.fit.free_bytes", return_value=0):
                found[name]["epoch of rows that do not fit"] = rounds(arguments.rounds, ours, theirs)
            found[name]["file"] = agreement(task, params, device)
        print(name, found[name], flush=True)
    if device.type == "cpu":
        save("datapath", found)
    else:
        found["machine"] |= {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
        save("datapath_gpu", found)


def rounds(count: int, ours: Callable[[], float], theirs: Callable[[], float]) -> dict[str, Any]:
    """Both in turn, `count` times; `ratio` is their seconds over ours."""
    pairs = [(ours(), theirs()) for _ in range(count)]
    ratios = [b / a for a, b in pairs]
    seconds = {"ours": statistics.median(a for a, _ in pairs), "theirs": statistics.median(b for _, b in pairs)}
    return {**seconds, "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "rounds": count}


def table(rows: int) -> tuple[Task, Train]:
    """Numbers and categories for TabM."""
    rng = np.random.default_rng(0)
    inputs = {
        "numbers": rng.normal(size=(rows, NUMBERS)).astype(np.float32),
        "categories": rng.integers(1, CARDINALITY, (rows, CATEGORIES)),
    }
    given = {"number_count": NUMBERS, "cardinalities": [CARDINALITY] * CATEGORIES, "texts": []}
    return task_of_noise(inputs, given, rng), Train(accelerator="cpu", patience=1000)


def images(count: int) -> tuple[Task, Train]:
    """Images for the residual network as `expost init` writes it, moved by a few pixels in both loops."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 1, PIXELS, PIXELS), dtype=np.uint8)
    task = task_of_noise({IMAGE: pixels}, {"image_shape": [1, PIXELS, PIXELS]}, rng, {"mean": [127.5], "deviation": [73.9]})
    return task, Train(accelerator="cpu", patience=1000, network=Residual(), augment=Augment(), batch_size=64)


def task_of_noise(
    inputs: Mapping[str, NDArray[Any]], given: Mapping[str, Any], rng: np.random.Generator, scale: Mapping[str, Any] | None = None
) -> Task:
    """Learn from six rows of seven, judge on the others; speed does not depend on what they say."""
    count = len(next(iter(inputs.values())))
    seen = np.arange(count) < count * 6 // 7
    rows, plan = tensors(inputs, rng.integers(0, CLASSES, count), np.arange(count)), plan_of([seen], [~seen], repeats=0)
    return Task(
        rows,
        plan,
        lambda params: builder(params.network, {**given, "classes": CLASSES}, rows, plan, scale),
        given.get("cardinalities", []),
        CLASSES,
    )


def epoch_seconds(task: Task, params: Train) -> float:
    """Seconds of one more epoch: of several less of one, so that what Lightning needs to start counts for none."""
    spent, several = [], EPOCHS[params.accelerator]
    for epochs in (1, several):
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            task.fit(params.model_copy(update={"max_epochs": epochs}), Path(scratch) / "last.ckpt")
            spent.append(time.perf_counter() - started)
    return (spent[1] - spent[0]) / (several - 1)


def hand_written(task: Task, params: Train, judged: int, device: torch.device) -> float:
    """An epoch of the plainest loop over tensors: the same network, optimiser, clipping, batches, precision, changes of images and judged rows."""
    model = task.make(params)(0).to(device)
    learn, held = task.rows.take(task.plan.learn[0]).to(device), task.rows.take(task.plan.held[0]).to(device)
    reduced = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    change, generator = augmentation(params.augment, learn.inputs), torch.Generator().manual_seed(0)
    size = batch_size(len(learn), params.batch_size)
    use_threads(size * int(model.multiply_adds))
    optimiser = torch.optim.AdamW(model.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay, fused=True)

    def epoch() -> None:
        model.train()
        for chosen in torch.randperm(len(learn)).to(device).split(size):
            inputs: Mapping[str, torch.Tensor] = {name: value[chosen] for name, value in learn.inputs.items()}
            with reduced:
                logits, _ = model(change(inputs, generator) if change else inputs)
            loss = functional.cross_entropy(logits.float().flatten(0, 1), learn.labels[chosen].repeat_interleave(logits.shape[1]))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), params.gradient_clip)
            optimiser.step()
        model.eval()
        with torch.inference_mode(), reduced:
            for start in range(0, len(held), judged):
                logits, _ = model({name: value[start : start + judged] for name, value in held.inputs.items()})
                functional.cross_entropy(logits.float().mean(dim=1), held.labels[start : start + judged])
        if device.type == "cuda":
            torch.cuda.synchronize()

    epoch()
    started = time.perf_counter()
    for _ in range(EPOCHS[params.accelerator] - 1):
        epoch()
    return (time.perf_counter() - started) / (EPOCHS[params.accelerator] - 1)


def agreement(task: Task, params: Train, device: torch.device) -> dict[str, float]:
    """Largest difference of a class's probability in a row held out: of the file that ships from its network on the GPU, in fp32 and in bf16."""
    with tempfile.TemporaryDirectory() as scratch:
        networks = task.fit(params.model_copy(update={"max_epochs": 5}), Path(scratch) / "last.ckpt").networks
    inputs = task.rows.take(task.plan.held[0]).inputs
    shipped = np.exp(Network(export(networks, inputs)).run({name: value.numpy() for name, value in inputs.items()}, ["logits"])[0])
    network = Exported(networks, list(inputs)).to(device)
    found = {}
    for name, half in (("fp32", False), ("bf16", True)):
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits, _ = network(*(value.to(device) for value in inputs.values()))
        found[name] = float(np.abs(logits.float().exp().cpu().numpy() - shipped).max())
    return {**found, "rows": len(shipped), "deviation": float(shipped.std(axis=0).mean())}


def batches(task: Task) -> float:
    """An epoch of batches of 256 rows, nothing done with them."""
    source = Training(task.rows, task.plan, LOADED, seed=0)
    started = time.perf_counter()
    for _ in source:
        pass
    return time.perf_counter() - started


def default_loader(task: Task) -> float:
    """The same rows through torch's DataLoader with its default options."""
    learn = task.rows.take(task.plan.learn[0])
    loader = DataLoader(TensorDataset(*learn.inputs.values(), learn.labels, learn.index), batch_size=LOADED, shuffle=True)
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
