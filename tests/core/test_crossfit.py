import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core import crossfit
from pipelines.errors import ExpostError


@given(seed=st.integers(0, 10_000), folds=st.integers(2, 5), repeats=st.integers(1, 3), grouped=st.booleans())
@settings(max_examples=60, deadline=None)
def test_groups_stay_whole_and_each_row_is_held_out_once_per_repeat(seed, folds, repeats, grouped):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size=60)
    groups = rng.integers(0, 25, size=60) if grouped else np.arange(60)
    masks = crossfit.folds_of(labels, groups, folds=folds, repeats=repeats, seed=seed)
    assert masks.shape == (folds * repeats, 60)
    for r in range(repeats):
        part = masks[r * folds : (r + 1) * folds]
        assert (part.sum(axis=0) == 1).all()
        fold = part.argmax(axis=0)
        assert all(len(set(fold[groups == g])) == 1 for g in set(groups))
    np.testing.assert_array_equal(masks, crossfit.folds_of(labels, groups, folds=folds, repeats=repeats, seed=seed))


@given(seed=st.integers(0, 10_000), folds=st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_without_groups_classes_and_rows_are_spread_evenly(seed, folds):
    labels = np.random.default_rng(seed).choice(3, p=[0.7, 0.2, 0.1], size=101)
    masks = crossfit.folds_of(labels, np.arange(101), folds=folds, repeats=1, seed=seed)
    for k in range(3):
        per_fold = masks[:, labels == k].sum(axis=1)
        assert per_fold.max() - per_fold.min() <= 1
    assert np.ptp(masks.sum(axis=1)) <= 1


@given(seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_with_groups_every_fold_and_its_rest_hold_every_class(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(30), rng.integers(1, 6, size=30))
    labels = np.where(rng.random(30) < 0.2, 1, 0)[groups]
    labels[np.isin(groups, [0, 1, 2, 3])] = 1
    folds = crossfit.feasible_folds(labels, groups, 5, ("no", "yes"))
    for held in crossfit.folds_of(labels, groups, folds=folds, repeats=2, seed=seed):
        assert set(labels[held]) == set(labels[~held]) == {0, 1}


def test_another_seed_gives_other_folds():
    labels, groups = np.arange(50) % 2, np.arange(50)
    one, two = (crossfit.folds_of(labels, groups, folds=5, repeats=1, seed=s) for s in (0, 1))
    assert (one != two).any()


def test_a_rare_class_reduces_the_folds_and_a_missing_one_is_an_error_that_names_the_need():
    labels = np.array([0] * 40 + [1] * 3)
    assert crossfit.feasible_folds(labels, np.arange(43), 5, ("benign", "malignant")) == 3
    with pytest.raises(ExpostError, match=r"at least 3 rows.*'malignant' has 2 of 42"):
        crossfit.feasible_folds(labels[:42], np.arange(42), 5, ("benign", "malignant"))
    with pytest.raises(ExpostError, match="'malignant' has 0"):
        crossfit.feasible_folds(labels[:40], np.arange(40), 5, ("benign", "malignant"))
    with pytest.raises(ExpostError, match="'malignant' has 1"):  # three rows of one group are one unit
        crossfit.feasible_folds(labels, np.array([*range(40), 99, 99, 99]), 5, ("benign", "malignant"))


def test_out_of_fold_values_come_from_who_has_not_seen_the_row():
    masks = crossfit.folds_of(np.arange(20) % 2, np.arange(20), folds=4, repeats=2, seed=0)
    values = np.arange(8)[:, None] * np.ones((8, 20))
    found = crossfit.out_of_fold(values, masks)
    assert found.shape == (2, 20)
    for r in range(2):
        assert masks[found[r].astype(int), np.arange(20)].all()


def test_the_simplest_candidate_within_one_standard_error_is_chosen():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    losses = np.stack([noise + 1.0, noise + 0.5 + 0.2 * rng.normal(size=400), noise + 0.5 + 0.2 * rng.normal(size=400)])
    choice = crossfit.simplest_not_worse(losses, np.arange(400))
    assert choice.chosen == 1  # the first is clearly worse although the noise that all share is large
    assert choice.error[choice.best] == 0


def test_dependent_rows_make_a_difference_less_clear():
    rng = np.random.default_rng(1)
    difference = 0.1 + rng.normal(size=20)
    losses = np.stack([np.repeat(difference, 50), np.zeros(1000)])
    single, grouped = (crossfit.simplest_not_worse(losses, g).error[0] for g in (np.arange(1000), np.repeat(np.arange(20), 50)))
    assert grouped == pytest.approx(single * np.sqrt(50), rel=0.05)


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_weights_choose_as_repeated_rows_that_stay_one_unit_would(seed):
    rng = np.random.default_rng(seed)
    losses, groups, weights = rng.normal(size=(3, 40)), rng.integers(0, 15, size=40), rng.integers(1, 6, size=40)
    rows = np.repeat(np.arange(40), weights)
    weighted = crossfit.simplest_not_worse(losses, groups, weights=weights)
    repeated = crossfit.simplest_not_worse(losses[:, rows], groups[rows])
    assert (weighted.chosen, weighted.best) == (repeated.chosen, repeated.best)
    for name in ("mean", "excess", "error"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), atol=1e-12)


def test_the_error_of_a_weighted_difference_is_the_ratio_estimators():
    """Two rows of weight 1 and 3, differences 0 and 4: mean 3, residuals -3 and 3, error sqrt(2 * 18) / 4."""
    choice = crossfit.simplest_not_worse([[0.0, 4.0], [0.0, 0.0]], [0, 1], weights=[1, 3])
    assert (choice.excess[0], choice.error[0]) == (3.0, 1.5)
    assert choice.chosen == 1


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_units_of_a_class_are_the_groups_that_it_occurs_in(seed):
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 4, size=30), rng.integers(-5, 12, size=30)
    expected = [len(set(groups[labels == k])) for k in range(labels.max() + 1)]
    np.testing.assert_array_equal(crossfit.units_per_class(labels, groups), expected)
