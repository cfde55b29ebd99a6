"""Resampling of rows or of whole groups with replacement, the same under a seed whatever the number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Units are drawn block by block: the block's totals first (multinomial), then 16-bit indices in it, which stay in the cache.
BLOCK = 65_536
CHUNK = 20  #: resamples that share a stream of random numbers
ALONE = 2_000_000  #: drawn units below which threads cost more than they save


def codes_of(groups: ArrayLike) -> Ints:
    """Number the distinct `groups` `(n,)` from 0 on: each row's code `(n,)`."""
    return np.asarray(np.unique(np.asarray(groups), return_inverse=True)[1], dtype=np.int64).ravel()


def clusters_of(groups: ArrayLike | None, rows: int) -> Ints | None:
    """`codes_of` the groups; None where there are none, or where every row is its own."""
    codes = None if groups is None else codes_of(groups)
    return None if codes is None or int(codes.max(initial=-1)) + 1 == rows else codes


def chunks(draw: Callable[[np.random.Generator, int], Floats], resamples: int, seed: int, *, units: int) -> Floats:
    """Values `(resamples, ...)` of `draw(generator, size)`, which returns `(size, ...)`, chunk by chunk, in threads where `units` are many."""
    sizes = [min(CHUNK, resamples - start) for start in range(0, resamples, CHUNK)]
    streams = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(len(sizes))]
    workers = min(len(sizes), _cores()) if units * resamples > ALONE else 1
    if workers == 1:
        return np.concatenate([draw(stream, size) for stream, size in zip(streams, sizes, strict=True)])
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(draw, streams, sizes)))


def sums(columns: Floats, resamples: int, seed: int) -> Floats:
    """Sums `(resamples, m)` of `columns` `(m, units)` over units drawn with replacement, as many as there are."""
    units = columns.shape[1]
    starts = np.arange(0, units, BLOCK)
    share = np.diff(np.append(starts, units)) / units
    blocks = [columns[:, start : start + BLOCK] for start in starts]

    def draw(rng: np.random.Generator, size: int) -> Floats:
        found = np.zeros((size, len(columns)))
        for total in found:
            drawn = rng.multinomial(units, share) if len(blocks) > 1 else [units]
            for block, count in zip(blocks, drawn, strict=True):
                at = rng.integers(block.shape[1], size=count, dtype=np.uint16).astype(np.intp)
                total += [column.take(at).sum() for column in block]
        return found

    return chunks(draw, resamples, seed, units=units)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
