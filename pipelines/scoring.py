"""Scoring with `model.onnx` through ONNX Runtime: what `train` writes for later stages and what ships come from here. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import must

BATCH = 8192
REMEDY = "Do not use this file; train again with `dvc repro train`, or fetch it again."


@dataclass(frozen=True)
class Scores:
    """`logits` (n, K) log of the members' mean probability, `embedding` (n, D) penultimate layer, both float32."""

    logits: NDArray[np.float32]
    embedding: NDArray[np.float32]


class Network:
    """An ONNX file with inputs `numbers`, `categories` (those that exist) and outputs `logits`, `embedding`, run in batches."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no other base
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise must("model.onnx must load in ONNX Runtime", str(error).splitlines()[0], REMEDY) from error
        self._inputs = [node.name for node in self._session.get_inputs()]

    def __call__(self, numbers: NDArray[np.float32], categories: NDArray[np.int64], *, batch: int = BATCH, finite: bool = True) -> Scores:
        """Score (n, F) float32 and (n, C) int64 in batches; raises ExpostError on an output that is not finite, unless `finite` is off."""
        arrays: dict[str, NDArray[Any]] = {"numbers": numbers, "categories": categories}
        parts: list[Any] = [
            self._session.run(["logits", "embedding"], {name: arrays[name][start : start + batch] for name in self._inputs})
            for start in range(0, max(len(numbers), 1), batch)
        ]
        scores = Scores(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))
        if not finite:
            return scores
        bad = np.flatnonzero(~np.isfinite(scores.logits).all(axis=1) | ~np.isfinite(scores.embedding).all(axis=1))
        if len(bad):
            raise must("scores must be finite", f"{len(bad)} rows are not, the first is row {bad[0]}", "Train the model again.")
        return scores

    def logits(self, numbers: NDArray[np.float32], categories: NDArray[np.int64], *, batch: int = BATCH) -> NDArray[np.float32]:
        """Logits (n, K) alone, as `__call__` gives them; raises ExpostError where one is not finite."""
        arrays: dict[str, NDArray[Any]] = {"numbers": numbers, "categories": categories}
        parts = [
            self._session.run(["logits"], {name: arrays[name][start : start + batch] for name in self._inputs})[0]
            for start in range(0, max(len(numbers), 1), batch)
        ]
        found = np.concatenate(parts)
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            raise must("scores must be finite", f"{len(bad)} rows are not, the first is row {bad[0]}", "Train the model again.")
        return found
