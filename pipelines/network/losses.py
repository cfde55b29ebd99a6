"""Symmetric, strictly proper losses. Nothing here can weight a class or an error: costs belong to the decision.

`weights` (B,), mean 1 over the train part, say how often a row occurred that stands in the table once. They multiply its loss as its copies
would; so a mean of a batch estimates the mean over all copies, and where they are None every row occurred once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

#: Member logits (B, k, K), labels (B,) and perhaps weights (B,) to a mean over rows and members.
Loss = Callable[..., Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over rows and members of -log p[label]: logits (B, k, K), labels (B,), in nats."""
    members = labels.repeat_interleave(logits.shape[1])
    if weights is None:
        return functional.cross_entropy(logits.flatten(0, 1), members)
    return (functional.cross_entropy(logits.flatten(0, 1), members, reduction="none").view(len(labels), -1).mean(dim=1) * weights).mean()


def brier(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over rows and members of the squared distance between probabilities and the one-hot label (Brier 1950): in [0, 2]."""
    target = functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    distance = (torch.softmax(logits, dim=-1) - target[:, None]).square().sum(dim=-1)
    return distance.mean() if weights is None else (distance.mean(dim=1) * weights).mean()


def loss_of(name: str, brier_weight: float) -> Loss:
    """The loss of `train.loss`; of the two together, cross-entropy plus `brier_weight` times the Brier score.

    The sum is strictly proper too, for any weight above 0, with the Brier score's mildness on rows that are surely wrong.
    """
    if name == "cross_entropy":
        return cross_entropy
    if name == "brier":
        return brier
    return lambda logits, labels, weights=None: cross_entropy(logits, labels, weights) + brier_weight * brier(logits, labels, weights)
