"""Rows gathered into fine cells of a score: drawing rows again is then drawing cells, in time that hardly depends on the rows.

Drawing n rows with replacement draws the cells' counts from a multinomial law; a statistic of the cells' weights needs no more.
What is lost is the order (and the exact score) of rows within one cell. Up to `LEVELS` distinct scores nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.core import resample

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVELS = 4096  #: cells of equal numbers of rows
STEPS = 1024  #: and no cell is wider than one part in this many of [0, 1]
ROWS_PER_KIND = 20  #: from there on it is quicker to draw how often each kind of row occurs than to draw rows


def cells_of(score: Floats, *splits: Ints) -> Ints:
    """Cell `(n,)` of each row, numbered from 0 on: equal scores share a cell, cells follow the score's order, `splits` `(n,)` part them.

    `score` `(n,)` in [0, 1]. Cells are single values of the score where there are at most `LEVELS` of these; otherwise they hold about
    n / LEVELS rows, and none is wider than 1 / STEPS.
    """
    values, code, sizes = np.unique(score, return_inverse=True, return_counts=True)
    if values.size > LEVELS:
        middle = np.cumsum(sizes) - sizes / 2
        cell = np.floor(middle * LEVELS / score.size) * (STEPS + 1) + np.floor(values * STEPS)
        code = np.unique(cell, return_inverse=True)[1][code]
    return _together([np.asarray(code, dtype=np.int64), *splits])


def cell_means(values: Floats, cells: Ints, weights: Floats | None = None) -> Floats:
    """Weighted mean of `values` `(n,)` in each cell; 0 in a cell without weight."""
    total = np.bincount(cells, weights=weights)
    found = np.bincount(cells, weights=values if weights is None else values * weights)
    return np.asarray(np.divide(found, total, out=np.zeros(total.size), where=total > 0))


def resampled(
    statistic: Callable[..., Floats],
    cells: Sequence[Ints],
    *,
    groups: ArrayLike | None = None,
    weights: Floats | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """Values `(resamples, ...)` of a statistic of the cells' weights, rows (whole groups where given) drawn with replacement.

    `cells`: one or more ways `(n,)` to gather the same rows; `statistic` takes as many arrays `(b, cells)` of weights drawn and returns
    `(b, ...)`. Deterministic under the seed.
    """
    sizes = [int(cell.max()) + 1 for cell in cells]
    codes = resample.clusters_of(groups, cells[0].size)
    gather = _by_kind(cells, sizes, weights) if codes is None else _by_group(cells, sizes, codes, weights)

    def draw(rng: np.random.Generator, size: int) -> Floats:
        return statistic(*gather(rng, size))

    return resample.chunks(draw, resamples, seed, units=cells[0].size)


Gather = Callable[[np.random.Generator, int], list[Floats]]


def _by_kind(cells: Sequence[Ints], sizes: Sequence[int], weights: Floats | None) -> Gather:
    """Draw independent rows: how often each kind of row (its cells and its weight) was drawn, or row by row where kinds are many."""
    rows = cells[0].size
    weighed = [] if weights is None else [np.asarray(np.unique(weights, return_inverse=True)[1], dtype=np.int64)]
    kinds = _together([*cells, *weighed])
    _, first, repeated = np.unique(kinds, return_index=True, return_counts=True)
    if rows < ROWS_PER_KIND * first.size:
        return _by_row(cells, sizes, weights)
    places = [cell[first] for cell in cells]
    weight = None if weights is None else weights[first]

    def gather(rng: np.random.Generator, size: int) -> list[Floats]:
        drawn = rng.multinomial(rows, repeated / rows, size=size).astype(np.float64)
        drawn = drawn if weight is None else drawn * weight
        return [
            np.stack([np.bincount(place, weights=row, minlength=count) for row in drawn])
            for place, count in zip(places, sizes, strict=True)
        ]

    return gather


def _by_row(cells: Sequence[Ints], sizes: Sequence[int], weights: Floats | None) -> Gather:
    rows = cells[0].size

    def gather(rng: np.random.Generator, size: int) -> list[Floats]:
        found = [np.empty((size, count)) for count in sizes]
        for b in range(size):
            at = rng.integers(rows, size=rows, dtype=np.uint32).astype(np.intp)
            weight = None if weights is None else weights.take(at)
            for cell, count, into in zip(cells, sizes, found, strict=True):
                into[b] = np.bincount(cell.take(at), weights=weight, minlength=count)
        return found

    return gather


def _by_group(cells: Sequence[Ints], sizes: Sequence[int], codes: Ints, weights: Floats | None) -> Gather:
    units = int(codes.max()) + 1

    def gather(rng: np.random.Generator, size: int) -> list[Floats]:
        found = [np.empty((size, count)) for count in sizes]
        for b in range(size):
            drawn = np.bincount(rng.integers(units, size=units), minlength=units).astype(np.float64).take(codes)
            weight = drawn if weights is None else drawn * weights
            for cell, count, into in zip(cells, sizes, found, strict=True):
                into[b] = np.bincount(cell, weights=weight, minlength=count)
        return found

    return gather


def _together(codes: Sequence[Ints]) -> Ints:
    """One code `(n,)`, from 0 on, per combination of codes that occurs, in the order of the first code, then the second, ..."""
    found = codes[0]
    for code in codes[1:]:
        found = np.asarray(np.unique(found * (int(code.max(initial=0)) + 1) + code, return_inverse=True)[1], dtype=np.int64)
    return found
