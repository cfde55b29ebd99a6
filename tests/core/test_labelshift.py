"""The reference: class shares and class-conditional histograms of scores, and what weights and rare bins do to them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pipelines.core import labelshift


def drawn(rows: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    """Probabilities `(n, K)` and labels drawn from them."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.5] * classes, size=rows)
    return p, np.minimum((rng.random(rows)[:, None] > p.cumsum(axis=1)).sum(axis=1), classes - 1)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_every_row_is_in_one_bin_and_no_bin_is_tiny(classes: int) -> None:
    p, labels = drawn(1000, classes)
    found = json.loads(json.dumps(labelshift.reference(p, labels)))
    counts = np.array(found["counts"])
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(labels, minlength=classes))
    assert counts.shape == (classes, labelshift.bins(found["edges"]))
    assert counts.sum(axis=0).min() >= labelshift.FEWEST
    np.testing.assert_array_equal(labelshift.histogram(p, found["edges"]), counts.sum(axis=0))
    np.testing.assert_allclose(found["implied"], p.mean(axis=0))
    np.testing.assert_allclose(found["prior"], np.bincount(labels) / 1000)


def test_classes_permute() -> None:
    p, labels = drawn(500, 4)
    order = np.array([2, 0, 3, 1])
    one, other = labelshift.reference(p, labels), labelshift.reference(p[:, order], np.argsort(order)[labels])
    np.testing.assert_allclose(np.array(one["prior"])[order], other["prior"])
    np.testing.assert_array_equal(np.sort(np.array(one["counts"])[order]), np.sort(np.array(other["counts"])))


def test_a_row_stored_once_with_a_weight_moves_the_shares_and_is_still_one_row() -> None:
    p, labels = drawn(400, 2)
    weights = np.where(labels == 1, 3.0, 1.0)
    found = labelshift.reference(p, labels, weights=weights)
    assert found["prior"][1] == pytest.approx(3 * labels.sum() / weights.sum(), abs=0.005)
    np.testing.assert_allclose(np.array(found["counts"]).sum(axis=1), np.bincount(labels))
    heavy = labelshift.reference(p, labels, weights=np.where(np.arange(400) == 0, 1e5, 1.0))
    assert np.array(heavy["counts"])[labels[0]].sum() == pytest.approx(1, abs=0.01)


def test_a_class_without_rows_and_one_never_predicted_have_a_share_and_a_bin() -> None:
    p, labels = drawn(600, 4)
    p[:, 3] = 1e-9
    found = labelshift.reference(p / p.sum(axis=1, keepdims=True), np.minimum(labels, 2))
    assert found["prior"][3] == pytest.approx(0.5 / 600.5)
    assert found["edges"][3] is None
    share, rows = labelshift.shares(found)
    assert (share > 0).all()
    np.testing.assert_allclose(share.sum(axis=1), 1)
    assert rows[3] == 1


def test_tied_scores_and_many_classes_are_kept_small() -> None:
    p = np.repeat([[0.9, 0.1], [0.4, 0.6]], 200, axis=0)
    found = labelshift.reference(p, np.tile([0, 1], 200))
    assert found["edges"] == [[pytest.approx((np.log(0.1 / 0.9) + np.log(1.5)) / 2)]]
    many, labels = drawn(500, 60)
    assert np.array(labelshift.reference(many, labels)["counts"]).shape == (60, 0)


def test_the_prior_is_the_weighted_share_however_heavy_some_rows_are() -> None:
    p, labels = drawn(400, 3)
    weights = np.where(np.arange(400) == 0, 1e5, 1.0)
    prior = np.array(labelshift.reference(p, labels, weights=weights)["prior"])
    np.testing.assert_allclose(prior, np.bincount(labels, weights=weights) / weights.sum(), rtol=1e-12)
