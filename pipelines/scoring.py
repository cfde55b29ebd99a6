"""Scoring with `model.onnx` through ONNX Runtime: what `train` writes for later stages and what ships come from here. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import networkfile
from pipelines.errors import must

Inputs = Mapping[str, NDArray[Any]]
BATCH = 256  #: rows whose inner values stay in a core's cache: 8192 take twice the time


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Scores:
    """`logits` (n, K) log of the members' mean probability, `embedding` (n, D) penultimate layer, both float32."""

    logits: NDArray[np.float32]
    embedding: NDArray[np.float32]


class Network:
    """An ONNX file with named inputs and outputs `logits`, `embedding` (and `each` of several networks), run in batches.

    One thread runs a batch, several batches run side by side: the figures are the same on any number of cores.
    """

    def __init__(self, model: bytes) -> None:
        import onnxruntime as ort

        self._batch = networkfile.check(model, BATCH)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        with _readable("model.onnx must load in ONNX Runtime"):
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._inputs = [node.name for node in self._session.get_inputs()]
        #: Numbers of a row of each input, columns of each output; of `each` the number of networks.
        self.widths: dict[str, int] = {node.name: node.shape[1] for node in self._session.get_outputs()}
        self.widths |= {node.name: math.prod(node.shape[1:]) for node in self._session.get_inputs()}

    def __call__(self, inputs: Inputs, *, batch: int | None = None, finite: bool = True) -> Scores:
        """Score inputs of n rows each; raises ExpostError on an output that is not finite, unless `finite` is off."""
        logits, embedding = self.run(inputs, ["logits", "embedding"], batch=batch)
        if finite:
            _check(logits, embedding)
        return Scores(logits, embedding)

    def logits(self, inputs: Inputs, *, threads: int | None = None) -> NDArray[np.float32]:
        """Logits (n, K) alone, as `__call__` gives them, on `threads` (all cores by default); raises ExpostError where one is not finite."""
        (found,) = self.run(inputs, ["logits"], threads=threads)
        _check(found)
        return found

    def unseen_logits(self, inputs: Inputs, unseen: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Logits (n, K): log of the mean probability of those networks that never saw the row, by the mask `unseen` (n, M).

        A row that all networks saw, or none, is scored by all. Raises ExpostError where the file holds another number of networks.
        """
        networks = self.widths.get(networkfile.EACH, 1)
        if unseen.shape[1] != networks:
            raise must(f"the split must have {networks} folds in all, as model.onnx has networks", str(unseen.shape[1]), networkfile.REMEDY)
        if networks == 1:
            return self.run(inputs, ["logits"])[0]
        whole, each = self.run(inputs, ["logits", networkfile.EACH])
        with np.errstate(invalid="ignore"):
            kept = np.where(unseen[:, :, None], each, -np.inf)
            highest = kept.max(axis=1, keepdims=True)
            partial = np.log(np.exp(kept - highest).sum(axis=1) / unseen.sum(axis=1).clip(min=1)[:, None]) + highest[:, 0]
        some = np.asarray(unseen.any(axis=1) & ~unseen.all(axis=1))
        return np.where(some[:, None], partial.astype(np.float32), whole)

    def run(self, inputs: Inputs, names: list[str], *, batch: int | None = None, threads: int | None = None) -> list[NDArray[np.float32]]:
        """The outputs `names` of the rows, unchecked; `batch` of them at once, as many as fit by default."""
        batch = batch or self._batch
        used = {name: inputs[name] for name in self._inputs}

        def one(start: int) -> Any:
            return self._session.run(names, {name: array[start : start + batch] for name, array in used.items()})

        starts, threads = range(0, max(len(next(iter(used.values()))), 1), batch), threads or cores()
        with _readable("model.onnx must score the rows"):
            if threads == 1 or len(starts) == 1:
                parts = [one(start) for start in starts]
            else:
                with ThreadPoolExecutor(threads) as pool:
                    parts = list(pool.map(one, starts))
        return [np.concatenate(values) for values in zip(*parts, strict=True)]


@contextmanager
def _readable(rule: str) -> Iterator[None]:
    """Let what ONNX Runtime refuses be one ExpostError: its own exceptions share no other base than their module."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise must(rule, str(error).splitlines()[0][:300], networkfile.REMEDY) from error


def _check(*outputs: NDArray[np.float32]) -> None:
    bad = np.flatnonzero(np.any([~np.isfinite(values).all(axis=1) for values in outputs], axis=0))
    if len(bad):
        raise must("scores must be finite", f"{len(bad)} rows are not, the first is row {bad[0]}", "Train the model again.")
