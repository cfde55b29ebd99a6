import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines.core import policy, utility
from pipelines.core.calibration import softmax
from pipelines.errors import ExpostError

GOLDEN = [[0, -1], [-5, 0]]
sizes = st.tuples(st.integers(2, 5), st.integers(2, 5), st.integers(0, 10_000))


def draw(size):
    K, A, seed = size
    rng = np.random.default_rng(seed)
    U = rng.integers(-9, 10, size=(K, A)).astype(float)
    return softmax(rng.normal(size=(40, K)) * 2), U


def test_golden_threshold_is_one_sixth():
    """Elkan (2001), equation 2: a missed positive five times as bad as a false alarm."""
    assert policy.analytic_threshold(GOLDEN) == pytest.approx(1 / 6, abs=1e-15)
    p = np.array([1 / 6 - 1e-9, 1 / 6 + 1e-9])
    np.testing.assert_array_equal(policy.analytic_actions(np.stack([1 - p, p], axis=1), GOLDEN), [0, 1])


def test_the_threshold_uses_all_four_cells():
    """t* = (U00 - U01) / ((U00 - U01) + (U11 - U10)); Elkan's cells with rewards for correct calls."""
    assert policy.analytic_threshold([[2, -1], [-4, 3]]) == pytest.approx(3 / (3 + 7))
    assert policy.analytic_threshold([[-1, 2], [3, -4]]) == pytest.approx(3 / (3 + 7))  # the same with the actions swapped


def test_equal_expected_utilities_take_the_first_action():
    assert policy.analytic_actions([[0.5, 0.5]], [[0, -1], [-1, 0]]).tolist() == [0]
    assert policy.analytic_actions([[0.5, 0.5]], [[-1, 0], [0, -1]]).tolist() == [0]
    p = 1 / 3 + 2 / 3 - 2 / 3  # rounding of the last digit is no preference
    assert policy.analytic_actions([[1 - p, p]], [[0, -1], [-2, 0]]).tolist() == [0]


@given(size=sizes, factor=st.sampled_from([0.001, 0.5, 3.0, 1e6]), constants=st.lists(st.integers(-1000, 1000), min_size=5, max_size=5))
def test_a_constant_added_to_a_row_and_a_positive_scale_change_no_action(size, factor, constants):
    p, U = draw(size)
    moved = factor * (U + np.array(constants[: len(U)])[:, None])
    np.testing.assert_array_equal(policy.analytic_actions(p, moved), policy.analytic_actions(p, U))
    np.testing.assert_array_equal(policy.argmax_ignoring_costs(p, moved), policy.argmax_ignoring_costs(p, U))


@given(size=sizes)
def test_relabelling_classes_changes_no_action_and_relabelling_actions_permutes_them(size):
    p, U = draw(size)
    rng = np.random.default_rng(size[2])
    classes, actions = rng.permutation(U.shape[0]), rng.permutation(U.shape[1])
    offsets = rng.normal(size=U.shape[0])
    before = policy.decide(p, U, offsets)
    np.testing.assert_array_equal(policy.decide(p[:, classes], U[classes], offsets[classes]), before)
    gaps = np.diff(np.sort(utility.expected_utility(p, U), axis=1)[:, -2:])
    assume((gaps > 1e-9).all())  # equal columns have no order but the matrix's
    np.testing.assert_array_equal(actions[policy.analytic_actions(p, U[:, actions])], policy.analytic_actions(p, U))


def draw_policy(size, by_row):
    """A random policy of every kind of part: offsets, prices, a prior; and utilities, one matrix or one per row."""
    (p, U), rng = draw(size), np.random.default_rng(size[2])
    U = U * rng.integers(1, 9, size=(40, 1, 1)) + rng.integers(0, 3, size=(40, *U.shape)) if by_row else U
    priors = {key: rng.dirichlet(np.ones(U.shape[-2])).tolist() for key in ("data", "deployment")}
    return p, U, rng.normal(size=U.shape[-2]), rng.uniform(0, 2, U.shape[-1]), priors


def decided(p, U, offsets, prices, prior):
    return policy.decide(policy.under_prior(p, prior["data"], prior["deployment"]), U, offsets, prices)


@given(size=sizes, by_row=st.booleans(), factor=st.sampled_from([0.001, 0.5, 3.0, 1e6]), constant=st.integers(-1000, 1000))
def test_with_offsets_prices_and_a_prior_too_a_constant_per_class_and_a_scale_change_no_action(size, by_row, factor, constant):
    p, U, offsets, prices, prior = draw_policy(size, by_row)
    moved = factor * (U + constant * np.arange(U.shape[-2])[:, None])
    before = decided(p, U, offsets, prices, prior)
    np.testing.assert_array_equal(decided(p, moved, offsets, factor * prices, prior), before)
    if by_row:  # each row its own constant
        own = np.random.default_rng(size[2]).integers(-99, 99, size=(40, U.shape[1], 1))
        np.testing.assert_array_equal(decided(p, U + own, offsets, prices, prior), before)


