"""The data path: an epoch as `train` runs it beside a hand-written tensor loop with the same network, and batches beside a default DataLoader.

`python -m benchmarks.datapath [--rows N] [--rounds N]` writes benchmarks/results/datapath.json. Both sides of a ratio run in turn in one process;
the figure is the median over the rounds, with the lowest and highest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import machine, save
from pipelines.network.data import Plan, Rows, Training, plan_of, tensors
from pipelines.network.fit import batch_size, fit, use_threads
from pipelines.network.tabm import TabularNetwork
from pipelines.params.train import Train

NUMBERS, CATEGORIES, CARDINALITY, CLASSES, BATCH = 12, 6, 10, 2, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = example(arguments.rows)
    seen = np.arange(arguments.rows) < arguments.rows * 6 // 7
    plan, params = plan_of([seen], [~seen], repeats=0), Train(accelerator="cpu", patience=1000)
    found = {
        "machine": machine(),
        "rows": arguments.rows,
        "epoch": rounds(arguments.rounds, lambda: epoch_seconds(rows, plan, params), lambda: hand_written(rows, plan, params)),
        "batches": rounds(arguments.rounds, lambda: batches(rows, plan), lambda: default_loader(rows, plan)),
    }
    save("datapath", found)
    for name in ("epoch", "batches"):
        print(name, found[name])


def rounds(count: int, ours: Callable[[], float], theirs: Callable[[], float]) -> dict[str, Any]:
    """Both in turn, `count` times; `ratio` is their seconds over ours."""
    pairs = [(ours(), theirs()) for _ in range(count)]
    ratios = [b / a for a, b in pairs]
    seconds = {"ours": statistics.median(a for a, _ in pairs), "theirs": statistics.median(b for _, b in pairs)}
    return {**seconds, "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "rounds": count}


def example(rows: int) -> Rows:
    """Rows of noise: speed does not depend on what they say."""
    rng = np.random.default_rng(0)
    inputs = {
        "numbers": rng.normal(size=(rows, NUMBERS)).astype(np.float32),
        "categories": rng.integers(1, CARDINALITY, (rows, CATEGORIES)),
    }
    return tensors(inputs, rng.integers(0, CLASSES, rows), np.arange(rows))


def network(params: Train) -> TabularNetwork:
    torch.manual_seed(0)
    return TabularNetwork(
        [np.linspace(-3, 3, params.network.bins + 1).tolist()] * NUMBERS, [CARDINALITY] * CATEGORIES, CLASSES, params.network
    )


def epoch_seconds(rows: Rows, plan: Plan, params: Train) -> float:
    """Seconds of one more epoch: of three less of one, so that what Lightning needs to start counts for none."""
    spent = []
    for epochs in (1, 3):
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            given = params.model_copy(update={"max_epochs": epochs})
            fit(rows, plan, given, lambda _: network(params), Path(scratch) / "last.ckpt")
            spent.append(time.perf_counter() - started)
    return (spent[1] - spent[0]) / 2


def hand_written(rows: Rows, plan: Plan, params: Train) -> float:
    """An epoch of the plainest loop over tensors: the same network, optimiser, clipping, batches and judged rows."""
    model = network(params)
    learn, held = rows.take(plan.learn[0]), rows.take(plan.held[0])
    size = batch_size(len(learn), params.batch_size)
    use_threads(size * model.multiply_adds)
    optimiser = torch.optim.AdamW(model.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay, fused=True)

    def epoch() -> None:
        model.train()
        for chosen in torch.randperm(len(learn)).split(size):
            logits, _ = model({name: value[chosen] for name, value in learn.inputs.items()})
            loss = functional.cross_entropy(logits.flatten(0, 1), learn.labels[chosen].repeat_interleave(logits.shape[1]))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), params.gradient_clip)
            optimiser.step()
        model.eval()
        with torch.inference_mode():
            for start in range(0, len(held), 4096):
                logits, _ = model({name: value[start : start + 4096] for name, value in held.inputs.items()})
                functional.cross_entropy(logits.mean(dim=1), held.labels[start : start + 4096])

    epoch()
    started = time.perf_counter()
    epoch()
    epoch()
    return (time.perf_counter() - started) / 2


def batches(rows: Rows, plan: Plan) -> float:
    """An epoch of batches of 256 rows, nothing done with them."""
    source = Training(rows, plan, BATCH, seed=0)
    started = time.perf_counter()
    for _ in source:
        pass
    return time.perf_counter() - started


def default_loader(rows: Rows, plan: Plan) -> float:
    """The same rows through torch's DataLoader with its default options."""
    learn = rows.take(plan.learn[0])
    loader = DataLoader(TensorDataset(*learn.inputs.values(), learn.labels, learn.index), batch_size=BATCH, shuffle=True)
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
