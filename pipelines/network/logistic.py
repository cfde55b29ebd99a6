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
from torch import Tensor, nn

from pipelines.errors import must
from pipelines.network.data import Plan, Rows
from pipelines.network.progress import Progress
from pipelines.params.train import Logistic
from pipelines.scoring import cores

Floats = NDArray[np.float64]
#: Largest difference of a logit between scikit-learn and the tensors, over 1 + |logit|: sums of float32 against float64.
TOLERANCE = 1e-4
#: Steps of one fit at most.
STEPS = 1000
#: Bytes that the coefficients of all networks take in the file at most.
MOST_BYTES = 1 << 26


@dataclass(frozen=True)
class Regressions:
    """Regressions of all networks, of one `strength`; `held` has for each network the logits (m, K) of the rows held out for it.

    `curve` is the held-out log loss by strength tried, the mean over networks, in nats; `out_of_time` says that the time was up.
    """

    module: Terms
    strength: float
    held: list[Floats]
    curve: list[float]
    out_of_time: bool
    name: str = "logistic"

    @property
    def log_loss(self) -> float:
        """Held-out log loss of the regressions alone, in nats, the mean over networks."""
        return min(self.curve)

    @property
    def figures(self) -> dict[str, float]:
        """The inverse penalty."""
        return {"strength": self.strength}


class Terms(nn.Module):
    """Regressions of M networks' folds as tensors: inputs to logits (B, M, K).

    A row's terms are its numbers, one for each code of its categories but 0, and one for each code of its texts but 0, which weighs `rarity`; in
    each text those of words and pairs have a sum of squares of 1, and so have those of pieces, codes from `pieces` on. `coefficients`
    (P, M * outputs) are of these in order, with a row of zeros for each code 0; `outputs` is 1 for two classes: the log odds of the second.
    """

    coefficients: Tensor
    bias: Tensor
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

    def set(self, coefficients: NDArray[np.floating], bias: NDArray[np.floating], networks: int) -> Terms:
        """Take coefficients (P, M * outputs) and bias (M * outputs,)."""
        self.networks, self.outputs = networks, len(bias) // networks
        self.register_buffer("coefficients", torch.from_numpy(np.ascontiguousarray(coefficients, np.float32)))
        self.register_buffer("bias", torch.from_numpy(np.ascontiguousarray(bias, np.float32)))
        return self

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits."""
        found = self.bias
        if self.numbers:
            found = found + inputs["numbers"] @ self.coefficients[: self.numbers]
        if len(self.category_start):
            found = found + self._at(inputs["categories"] + self.category_start).sum(dim=1)
        for codes, weights in self._weighted(inputs):
            found = found + (self._at(codes) * weights[:, :, None]).sum(dim=1)
        found = found.view(-1, self.networks, self.outputs)
        return torch.cat([torch.zeros_like(found), found], dim=2) if self.outputs == 1 else found

    def _at(self, places: Tensor) -> Tensor:
        return self.coefficients.index_select(0, places.flatten()).view(*places.shape, self.coefficients.shape[1])

    def _weighted(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Places (B, L) among the coefficients of each text's codes, and their weights."""
        columns = torch.split(inputs["text"], [length for _, length in self.texts], dim=1) if self.texts else ()
        for start, first, codes in zip(self.text_starts, self.pieces, columns, strict=True):
            rarity = self.rarity.index_select(0, (codes + (start - self.text_starts[0])).flatten()).view(codes.shape)
            piece, squares = codes >= first, rarity.square()
            size = torch.where(piece, _root_of_sum(squares * piece), _root_of_sum(squares * ~piece))
            yield codes + start, rarity / size

    def matrix(self, inputs: Mapping[str, Tensor]) -> sparse.csr_matrix:
        """The terms of n rows (n, P)."""
        n = len(next(iter(inputs.values())))
        columns, values = [], []
        if self.numbers:
            columns.append(np.broadcast_to(np.arange(self.numbers), (n, self.numbers)))
            values.append(inputs["numbers"].numpy())
        if len(self.category_start):
            codes = inputs["categories"]
            columns.append((codes + self.category_start).numpy())
            values.append((codes != 0).float().numpy())
        for codes, weights in self._weighted(inputs):
            columns.append(codes.numpy())
            values.append(weights.numpy())
        wide, data = np.concatenate(columns, axis=1), np.concatenate(values, axis=1)
        there = data != 0
        ends = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        return sparse.csr_matrix((data[there].astype(np.float64), wide[there].astype(np.int32), ends), shape=(n, self.count))


