"""Rows as tensors, and batches of them: a batch is one gather per array for all networks at once, without collating row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CPU = torch.device("cpu")

#: Inputs of a training batch changed by chance; the generator is drawn from (seed, epoch) and on the CPU.
Augmentation = Callable[[Mapping[str, Tensor], torch.Generator], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Rows:
    """Inputs by name, such as numbers (n, F) float32 and categories (n, C) int64; labels (n,) int64, each row's index in the table (n,) int64.

    `weights` (n,) float32 say how often each row occurred, or None where each occurred once. In a batch for M networks each array starts with
    (M, B) instead of (n,).
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor
    index: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Tensor | slice) -> Rows:
        """The chosen rows."""
        return self._each(lambda array: array[chosen])

    @property
    def device(self) -> torch.device:
        """Where inputs, labels and index are."""
        return self.labels.device

    def to(self, device: torch.device, *, pin: bool = False) -> Rows:
        """The same rows on a device; without a copy where they are there already.

        With `pin` they go there from pinned memory, and nothing on the CPU waits until they are there.
        """

        def moved(array: Tensor) -> Tensor:
            return (array.pin_memory() if pin and array.device.type == "cpu" else array).to(device, non_blocking=pin)

        return self._each(moved)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Rows:
        inputs = {name: change(array) for name, array in self.inputs.items()}
        return Rows(inputs, change(self.labels), change(self.index), None if self.weights is None else change(self.weights))


def tensors(inputs: Mapping[str, NDArray[Any]], *arrays: NDArray[Any]) -> Rows:
    """Rows out of arrays, in the order of the fields, without a copy."""
    return Rows({name: torch.from_numpy(array) for name, array in inputs.items()}, *(torch.from_numpy(array) for array in arrays))


def placed(rows: Rows, device: torch.device, free: int) -> Rows:
    """Rows on a device of which `free` bytes are free, where they take at most half of these: there each batch is a gather. Else rows as they are.

    Weights stay on the CPU, where `Training` and `Judging` each make their own of them.
    """
    plain = replace(rows, weights=None)
    taken = sum(array.nbytes for array in (*plain.inputs.values(), plain.labels, plain.index))
    return replace(plain.to(device), weights=rows.weights) if 2 * taken <= free else rows


def brought(batches: Iterable[Rows], device: torch.device) -> Iterator[Rows]:
    """Batches on a GPU, each copied there, by a stream of its own, while the one before is computed with; those that are there, and on a CPU, as they are."""
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    coming: tuple[Rows, torch.cuda.Event] | None = None
    for batch in batches:
        if batch.device.type == "cuda":
            yield batch
            continue
        with torch.cuda.stream(copying):
            next_one = batch.to(device, pin=True), copying.record_event()
        if coming:
            yield _arrived(*coming)
        coming = next_one
    if coming:
        yield _arrived(*coming)


def _arrived(batch: Rows, event: torch.cuda.Event) -> Rows:
    """The batch, for whatever is queued from here on; its memory is not given to another copy before that is done."""
    computing = torch.cuda.current_stream(batch.device)
    computing.wait_event(event)
    for array in (*batch.inputs.values(), batch.labels, batch.index, *([] if batch.weights is None else [batch.weights])):
        array.record_stream(computing)
    return batch


def copies_of(weights: Tensor) -> Tensor:
    """How many copies of each row `(n,)` a training goes through: rows heavier than the mean several, each with its part of the weight.

    The weighted mean of any loss stays what it was. No copy weighs more than the mean weight of the rows did, so no step follows one row
    alone, and at most twice as many rows are gone through: a row that occurred 100,000 times would else take a whole batch for itself.
    """
    return torch.ceil(weights.double() / weights.double().mean()).long().clamp(min=1)


@dataclass(frozen=True)
class Plan:
    """Which of the n rows each of M networks learns from, and which are held out for it: index tensors, `(m,)` each.

    `judges` names for each network those whose held-out log loss says when to stop it. A network of a fold is stopped by the other folds:
    no row is spent on stopping alone, and its own rows tell on it by no more than when those that learnt from them stop it.
    """

    learn: tuple[Tensor, ...]
    held: tuple[Tensor, ...]
    judges: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.learn)


