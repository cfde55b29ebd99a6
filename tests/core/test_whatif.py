"""Along a range of utilities: golden values, invariances, weights as repeated rows, the class prior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import whatif
from pipelines.core.whatif import Cases

SEED = np.random.default_rng(0)
P = SEED.beta(0.6, 1.2, size=(2, 300))
PROBABILITY = np.stack([1 - P, P], axis=2)
LABELS = (SEED.random(300) < P.mean(axis=0)).astype(np.int64)


def cases(weights: Any = None, groups: Any = None, probability: Any = PROBABILITY, labels: Any = LABELS) -> Cases:
    return Cases(probability, labels, groups, np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64))


def matrix(fn: float, fp: float = 1.0) -> list[list[float]]:
    return [[0, -fp], [-fn, 0]]


def test_by_hand_on_four_rows() -> None:
    """At 5:1 the threshold is 1/6 (Elkan 2001, equation 2): rows 1, 2 and 3 are acted on; one false alarm, one miss."""
    p = np.array([0.1, 0.2, 0.5, 0.9])
    found = whatif.at(cases(probability=np.stack([1 - p, p], axis=1)[None], labels=np.array([1, 0, 1, 1])), matrix(5), confidence=0.95)
    assert found["threshold"] == pytest.approx(1 / 6)
    assert found["shares"] == pytest.approx([0.25, 0.75])
    assert found["utility"]["mean"] == pytest.approx((-5 - 1) / 4)
    assert found["trivial"] == {"action": 1, "utility": pytest.approx(-1 / 4)}
    assert found["gain"]["mean"] == pytest.approx(-6 / 4 + 1 / 4)
    assert -5 <= found["utility"]["low"] < found["utility"]["mean"] < found["utility"]["high"] <= 0


@given(st.floats(0.05, 40), st.floats(0.05, 40))
def test_the_dearer_a_miss_the_more_rows_are_acted_on(fn: float, more: float) -> None:
    first, second = (whatif.at(cases(), matrix(cost), confidence=0.95) for cost in (fn, fn + more))
    assert second["threshold"] < first["threshold"]
    assert second["shares"][1] >= first["shares"][1]


@given(st.floats(0.1, 30), st.floats(0.01, 100), st.floats(-20, 20))
def test_scale_and_a_constant_per_class_change_utilities_only_by_themselves(fn: float, scale: float, constant: float) -> None:
    plain = whatif.at(cases(), matrix(fn), confidence=0.95)
    moved = whatif.at(cases(), scale * (np.array(matrix(fn)) + np.array([[constant], [0]])), confidence=0.95)
    assert moved["threshold"] == pytest.approx(plain["threshold"])
    assert moved["shares"] == pytest.approx(plain["shares"])
    shift = scale * constant * float((LABELS == 0).mean())
    assert moved["utility"]["mean"] == pytest.approx(scale * plain["utility"]["mean"] + shift, abs=1e-9 * scale)
    for end in ("mean", "low", "high"):
        assert moved["gain"][end] == pytest.approx(scale * plain["gain"][end], abs=1e-9 * scale)


def test_a_weight_counts_like_as_many_rows_in_every_mean_and_not_in_the_bounds() -> None:
    times = SEED.integers(1, 5, size=300)
    weighted = whatif.at(cases(weights=times), matrix(8), confidence=0.95)
    repeated = whatif.at(cases(probability=PROBABILITY.repeat(times, axis=1), labels=LABELS.repeat(times)), matrix(8), confidence=0.95)
    assert weighted["shares"] == pytest.approx(repeated["shares"])
    assert weighted["trivial"]["utility"] == pytest.approx(repeated["trivial"]["utility"])
    assert weighted["utility"]["mean"] == pytest.approx(repeated["utility"]["mean"])
    assert weighted["utility"]["low"] < repeated["utility"]["low"]


def test_rows_of_one_group_say_less_than_as_many_alone() -> None:
    alone = whatif.at(cases(), matrix(8), confidence=0.95)
    grouped = whatif.at(cases(groups=np.argsort(np.argsort(LABELS, kind="stable")) // 30), matrix(8), confidence=0.95)
    assert grouped["utility"]["mean"] == alone["utility"]["mean"]
    assert grouped["utility"]["low"] < alone["utility"]["low"]


def test_under_the_datas_own_prior_nothing_changes_and_under_a_rarer_one_less_is_done() -> None:
    data = np.bincount(LABELS) / len(LABELS)
    same, rare = whatif.deployed(cases(), data, data), whatif.deployed(cases(), data, [0.95, 0.05])
    np.testing.assert_allclose(same.probability, PROBABILITY)
    assert same.effective_rows == pytest.approx(300)
    assert np.average(LABELS, weights=rare.weights) == pytest.approx(0.05)
    assert rare.effective_rows < 300
    shares = [whatif.at(each, matrix(8), confidence=0.95)["shares"][1] for each in (same, rare)]
    assert shares[1] < shares[0]


def test_one_matrix_per_row_that_is_always_the_same_is_that_matrix() -> None:
    rows = np.broadcast_to(np.array(matrix(8), dtype=np.float64), (300, 2, 2))
    one, many = (whatif.at(cases(), U, confidence=0.95) for U in (matrix(8), rows))
    assert many["threshold"] is None
    assert {**many, "threshold": one["threshold"]} == one


def test_an_action_that_is_always_best_has_no_threshold_and_is_always_taken() -> None:
    found = whatif.at(cases(), [[0, -1], [0, -1]], confidence=0.95)
    assert found["threshold"] is None
    assert found["shares"] == [1, 0]
    assert found["gain"] == {"mean": 0, "low": pytest.approx(found["gain"]["low"]), "high": pytest.approx(found["gain"]["high"])}


@pytest.mark.parametrize(
    ("low", "high", "steps", "expected"),
    [
        (1, 5, 5, [1, 2, 3, 4, 5]),
        (1, 100, 3, [1, 10, 100]),
        (-50, -0.5, 3, [-50, -5, -0.5]),
        (-1, 100, 3, [-1, 49.5, 100]),
        (1, 10, 3, [1, 3.16, 10]),
    ],
)
def test_steps_are_equal_factors_over_long_ranges_of_one_sign(low: float, high: float, steps: int, expected: list[float]) -> None:
    assert whatif.steps_of(low, high, steps) == pytest.approx(expected)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 500))
def test_steps_rise_from_end_to_end(low: float, length: float, steps: int) -> None:
    found = whatif.steps_of(low, low + length, steps)
    assert (found[0], found[-1], len(found)) == (low, low + length, steps)
    assert (np.diff(found) >= 0).all()
