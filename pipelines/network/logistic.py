"""Logistic regression beside the networks: scikit-learn's on the same folds, its penalty chosen by the same held-out rows.

Of text it sees each word that the networks see, weighted by how rare it is; a bag whose words are weighted beforehand needs far fewer rows than
embeddings that must learn it.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from pipelines.network.data import Plan, Rows
from pipelines.network.partners import MOST_BYTES, Partner, must_agree, search, two_or_more
from pipelines.params.train import Logistic
from pipelines.scoring import cores

Floats = NDArray[np.float64]
#: Steps of one fit at most; strengths without a lower held-out log loss before the search ends: with numbers that are noise it rises first and falls
#: later, where words get their weight.
STEPS, PATIENCE = 1000, 3
#: Rows whose terms are laid out at once.
AT_ONCE = 4096


class Terms(nn.Module):
    """What a regression adds up of a row: its numbers, one term for each code of its categories but 0, and one for each code of its texts but 0.

    A text's term weighs `rarity`; in each text those of words and pairs have a sum of squares of 1, and so have those of pieces, codes from `pieces`
    on. The terms of all codes stand one after the other, in the order of the inputs.
    """

    rarity: Tensor
    category_start: Tensor

    def __init__(
        self, numbers: int, cardinalities: Sequence[int], texts: Sequence[tuple[int, int]], pieces: Sequence[int], rarity: Tensor
    ) -> None:
        super().__init__()
        self.numbers, self.texts, self.pieces = numbers, list(texts), list(pieces)
        starts = np.cumsum([numbers, *cardinalities, *(codes for codes, _ in texts)])
        self.count = int(starts[-1])
        self.text_starts = [int(start) for start in starts[len(cardinalities) : -1]]
        self.register_buffer("category_start", torch.from_numpy(starts[: len(cardinalities)].astype(np.int64)))
        self.register_buffer("rarity", rarity)

    def categories(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Places (B, C) of the categories' terms; None where there are no categories."""
        return inputs["categories"] + self.category_start if len(self.category_start) else None

    def words(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Places (B, L) of each text's terms, and their values."""
        columns = torch.split(inputs["text"], [length for _, length in self.texts], dim=1) if self.texts else ()
        for start, first, codes in zip(self.text_starts, self.pieces, columns, strict=True):
            rarity = self.rarity.index_select(0, (codes + (start - self.text_starts[0])).flatten()).view(codes.shape)
            piece, squares = codes >= first, rarity.square()
            size = torch.where(piece, _root_of_sum(squares * piece), _root_of_sum(squares * ~piece))
            yield codes + start, rarity / size

    def matrix(self, rows: Rows) -> sparse.csr_matrix:
        """The terms of n rows (n, P)."""
        return sparse.vstack(
            [self._matrix(rows.take(slice(start, start + AT_ONCE)).inputs) for start in range(0, len(rows), AT_ONCE)], "csr"
        )

    def _matrix(self, inputs: Mapping[str, Tensor]) -> sparse.csr_matrix:
        n = len(next(iter(inputs.values())))
        columns, values = [], []
        if self.numbers:
            columns.append(np.broadcast_to(np.arange(self.numbers), (n, self.numbers)))
            values.append(inputs["numbers"].numpy())
        if (places := self.categories(inputs)) is not None:
            columns.append(places.numpy())
            values.append((inputs["categories"] != 0).float().numpy())
        for places, weights in self.words(inputs):
            columns.append(places.numpy())
            values.append(weights.numpy())
        wide, data = np.concatenate(columns, axis=1), np.concatenate(values, axis=1)
        there = data != 0
        ends = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        return sparse.csr_matrix((data[there].astype(np.float64), wide[there].astype(np.int32), ends), shape=(n, self.count))


def _root_of_sum(squares: Tensor) -> Tensor:
    """Root of the sum (B, 1) of squares (B, L), each 0 or at least 1; 1 where there are none."""
    return squares.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt()


class Regression(nn.Module):
    """Regressions of M networks' folds as tensors: inputs to logits (B, M, K), from coefficients (P, M * outputs) and bias (M * outputs,).

    `outputs` is 1 for two classes: the log odds of the second. A term of code 0 has a row of zeros.
    """

    coefficients: Tensor
    bias: Tensor

    def __init__(self, terms: Terms, coefficients: NDArray[np.float32], bias: NDArray[np.float32], networks: int) -> None:
        super().__init__()
        self.terms, self.networks, self.outputs = terms, networks, len(bias) // networks
        self.register_buffer("coefficients", torch.from_numpy(np.ascontiguousarray(coefficients)))
        self.register_buffer("bias", torch.from_numpy(bias))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits."""
        found = self.bias
        if self.terms.numbers:
            # Of two numbers that are nearly one the coefficients are large and cancel each other: in float32 little would be left.
            found = found + (inputs["numbers"].double() @ self.coefficients[: self.terms.numbers].double()).float()
        if (places := self.terms.categories(inputs)) is not None:
            found = found + self._at(places).sum(dim=1)
        for places, weights in self.terms.words(inputs):
            found = found + (self._at(places) * weights[:, :, None]).sum(dim=1)
        found = found.view(-1, self.networks, self.outputs)
        return torch.cat([torch.zeros_like(found), found], dim=2) if self.outputs == 1 else found

    def _at(self, places: Tensor) -> Tensor:
        return self.coefficients.index_select(0, places.flatten()).view(*places.shape, self.coefficients.shape[1])


def rarity_of(codes: Tensor, count: int) -> Tensor:
    """Inverse document frequency (count,) of the codes 0 to count - 1 in n rows (n, L) that hold each once: ln((1 + n) / (1 + rows with it)) + 1, 0 for code 0.

    As scikit-learn's TfidfTransformer with `smooth_idf`; at least 1.
    """
    rows = torch.bincount(codes.flatten(), minlength=count).double()
    found = torch.log((1 + len(codes)) / (1 + rows)) + 1
    found[0] = 0
    return found.float()


def fit_logistic(
    rows: Rows,
    plan: Plan,
    params: Logistic,
    *,
    cardinalities: Sequence[int],
    texts: Sequence[tuple[int, int]],
    pieces: Sequence[int],
    classes: int,
    seconds: float | None = None,
) -> Partner | None:
    """Fit a regression for each network of the plan, from the rows that it learns from; None, and a line that says so, where they would take more than `MOST_BYTES`.

    `cardinalities`, `texts` and `pieces` are what the preprocessing says of its columns. All have the penalty at which the mean of their held-out
    log losses was lowest. The words' rarity is counted on all rows learnt from, without a label. `rows.weights` count in the loss. No strength is
    begun once `seconds` are over, but for the first.
    """
    started = time.monotonic()
    taught = torch.unique(torch.cat(plan.learn))
    seen = torch.split(rows.inputs["text"][taught], [length for _, length in texts], dim=1) if texts else ()
    rarities = [rarity_of(codes, count) for codes, (count, _) in zip(seen, texts, strict=True)]
    numbers = rows.inputs["numbers"].shape[1] if "numbers" in rows.inputs else 0
    terms = Terms(numbers, cardinalities, texts, pieces, torch.cat(rarities) if rarities else torch.zeros(0))
    taken = terms.count * len(plan) * (1 if classes == 2 else classes) * 4
    if taken > MOST_BYTES:
        much, most = (f"{size / (1 << 20):.1f}" for size in (taken, MOST_BYTES))
        print(
            f"train.logistic is left out: with so many classes and words it would take {much} MiB of the file, more than {most}",
            file=sys.stderr,
        )
        return None
    X = terms.matrix(rows)
    fits = [_Fit(X, rows, learn.numpy(), held.numpy()) for learn, held in zip(plan.learn, plan.held, strict=True)]
    best, lowest = list[_One](), np.inf
    deadline = None if seconds is None else started + seconds
    # One thread each: those of BLAS would wait for each other, and add up in another order with each number of cores.
    with ThreadPoolExecutor(min(len(fits), cores())) as pool, threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one that has not converged is judged as it is

        def losses() -> Iterator[float]:
            nonlocal best, lowest
            for strength in params.strengths:
                found = list(pool.map(lambda fit, strength=strength: fit(strength), fits))
                loss = float(np.mean([one.log_loss for one in found]))
                if loss < lowest:
                    best, lowest = found, loss
                yield loss

        tried, said = len(params.strengths), "logistic regression of strength"
        curve, late = search(losses(), tried, PATIENCE, deadline, lambda done: f"{said} {params.strengths[done - 1]:g}")
    coefficients, bias = np.concatenate([one.coefficients for one in best]), np.concatenate([one.bias for one in best])
    module = Regression(terms, coefficients.T, bias, len(best)).eval()
    for network, (one, judged) in enumerate(zip(best, plan.held, strict=True)):
        must_agree(module, network, rows.take(judged[:256]).inputs, one.logits[:256], "scikit-learn's")
    strength = params.strengths[int(np.argmin(curve))]
    held = [one.logits for one in best]
    return Partner("logistic", module, held, curve, late, {"strength": strength}, f"a logistic regression of strength {strength:g}")


@dataclass(frozen=True)
class _One:
    """Coefficients (outputs, P) and bias (outputs,), and logits (m, K) of the held rows by these, with their log loss."""

    coefficients: NDArray[np.float32]
    bias: NDArray[np.float32]
    logits: Floats
    log_loss: float


class _Fit:
    """One network's regression: each call starts from where the last one ended."""

    def __init__(self, X: sparse.csr_matrix, rows: Rows, learn: NDArray[np.int64], held: NDArray[np.int64]) -> None:
        from sklearn.linear_model import LogisticRegression

        self.X, self.labels, self.learn, self.held = X, rows.labels.numpy(), learn, held
        self.weights = None if rows.weights is None else rows.weights.numpy().astype(np.float64)
        self.model: Any = LogisticRegression(max_iter=STEPS, tol=1e-6, warm_start=True)

    def __call__(self, strength: float) -> _One:
        weights, judged = (None if self.weights is None else self.weights[chosen] for chosen in (self.learn, self.held))
        self.model.set_params(C=strength).fit(self.X[self.learn], self.labels[self.learn], sample_weight=weights)
        # as they ship, so that what is held against the tensors is no rounding of coefficients
        coefficients, bias = (np.asarray(value, np.float32) for value in (self.model.coef_, self.model.intercept_))
        raw = self.X[self.held] @ coefficients.T.astype(np.float64) + bias
        logits = two_or_more(raw[:, 0] if len(bias) == 1 else raw)
        losses = -log_softmax(logits, axis=1)[np.arange(len(logits)), self.labels[self.held]]
        return _One(coefficients, bias, logits, float(np.average(losses, weights=judged)))
