"""Cells of a score: what they keep, and that drawing cells is drawing rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import grid


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.50001, 1.0]), min_size=1, max_size=30))
def test_few_scores_are_cells_of_their_own_in_order(scores: list[float]) -> None:
    score = np.array(scores)
    cells = grid.cells_of(score)
    assert (np.unique(score)[cells] == score).all()


def test_cells_of_many_scores_are_narrow_hold_few_rows_and_follow_the_order() -> None:
    score = np.random.default_rng(0).beta(0.3, 3, 100_000).round(7)
    cells = grid.cells_of(score)
    assert (np.diff(cells[np.argsort(score)]) >= 0).all()
    assert np.bincount(cells).min() > 0
    wide = [np.ptp(score[cells == cell]) for cell in range(0, cells.max() + 1, 50)]
    assert max(wide) <= 1 / grid.STEPS
    once = np.unique(score, return_counts=True)[1].max()
    assert np.bincount(cells).max() <= 100_000 / grid.LEVELS + once + 1


def test_a_split_parts_cells_and_keeps_their_order() -> None:
    score, split = np.array([0.1, 0.1, 0.7, 0.7, 0.7]), np.array([1, 0, 0, 1, 1])
    assert grid.cells_of(score, split).tolist() == [1, 0, 2, 3, 3]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("way", ["kinds", "rows", "groups"])
def test_every_way_of_drawing_has_the_law_of_the_bootstrap(way: str, weighted: bool, monkeypatch) -> None:
    """Means and covariances of the cells' weights against those of a multinomial draw of rows."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 3, 60)
    weights = rng.integers(1, 4, 60).astype(float) if weighted else None
    monkeypatch.setattr(grid, "ROWS_PER_KIND", 1 if way == "kinds" else 1000)
    groups = rng.permutation(60) if way == "groups" else None
    monkeypatch.setattr(grid.resample, "clusters_of", lambda groups, rows: groups)
    draws = grid.resampled(lambda drawn: drawn, [cells], groups=groups, weights=weights, resamples=20_000, seed=1)
    row = np.eye(3)[cells] * (1.0 if weights is None else weights[:, None])
    assert draws.mean(axis=0) == pytest.approx(row.sum(axis=0), rel=0.01)
    assert np.cov(draws.T) == pytest.approx(60 * np.cov(row.T, bias=True), rel=0.06, abs=2.2)


def test_groups_are_drawn_whole() -> None:
    cells, groups = np.repeat(np.arange(4), 5), np.repeat(np.arange(4), 5)
    draws = grid.resampled(lambda drawn: drawn, [cells], groups=groups, resamples=50, seed=0)
    assert set(np.unique(draws % 5)) == {0.0}
    assert (draws.sum(axis=1) == 20).all()


def test_two_gatherings_of_the_same_rows_are_drawn_together() -> None:
    cells = np.arange(50) % 5
    draws = grid.resampled(lambda one, other: one - other[:, ::-1], [cells, 4 - cells], resamples=30, seed=0)
    assert (draws == 0).all()