def plan_of(seen: Sequence[NDArray[np.bool_]], held: Sequence[NDArray[np.bool_]], *, repeats: int) -> Plan:
    """Networks that learn from the rows `seen` and are judged on `held`, masks `(n,)`: a single one, or those of `repeats` repetitions of folds.

    These stand in order of repetition, then fold.
    """
    count = len(seen) // max(1, repeats)
    others = [[other for other in range(m // count * count, (m // count + 1) * count) if other != m] for m in range(len(seen))]
    judges = tuple(tuple(found or [m]) for m, found in enumerate(others))
    learn, judged = (tuple(torch.from_numpy(np.flatnonzero(mask)) for mask in masks) for masks in (seen, held))
    return Plan(learn, judged, judges)


class Training:
    """Batches for M networks side by side, each in its own order drawn from (seed, network, epoch), so a resumed run sees those it would have.

    All networks take the same number of steps in an epoch; those with a few more rows leave these out for that epoch. Batches come on `device`.
    """

    def __init__(
        self, rows: Rows, plan: Plan, size: int, *, seed: int, augment: Augmentation | None = None, device: torch.device = CPU
    ) -> None:
        self.augment, self.device = augment, device
        self.seed, self.epoch, self.learn, self.means = seed, 0, list(plan.learn), torch.ones(len(plan))
        if rows.weights is not None:
            learnt, copies = torch.unique(torch.cat(self.learn)), torch.ones(len(rows), dtype=torch.long)
            copies[learnt] = copies_of(rows.weights[learnt])
            rows = replace(rows, weights=(rows.weights.double() / copies).float())
            self.learn = [chosen.repeat_interleave(copies[chosen]) for chosen in self.learn]
            assert rows.weights is not None
            self.means = torch.stack([rows.weights[chosen].double().mean() for chosen in self.learn]).float().to(rows.device)
            rows = replace(rows, weights=rows.weights.to(rows.device))
        self.rows = rows
        self.rows_each = min(map(len, self.learn))
        self.steps = max(1, math.ceil(self.rows_each / size))

    def __len__(self) -> int:
        return self.steps

    @property
    def sampler(self) -> Training:
        """Itself: Lightning tells samplers, and nothing else, which epoch it is."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Told by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Rows]:
        order = torch.stack([self._order(network) for network in range(len(self.learn))]).to(self.rows.device)
        generator = torch.Generator().manual_seed(mix(mix(self.seed, self.epoch), -2))
        # Equal sizes within one row: a last batch of a few rows would take as large a step as the others.
        batches = (self._weighted(self.rows.take(chosen)) for chosen in order.tensor_split(self.steps, dim=1))
        for batch in brought(batches, self.device):
            yield batch if self.augment is None else replace(batch, inputs=self.augment(batch.inputs, generator))

    def _weighted(self, batch: Rows) -> Rows:
        return batch if batch.weights is None else replace(batch, weights=batch.weights / self.means[:, None])

    def _order(self, network: int) -> Tensor:
        chosen = self.learn[network]
        generator = torch.Generator().manual_seed(mix(mix(self.seed, self.epoch), network) if network else mix(self.seed, self.epoch))
        return chosen[torch.randperm(len(chosen), generator=generator)[: self.rows_each]]


class Judging:
    """Batches of the rows held out for each of M networks, in order, `size` rows of all networks together.

    Where a network has fewer than another its last rows come again, with weight 0. Batches come on `device`.
    """

    def __init__(self, rows: Rows, plan: Plan, size: int, device: torch.device = CPU) -> None:
        self.device = device
        length = max(map(len, plan.held))
        self.rows, self.size = replace(rows, weights=None), max(1, size // len(plan))
        order = torch.stack([torch.cat([held, held[-1:].expand(length - len(held))]) for held in plan.held])
        occurred = torch.ones(len(rows)) if rows.weights is None else rows.weights
        real = torch.stack([torch.arange(length) < len(held) for held in plan.held])
        self.order, self.weights = order.to(rows.device), (occurred[order] * real).to(rows.device)

    def __len__(self) -> int:
        return math.ceil(self.order.shape[1] / self.size)

    def __iter__(self) -> Iterator[Rows]:
        parts = (slice(start, start + self.size) for start in range(0, self.order.shape[1], self.size))
        batches = (replace(self.rows.take(self.order[:, part]), weights=self.weights[:, part]) for part in parts)
        yield from brought(batches, self.device)


def mix(seed: int, epoch: int) -> int:
    """One seed out of two numbers (splitmix64), so neighbouring pairs share nothing."""
    state = (seed * 0x9E3779B97F4A7C15 + epoch + 1) & 0xFFFFFFFFFFFFFFFF
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (state ^ (state >> 31)) & 0x7FFFFFFFFFFFFFFF
