import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core import constraints, policy, tuning, utility
from pipelines.core.calibration import softmax
from pipelines.core.constraints import Constraints, Recall
from pipelines.core.sample import Sample, Tuned

TWO = np.array([[0.0, -1.0], [-4.0, 0.0]])
THREE = np.array([[0.0, -1.0], [-1.0, 0.0], [-6.0, 0.0]])


def draw(seed, U, n=50, off=0.0) -> Sample:
    rng, K = np.random.default_rng(seed), len(U)
    logits = rng.normal(size=(n, K)) * 1.5
    labels = (rng.random((n, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)
    return Sample(softmax(logits + off * np.eye(K)[-1]), labels, U, rng.integers(1, 3, n).astype(float), np.arange(n))


def met(sample: Sample, tuned: Tuned, rules: Constraints) -> bool:
    taken = np.bincount(sample.actions(tuned), weights=sample.weights, minlength=2) / sample.weights.sum()
    parts = [(sample.take(sample.labels == r.label), r) for r in rules.recalls]
    return all(taken[a] <= most + 1e-9 for a, most in rules.limits.items()) and all(
        constraints.recall_reached(part, tuned, r) >= r.at_least for part, r in parts
    )


@pytest.mark.parametrize("U", [TWO, TWO[:, ::-1], THREE, THREE[:, ::-1]])
@given(seed=st.integers(0, 1000), limit=st.sampled_from([None, (0, 0.5), (1, 0.3), (1, 0.6)]), required=st.sampled_from([None, 0, -1]))
@settings(max_examples=20, deadline=None)
def test_of_all_cutoffs_that_keep_the_limits_and_requirements_none_is_better_than_the_exact_one(U, seed, limit, required):
    sample, K = draw(seed, U), len(U)
    label = None if required is None else required % K
    rules = Constraints({} if limit is None else dict([limit]), () if label is None else (Recall(label, "c", 0.6, 0.8),))
    fitted = tuning.exact(sample, sample, rules)
    grid = (
        [Tuned(np.array([0.0, b]), np.zeros(2)) for b in np.linspace(-8, 8, 161)]
        if K == 2
        else [Tuned(np.zeros(3), np.array([0.0, c])) for c in np.linspace(-7, 7, 161)]
    )
    allowed = [sample.value(tuned) for tuned in grid if met(sample, tuned, rules)]
    if allowed:
        assert met(sample, fitted.tuned, rules)
        assert sample.value(fitted.tuned) >= max(allowed) - 1e-9


def test_a_limit_that_binds_is_a_price_on_its_action_and_one_that_does_not_is_none():
    sample = draw(0, TWO, n=400)
    tight, loose = (tuning.exact(sample, sample, Constraints({1: share}, ())).tuned for share in (0.1, 0.95))
    assert tight.prices[1] > 0 == tight.prices[0]
    assert not loose.prices.any()
    assert policy.threshold_of(tight.offsets, tight.prices, TWO) > policy.threshold_of(loose.offsets, loose.prices, TWO)
    swapped = Sample(sample.probability, sample.labels, TWO[:, ::-1], sample.weights, sample.groups)
    np.testing.assert_allclose(tuning.exact(swapped, swapped, Constraints({0: 0.1}, ())).tuned.prices, tight.prices[::-1])


@given(cutoff=st.floats(-8, 8), offset=st.floats(-3, 3), U=st.sampled_from([TWO, TWO[:, ::-1]]))
def test_a_price_moves_the_cutoff_to_where_it_was_asked_for(cutoff, offset, U):
    second = int(U[1].argmax())
    prices = np.zeros(2)
    prices[second] = policy.price_of_cutoff(cutoff, offset, U)
    odds = np.log(1 / 4) + cutoff + np.array([-1e-6, 1e-6])
    p = softmax(np.stack([np.zeros(2), odds], axis=1))
    assert policy.decide(p, U, [0, offset], prices).tolist() == [1 - second, second]
    assert policy.threshold_of([0, offset], prices, U) == pytest.approx(p[:, 1].mean(), rel=1e-3)


@pytest.mark.parametrize(("cutoff", "first"), [(np.inf, True), (-np.inf, False)])
def test_an_infinite_cutoff_is_a_price_that_outweighs_every_probability(cutoff, first):
    price = policy.price_of_cutoff(cutoff, 0.5, TWO)
    p = softmax(np.array([[0.0, 27.0], [27.0, 0.0]]))
    assert policy.decide(p, TWO, [0, 0.5], [max(-price, 0), max(price, 0)]).tolist() == [0 if first else 1] * 2


def test_with_one_matrix_per_row_limits_and_requirements_hold_too():
    rng, sample = np.random.default_rng(0), draw(1, TWO, n=300)
    by_row = Sample(sample.probability, sample.labels, TWO * rng.lognormal(size=(300, 1, 1)), sample.weights, sample.groups)
    for rules in (
        Constraints({1: 0.2}, ()),
        Constraints({}, (Recall(1, "c", 0.9, 0.9),)),
        Constraints({1: 0.7}, (Recall(1, "c", 0.8, 0.9),)),
    ):
        assert met(by_row, tuning.analytic(by_row, rules).tuned, rules)
        assert met(by_row, tuning.exact(by_row, by_row, rules).tuned, rules)


def test_the_interval_of_the_threshold_holds_the_exact_one_and_stays_within_the_limit():
    sample, free, limited = draw(2, TWO, n=400, off=1.0), Constraints({}, ()), Constraints({1: 0.1}, ())
    tuned = tuning.exact(sample, sample, free).tuned
    low, high = tuning.bootstrap_interval(sample, sample, free, confidence=0.95, seed=0)
    assert low <= policy.threshold_of(tuned.offsets, tuned.prices, TWO) <= high
    within = tuning.bootstrap_interval(sample, sample, limited, confidence=0.95, seed=0)
    assert np.average(sample.probability[:, 1] > within[0], weights=sample.weights) <= 0.1 < np.average(sample.probability[:, 1] > low)


def test_the_analytic_policy_is_left_alone_without_constraints():
    sample = draw(3, TWO)
    tuned = tuning.analytic(sample, Constraints({}, ())).tuned
    assert not tuned.offsets.any() and not tuned.prices.any()
    np.testing.assert_array_equal(sample.actions(tuned), policy.analytic_actions(sample.probability, utility.take(TWO, slice(None))))


def saturated(U) -> Sample:
    """11 rows of 94 whose probability is clipped at 1 - 1e-12, two next to them, the rest far off; `U` names the actions in either order."""
    rng = np.random.default_rng(0)
    odds = np.concatenate([np.full(11, 27.6), [26.8, 25.9], rng.normal(-1, 2, 81)])
    p = np.maximum(softmax(np.stack([np.zeros(94), odds], axis=1)), 1e-12)
    return Sample(p, (odds > 0).astype(int), U, np.ones(94), np.arange(94))


@pytest.mark.parametrize("U", [TWO, TWO[:, ::-1]])
@pytest.mark.parametrize(("at_most", "taken"), [(0.1, 0), (0.12, 11), (0.13, 12), (0.14, 13)])
def test_a_limit_among_saturated_probabilities_loses_no_precision(U, at_most, taken):
    sample, acting = saturated(U), int(U[1].argmax())
    tuned = tuning.analytic(sample, Constraints({acting: at_most}, ())).tuned
    assert (sample.actions(tuned) == acting).sum() == taken
    assert tuned.prices[acting] > 0 == tuned.prices[1 - acting]
    block = constraints.next_block(sample, tuned, acting)
    assert block.sum() == (11 if taken == 0 else 1) and not (sample.actions(tuned)[block] == acting).any()


def test_the_next_block_of_rows_is_the_one_that_a_lower_price_takes_whole():
    U = np.array([[0.0, -1.0, -0.3], [-4.0, 0.0, -0.8]])
    p = np.repeat([[0.1, 0.9], [0.3, 0.7], [0.7, 0.3]], [4, 5, 6], axis=0)
    sample = Sample(p, np.zeros(15, dtype=int), U, np.ones(15), np.arange(15))
    tuned = tuning.analytic(sample, Constraints({1: 0.5}, ())).tuned
    assert (sample.actions(tuned) == 1).sum() == 4
    assert constraints.next_block(sample, tuned, 1).tolist() == [False] * 4 + [True] * 5 + [False] * 6
