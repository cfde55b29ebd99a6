"""The class shares of an unlabelled batch, how sure they are, and whether they should be believed.

The estimate is Saerens, Latinne & Decaestecker's (2002): the shares under which the batch is likeliest, with the calibrated probabilities,
divided by the shares that they mean on calib, as densities up to a factor per row. It holds under label shift: each class looks as it did on calib, only the shares differ. That cannot be
seen from the estimate, so it is checked on the histogram of scores that calib left (`core/labelshift.py`): by how well a mixture of the
classes' histograms fits the batch's, and by whether the shares fitted to that histogram (in the manner of Lipton et al. 2018) agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import labelshift
from pipelines.core.mixture import Mixture

Float = NDArray[np.float64]

FEWEST = 50  #: rows of a batch
WIDEST = 0.25  #: of an interval that is worth deciding with
DOUBT = 0.01  #: a check fails where its p-value is below this
MOVED = 0.05  #: shares have moved where the p-value of "they have not" is below this
RIDGE = 1e-9


@dataclass(frozen=True)
class Estimate:
    """Shares `(K,)` with interval ends `low`, `high` at `confidence`; what the checks found. NaN p-values: the check could not be made."""

    shares: Float
    low: Float
    high: Float
    data: Float  #: shares on calib
    histogram: Float  #: shares fitted to the histogram of scores alone
    rows: float  #: effective rows of the batch
    from_calib: Float  #: share of each variance that comes from calib's sampling noise, (K,)
    moved: float  #: p-value of "the shares are calib's"
    fit: float  #: p-value of "the batch's histogram is a mixture of calib's"
    agreement: float  #: p-value of "both estimates estimate the same"
    alike: tuple[tuple[int, int], ...]  #: pairs of classes whose histograms on calib cannot be told apart
    confidence: float

    @property
    def has_moved(self) -> bool:
        """Whether the shares differ from calib's by more than chance."""
        return bool(self.moved < MOVED)

    @property
    def smoothed(self) -> Float:
        """The shares with half a row added per class, so that none is 0: what is decided with."""
        counts = self.shares * self.rows + 0.5
        return np.asarray(counts / counts.sum())


def doubts(found: Estimate, classes: Sequence[str]) -> list[str]:
    """Why the estimate should not be believed, one clause per reason; empty where nothing speaks against it.

    No check sees a change that looks like other shares: classes that moved along the scores in just such a way pass.
    """
    reasons = []
    if found.rows < FEWEST:
        reasons.append(f"the batch has {found.rows:.0f} {'row' if round(found.rows) == 1 else 'rows'}, fewer than {FEWEST}")
    if found.alike:
        pairs = ", ".join(f"{classes[j]} and {classes[k]}" for j, k in found.alike[:3])
        reasons.append(f"the scores on calib do not tell {pairs}{' and others' if len(found.alike) > 3 else ''} apart")
    elif np.isnan(found.fit):
        reasons.append("calib has too few rows of a class to check the fit")
    if found.fit < DOUBT:
        reasons.append(
            f"no class shares explain the batch's scores (p = {found.fit:.1g}): the classes themselves look different than on calib"
        )
    if found.agreement < DOUBT:
        reasons.append(f"the probabilities and the histogram of scores give different shares (p = {found.agreement:.1g})")
    widest = int((found.high - found.low).argmax())
    if found.high[widest] - found.low[widest] > WIDEST:
        reasons.append(f"the interval of {classes[widest]}, {found.low[widest]:.3f} to {found.high[widest]:.3f}, is wider than {WIDEST}")
    return reasons


def estimate(probability: Any, reference: Mapping[str, Any], *, weights: Any = None, confidence: float = 0.95) -> Estimate:
    """Estimate the shares of a batch from its calibrated `probability` `(n, K)` (an array or a memory map) and calib's `reference`.

    Intervals invert the profile likelihood along each class's least favourable direction, so they respect 0 and 1; it is divided by how much
    larger the variance is with `weights` `(n,)` and with the sampling noise of calib than without. The noise of calib is that of its
    histograms, which is at least that of a calibrator with fewer numbers fitted on the same rows.
    """
    data = np.asarray(reference["prior"], dtype=np.float64)
    # divided by calib's class shares instead, their sampling noise would stand in every density
    batch = Mixture(probability, scale=reference.get("implied", data), weights=weights)
    shares = batch.maximum()
    _, _, information = batch.moments(shares)
    noise = _Noise(batch, shares, information, reference)
    allowed = noise.factor * _quantile(confidence)
    ends = [[_bound(batch, (shares, information), k, sign, allowed[k]) for sign in (-1, 1)] for k in range(len(data))]
    low, high = np.array(ends).T
    return Estimate(
        shares=shares,
        low=low,
        high=high,
        data=data,
        histogram=noise.histogram,
        rows=noise.rows,
        from_calib=noise.from_calib,
        moved=noise.moved(data),
        fit=noise.fit(),
        agreement=noise.agreement(),
        alike=_alike(reference),
        confidence=confidence,
    )