@given(size=sizes, by_row=st.booleans())
def test_with_offsets_prices_and_a_prior_too_relabelling_classes_and_actions_permutes_everything(size, by_row):
    p, U, offsets, prices, prior = draw_policy(size, by_row)
    rng = np.random.default_rng(size[2])
    classes, actions = rng.permutation(U.shape[-2]), rng.permutation(U.shape[-1])
    before = decided(p, U, offsets, prices, prior)
    moved = {key: np.array(shares)[classes] for key, shares in prior.items()}
    relabelled = decided(p[:, classes], U[..., classes, :][..., actions], offsets[classes], prices[actions], moved)
    corrected = policy.under_prior(p, prior["data"], prior["deployment"]) * np.exp(offsets)
    worth = utility.expected_utility(corrected / corrected.sum(axis=1, keepdims=True), U) - prices
    assume((np.diff(np.sort(worth, axis=1)[:, -2:]) > 1e-9).all())
    np.testing.assert_array_equal(actions[relabelled], before)


@given(size=sizes)
def test_one_matrix_per_row_decides_each_row_as_that_matrix_alone_would(size):
    p, U, offsets, prices, _ = draw_policy(size, True)
    alone = [policy.decide(p[[i]], U[i], offsets, prices)[0] for i in range(len(p))]
    np.testing.assert_array_equal(policy.decide(p, U, offsets, prices), alone)


def test_a_prior_is_bayes_rule_and_the_datas_own_prior_changes_nothing():
    """Elkan (2001), theorem 2: p' = b' (p - p b) / (b - p b + b' p - b b')."""
    p, b, other = 0.3, 0.4, 0.02
    expected = other * (p - p * b) / (b - p * b + other * p - b * other)
    assert policy.under_prior([[1 - p, p]], [1 - b, b], [1 - other, other])[0, 1] == pytest.approx(expected, abs=1e-15)
    np.testing.assert_allclose(policy.under_prior([[0.7, 0.3]], [0.6, 0.4], [0.6, 0.4]), [[0.7, 0.3]])


@given(size=sizes)
def test_the_analytic_policy_has_the_highest_expected_utility_of_all(size):
    p, U = draw(size)
    expected = utility.expected_utility(p, U)
    np.testing.assert_allclose(expected[np.arange(40), policy.analytic_actions(p, U)], expected.max(axis=1), atol=1e-9)


def test_argmax_ignoring_costs_takes_the_best_action_of_the_likeliest_class():
    U = [[0, -1, -0.5], [-10, 0, -0.5]]
    assert policy.argmax_ignoring_costs([[0.6, 0.4], [0.4, 0.6]], U).tolist() == [0, 1]
    assert policy.analytic_actions([[0.6, 0.4], [0.98, 0.02], [0.05, 0.95]], U).tolist() == [2, 0, 1]


@given(cutoff=st.floats(-20, 20), u=st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), swapped=st.booleans())
def test_an_offset_moves_the_cutoff_to_where_it_was_asked_for(cutoff, u, swapped):
    U = np.array([[0, -u[0]], [-u[1], 0]])[:, :: -1 if swapped else 1]
    offset = policy.offset_of_cutoff(cutoff, U)
    odds = np.array([cutoff - 1e-3, cutoff + 1e-3])
    p = softmax(np.stack([np.zeros(2), odds], axis=1))
    np.testing.assert_array_equal(policy.decide(p, U, [0, offset]), [1, 0] if swapped else [0, 1])
    assert policy.threshold_of_offset(offset, U) == pytest.approx(1 / (1 + np.exp(-cutoff)), rel=1e-6)


@pytest.mark.parametrize(("cutoff", "action", "threshold"), [(np.inf, 0, 1.0), (-np.inf, 1, 0.0)])
def test_an_infinite_cutoff_never_or_always_acts(cutoff, action, threshold):
    offset = policy.offset_of_cutoff(cutoff, GOLDEN)
    p = softmax(np.array([[0, 700.0], [700.0, 0], [0, 0]]))
    assert np.isfinite(offset)
    assert policy.decide(p, GOLDEN, [0, offset]).tolist() == [action] * 3
    assert policy.threshold_of_offset(offset, GOLDEN) == threshold


def test_a_price_is_taken_off_an_action_in_the_unit_of_the_utility():
    p = [[0.5, 0.5]]
    U = 100 * np.array([[0, -1], [-2, 0]])  # acting is worth 50 more
    assert policy.decide(p, U, prices=[0, 49]).tolist() == [1]
    assert policy.decide(p, U, prices=[0, 51]).tolist() == [0]


def test_a_policy_is_plain_numbers_and_decides_the_same_from_a_file():
    p, U = draw((3, 4, 1))
    made = policy.make("optuna", classes="abc", actions="wxyz", cells=U.tolist(), unit="points", offsets=[0, 0.3, -1], prices=[0, 1, 0, 0])
    np.testing.assert_array_equal(
        policy.apply(json.loads(json.dumps(made, allow_nan=False)), p), policy.decide(p, U, [0, 0.3, -1], [0, 1, 0, 0])
    )
    assert made["threshold"] is None
    with pytest.raises(ExpostError, match=r"one column per class \['a', 'b', 'c'\]"):
        policy.apply(made, p[:, :2])


def test_a_threshold_needs_two_actions_each_best_for_one_class():
    with pytest.raises(ExpostError, match="best for one of two classes"):
        policy.analytic_threshold([[0, -1], [0, -1]])
