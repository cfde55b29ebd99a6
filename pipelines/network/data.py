"""Rows as tensors, and batches of them: a batch is one gather per array, without collating row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Numbers (n, F) float32, categories (n, C) int64, labels (n,) int64, and each row's index in the table (n,) int64.

    `weights` (n,) float32 say how often each row occurred, or None where each occurred once.
    """

    numbers: Tensor
    categories: Tensor
    labels: Tensor
    index: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Tensor | slice) -> Rows:
        """The chosen rows."""
        return self._each(lambda array: array[chosen])

    def to(self, device: torch.device) -> Rows:
        """The same rows on a device; without a copy where they are there already."""
        return self._each(lambda array: array.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Rows:
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(array) for name, array in arrays.items() if array is not None})


def tensors(*arrays: NDArray[Any]) -> Rows:
    """Rows out of arrays, in the order of the fields, without a copy."""
    return Rows(*(torch.from_numpy(array) for array in arrays))


def spread(rows: Rows) -> Rows:
    """Rows heavier than the mean stand several times, each copy with its part of the weight; the weights' mean becomes 1.

    The weighted mean of any loss stays what it was. No copy weighs more than the mean weight of the rows did, so no step follows one row
    alone, and at most twice as many rows are gone through: a row that occurred 100,000 times would else take a whole batch for itself.
    """
    if rows.weights is None:
        return rows
    copies = torch.ceil(rows.weights.double() / rows.weights.double().mean()).long().clamp(min=1)
    shared = rows.weights.double() / copies
    placed = replace(rows, weights=shared).take(torch.repeat_interleave(copies))
    assert placed.weights is not None
    return replace(placed, weights=(placed.weights / placed.weights.mean()).float())


class Batches:
    """Batches of `rows`, in an order drawn from (seed, epoch) when training, so a resumed run sees the batches it would have seen."""

    def __init__(self, rows: Rows, size: int, *, seed: int | None = None) -> None:
        self.rows, self.size, self.seed, self.epoch = rows, size, seed, 0

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.size)

    def set_epoch(self, epoch: int) -> None:
        """Told by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Rows]:
        if self.seed is None:
            for start in range(0, len(self.rows), self.size):
                yield self.rows.take(slice(start, start + self.size))
            return
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(mix(self.seed, self.epoch)))
        # Equal sizes within one row: a last batch of a few rows would take as large a step as the others.
        for chosen in order.tensor_split(len(self)):
            yield self.rows.take(chosen)


def mix(seed: int, epoch: int) -> int:
    """One seed out of two numbers (splitmix64), so neighbouring pairs share nothing."""
    state = (seed * 0x9E3779B97F4A7C15 + epoch + 1) & 0xFFFFFFFFFFFFFFFF
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (state ^ (state >> 31)) & 0x7FFFFFFFFFFFFFFF
