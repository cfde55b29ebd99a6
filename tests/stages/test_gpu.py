"""Training on a GPU: the same batches whether rows are there or come one batch at a time, faults named, and a file that needs no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import ExpostError
from pipelines.network import fit as fitting
from pipelines.network import learner, losses
from pipelines.network.augment import augmentation
from pipelines.network.data import Judging, Plan, Rows, Training, placed, plan_of, tensors
from pipelines.network.export import export
from pipelines.network.stack import Exported
from pipelines.network.tabm import TabularNetwork
from pipelines.params.train import Augment, Network, Train
from pipelines.scoring import Network as Scorer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda:0")
TINY = Network(k=3, width=8, number_embedding=4, bins=4)
KNOTS = [[-1.5, -0.5, 0.0, 0.7, 1.5], [-1.0, 0.0, 2.0], [0.0, 1.0]]


def made(rows: int = 700) -> tuple[Rows, Plan]:
    """Numbers, a category, a grey image and weights; two folds."""
    rng = np.random.default_rng(0)
    inputs = {
        "numbers": rng.normal(size=(rows, 3)).astype(np.float32),
        "categories": rng.integers(0, 4, (rows, 1)),
        "image": rng.integers(0, 256, (rows, 1, 8, 8), dtype=np.uint8),
    }
    first = np.arange(rows) % 2 == 0
    labels = (inputs["numbers"][:, 0] + rng.normal(size=rows) > 0).astype(np.int64)
    weights = rng.integers(1, 9, rows).astype(np.float32)
    return tensors(inputs, labels, np.arange(rows), weights), plan_of([first, ~first], [~first, first], repeats=1)


def arrays_of(batch: Rows) -> Mapping[str, torch.Tensor]:
    assert batch.weights is not None
    return {**batch.inputs, "labels": batch.labels, "index": batch.index, "weights": batch.weights}


def make(number: int) -> TabularNetwork:
    return TabularNetwork(KNOTS, [4], 2, TINY)


def test_batches_that_are_copied_ahead_are_those_of_rows_on_the_gpu_and_of_the_cpu() -> None:
    rows, plan = made()
    near, augment = placed(rows, GPU, 10**9), augmentation(Augment(shift=2, flip=True), rows.inputs)
    assert near.device == GPU
    sources = [
        [
            Training(found, plan, 16, seed=1, augment=augment, device=device)
            for found, device in ((rows, GPU), (near, GPU), (rows, torch.device("cpu")))
        ],
        [Judging(found, plan, 32, device) for found, device in ((rows, GPU), (near, GPU), (rows, torch.device("cpu")))],
    ]
    for kind in sources:
        assert len(kind[0]) > 5
        for copied, there, here in zip(*kind, strict=True):
            torch.ones(2000, 2000, device=GPU) @ torch.ones(2000, 2000, device=GPU)  # something to overlap with
            for name, expected in arrays_of(here).items():
                for found in (arrays_of(copied)[name], arrays_of(there)[name]):
                    assert found.device == GPU
                    assert torch.equal(found.cpu(), expected), name


@pytest.mark.parametrize("fits", [True, False])
def test_networks_trained_on_a_gpu_learn_and_ship_in_fp32(fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fits:
        monkeypatch.setattr(fitting, "free_bytes", lambda device: 0)
    rows, plan = made()
    rows = replace(rows, inputs={name: value for name, value in rows.inputs.items() if name != "image"})
    fitted = fitting.fit(rows, plan, Train(max_epochs=30, accelerator="gpu", network=TINY), make, tmp_path / "last.ckpt")
    assert fitted.valid_log_loss < 0.65
    shipped = Scorer(export(fitted.networks, rows.inputs)).run({name: value.numpy() for name, value in rows.inputs.items()}, ["logits"])[0]
    with torch.inference_mode():
        there = Exported(fitted.networks, list(rows.inputs)).to(GPU)(*(value.to(GPU) for value in rows.inputs.values()))[0].cpu().numpy()
    np.testing.assert_allclose(np.exp(there), np.exp(shipped), atol=1e-5)


def test_a_loss_that_is_not_finite_names_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, plan = made()
    steps: list[int] = []

    def broken(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        steps.append(len(labels))
        return losses.cross_entropy(logits, labels, weights) * (float("nan") if len(steps) == 3 else 1.0)

    monkeypatch.setattr(learner, "loss_of", lambda *_: broken)
    with pytest.raises(ExpostError, match=r"training loss must be finite, however: it is nan in epoch 0, step 2, table rows \d+, \d+"):
        fitting.fit(rows, plan, Train(max_epochs=3, accelerator="gpu", network=TINY), make, tmp_path / "last.ckpt")
