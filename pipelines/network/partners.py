"""Learners beside the networks, on the same rows and folds, whose probabilities are pooled with theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipelines.core.pool import best_shares
from pipelines.network.data import Plan, Rows
from pipelines.network.stack import log_mean_probability


class Partner(Protocol):
    """What learnt beside the M networks: `module` gives logits (B, M, K), `held` has for each network those (m, K) of the rows held out for it.

    `log_loss` is the mean over networks of what it alone has there, in nats; `out_of_time` says that the time was up. The training's metrics
    hold these and `figures` under names that start with `name`.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def module(self) -> nn.Module: ...  # noqa: D102
    @property
    def held(self) -> list[NDArray[np.float64]]: ...  # noqa: D102
    @property
    def log_loss(self) -> float: ...  # noqa: D102
    @property
    def figures(self) -> dict[str, float]: ...  # noqa: D102
    @property
    def out_of_time(self) -> bool: ...  # noqa: D102


def shares_of(partners: Sequence[Partner], networks: Sequence[nn.Module], rows: Rows, plan: Plan, size: int) -> list[float]:
    """Share of each partner, the rest being the networks': with which all together have the lowest log loss on the rows held out for each network.

    A few numbers, chosen on all of these rows, tell next to nothing of any. A network scores `size` rows at once.
    """
    with torch.inference_mode():
        alone = [
            log_mean_probability(network(rows.take(chosen).inputs)[0]).numpy()
            for network, held in zip(networks, plan.held, strict=True)
            for chosen in torch.split(held, size)
        ]
    held = torch.cat(plan.held)
    weights = None if rows.weights is None else rows.weights[held].numpy()
    learners = [np.concatenate(alone), *(np.concatenate(partner.held) for partner in partners)]
    return best_shares(learners, rows.labels[held].numpy(), weights)[1:]