def _root_of_sum(squares: Tensor) -> Tensor:
    """Root of the sum (B, 1) of squares (B, L), each 0 or at least 1; 1 where there are none."""
    return squares.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt()


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
) -> Regressions | None:
    """Fit a regression for each network of the plan, from the rows that it learns from; None, and a line that says so, where they would take more than `MOST_BYTES`.

    `cardinalities`, `texts` and `pieces` are what the preprocessing says of its columns. All have the penalty at which the mean of their held-out log losses was lowest. The words' rarity is counted on all rows learnt from, without
    a label. `rows.weights` count in the loss. No strength is begun once `seconds` are over, but for the first.
    """
    started = time.monotonic()
    taught = torch.unique(torch.cat(plan.learn))
    lengths = [length for _, length in texts]
    seen = torch.split(rows.inputs["text"][taught], lengths, dim=1) if texts else ()
    rarities = [rarity_of(codes, count) for codes, (count, _) in zip(seen, texts, strict=True)]
    numbers = rows.inputs["numbers"].shape[1] if "numbers" in rows.inputs else 0
    terms = Terms(numbers, cardinalities, texts, pieces, torch.cat(rarities) if rarities else torch.zeros(0))
    taken = terms.count * len(plan) * (1 if classes == 2 else classes) * 4
    if taken > MOST_BYTES:
        print(f"train.logistic is left out: it would take {taken >> 20} MiB of the file, more than {MOST_BYTES >> 20}", file=sys.stderr)
        return None
    X = terms.matrix(rows.inputs)
    fits = [_Fit(X, rows, learn.numpy(), held.numpy()) for learn, held in zip(plan.learn, plan.held, strict=True)]
    progress, curve = Progress(len(params.strengths)), []
    best: list[_Fitted] = []
    out_of_time = False
    with ThreadPoolExecutor(min(len(fits), cores())) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one that has not converged is judged as it is
        for strength in params.strengths:
            found = list(pool.map(lambda fit, strength=strength: fit(strength), fits))
            curve.append(float(np.mean([one.log_loss for one in found])))
            progress.say(len(curve), f"logistic regression of strength {strength:g}  valid log loss {curve[-1]:.4f}")
            if curve[-1] > min(curve):
                break
            best = found
            out_of_time = seconds is not None and time.monotonic() - started >= seconds
            if out_of_time:
                break
    progress.end()
    coefficients, bias = np.concatenate([one.coefficients for one in best]), np.concatenate([one.bias for one in best])
    terms.set(coefficients.T, bias, len(best)).eval()
    for network, (one, held) in enumerate(zip(best, plan.held, strict=True)):
        _check(terms, network, rows.take(held[:256]).inputs, one.logits[:256])
    return Regressions(terms, params.strengths[int(np.argmin(curve))], [one.logits for one in best], curve, out_of_time)


@dataclass(frozen=True)
class _Fitted:
    """Coefficients (outputs, P), bias (outputs,), and logits (m, K) of the held rows with their log loss."""

    coefficients: Floats
    bias: Floats
    logits: Floats
    log_loss: float


class _Fit:
    """One network's regression: each call starts from where the last one ended."""

    def __init__(self, X: sparse.csr_matrix, rows: Rows, learn: NDArray[np.int64], held: NDArray[np.int64]) -> None:
        from sklearn.linear_model import LogisticRegression

        labels, weights = rows.labels.numpy(), None if rows.weights is None else rows.weights.numpy().astype(np.float64)
        self.learn, self.y = X[learn], labels[learn]
        self.held, self.y_held = X[held], labels[held]
        self.weights = None if weights is None else weights[learn]
        self.held_weights = None if weights is None else weights[held]
        self.model: Any = LogisticRegression(max_iter=STEPS, tol=1e-6, warm_start=True)

    def __call__(self, strength: float) -> _Fitted:
        self.model.set_params(C=strength).fit(self.learn, self.y, sample_weight=self.weights)
        raw = np.asarray(self.model.decision_function(self.held), np.float64)
        logits = np.stack([np.zeros_like(raw), raw], axis=1) if raw.ndim == 1 else raw
        losses = -log_softmax(logits, axis=1)[np.arange(len(logits)), self.y_held]
        coefficients, bias = (np.array(value, np.float64) for value in (self.model.coef_, self.model.intercept_))
        return _Fitted(coefficients, bias, logits, float(np.average(losses, weights=self.held_weights)))


def _check(terms: Terms, network: int, inputs: Mapping[str, Tensor], expected: Floats) -> None:
    with torch.inference_mode():
        found = terms(inputs)[:, network].numpy()
    difference = float(np.max(np.abs(found - expected) / (1 + np.abs(expected)), initial=0.0))
    if not difference <= TOLERANCE:
        raise must(
            f"a regression as tensors must give scikit-learn's logits to {TOLERANCE}",
            f"they differ by {difference:.2g}",
            "Report this as a bug.",
        )