def _quantile(confidence: float, freedom: int = 1) -> float:
    from scipy.stats import chi2

    return float(chi2.ppf(confidence, freedom))


def _tail(statistic: float, freedom: float) -> float:
    from scipy.stats import chi2

    return float(chi2.sf(statistic, freedom))


def _tangent(classes: int) -> Float:
    """Orthonormal basis `(K, K - 1)` of the directions that keep the sum of shares."""
    return np.linalg.qr(np.eye(classes)[:, :-1] - 1 / classes)[0] if classes > 1 else np.zeros((1, 0))


def _inverse(information: Float, inside: Any = None) -> Float:
    """Inverse of the information `(K, K)` within the directions that keep the sum; classes outside of `inside` stay where they are."""
    classes = len(information)
    kept = np.arange(classes) if inside is None else np.flatnonzero(inside)
    made = np.zeros((classes, classes))
    if len(kept) > 1:
        basis = _tangent(len(kept))
        small = basis.T @ information[np.ix_(kept, kept)] @ basis
        small += RIDGE * np.trace(small) * np.eye(len(small))
        made[np.ix_(kept, kept)] = basis @ np.linalg.solve(small, basis.T)
    return made


def _bound(batch: Mixture, best: tuple[Float, Float], k: int, sign: int, allowed: float) -> float:
    """The share of class `k` at which twice the log-likelihood has fallen by `allowed`: down (`sign` -1) or up (1).

    `best` are the likeliest shares and the information there. Where another class's share falls to 0 on the way, it stays there.
    """
    from scipy.optimize import brentq

    shares, information = best
    top, place = batch.log_likelihood(shares), shares.copy()

    def excess(size: float, start: Float, direction: Float) -> float:
        moved = np.maximum(start + size * direction, 0)
        return 2 * (top - batch.log_likelihood(moved / moved.sum())) - allowed

    for _ in range(len(shares)):
        inside = place > 0
        inside[k] = True
        if sign < 0 and inside.sum() < 2:
            inside = _risers(information, k)
        variance = _inverse(information, inside)
        if (place[k] <= 0 and sign < 0) or inside.sum() < 2 or variance[k, k] <= 0:
            return float(place[k])
        direction = sign * variance[k] / variance[k, k]
        falling = direction < 0
        room = np.divide(place, -direction, out=np.full(len(place), np.inf), where=falling)
        step = float(room.min())
        if excess(step, place, direction) > 0:
            size = 0.0 if excess(0.0, place, direction) >= 0 else float(brentq(excess, 0, step, args=(place, direction), xtol=1e-7))
            return float(place[k] + sign * size)
        place = np.where(room <= step, 0.0, np.maximum(place + step * direction, 0))
        place /= place.sum()
    return float(place[k])


def _risers(information: Float, k: int) -> Any:
    """The classes that move `(K,)` when class `k`, which has every row, falls: itself and those whose shares then rise from 0."""
    inside = np.ones(len(information), dtype=bool)
    while (stuck := inside & (_inverse(information, inside)[k] > 0) & (np.arange(len(inside)) != k)).any():
        inside &= ~stuck
    return inside


