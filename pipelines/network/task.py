"""What networks learn: which rows, who learns from which, and how a network is made. Imports torch only once a task is set."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import encode, partition
from pipelines.networkfile import IMAGE
from pipelines.params.train import Network, Train

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from pipelines.network.build import Make
    from pipelines.network.data import Plan, Rows
    from pipelines.network.fit import Fitted
    from pipelines.network.partners import Partner

TRAIN, VALID, CALIB = 0, 1, 2


@dataclass(frozen=True)
class Inputs:
    """Rows outside the holdout, as the network sees them; `rows` are their indices in the table.

    `unseen` (n, M) says which of the M networks must not see which row; a single one sees train and valid. `weights` (n,) float64 say how often each row occurred, or None where each occurred once.
    """

    rows: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]]
    labels: NDArray[np.int64]
    parts: NDArray[np.int8]
    unseen: NDArray[np.bool_]
    repeats: int
    weights: NDArray[np.float64] | None
    classes: int

    def seen(self, network: int) -> NDArray[np.bool_]:
        """Rows (n,) that a network learns from."""
        return ~self.unseen[:, network] if self.repeats else self.parts == TRAIN

    def held(self, network: int) -> NDArray[np.bool_]:
        """Rows (n,) whose log loss is followed while a network learns: of its own fold alone, or valid."""
        return partition.judging(self.unseen, self.repeats)[:, network] if self.repeats else self.parts == VALID


@dataclass(frozen=True)
class Task:
    """What the networks learn: rows and the plan of who learns from which, and how a network is made, by its number, under given parameters."""

    rows: Rows
    plan: Plan
    make: Callable[[Train], Make]
    cardinalities: Sequence[int]
    texts: Sequence[tuple[int, int]]
    pieces: Sequence[int]
    classes: int

    def partners(self, params: Train) -> list[Partner]:
        """What `params` ask to learn beside the networks and finds something to learn from; each begins nothing new once half of the time left is over."""
        kinds, started = set(self.rows.inputs), time.monotonic()

        def seconds() -> float | None:
            return None if params.max_minutes is None else max(0.0, 60 * params.max_minutes - (time.monotonic() - started)) / 2

        found: list[Partner] = []
        sizes: dict[str, Any]
        if params.trees is not None and {"numbers", "categories"} & kinds:
            from pipelines.network.boost import boost

            sizes = {"cardinalities": self.cardinalities, "classes": self.classes}
            found.append(boost(self.rows, self.plan, params.trees, **sizes, seed=params.seed, seconds=seconds()))
        if params.logistic is not None and {"numbers", "categories", "text"} & kinds:
            from pipelines.network.logistic import fit_logistic

            sizes = {"cardinalities": self.cardinalities, "texts": self.texts, "pieces": self.pieces, "classes": self.classes}
            fitted = fit_logistic(self.rows, self.plan, params.logistic, **sizes, seconds=seconds())
            found += [fitted] if fitted else []
        return found

    def ready(self, params: Train) -> Make:
        """What builds a network; raises ExpostError, before anything learns, where one cannot be built or there is no GPU that is asked for."""
        from pipelines.network.fit import accelerator

        accelerator(params.accelerator)
        return self.make(params)

    def fit(self, params: Train, checkpoint: Path, watchers: Sequence[Callback] = (), make: Make | None = None) -> Fitted:
        """Train the networks that `make`, or else `ready`, builds; see `pipelines.network.fit.fit`."""
        from pipelines.network.augment import augmentation
        from pipelines.network.fit import fit

        augment, make = augmentation(params.augment, self.rows.inputs), make or self.ready(params)
        return fit(self.rows, self.plan, params, make, checkpoint, augment=augment, judged=self.judged(params), watchers=watchers)

    def judged(self, params: Train) -> int:
        """Rows that the networks score at once without more memory than a step of the training takes."""
        from pipelines.network.fit import JUDGED

        return max(1, JUDGED // self._size(params))

    def _size(self, params: Train) -> int:
        """How many times the memory of a plain row a row takes inside a network: images are large there, and so are many numbers in pieces."""
        image, numbers = self.rows.inputs.get(IMAGE), self.rows.inputs.get("numbers")
        tiles = 1 if image is None else math.ceil(image[0, 0].numel() / 1024) * 16
        pieces = 0 if numbers is None or not isinstance(params.network, Network) else numbers.shape[1] * params.network.bins
        return max(tiles, math.ceil(pieces / 4096))


def task_of(inputs: Inputs, preprocessing: dict[str, Any]) -> Task:
    """The task that these inputs set."""
    # Idle threads must sleep: spinning, they take the cores from each other and from other processes (a fit of 2 s took 40 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pipelines.network.build import builder
    from pipelines.network.data import plan_of, tensors

    networks = range(inputs.unseen.shape[1])
    counted = [] if inputs.weights is None else [inputs.weights.astype(np.float32)]
    rows = tensors(inputs.arrays, inputs.labels, inputs.rows, *counted)
    plan = plan_of([inputs.seen(m) for m in networks], [inputs.held(m) for m in networks], repeats=inputs.repeats)
    given: dict[str, Any] = {
        "number_count": encode.number_count(preprocessing),
        "cardinalities": encode.cardinalities(preprocessing),
        "texts": encode.text_sizes(preprocessing),
        "classes": inputs.classes,
        "image_shape": encode.image_shape(preprocessing),
    }
    scale = next(iter(preprocessing.get("images", ())), None)
    sizes = given["cardinalities"], given["texts"], encode.first_pieces(preprocessing), inputs.classes
    return Task(rows, plan, lambda params: builder(params.network, given, rows, plan, scale), *sizes)
