"""Where piecewise-linear functions of a column bend."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.knots import knots

COLUMNS = st.lists(st.integers(-20, 20) | st.floats(-1e6, 1e6), min_size=2, max_size=300).map(lambda values: np.array(values, float))


@given(COLUMNS, st.integers(2, 40))
def test_they_are_values_of_the_column_ascending_with_both_ends(column: np.ndarray, most: int) -> None:
    found = knots(column, most)
    assert 1 <= len(found) <= most
    assert (np.diff(found) > 0).all()
    assert np.isin(found, column).all()
    assert (found[0], found[-1]) == (column.min(), column.max())


@given(COLUMNS, st.integers(2, 40))
def test_the_order_of_the_rows_changes_nothing(column: np.ndarray, most: int) -> None:
    assert np.array_equal(knots(column[::-1], most), knots(column, most))


def test_few_distinct_values_are_all_knots() -> None:
    assert knots(np.array([3.0, 1.0, 1.0, 2.0, 3.0]), 3).tolist() == [1, 2, 3]


def test_equal_shares_where_no_value_is_frequent() -> None:
    assert knots(np.arange(101.0), 5).tolist() == [0, 25, 50, 75, 100]


def test_a_column_that_is_mostly_zero_is_resolved_in_its_tail() -> None:
    """Where plain quantiles of 1,000 rows, 90 % of them zero, would give it 5 of 48 points."""
    column = np.r_[np.zeros(900), np.arange(1.0, 101.0)]
    found = knots(column, 48)
    assert len(np.unique(np.quantile(column, np.linspace(0, 1, 48)))) < 7
    assert len(found) == 48
    assert np.diff(found).max() <= 3


@pytest.mark.parametrize("frequent", [1, 5, 15])
def test_each_frequent_value_has_a_point_of_its_own(frequent: int) -> None:
    column = np.r_[np.random.default_rng(0).normal(size=2000), np.repeat(np.linspace(-1, 1, frequent), 800)]
    found = knots(column, 20)
    assert np.isin(np.linspace(-1, 1, frequent), found).all()
    assert len(found) == 20, "the others resolve the rest"