class _Noise:
    """Variances of the two estimates of one batch: what comes from its rows, and what from calib's."""

    def __init__(self, batch: Mixture, shares: Float, information: Float, reference: Mapping[str, Any]) -> None:
        self.batch, self.shares = batch, shares
        self.edges = reference["edges"]
        self.classes, self.calib_rows = labelshift.shares(reference)
        self.counts = self._counts()
        self.histogram = Mixture(self.classes.T, weights=self.counts).maximum() if self.counts.size else shares
        self.inverse = _inverse(information)
        self.binned_inverse = self._binned(shares)[1] if self.counts.size else np.zeros_like(information)
        plain = self.inverse / batch.total
        rows = self._rows_variance(lambda score, bins: score @ self.inverse)
        calib = self._calib_variance()
        total = rows + calib
        with np.errstate(divide="ignore", invalid="ignore"):
            self.factor = np.nan_to_num(np.diag(total) / np.diag(plain), nan=1.0)
            self.from_calib = np.nan_to_num(np.diag(calib) / np.diag(total))
        self.total, self.plain = total, plain
        weights = batch.weights
        self.rows = batch.total if weights is None else float(batch.total**2 / (weights**2).sum())

    def _counts(self) -> Float:
        return sum(
            (labelshift.histogram(f * self.batch.scale, self.edges, weights=w) for _, f, w in self.batch.blocks()),
            np.zeros(labelshift.bins(self.edges)),
        )

    def _binned(self, shares: Float) -> tuple[Float, Float]:
        """Scores `(B, K)` of the histogram's likelihood at `shares`, and the inverse of its information."""
        mixed = shares @ self.classes
        score = (self.classes / mixed).T
        return score, _inverse((score * mixed[:, None]).T @ score)

    def _rows_variance(self, influence: Any) -> Float:
        """Sum of the outer products of the rows' influences, `influence(score (b, K), bins (b,))`, weights included."""
        size = len(self.shares)
        found = np.zeros((size, size))
        for _, f, w in self.batch.blocks():
            each = influence(
                f / (f @ self.shares)[:, None], labelshift.bin_of(f * self.batch.scale, self.edges) if self.counts.size else None
            )
            found += (each * (w**2)[:, None]).T @ each
        return found / self.batch.total**2

    def _calib_variance(self) -> Float:
        """Variance that the sampling noise of calib's histograms gives to the shares fitted to them."""
        if not self.counts.size:
            return np.zeros_like(self.inverse)
        score, inverse = self._binned(self.shares)
        spread = np.zeros_like(inverse)
        for share, histogram, rows in zip(self.shares, self.classes, self.calib_rows, strict=True):
            centred = score - histogram @ score
            spread += share**2 / rows * (centred * histogram[:, None]).T @ centred
        return np.asarray(inverse @ spread @ inverse)

    def moved(self, data: Float) -> float:
        """P-value of the batch having the shares that calib's rows were drawn with, by the likelihood ratio; `data` are calib's own."""
        ratio = 2 * (self.batch.log_likelihood(self.shares) - self.batch.log_likelihood(data))
        drawn = (np.diag(data) - np.outer(data, data)) / max(float(self.calib_rows.sum()) - len(data), 1.0)
        freedom = len(data) - 1
        return _tail(max(ratio, 0.0) * freedom / float(np.trace((self.total + drawn) @ np.linalg.pinv(self.plain))), freedom)

    def agreement(self) -> float:
        """P-value of both estimates meaning the same shares, given that they rest on the same rows (Hausman 1978)."""
        if not self.counts.size or self.counts.size < len(self.shares):
            return float("nan")
        score = self._binned(self.shares)[0]
        variance = self._rows_variance(lambda own, bins: own @ self.inverse - score[bins] @ self.binned_inverse) + self._calib_variance()
        difference = self.shares - self.histogram
        basis = _tangent(len(difference))
        return _tail(float(difference @ basis @ np.linalg.pinv(basis.T @ variance @ basis) @ basis.T @ difference), len(difference) - 1)

    def fit(self) -> float:
        """P-value of the batch's histogram being a mixture of calib's, by the least chi-square; both histograms' noise counted."""
        from scipy.optimize import nnls

        bins = self.counts.size
        if bins <= len(self.shares):
            return float("nan")
        share = self.counts / self.counts.sum()
        mixed = self.histogram @ self.classes
        variance = (np.diag(mixed) - np.outer(mixed, mixed)) / self.rows
        for weight, histogram, rows in zip(self.histogram, self.classes, self.calib_rows, strict=True):
            variance += weight**2 / rows * (np.diag(histogram) - np.outer(histogram, histogram))
        root = np.linalg.cholesky(variance[:-1, :-1])
        design, seen = np.linalg.solve(root, self.classes[:, :-1].T), np.linalg.solve(root, share[:-1])
        heavy = 1e4 * max(float(np.abs(design).max()), 1.0)  # the shares sum to 1
        fitted, _ = nnls(np.vstack([design, np.full(len(self.shares), heavy)]), np.append(seen, heavy))
        return _tail(float(((seen - design @ fitted) ** 2).sum()), bins - max(int((fitted > 0).sum()), 1))


def _alike(reference: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """Pairs of classes between whose histograms the chi-square test of homogeneity sees no difference."""
    counts = np.asarray(reference["counts"], dtype=np.float64)
    found = []
    for j in range(len(counts)):
        for k in range(j + 1, len(counts)):
            pair = counts[[j, k]][:, counts[[j, k]].sum(axis=0) > 0]
            if pair.size and (pair.sum(axis=1) > 0).all() and pair.shape[1] > 1:
                expected = np.outer(pair.sum(axis=1), pair.sum(axis=0)) / pair.sum()
                if _tail(float(((pair - expected) ** 2 / expected).sum()), pair.shape[1] - 1) < DOUBT:
                    continue
            found.append((j, k))
    return tuple(found)
