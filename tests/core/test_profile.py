"""One column against the target."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from pipelines.core.profile import dense_codes, is_nearly_constant, rows_beside_the_commonest, separation, tell_tale


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_auc_of_numbers_agrees_with_scikit_learn() -> None:
    data = load_breast_cancer()
    for j in range(data.data.shape[1]):
        auc = roc_auc_score(data.target, data.data[:, j])
        # The binned score may see more than the ranks do, never less.
        assert separation(data.data[:, j], data.target, 2).score >= max(auc, 1 - auc) - 1e-12
    worst_perimeter = separation(data.data[:, 22], data.target, 2)
    assert worst_perimeter.score == pytest.approx(max(roc_auc_score(data.target, -data.data[:, 22]), 0.9754), abs=1e-3)
    assert not worst_perimeter.separates


def test_a_copy_of_the_target_with_noise_separates_and_noise_does_not(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 2, 500)
    assert separation(labels + rng.normal(scale=0.05, size=500), labels, 2).separates
    assert separation(rng.normal(size=500), labels, 2).score < 0.6


def test_a_feature_that_separates_by_distance_from_its_middle_is_found(rng: np.random.Generator) -> None:
    values = rng.normal(size=4000)
    labels = (np.abs(values) > 1).astype(np.int64)
    assert abs(roc_auc_score(labels, values) - 0.5) < 0.05  # ranks see nothing
    assert separation(values, labels, 2).separates


def test_categories_are_judged_out_of_fold(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 2, 2000)
    unique = rng.permutation(2000)
    assert separation(unique, labels, 2).score < 0.6, "a unique name would separate in sample"
    assert separation(labels * 3 + rng.integers(0, 3, 2000), labels, 2).separates
    assert separation(np.full(2000, -1), labels, 2).score == pytest.approx(0.5, abs=0.05)


def test_missing_values_may_be_what_separates(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 2, 400)
    values = np.where(labels == 1, np.nan, rng.normal(size=400))
    assert separation(values, labels, 2).separates


def test_classes_are_weighted_by_their_rows_and_rare_ones_left_out(rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1, 2], [500, 300, 5])
    found = separation(labels.astype(float), labels, 3)
    assert np.isnan(found.per_class[2])
    assert found.separates


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float64, 60, elements=st.integers(-5, 5).map(float)), st.integers(0, 2**32 - 1))
def test_score_does_not_depend_on_scale_or_on_which_class_is_which(values: np.ndarray, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat([0, 1], 30))
    score = separation(values, labels, 2).score
    assert 0.5 <= score <= 1
    assert separation(values * 3 + 7, labels, 2).score == pytest.approx(score)
    assert separation(values, 1 - labels, 2).score == pytest.approx(score, abs=0.1)  # folds are dealt by class


def test_a_failure_mode_gives_the_failure_away() -> None:
    labels = np.repeat([0, 1], [960, 40])
    mode = np.zeros(1000, dtype=np.int64)
    mode[-15:] = 1
    flag = tell_tale(mode, labels, 2)
    assert flag is not None
    assert (flag.code, flag.label, flag.rows, flag.purity) == (1, 1, 15, 1.0)
    assert flag.share == pytest.approx(15 / 40)
    mode[:10] = 1  # ten of the others have it too
    assert tell_tale(mode, labels, 2) is None
    assert tell_tale(np.arange(1000) % 3, labels, 2) is None


def test_nearly_constant_counts_missing_as_a_value() -> None:
    codes = np.zeros(1000, dtype=np.int64)
    assert is_nearly_constant(codes)
    codes[:4] = -1
    assert rows_beside_the_commonest(codes) == 4
    assert is_nearly_constant(codes)
    codes[:5] = 1
    assert not is_nearly_constant(codes)


def test_dense_codes_are_ranks_with_missing_apart() -> None:
    assert dense_codes(np.array([3.5, np.nan, -1.0, 3.5, 10.0])).tolist() == [1, -1, 0, 1, 2]
