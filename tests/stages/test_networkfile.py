"""The size of a network's file: what takes much memory is scored in smaller batches, and what no batch fits is refused before the training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import networkfile
from pipelines.errors import ExpostError
from pipelines.network import own
from pipelines.network.build import builder
from pipelines.network.data import plan_of, tensors
from pipelines.networkfile import IMAGE, RefusedError
from pipelines.params.train import Own, Residual


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


class Plain(torch.nn.Module):
    """A network of the user's."""

    def __init__(self, number_count: int, classes: int) -> None:
        super().__init__()
        self.body, self.output = torch.nn.Linear(number_count, 4), torch.nn.Linear(4, classes)

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(inputs["numbers"])
        return self.output(hidden), hidden


def test_a_network_of_the_users_that_is_too_large_is_told_so_and_not_to_change_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networkfile, "MOST_NUMBERS", 10)
    settings = Own.model_validate({"class": f"{__name__}.Plain"})
    with pytest.raises(ExpostError, match=r"must be exportable to ONNX.*more than 10\. Train a smaller one"):
        own.maker(settings, {"number_count": 3, "classes": 2}, {"numbers": torch.randn(8, 3)})
