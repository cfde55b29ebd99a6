"""TabM with the costs in its loss, the peer that does what the pipeline does not: the package's own network, a plain loop."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rtdl_num_embeddings import PiecewiseLinearEmbeddings
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder, QuantileTransformer
from tabm import TabM
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipelines.core.knots import knots

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
EPOCHS, PATIENCE, LARGEST_BATCH, BINS = 100, 12, 256, 48
SMALL = 200_000  #: cells of the table below which the threads of a step would mostly wait for each other


def fit(X: pd.DataFrame, y: Ints, weights: Floats, inside: Ints, stop: Ints, *, seed: int) -> Callable[[pd.DataFrame], Floats]:
    """Fit on the rows `inside`, stopped by weighted log loss on the rows `stop`; returns features to probability `(n, K)`."""
    torch.manual_seed(seed)
    if inside.size * X.shape[1] < SMALL:
        torch.set_num_threads(1)
    encode, counts, cardinalities = encoder(X.iloc[inside])
    network = TabM.make(
        n_num_features=counts,
        cat_cardinalities=cardinalities,
        d_out=int(y.max()) + 1,
        num_embeddings=PiecewiseLinearEmbeddings(bins_of(encode(X.iloc[inside])[0]), 8, activation=False, version="B") if counts else None,
        k=16,
        d_block=64,
        n_blocks=2,
        start_scaling_init="normal",
    )
    relative = torch.as_tensor(weights / weights[inside].mean(), dtype=torch.float32)
    train(network, *((*encode(X.iloc[rows]), torch.as_tensor(y[rows]), relative[rows]) for rows in (inside, stop)))

    def predict(frame: pd.DataFrame) -> Floats:
        with torch.no_grad():
            logits = torch.cat([network(*_batch(encode(frame), rows)) for rows in torch.arange(len(frame)).split(4096)])
        return np.asarray(torch.softmax(logits.double(), dim=-1).mean(dim=1).numpy())

    return predict


def bins_of(numbers: Tensor | None) -> list[Tensor]:
    """The bins of the pipeline's own networks; of a column that does not vary one bin."""
    assert numbers is not None
    found = [torch.from_numpy(knots(column, BINS + 1)) for column in numbers.numpy().T]
    return [edges if len(edges) > 1 else torch.cat([edges, edges + 1]) for edges in found]


def train(network: TabM, fitted: tuple[Tensor, ...], stop: tuple[Tensor, ...]) -> None:
    """AdamW until weighted log loss on `stop` has not fallen for `PATIENCE` epochs; leaves the best weights in the network."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=3e-3)
    rows = len(fitted[2])
    size = max(1, min(LARGEST_BATCH, max(16, rows // 8)))
    best, weights, waited = float("inf"), copy.deepcopy(network.state_dict()), 0
    for _ in range(EPOCHS):
        network.train()
        for batch in torch.randperm(rows).split(size):
            optimiser.zero_grad()
            logits = network(*_batch(fitted[:2], batch))
            members = logits.shape[1]
            losses = cross_entropy(logits.flatten(0, 1), fitted[2][batch].repeat_interleave(members), reduction="none")
            (losses * fitted[3][batch].repeat_interleave(members)).mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        loss = weighted_loss(network, stop)
        waited += 1
        if loss < best:
            best, weights, waited = loss, copy.deepcopy(network.state_dict()), 0
        if waited >= PATIENCE:
            break
    network.load_state_dict(weights)
    network.eval()


def weighted_loss(network: TabM, part: tuple[Tensor, ...]) -> float:
    """Weighted log loss of the members' mean probability."""
    network.eval()
    total = 0.0
    with torch.no_grad():
        for batch in torch.arange(len(part[2])).split(4096):
            probability = torch.softmax(network(*_batch(part[:2], batch)), dim=-1).mean(dim=1)
            chosen = probability.gather(1, part[2][batch, None])[:, 0].clamp_min(1e-15)
            total += float((-chosen.log() * part[3][batch]).sum())
    return total / float(part[3].sum())


def _batch(inputs: tuple[Tensor | None, ...], rows: Tensor) -> list[Tensor | None]:
    return [None if part is None else part[rows] for part in inputs]


def encoder(X: pd.DataFrame) -> tuple[Callable[[pd.DataFrame], tuple[Tensor | None, Tensor | None]], int, list[int]]:
    """Numbers to normal quantiles with a flag for missing ones, categories to codes from 0; how many numbers, and values per category."""
    categories = list(X.select_dtypes("category").columns)
    numbers = [name for name in X.columns if name not in categories]
    scaled = make_pipeline(
        FunctionTransformer(lambda frame: frame.astype(np.float64)),
        SimpleImputer(strategy="median", add_indicator=True),
        QuantileTransformer(output_distribution="normal", n_quantiles=min(1000, len(X)), random_state=0),
    )
    to_numbers = make_column_transformer((scaled, numbers)) if numbers else None
    to_codes = (
        make_column_transformer(
            (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1), categories)
        )
        if categories
        else None
    )
    counts = to_numbers.fit_transform(X).shape[1] if to_numbers else 0
    cardinalities = [int(n) + 2 for n in to_codes.fit_transform(X).max(axis=0)] if to_codes else []

    def encode(frame: pd.DataFrame) -> tuple[Tensor | None, Tensor | None]:
        found = None if to_numbers is None else torch.as_tensor(to_numbers.transform(frame), dtype=torch.float32)
        codes = None if to_codes is None else torch.as_tensor(to_codes.transform(frame) + 1, dtype=torch.int64)
        return found, codes

    return encode, counts, cardinalities
