"""Profiles of columns and their drift: nothing rare is kept, noise is called stable, a change is named."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipelines.core import drift
from pipelines.core.rowhash import Text

Draw = Callable[[np.random.Generator], np.ndarray | Text]
numbers = st.lists(st.one_of(st.just(float("nan")), st.integers(-3, 3).map(float), st.floats(-1e6, 1e6)), min_size=1, max_size=80)
texts = st.lists(st.one_of(st.none(), st.sampled_from("abcdef"), st.text(max_size=3)), min_size=1, max_size=80)


def between(a: np.ndarray | Text, b: np.ndarray | Text) -> drift.Shift:
    profile = drift.describe(a)
    return drift.shift(drift.counted(profile), drift.count(profile, b), ordered=not isinstance(a, Text))


@given(numbers)
def test_a_column_of_numbers_has_not_drifted_from_itself_in_any_order(values: list[float]) -> None:
    column = np.array(values)
    profile = drift.describe(column)
    assert drift.describe(np.random.default_rng(0).permutation(column)) == profile
    assert profile == json.loads(json.dumps(profile))
    found = between(column, column[::-1])
    assert (found.psi, found.tv, found.ks, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert drift.words([found]) == ["stable"]
    assert sum(profile["counts"]) + profile["missing"] == len(values)


@given(texts)
def test_a_column_of_text_has_not_drifted_from_itself_in_any_order(values: list[str | None]) -> None:
    profile = drift.describe(Text.of(values))
    assert drift.describe(Text.of(values[::-1])) == profile
    found = between(Text.of(values), Text.of(values[::-1]))
    assert (found.psi, found.tv, found.ks, found.p_value) == (0.0, 0.0, None, 1.0)
    assert sum(profile["counts"]) + profile["other"] + profile["missing"] == len(values)
    assert sum(profile["buckets"]) == sum(value is not None for value in values)


@given(numbers, st.integers(2, 9))
def test_a_weight_counts_as_that_many_rows_and_scale_does_not_matter(values: list[float], times: int) -> None:
    column = np.array(values)
    weighted, once = drift.describe(column, np.full(column.size, times)), drift.describe(column)
    assert weighted["counts"] == pytest.approx(np.array(once["counts"]) * times)
    larger = drift.describe(column * 4)
    assert larger["counts"] == once["counts"]


def test_the_index_and_the_distances_are_those_of_their_definitions() -> None:
    profile = drift.describe(np.arange(1000.0))
    shares = np.array([300, 250, 150, 100, 50, 50, 40, 30, 20, 10])
    now = np.repeat(np.arange(10) * 100 + 50.0, shares)
    found = drift.shift(drift.counted(profile), drift.count(profile, now), ordered=True)
    p, q = (np.full(10, 100) + 0.5) / 1005, (shares + 0.5) / 1005
    assert found.psi == pytest.approx(np.sum((q - p) * np.log(q / p)))
    assert found.tv == pytest.approx(np.abs(shares / 1000 - 0.1).sum() / 2)
    assert found.ks == pytest.approx(np.abs(np.cumsum(shares / 1000 - 0.1)).max())
    assert found.p_value == pytest.approx(stats.chi2_contingency(np.array([np.full(10, 100), shares]), correction=False).pvalue)
    assert found.noise == pytest.approx(9 * 2 / 1000)


def test_no_value_of_few_rows_and_no_extreme_is_kept() -> None:
    values = ["often"] * 30 + ["four"] * 4 + [f"only {i}" for i in range(20)]
    profile = drift.describe(Text.of(values))
    assert (profile["values"], profile["counts"], profile["other"]) == (["often"], [30.0], 24.0)
    many = Text.of([f"v{i:03}" for i in range(80) for _ in range(80 - i if i < 60 else 10)])
    assert drift.describe(many)["values"] == [f"v{i:03}" for i in range(50)]
    column = np.concatenate([np.linspace(0, 1, 200), [1e9, -1e9]])
    assert max(np.abs(drift.describe(column)["edges"])) < 1
    for rows in (1, 9, 10, 31, 57):
        made = drift.describe(np.random.default_rng(rows).normal(size=rows))
        assert min(made["counts"]) >= min(drift.LEAST, rows)


KINDS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.6, 0.0, rng.exponential(size=n)),
    "gaps": lambda rng, n: np.where(rng.random(n) < 0.02, np.nan, rng.random(n)),
    "five values": lambda rng, n: Text.of([f"v{i}" for i in rng.integers(0, 5, n)]),
    "sixty values": lambda rng, n: Text.of([f"v{i}" for i in rng.integers(0, 60, n)]),
    "a thousand values": lambda rng, n: Text.of([f"v{i}" for i in rng.integers(0, 1000, n)]),
    "long tail": lambda rng, n: Text.of([f"v{min(i, 5000)}" for i in rng.zipf(1.5, n)]),
}


@pytest.mark.parametrize("sizes", [(40, 40), (1000, 50), (60, 1000), (1000, 1000)])
@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_significant_no_oftener_than_its_level(kind: str, sizes: tuple[int, int]) -> None:
    """300 pairs of samples of one distribution: no more p-values below 5 % than a level of 6 % gives in 99.9 % of draws."""
    rng = np.random.default_rng(1)
    p = np.array([between(*(KINDS[kind](rng, n) for n in sizes)).p_value for _ in range(300)])
    assert (p < 0.05).sum() <= stats.binom.ppf(0.999, 300, 0.06)


@pytest.mark.parametrize(
    ("before", "now", "word"),
    [
        (lambda rng: rng.normal(size=1000), lambda rng: rng.normal(0.3, size=1000), "moved"),
        (lambda rng: rng.normal(size=1000), lambda rng: rng.normal(0.8, size=1000), "moved much"),
        (lambda rng: rng.normal(size=1000), lambda rng: rng.normal(0, 2, size=1000), "moved much"),
        (lambda rng: rng.normal(size=30), lambda rng: rng.normal(0.1, size=30), "stable"),
        (
            lambda rng: rng.normal(size=100_000),
            lambda rng: rng.normal(0.05, size=100_000),
            "stable",
        ),  # significant, and too small to matter
        (lambda rng: rng.random(1000), lambda rng: np.where(rng.random(1000) < 0.1, np.nan, rng.random(1000)), "moved much"),
        (lambda rng: Text.of(["a", "b"] * 100), lambda rng: Text.of(["a", "b"] * 90 + ["new"] * 20), "moved much"),
        (lambda rng: Text.of(["a", "b"] * 100), lambda rng: Text.of(["a"] * 40 + ["b"] * 160), "moved much"),
        (
            lambda rng: KINDS["a thousand values"](rng, 2000),
            lambda rng: Text.of([f"v{i}" for i in rng.integers(0, 100, 2000)]),
            "moved",
        ),
    ],
)
def test_a_change_is_called_what_it_is(before: Draw, now: Draw, word: str) -> None:
    rng = np.random.default_rng(4)
    assert drift.words([between(before(rng), now(rng))]) == [word]
