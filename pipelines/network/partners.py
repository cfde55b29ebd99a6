"""Learners beside the networks, on the same rows and folds, whose probabilities are pooled with theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.core.pool import best_shares
from pipelines.errors import must
from pipelines.network.data import Plan, Rows
from pipelines.network.progress import Progress
from pipelines.network.stack import log_mean_probability

Floats = NDArray[np.float64]
#: Largest difference of a logit between a learner's library and its tensors, over 1 + |logit|: sums of float32 against float64.
TOLERANCE = 1e-4
#: Bytes that one learner of all networks takes in the file at most: what ships has a bound, and rows are to be scored in this life.
MOST_BYTES = 1 << 26


@dataclass(frozen=True)
class Partner:
    """What learnt beside the M networks: `module` gives logits (B, M, K), `held` has for each network those (m, K) of the rows held out for it.

    `curve` is the held-out log loss by size tried, the mean over networks, in nats; the lowest is that of what is here. `out_of_time` says that the
    time was up before all that would have been tried were. The training's metrics hold its size, `figures`, under names that start with `name`; a
    person is `told` it.
    """

    name: str
    module: nn.Module
    held: list[Floats]
    curve: list[float]
    out_of_time: bool
    figures: dict[str, float]
    told: str

    @property
    def log_loss(self) -> float:
        """Held-out log loss of this learner alone, in nats, the mean over networks."""
        return min(self.curve)


def search(
    losses: Iterable[float], most: int, patience: int, deadline: float | None, what: Callable[[int], str]
) -> tuple[list[float], bool]:
    """Held-out log losses, each of one more step, until `patience` steps bring no lower one; and whether the time was up before `most` steps.

    `losses` takes a step for each that is asked for, and `what` says which it was. None is asked for after `deadline`, in monotonic seconds.
    """
    curve = list[float]()
    with closing(Progress(most)) as progress:
        for loss in losses:
            curve.append(loss)
            progress.say(len(curve), f"{what(len(curve))}  valid log loss {loss:.4f}")
            if deadline is not None and time.monotonic() >= deadline:
                return curve, len(curve) < most
            if len(curve) - int(np.argmin(curve)) > patience:
                break
    return curve, False


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


def two_or_more(raw: NDArray[np.floating]) -> Floats:
    """Raw scores as logits (n, K): of two classes libraries give the log odds of the second alone, (n,)."""
    return np.stack([np.zeros_like(raw), raw], axis=1) if raw.ndim == 1 else np.asarray(raw)


def must_agree(module: nn.Module, network: int, inputs: Mapping[str, Tensor], expected: Floats, whose: str) -> None:
    """Raise ExpostError where the module's logits for a network are further than `TOLERANCE` from those that its library gives."""
    with torch.inference_mode():
        found = module(inputs)[:, network].numpy()
    difference = float(np.max(np.abs(found - expected) / (1 + np.abs(expected)), initial=0.0))
    if not difference <= TOLERANCE:
        raise must(
            f"a learner as tensors must give {whose} logits to {TOLERANCE}", f"they differ by {difference:.2g}", "Report this as a bug."
        )
