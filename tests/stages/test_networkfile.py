"""The size of a network's file: what takes much memory is scored in smaller batches, and what no batch fits is refused before the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines import networkfile
from pipelines.network.build import builder
from pipelines.network.data import plan_of, tensors
from pipelines.networkfile import IMAGE, RefusedError
from pipelines.params.train import Residual


def test_a_file_that_takes_much_memory_is_read_in_smaller_batches(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    content = (world / "data/train/model.onnx").read_bytes()
    numbers = networkfile._numbers(onnx.load_model_from_string(content), 256)
    assert networkfile.check(content, 256) == 256
    monkeypatch.setattr(networkfile, "MOST_NUMBERS", numbers // 3)
    assert networkfile.check(content, 256) == 64
    monkeypatch.setattr(networkfile, "MOST_NUMBERS", 10)
    with pytest.raises(RefusedError, match=r"for a single row, more than 10\. Train a smaller one: .*ingest\.image\.size"):
        networkfile.check(content, 256)


def test_a_network_for_images_that_fits_in_no_batch_is_refused_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    rows, seen = tensors({IMAGE: pixels}, np.arange(6) % 2, np.arange(6)), np.arange(6) < 4
    given = {"image_shape": (1, 8, 8), "classes": 2}
    plan = plan_of([seen], [~seen], repeats=0)
    monkeypatch.setattr(networkfile, "MOST_NUMBERS", 1000)
    with pytest.raises(RefusedError, match=r"Train a smaller one"):
        builder(Residual(channels=(4,)), given, rows, plan, {"mean": [127.0], "deviation": [70.0]})
