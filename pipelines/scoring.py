"""Scoring with `model.onnx` through ONNX Runtime: what `train` writes for later stages and what ships come from here. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import networkfile
from pipelines.errors import must

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
    """An ONNX file with inputs `numbers`, `categories` (those that exist) and outputs `logits`, `embedding`, run in batches.

    One thread runs a batch, several batches run side by side: the figures are the same on any number of cores.
    """

    def __init__(self, model: bytes) -> None:
        import onnxruntime as ort

        networkfile.check(model, BATCH)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        with _readable("model.onnx must load in ONNX Runtime"):
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._inputs = [node.name for node in self._session.get_inputs()]
        #: Number of columns of each input and output.
        self.widths: dict[str, int] = {node.name: node.shape[1] for node in (*self._session.get_inputs(), *self._session.get_outputs())}

    def __call__(self, numbers: NDArray[np.float32], categories: NDArray[np.int64], *, batch: int = BATCH, finite: bool = True) -> Scores:
        """Score (n, F) float32 and (n, C) int64; raises ExpostError on an output that is not finite, unless `finite` is off."""
        logits, embedding = self._run(["logits", "embedding"], numbers, categories, batch=batch, threads=cores())
        if finite:
            _check(logits, embedding)
        return Scores(logits, embedding)

    def logits(self, numbers: NDArray[np.float32], categories: NDArray[np.int64], *, threads: int | None = None) -> NDArray[np.float32]:
        """Logits (n, K) alone, as `__call__` gives them, on `threads` (all cores by default); raises ExpostError where one is not finite."""
        (found,) = self._run(["logits"], numbers, categories, batch=BATCH, threads=threads or cores())
        _check(found)
        return found

    def _run(
        self, names: list[str], numbers: NDArray[np.float32], categories: NDArray[np.int64], *, batch: int, threads: int
    ) -> list[NDArray[np.float32]]:
        arrays: dict[str, NDArray[Any]] = {"numbers": numbers, "categories": categories}

        def run(start: int) -> Any:
            return self._session.run(names, {name: arrays[name][start : start + batch] for name in self._inputs})

        starts = range(0, max(len(numbers), 1), batch)
        with _readable("model.onnx must score the rows"):
            if threads == 1 or len(starts) == 1:
                parts = [run(start) for start in starts]
            else:
                with ThreadPoolExecutor(threads) as pool:
                    parts = list(pool.map(run, starts))
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
