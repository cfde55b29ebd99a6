"""Typical cases and those most like them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import cases
from pipelines.core.conditions import Inputs

ROWS = Inputs(
    {"x": np.array([1.0, 2, 3, 100, np.nan]), "y": np.array([5.0, 5, 5, 5, 5])},
    {"k": (np.array([0, 0, 1, 1, -1]), ("a", "b"))},
)


def test_golden_distances() -> None:
    """By hand: ranks of x among five rows are 0.2, 0.4, 0.6, 0.8; y is the same in all; k differs or not; a missing x is 1 from a given one."""
    found = cases.distances(cases.coordinates(ROWS), np.arange(5), np.arange(5))
    assert found[0] == pytest.approx([0, 0.2 / 3, 1.4 / 3, 1.6 / 3, 2 / 3])
    assert found[4] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2 / 3, 0])
    assert np.allclose(found, found.T)


@given(st.integers(0, 1000))
def test_an_increasing_change_of_a_number_changes_no_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, k = rng.normal(size=20), (rng.integers(-1, 3, 20), ("a", "b", "c"))
    one, other = (cases.coordinates(Inputs({"x": column}, {"k": k})) for column in (x, np.exp(x)))
    rows = np.arange(20)
    assert np.array_equal(cases.distances(one, rows, rows), cases.distances(other, rows, rows))


def test_typical_cases_stand_for_all_and_the_first_lies_in_the_middle() -> None:
    x = np.concatenate([np.linspace(0, 1, 9), np.linspace(100, 101, 5), [1e6]])
    place = cases.coordinates(Inputs({"x": x}, {}))
    chosen = cases.typical(place, np.arange(15), np.ones(15), 3)
    assert chosen[0] in (6, 7, 8)
    assert (chosen[1:] > 8).any()
    assert cases.typical(place, np.arange(15), np.where(np.arange(15) == 14, 100.0, 1.0), 1).tolist() == [14]  # where losses lie counts
    assert cases.typical(place, np.array([3]), np.ones(1), 3).tolist() == [3]
    assert cases.typical(place, np.zeros(0, dtype=np.int64), np.zeros(0), 3).tolist() == []


def test_the_nearest_come_first_and_of_equal_ones_the_first_given() -> None:
    place = cases.coordinates(ROWS)
    assert cases.most_alike(place, 0, np.array([4, 3, 2, 1]), 2).tolist() == [1, 2]
    assert cases.most_alike(place, 4, np.array([3, 1]), 5).tolist() == [3, 1]
