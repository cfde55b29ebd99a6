"""How much a frozen embedding says about the class: a fresh symmetric probe, neighbours, and the spread of its dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Strengths of the probe's L2 penalty that cross-validation chooses from (scikit-learn's C, larger is weaker), after standardising.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
FOLDS = 5
#: Cells of an embedding below which threads cost more than they bring.
SMALL = 2_000_000
#: Rows that a probe is fitted on at most: more would take minutes and change bits in the third digit.
MOST = 10_000
#: Rows of a class that thinning leaves at least, where it has them.
FEWEST = 50


@dataclass(frozen=True)
class Probe:
    """Result of the linear probe: `bits` `(n,)` per scored row and the chosen strength, or why it could not be computed."""

    bits: Floats
    strength: float
    unavailable: str | None = None


def class_prior(labels: Ints, classes: int, weights: Floats | None = None) -> Floats:
    """Class shares `(K,)`, weighted by `weights` `(n,)`, with half a row added to each, so that an absent class keeps a finite surprise."""
    counts = np.bincount(labels, weights=weights, minlength=classes) + 0.5 * (
        1.0 if weights is None or not weights.size else weights.mean()
    )
    return np.asarray(counts / counts.sum())


def v_information(
    fit: Floats, fit_labels: Ints, score: Floats, labels: Ints, classes: int, *, weights: Floats | None = None, seed: int = 0
) -> Probe:
    """V-information per row in bits: log2 of the probe's probability of the true class minus log2 of its prior.

    A logistic regression on embeddings `fit` `(m, D)`, standardised with their moments, its L2 strength chosen by cross-validated log
    loss, is scored on `score` `(n, D)`; prior and probe come from the same m rows, weighted by `weights` `(m,)` (Xu et al. 2020, arXiv
    2002.10689; pointwise form: Ethayarajh et al. 2022). Positive: the embedding tells something. Not computable, with the reason, where
    a class has too few rows to fit a probe; NaN where an embedding holds a NaN.
    """
    counts = np.bincount(fit_labels, minlength=classes)
    if counts.min() < 2:
        k = int(counts.argmin())
        return Probe(np.full(labels.size, np.nan), np.nan, f"class {k} has {counts[k]} rows to fit the probe on and it needs 2")
    if not (np.isfinite(fit).all() and np.isfinite(score).all()):
        return Probe(np.full(labels.size, np.nan), np.nan)
    mean, scale = fit.mean(axis=0), fit.std(axis=0)
    scale = np.where(scale > 1e-12 * np.maximum(1.0, np.abs(mean)), scale, np.inf)  # a constant dimension tells nothing
    given = np.ones(fit_labels.size) if weights is None else weights / weights.mean()
    folds = int(min(FOLDS, counts.min()))
    probability, strength = _probe((fit - mean) / scale, fit_labels, given, (score - mean) / scale, folds=folds, seed=seed)
    prior = class_prior(fit_labels, classes, weights)
    chosen = np.maximum(probability[np.arange(labels.size), labels], 1e-15)
    return Probe(np.log2(chosen) - np.log2(prior[labels]), strength)


def _probe(fit: Floats, fit_labels: Ints, weights: Floats, score: Floats, *, folds: int, seed: int) -> tuple[Floats, float]:
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    order = _thinned(fit, fit_labels)
    fit, fit_labels, weights = fit[order], fit_labels[order], weights[order]
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(fit, fit_labels))
    losses: list[float] = []
    with threadpool_limits(1 if fit.size < SMALL else None):
        for strength in STRENGTHS:
            if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
                break  # over-fitting from here on, and the weaker the penalty the slower the fit
            held = [(_logistic(strength, fit[train], fit_labels[train], weights[train], fit[test]), test) for train, test in splits]
            losses.append(-float(sum(weights[test] @ p[np.arange(test.size), fit_labels[test]] for p, test in held)))
        best = STRENGTHS[int(np.argmin(losses))]
        return np.exp(_logistic(best, fit, fit_labels, weights, score)), best


def _thinned(rows: Floats, labels: Ints) -> Ints:
    """About MOST rows at most, at even steps in the order of label and values: stratified, independent of the order they came in."""
    order = np.lexsort((*rows.T[::-1], labels))
    if order.size <= MOST:
        return order
    of_class = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    sizes = [min(part.size, max(FEWEST, part.size * MOST // order.size)) for part in of_class]
    return np.concatenate(
        [part[np.linspace(0, part.size - 1, size).round().astype(np.int64)] for part, size in zip(of_class, sizes, strict=True)]
    )


def _logistic(strength: float, fit: Floats, labels: Ints, weights: Floats, score: Floats) -> Floats:
    """Log-probabilities `(n, K)` of `score` under a logistic regression fitted on `fit`, its rows weighted."""
    from sklearn.linear_model import LogisticRegression

    if not score.size:
        return np.empty((0, int(labels.max()) + 1))
    return np.asarray(LogisticRegression(C=strength, max_iter=500).fit(fit, labels, weights).predict_log_proba(score))


def neighbours_probability(
    fit: Floats, fit_labels: Ints, score: Floats, classes: int, *, neighbours: int, weights: Floats | None = None
) -> Floats:
    """Class probabilities `(n, K)` by vote of the cosine-nearest `neighbours` of m fitted rows, the class prior being one vote more.

    A row votes as often as its weight says, where `weights` `(m,)` are given, one vote on average.

    At most m / 2K neighbours vote, half a class's rows on average, or few rows would let the most frequent class win everywhere.
    """
    prior = class_prior(fit_labels, classes, weights)
    count = min(neighbours, max(1, fit_labels.size // (2 * classes)), fit_labels.size)
    if count == 0 or not (np.isfinite(fit).all() and np.isfinite(score).all()):
        return np.full((score.shape[0], classes), np.nan)
    mean, kept = fit.mean(axis=0), _thinned(fit, fit_labels)
    given = np.ones(fit_labels.size) if weights is None else weights / weights.mean()
    base, vote = _unit(fit[kept] - mean), np.eye(classes)[fit_labels[kept]] * given[kept, None]
    votes = np.empty((score.shape[0], classes))
    for start in range(0, score.shape[0], 2048):
        similarity = _unit(score[start : start + 2048] - mean) @ base.T
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        votes[start : start + 2048] = vote[nearest].sum(axis=1)
    return np.asarray((votes + prior) / (votes.sum(axis=1, keepdims=True) + 1))


def effective_rank(embedding: Floats, weights: Floats | None = None) -> float:
    """exp(entropy of the normalised singular values) of centred, weighted embeddings `(n, D)` (Roy and Vetterli 2007), from 1 to min(n, D).

    It is shown, never gated: a good binary network's embedding tends to rank one.
    """
    if embedding.size == 0 or not np.isfinite(embedding).all():
        return float("nan")
    given = np.ones(len(embedding)) if weights is None else weights
    centred = (embedding - np.average(embedding, axis=0, weights=given)) * np.sqrt(given)[:, None]
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred), 0.0))
    if values.sum() <= 0:
        return 1.0
    share = values[values > 1e-12 * values.max()] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1.0))
