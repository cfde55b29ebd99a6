import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.core import utility

MATRIX = np.array([[0.0, -1.0], [-10.0, 0.0]])
matrices = hnp.arrays(np.float64, st.tuples(st.integers(2, 4), st.integers(2, 5)), elements=st.integers(-20, 20).map(float))


def test_golden_expected_and_obtained_utility():
    np.testing.assert_allclose(utility.expected_utility([[0.9, 0.1]], MATRIX), [[-1.0, -0.9]])
    np.testing.assert_array_equal(utility.obtained([0, 0, 1, 1], [0, 1, 0, 1], MATRIX), [0, -1, -10, 0])
    np.testing.assert_allclose(utility.trivial([0, 0, 0, 1], MATRIX), [-2.5, -0.75])
    np.testing.assert_array_equal(utility.regret([0, 1, 1], [1, 0, 1], MATRIX), [1, 10, 0])
    assert utility.value_range(MATRIX) == (-10, 0)
    assert utility.difference_range(MATRIX) == 10


@given(U=matrices)
def test_regret_is_what_utility_lacks_of_the_best(U):
    labels = np.repeat(np.arange(U.shape[0]), U.shape[1])
    actions = np.tile(np.arange(U.shape[1]), U.shape[0])
    obtained = utility.obtained(labels, actions, U)
    np.testing.assert_allclose(utility.regret(labels, actions, U), [max(U[k]) - got for k, got in zip(labels, obtained, strict=True)])
    assert (utility.regret(labels, actions, U) >= 0).all()


@given(U=matrices, factor=st.floats(0.01, 100), constant=st.integers(-50, 50))
def test_the_regret_matrix_knows_no_scale_and_no_constant_of_a_row(U, factor, constant):
    moved = factor * (U + constant * np.arange(1, U.shape[0] + 1)[:, None])
    np.testing.assert_allclose(utility.regret_matrix(moved), utility.regret_matrix(U), atol=1e-9)


@given(U=matrices)
def test_trivial_policies_are_worth_what_acting_so_on_every_row_obtains(U):
    labels = np.random.default_rng(0).integers(0, U.shape[0], size=30)
    always = [utility.obtained(labels, np.full(30, a), U).mean() for a in range(U.shape[1])]
    np.testing.assert_allclose(utility.trivial(labels, U), always, atol=1e-12)


def test_the_utility_curve_meets_the_trivial_policies_at_its_ends():
    rng = np.random.default_rng(2)
    positive, labels = rng.uniform(1e-6, 1 - 1e-6, 300), rng.integers(0, 2, 300)
    curve = utility.utility_along_threshold(positive, labels, MATRIX)
    never, always = utility.trivial(labels, MATRIX)
    np.testing.assert_allclose([curve["utility"][0], curve["utility"][-1]], [always, never])
    turned = utility.utility_along_threshold(positive, labels, MATRIX[:, ::-1])
    assert turned == curve, "the order in which the matrix names the actions changes nothing"
