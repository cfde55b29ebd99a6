"""Symmetric, strictly proper losses. Nothing here can weight a class, an error or a row: costs belong to the decision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over rows and members of -log p[label]: logits (B, k, K), labels (B,), in nats."""
    return functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]))


def brier(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over rows and members of the squared distance between probabilities and the one-hot label (Brier 1950): in [0, 2]."""
    target = functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    return (torch.softmax(logits, dim=-1) - target[:, None]).square().sum(dim=-1).mean()


def both(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the two: strictly proper too, with the Brier score's mildness on rows that are surely wrong."""
    return cross_entropy(logits, labels) + brier(logits, labels)


LOSSES = {"cross_entropy": cross_entropy, "brier": brier, "cross_entropy+brier": both}
