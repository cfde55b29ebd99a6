"""Probes of embeddings: known information, invariance, agreement with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from pipelines.core import representation


def blobs(n: int, distance: float, seed: int = 0, dims: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    rows = rng.normal(size=(n, dims))
    rows[:, 0] += distance * labels
    return rows, labels


def bits(fit, fit_labels, rows, labels) -> float:
    return float(representation.v_information(fit, fit_labels, rows, labels, 2).bits.mean())


def test_bits_come_near_the_information_that_two_normals_hold() -> None:
    fit, fit_labels = blobs(4000, 2.0, 0)
    rows, labels = blobs(4000, 2.0, 1)
    logit = 2.0 * rows[:, 0] - 2.0  # the true log-odds of two unit normals two apart
    truth = 1 - np.log2(1 + np.exp(-np.where(labels == 1, logit, -logit))).mean()
    assert bits(fit, fit_labels, rows, labels) == pytest.approx(truth, abs=0.02)


def test_noise_holds_no_information_and_does_not_ruin_the_probe() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(2, size=300)
    found = bits(rng.normal(size=(100, 64)), labels[:100], rng.normal(size=(200, 64)), labels[100:])
    assert -0.15 < found < 0.05


def test_scale_shift_and_order_of_rows_do_not_matter() -> None:
    fit, fit_labels = blobs(120, 2.0, 0)
    rows, labels = blobs(60, 2.0, 1)
    first = representation.v_information(fit, fit_labels, rows, labels, 2)
    factor = np.array([1e3, 1e-3, 5.0, 1.0, 2.0, 0.1])
    order = np.random.default_rng(0).permutation(120)
    other = representation.v_information(fit[order] * factor + 7, fit_labels[order], rows * factor + 7, labels, 2)
    assert other.bits == pytest.approx(first.bits, abs=1e-4)


def test_the_same_input_gives_the_same_bits() -> None:
    fit, fit_labels = blobs(80, 1.0)
    first, second = (representation.v_information(fit, fit_labels, fit, fit_labels, 2, seed=4).bits for _ in range(2))
    assert (first == second).all()


def test_separated_rows_are_computable_and_near_one_bit() -> None:
    fit, fit_labels = blobs(100, 40.0)
    rows, labels = blobs(100, 40.0, 1)
    found = representation.v_information(fit, fit_labels, rows, labels, 2)
    assert np.isfinite(found.bits).all()
    assert 0.9 < found.bits.mean() < 1.1


def test_a_constant_embedding_tells_nothing() -> None:
    _, labels = blobs(100, 1.0)
    assert bits(np.full((100, 3), 0.1), labels, np.full((100, 3), 0.1), labels) == pytest.approx(0.0, abs=0.02)


def test_too_few_rows_of_a_class_are_a_reason_and_a_nan_is_none() -> None:
    fit, fit_labels = blobs(20, 1.0)
    found = representation.v_information(fit, np.r_[1, np.zeros(19, dtype=int)], fit, fit_labels, 2)
    assert "class 1 has 1 rows" in str(found.unavailable)
    assert np.isnan(found.bits).all()
    fit[3, 2] = np.nan
    broken = representation.v_information(fit, fit_labels, fit, fit_labels, 2)
    assert broken.unavailable is None
    assert np.isnan(broken.bits).all()


def test_many_rows_are_thinned_evenly_and_keep_rare_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = blobs(6000, 2.0)
    labels[:20] = 2
    full = representation.v_information(rows, labels, rows, labels, 3).bits.mean()
    monkeypatch.setattr(representation, "MOST", 1500)
    kept = representation._thinned(rows, labels)
    assert np.bincount(labels[kept])[2] == 20
    assert 1400 <= kept.size <= 1520
    assert len(set(kept.tolist())) == kept.size
    assert representation.v_information(rows, labels, rows, labels, 3).bits.mean() == pytest.approx(full, abs=0.03)


def test_neighbours_agree_with_scikit_learn() -> None:
    fit, fit_labels = blobs(200, 2.0, 0)
    rows, _ = blobs(50, 2.0, 1)
    found = representation.neighbours_probability(fit, fit_labels, rows, 2, neighbours=9)
    mean = fit.mean(axis=0)
    votes = KNeighborsClassifier(9, metric="cosine").fit(fit - mean, fit_labels).predict_proba(rows - mean) * 9
    assert found == pytest.approx((votes + representation.class_prior(fit_labels, 2)) / 10)
    assert found.sum(axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(400, rank)) - 0)[0]
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0]
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0][:rank]
    assert representation.effective_rank(basis @ rotation * 3.0 + 2.0) == pytest.approx(rank, rel=1e-6)
