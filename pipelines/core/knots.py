"""Points that resolve a column where its rows are and in its tail: what piecewise-linear functions of it bend at."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", bound=np.floating[Any])


def knots(values: NDArray[Float], most: int) -> NDArray[Float]:
    """At most `most` of the values (n,), finite, n and `most` at least 2: ascending, the least and the largest among them.

    All distinct values where they are so few. Else each that more rows hold than would be its share has a point of its own, and the others lie at
    equal shares of the remaining rows, as histograms of boosted trees do: plain quantiles of a column that is mostly zero resolve little else.
    """
    distinct: NDArray[Float]
    distinct, rows = np.unique(values, return_counts=True)
    if len(distinct) <= most:
        return distinct
    own = np.zeros(len(distinct), dtype=bool)
    while (more := ~own & (rows * (most - 1 - own.sum()) > rows[~own].sum())).any():
        own |= more
    upto = np.cumsum(rows[~own])
    places = np.linspace(0, upto[-1] - 1, most - int(own.sum())).round()
    own[np.flatnonzero(~own)[np.searchsorted(upto, places, side="right")]] = True
    found: NDArray[Float] = distinct[own]
    return found
