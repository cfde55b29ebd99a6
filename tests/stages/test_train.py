"""Stage train: symmetric losses, the file that ships, the same bits for the same seed, faults that end it cleanly."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from rtdl_num_embeddings import PiecewiseLinearEncoding
from scipy.special import logsumexp, softmax
from sklearn.metrics import brier_score_loss, log_loss

from pipelines import store, train
from pipelines.errors import ExpostError
from pipelines.network import fit as fitting
from pipelines.network import learner, losses
from pipelines.network.augment import augmentation
from pipelines.network.build import builder
from pipelines.network.checkpoint import intact, save
from pipelines.network.data import Judging, Plan, Rows, Training, mix, placed, plan_of, tensors
from pipelines.network.export import export
from pipelines.network.stack import Exported, Stack
from pipelines.network.tabm import TabularNetwork, _Pieces
from pipelines.params.train import Augment
from pipelines.params.train import Network as NetworkParams
from pipelines.scoring import Network
from tests.stages.shipped import params

TINY = NetworkParams(k=3, width=8, number_embedding=4, bins=4)
#: Where the embeddings of three numbers bend: with several bins, with few, and of a yes/no column.
KNOTS = [[-1.5, -0.5, 0.0, 0.7, 1.5], [-1.0, 0.0, 2.0], [0.0, 1.0]]


@pytest.fixture
def split(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose next stage is train."""
    folder = tmp_path / "split"
    shutil.copytree(world / "data/split", folder / "data/split")
    shutil.copy(world / "params.yaml", folder)
    monkeypatch.chdir(folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: store.sha256(path) for path in sorted((folder / "data/train").iterdir())}


def with_params(folder: Path, **changed: object) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params(**changed)))


def test_the_files_hold_every_row_outside_the_holdout_and_none_of_it(world: Path) -> None:
    parts, labels = np.load(world / "data/split/parts.npy"), np.load(world / "data/split/labels.npy")
    rows, logits, embeddings = (np.load(world / f"data/train/{name}.npy") for name in ("rows", "logits", "embeddings"))
    np.testing.assert_array_equal(rows, np.flatnonzero(np.isin(parts, (0, 1, 2))))
    assert (logits.dtype, embeddings.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(logsumexp(logits, axis=1), 0, atol=1e-5)
    valid = parts[rows] == 1
    metrics = json.loads((world / "data/train/metrics.json").read_text())
    assert metrics["valid_log_loss"] == pytest.approx(log_loss(labels[rows][valid], np.exp(logits[valid])), abs=1e-5)
    with (world / "data/train/history.csv").open() as stream:
        history = list(csv.DictReader(stream))
    assert list(history[0]) == ["epoch", "train_loss", "valid_log_loss"]
    assert all(np.isfinite(float(line["train_loss"])) for line in history)
    figures = [float(line["valid_log_loss"]) for line in history]
    around = [np.mean(figures[max(0, epoch - 2) : epoch + 3]) for epoch in range(len(figures))]
    assert metrics["best_epoch"] == int(np.argmin(around))
    assert metrics["valid_log_loss"] == pytest.approx(figures[metrics["best_epoch"]], abs=1e-5), (
        "the weights that ship are the best epoch's"
    )


def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(world: Path, split: Path) -> None:
    torch.manual_seed(123)
    train.main()
    assert digests(split) == digests(world)
    assert sorted(path.name for path in split.iterdir()) == [".checkpoints", "data", "params.yaml"] or not (split / ".checkpoints").exists()
    assert not list(split.rglob("*.ckpt"))
    with_params(split, seed=1)
    train.main()
    assert digests(split)["model.onnx"] != digests(world)["model.onnx"]


def test_nothing_of_the_holdout_and_no_label_of_calib_reaches_the_files(world: Path, split: Path) -> None:
    folder = split / "data/split"
    parts, labels, numbers, categories = (np.load(folder / f"{name}.npy") for name in ("parts", "labels", "numbers", "categories"))
    holdout = parts == 3
    labels[(parts == 2) | holdout] ^= 1
    numbers[holdout] = 1e9
    categories[holdout] = -1
    for name, values in (("labels", labels), ("numbers", numbers), ("categories", categories)):
        np.save(folder / f"{name}.npy", values)
    train.main()
    assert digests(split) == digests(world)


def test_weights_count_in_both_losses_and_not_in_the_preprocessing(world: Path, split: Path) -> None:
    labels, parts = np.load(split / "data/split/labels.npy"), np.load(split / "data/split/parts.npy")
    weights = np.where(labels == 1, 7.0, 1.0)
    weights[parts == 2] = 1e5  # calib and holdout teach nothing, whatever they weigh
    np.save(split / "data/split/weights.npy", weights)
    train.main()
    assert digests(split)["model.onnx"] != digests(world)["model.onnx"]
    assert digests(split)["preprocessing.json"] == digests(world)["preprocessing.json"]
    rows, logits = np.load(split / "data/train/rows.npy"), np.load(split / "data/train/logits.npy")
    metrics = json.loads((split / "data/train/metrics.json").read_text())
    for code, name in ((0, "train"), (1, "valid")):
        here = parts[rows] == code
        expected = log_loss(labels[rows][here], np.exp(logits[here]), sample_weight=weights[rows][here])
        assert metrics[f"{name}_log_loss"] == pytest.approx(expected, abs=1e-5)
    with (split / "data/train/history.csv").open() as stream:
        figures = [float(line["valid_log_loss"]) for line in csv.DictReader(stream)]
    assert metrics["valid_log_loss"] == pytest.approx(figures[metrics["best_epoch"]], abs=1e-5)  # early stopping weighs too
    mean = np.exp(logits[parts[rows] == 0, 1]).mean()
    plain = np.exp(np.load(world / "data/train/logits.npy")[parts[rows] == 0, 1]).mean()
    assert mean > plain + 0.1


KILLED = """
import os, signal, pipelines.train
from pipelines.network import fit
fit.CHECKPOINT_EVERY = 0.0
keep = fit.Keeper.on_train_epoch_end
def then_die(self, trainer, module):
    keep(self, trainer, module)
    if module.current_epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
fit.Keeper.on_train_epoch_end = then_die
pipelines.train.main()
"""


def test_a_killed_training_goes_on_to_the_same_bytes_and_a_damaged_checkpoint_is_ignored(
    world: Path, split: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED], check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not (split / "data/train").exists()
    (checkpoint,) = split.rglob("last.ckpt")
    kept = Path(shutil.copytree(checkpoint.parent, split / "kept"))
    train.main()
    assert "going on from the checkpoint" in capsys.readouterr().err
    assert digests(split) == digests(world)
    assert not checkpoint.parent.exists()

    shutil.copytree(kept, checkpoint.parent)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    train.main()
    assert "is damaged and is ignored" in capsys.readouterr().err
    assert digests(split) == digests(world)


def test_a_training_whose_export_was_cut_off_is_not_lost(
    world: Path, split: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.network.export.export", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train.main()
    assert not (split / "data/train").exists()
    capsys.readouterr()
    train.main()
    said = capsys.readouterr().err
    assert "going on from the checkpoint" in said
    assert digests(split) == digests(world)
    assert not list(split.rglob("last.ckpt"))


def interrupt(*given: Any) -> bytes:
    raise KeyboardInterrupt


def test_a_training_killed_at_any_epoch_stops_where_an_uninterrupted_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What early stopping counted in the last epoch must be in its checkpoint, and that it has ended the training."""
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", 0.0)
    settings = train.Train(max_epochs=40, patience=3, learning_rate=0.01, accelerator="cpu", network=TINY)
    rows = example(120, 3, (), 2)
    rows = replace(rows, labels=(rows.inputs["numbers"][:, 0] > 0).long())
    given = rows, single(80, 120), settings, lambda _: TabularNetwork(KNOTS[:3], [], 2, TINY)
    whole = fitting.fit(*given, tmp_path / "whole/last.ckpt")
    assert 10 < len(whole.history) < 40, "patience ends it"
    keep = fitting.Keeper.on_train_epoch_end
    for last in range(len(whole.history) - 7, len(whole.history)):

        def then_stop(self: Any, trainer: Any, module: Any, last: int = last) -> None:
            keep(self, trainer, module)
            if module.current_epoch == last:
                raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(fitting.Keeper, "on_train_epoch_end", then_stop)
            with pytest.raises(RuntimeError, match="killed"):
                fitting.fit(*given, tmp_path / f"{last}/last.ckpt")
        again = fitting.fit(*given, tmp_path / f"{last}/last.ckpt")
        assert (again.history, again.epochs) == (whole.history, whole.epochs), f"killed after epoch {last}"
        pairs = zip(again.networks[0].state_dict().values(), whole.networks[0].state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_a_checkpoint_is_whole_wherever_its_writing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept" / "last.ckpt"
    save(path, lambda name: Path(name).write_text("first"))
    replace, seen = Path.replace, []

    def cut_off(self: Path, target: Path) -> Path:
        seen.append(target.name)
        if len(seen) == cut:
            raise KeyboardInterrupt
        return replace(self, target)

    for cut, content in ((1, "first"), (2, "second")):
        seen.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "replace", cut_off)
            save(path, lambda name: Path(name).write_text("second"))
        assert len(seen) == cut
        assert intact(path)
        assert path.read_text() == content


def test_a_checkpoint_belongs_to_its_data_and_parameters(split: Path) -> None:
    first = train.checkpoint_path(train.load(train.Train))
    with_params(split, learning_rate=0.001)
    second = train.checkpoint_path(train.load(train.Train))
    labels = np.load(split / "data/split/labels.npy")
    np.save(split / "data/split/labels.npy", 1 - labels)
    assert len({first, second, train.checkpoint_path(train.load(train.Train))}) == 3


def test_a_loss_that_is_not_finite_ends_the_stage_and_names_where(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def broken(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        steps.append(len(labels))
        return losses.cross_entropy(logits, labels) * (float("nan") if len(steps) == 11 else 1.0)

    monkeypatch.setattr(learner, "loss_of", lambda *_: broken)
    with pytest.raises(ExpostError, match=r"training loss must be finite, however: it is nan in epoch 1, step 10, table rows \d+, \d+"):
        train.main()
    assert not (split / "data/train").exists()


def test_weights_that_are_not_finite_end_the_stage(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = learner.Learner.on_validation_epoch_end

    def poison(self: learner.Learner) -> None:
        original(self)
        with torch.no_grad():
            self.stack.networks[0].output.bias[0, 0] = float("inf")

    monkeypatch.setattr(learner.Learner, "on_validation_epoch_end", poison)
    with pytest.raises(ExpostError, match=r"weights must be finite, however: networks\.0\.output\.bias is not, after epoch 0"):
        train.main()


def test_a_gpu_asked_for_and_absent_is_an_error(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with_params(split, accelerator="gpu")
    with pytest.raises(ExpostError, match=r"train\.accelerator: gpu must find a GPU"):
        train.main()


def test_mixed_precision_as_on_a_gpu_trains_clips_gradients_and_ships_fp32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clipped: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def noted(weights: object, largest: float) -> torch.Tensor:
        clipped.append(largest)
        return clip(weights, largest)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    monkeypatch.setattr(fitting, "_precision", lambda device: "bf16-mixed")
    settings, rows = train.Train(max_epochs=3, accelerator="cpu", network=TINY), example(260, 3, (4,), 2)
    fitted = fitting.fit(rows, single(200, 260), settings, lambda _: TabularNetwork(KNOTS[:3], [4], 2, TINY), tmp_path / "last.ckpt")
    assert set(clipped) == {settings.gradient_clip}
    assert [np.isfinite(entry["valid_log_loss"]) for entry in fitted.history] == [True] * 3
    assert {weight.dtype for weight in fitted.networks[0].parameters()} == {torch.float32}
    export(fitted.networks, rows.inputs)


@pytest.mark.parametrize(
    ("device", "native", "precision"), [("gpu", True, "bf16-mixed"), ("gpu", False, "32-true"), ("cpu", True, "32-true")]
)
def test_bf16_only_where_a_gpu_computes_in_it(monkeypatch: pytest.MonkeyPatch, device: str, native: bool, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert fitting._precision(device) == precision


def test_the_best_epoch_is_judged_with_its_neighbours_and_keeps_its_own_weights() -> None:
    losses_seen = [0.9, 0.2, 0.9, 0.8, 0.45, 0.4, 0.41, 0.44, 0.6, 0.9]  # a lucky epoch 1, a broad valley around 6
    best, layer = fitting.Best([[0]]), torch.nn.Linear(1, 1)
    module = SimpleNamespace(stack=Stack([layer], {}), train_loss=0.0, valid_log_loss=0.0, current_epoch=0, global_step=0)
    for epoch, loss in enumerate(losses_seen):
        torch.nn.init.constant_(layer.weight, epoch)
        module.held_log_loss = [loss]
        best.on_train_epoch_end(None, module)
    best.finish()
    assert best.epochs == [6]
    assert best.weights[0]["weight"].item() == 6
    assert best.recent == []


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch is built without MKL, whose vector units can be chosen")
def test_another_processor_trains_the_same_model(world: Path, split: Path) -> None:
    environment = {**os.environ, "EXPOST_PARAMS_CHECKED": "1", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "avx2"}
    subprocess.run([sys.executable, "-m", "pipelines.train"], env=environment, capture_output=True, check=True)
    assert digests(split)["model.onnx"] == digests(world)["model.onnx"]


def test_the_stages_process_is_quiet_and_leaves_only_its_folder(split: Path) -> None:
    # params.yaml holds the stage's own section only
    environment = {**os.environ, "EXPOST_PARAMS_CHECKED": "1"}
    done = subprocess.run([sys.executable, "-m", "pipelines.train"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("trained 4 epochs, best ")
    assert all(line.startswith("epoch ") for line in lines[:-1])
    assert {path.name for path in split.iterdir()} <= {"data", "params.yaml", ".checkpoints"}
    assert {path.name for path in (split / "data").iterdir()} == {"split", "train"}


def example(rows: int = 40, numbers: int = 3, cardinalities: tuple[int, ...] = (4, 3), classes: int = 3) -> Rows:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, size, rows) for size in cardinalities]
    inputs: dict[str, np.ndarray] = {"numbers": rng.normal(size=(rows, numbers)).astype(np.float32)} if numbers else {}
    inputs |= {"categories": np.stack(codes, axis=1)} if codes else {}
    return tensors(inputs, rng.integers(0, classes, rows), np.arange(rows))


def single(learnt: int, rows: int) -> Plan:
    """One network that learns from the first rows and is judged on the others."""
    seen = np.arange(rows) < learnt
    return plan_of([seen], [~seen], repeats=0)


@pytest.mark.parametrize("numbers, cardinalities", [(3, (4, 3)), (3, ()), (0, (4, 3)), (1, ()), (0, (2,))])
def test_the_file_agrees_with_torch_at_every_batch_size(numbers: int, cardinalities: tuple[int, ...]) -> None:
    rows = example(40, numbers, cardinalities)
    torch.manual_seed(0)
    network = TabularNetwork(KNOTS[:numbers], cardinalities, 3, TINY).eval()
    content = export([network], rows.inputs)
    assert content == export([network], rows.inputs), "the bytes depend on the weights alone"
    with torch.inference_mode():
        logits, embedding = Exported([network], list(rows.inputs))(*rows.inputs.values())
        members, _ = network(rows.inputs)
    np.testing.assert_allclose(np.exp(logits.numpy()), softmax(members.numpy(), axis=-1).mean(axis=1), atol=1e-6)
    for batch in (1, 7, 40):
        scores = Network(content)({name: value.numpy() for name, value in rows.inputs.items()}, batch=batch)
        np.testing.assert_allclose(scores.logits, logits, atol=1e-5)
        np.testing.assert_allclose(scores.embedding, embedding, atol=1e-5)


@pytest.mark.parametrize("apart", [1e-6, 0.0011])
def test_values_next_to_each_other_leave_the_file_in_agreement_with_torch(apart: float) -> None:
    """Rare values of a column of a million rows have scores that differ by a millionth: bins so narrow would amplify what float32 rounds."""
    near = [-2.0, -1.0, 1.0, *(4 + apart * np.arange(6)), 5.0]
    torch.manual_seed(0)
    network = TabularNetwork([near] * 20, [], 2, TINY).eval()
    assert isinstance(network.numbers, torch.nn.Module)
    torch.nn.init.normal_(network.numbers.linear.weight, 0, 0.5)  # as after training: at the start the pieces count for nothing
    rows = torch.from_numpy(np.random.default_rng(0).choice(near, (256, 20)).astype(np.float32))
    export([network], {"numbers": rows})


@pytest.mark.parametrize(
    "columns, learnt, most, bins", [(1, 100, 128, 16), (1, 1_000, 128, 40), (1, 5_000, 128, 128), (1, 1_000, 8, 8), (512, 5_000, 128, 64)]
)
def test_bins_are_as_fine_as_the_rows_that_are_learnt_from_and_the_memory_allow(columns: int, learnt: int, most: int, bins: int) -> None:
    rows = tensors(
        {"numbers": np.random.default_rng(0).normal(size=(6_000, columns)).astype(np.float32)}, np.arange(6_000) % 2, np.arange(6_000)
    )
    seen = np.arange(6_000) < learnt
    make = builder(
        TINY.model_copy(update={"bins": most}), {"cardinalities": [], "texts": [], "classes": 2}, rows, plan_of([seen], [~seen], repeats=0)
    )
    pieces = make(0).numbers.linear.weight  # type: ignore[union-attr]
    assert pieces.shape[1] == bins  # type: ignore[union-attr]


def test_the_encoding_is_the_packages_own_in_a_form_that_rounds_less() -> None:
    bins = [torch.tensor(knots) for knots in ([-1.5, -0.5, 0.0, 0.7, 1.5], [-1.0, 0.0, 2.0], [0.0, 0.5, 1.0, 3.0])]
    numbers = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (500, 3)).astype(np.float32))
    torch.testing.assert_close(_Pieces(bins)(numbers), PiecewiseLinearEncoding(bins).impl(numbers), rtol=0, atol=1e-6)


def test_an_unseen_category_is_a_zero_embedding_that_training_leaves_alone() -> None:
    rows = example(60, 2, (4,), 2)
    network = TabularNetwork(KNOTS[:2], [4], 2, TINY)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    losses.cross_entropy(network(rows.inputs)[0], rows.labels).backward()
    optimiser.step()
    assert not network.categories[0].weight[0].any()  # type: ignore[union-attr]
    assert network.categories[0].weight[1:].any(dim=1).all()  # type: ignore[union-attr]


def test_losses_agree_with_sklearn() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4, 3)), rng.integers(0, 3, 50)
    given = torch.from_numpy(logits), torch.from_numpy(labels)
    members = softmax(logits, axis=-1)
    expected = np.mean([log_loss(labels, members[:, member], labels=[0, 1, 2]) for member in range(4)])
    assert losses.cross_entropy(*given).item() == pytest.approx(expected, rel=1e-12)
    two, yes = torch.from_numpy(logits[..., :2]), torch.from_numpy(labels % 2)
    probability = softmax(logits[..., :2], axis=-1)[..., 1]
    expected = np.mean([2 * brier_score_loss(labels % 2, probability[:, member]) for member in range(4)])
    assert losses.brier(two, yes).item() == pytest.approx(expected, rel=1e-12)
    both = losses.loss_of("cross_entropy+brier", 0.3)(*given).item()
    assert both == pytest.approx(0.3 * losses.brier(*given).item() + losses.cross_entropy(*given).item())


@pytest.mark.parametrize("name", ["cross_entropy", "brier", "cross_entropy+brier"])
def test_losses_are_symmetric_strictly_proper_and_train_each_member_on_its_own(name: str) -> None:
    loss = losses.loss_of(name, 0.5)
    rng = np.random.default_rng(1)
    logits, labels = torch.from_numpy(rng.normal(size=(30, 2, 3))), torch.from_numpy(rng.integers(0, 3, 30))
    order = torch.tensor([2, 0, 1])
    renamed = torch.empty_like(order).scatter_(0, order, torch.arange(3))[labels]
    assert loss(logits[..., order], renamed).item() == pytest.approx(loss(logits, labels).item(), rel=1e-12)

    truth = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    expected = lambda q: sum(p * loss(q.log()[None, None], torch.tensor([k])) for k, p in enumerate(truth))  # noqa: E731
    for other in torch.from_numpy(rng.dirichlet(np.ones(3), 50)):
        assert expected(truth) < expected(other)

    def gradient(other_member: float) -> torch.Tensor:
        values = logits.clone()
        values[:, 1] *= other_member
        values.requires_grad_()
        loss(values, labels).backward()
        assert values.grad is not None
        return values.grad[:, 0]

    torch.testing.assert_close(gradient(1.0), gradient(-5.0))


def counted(rows: Rows, weights: torch.Tensor) -> Rows:
    return Rows(rows.inputs, rows.labels, rows.index, weights)


@pytest.mark.parametrize("name", ["cross_entropy", "brier", "cross_entropy+brier"])
def test_a_weight_counts_as_that_many_rows_do(name: str) -> None:
    loss, rng = losses.loss_of(name, 0.5), np.random.default_rng(2)
    logits, labels = torch.from_numpy(rng.normal(size=(20, 2, 3))).requires_grad_(), torch.from_numpy(rng.integers(0, 3, 20))
    weights = torch.from_numpy(rng.integers(1, 9, 20))
    repeated = loss(logits.repeat_interleave(weights, dim=0), labels.repeat_interleave(weights))
    weighted = loss(logits, labels, weights / weights.double().mean())
    assert weighted.item() == pytest.approx(repeated.item(), rel=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (weighted, repeated)))
    assert loss(logits, labels, torch.ones(20, dtype=torch.float64)).item() == pytest.approx(loss(logits, labels).item(), rel=1e-12)


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=50))
def test_heavy_rows_are_spread_so_that_the_weighted_mean_stays_and_no_copy_outweighs_the_mean(found: list[int]) -> None:
    weights = torch.tensor(found, dtype=torch.float32)
    every = np.ones(len(found), dtype=bool)
    batches = list(Training(counted(example(len(found)), weights), plan_of([every], [every], repeats=0), 7, seed=0))
    index, placed = (torch.cat([getattr(batch, name)[0] for batch in batches]) for name in ("index", "weights"))
    assert len(found) <= len(index) <= 2 * len(found)
    assert placed.mean().item() == pytest.approx(1, rel=1e-5)
    mean = weights.double().mean() * len(found) / len(index)  # what a weight of 1 stands for
    assert (placed * mean).max() <= weights.double().mean() * (1 + 1e-5)
    gathered = torch.zeros(len(found), dtype=torch.float64).index_add_(0, index, placed.double() * mean)
    torch.testing.assert_close(gathered, weights.double(), rtol=1e-5, atol=0)


def test_trained_with_weights_a_network_learns_how_often_things_happened(tmp_path: Path) -> None:
    """Two values of a category, each with one row per class: only the weights tell their rates, 0.02 and 0.75."""
    codes, labels = np.array([[1], [1], [2], [2]]).repeat(50, axis=0), np.array([0, 1, 0, 1]).repeat(50)
    weights = np.array([98.0, 2.0, 25.0, 75.0], np.float32).repeat(50)
    rows, every = tensors({"categories": codes}, labels, np.arange(200), weights), np.ones(200, dtype=bool)
    settings = train.Train(max_epochs=25, accelerator="cpu", network=TINY, weight_decay=0.0, learning_rate=0.02)
    plan = plan_of([every], [every], repeats=0)
    fitted = fitting.fit(rows, plan, settings, lambda _: TabularNetwork([], [3], 2, TINY), tmp_path / "last.ckpt")
    with torch.inference_mode():
        logits, _ = Exported(fitted.networks, ["categories"])(rows.inputs["categories"])
    assert np.exp(logits[0, 1].item()) == pytest.approx(0.02, abs=0.01)
    assert np.exp(logits[-1, 1].item()) == pytest.approx(0.75, abs=0.05)
    entropy = -np.average(np.log([0.98, 0.02, 0.25, 0.75]), weights=[98, 2, 25, 75])
    assert fitted.valid_log_loss == pytest.approx(entropy, abs=0.01)


def test_batches_cover_each_row_once_in_an_order_of_their_own_per_epoch() -> None:
    batches = Training(example(60), single(53, 60), 10, seed=4)
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        taken = [batch.index[0] for batch in batches]
        assert len(taken) == len(batches) == 6
        assert {len(index) for index in taken} == {8, 9}
        orders.append(torch.cat(taken).tolist())
    assert sorted(orders[0]) == list(range(53))
    assert orders[0] == orders[2] != orders[1]
    assert len({mix(seed, epoch) for seed in range(100) for epoch in range(-1, 100)}) == 100 * 101


def test_each_epoch_of_a_training_sees_the_rows_in_another_order_and_changed_anew(tmp_path: Path) -> None:
    rows, plan = example(60, 3, (4,), 2), single(53, 60)
    orders: list[list[int]] = []
    noise: list[float] = []

    def noted(inputs: Mapping[str, torch.Tensor], generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        noise.append(torch.rand(1, generator=generator).item())
        return inputs

    class Orders(Callback):  # type: ignore[misc]
        def on_train_epoch_start(self, *_: object) -> None:
            orders.append([])

        def on_train_batch_start(self, trainer: object, module: object, batch: Rows, number: int) -> None:
            orders[-1] += batch.index[0].tolist()

    settings = train.Train(max_epochs=3, accelerator="cpu", network=TINY)
    fitting.fit(
        rows, plan, settings, lambda _: TabularNetwork(KNOTS, [4], 2, TINY), tmp_path / "last.ckpt", augment=noted, watchers=[Orders()]
    )
    assert [sorted(order) for order in orders] == [list(range(53))] * 3
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert len(set(noise)) == len(noise)


def test_an_augmentation_changes_the_inputs_of_batches_alike_in_the_same_epoch() -> None:
    def noisy(inputs: Mapping[str, torch.Tensor], generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        return {**inputs, "numbers": inputs["numbers"] + torch.rand(inputs["numbers"].shape, generator=generator)}

    rows, plan = example(60), single(53, 60)
    plain, changed = Training(rows, plan, 10, seed=4), Training(rows, plan, 10, seed=4, augment=noisy)
    found = []
    for epoch in (0, 1, 0):
        plain.set_epoch(epoch)
        changed.set_epoch(epoch)
        noise = []
        for before, after in zip(plain, changed, strict=True):
            assert torch.equal(before.index, after.index) and torch.equal(before.labels, after.labels)
            assert torch.equal(before.inputs["categories"], after.inputs["categories"])
            noise.append(after.inputs["numbers"] - before.inputs["numbers"])
        found.append(torch.cat(noise, dim=1))
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    assert len(found[0].unique()) > 100, "each batch has noise of its own"


ELSEWHERE = torch.device("meta")  #: stands for a GPU: what is computed of its tensors and the CPU's together is an error there too


def pictured(rows: int = 60) -> tuple[Rows, Plan]:
    """Rows with numbers, images and weights, for three networks of folds."""
    rng = np.random.default_rng(0)
    inputs = {"numbers": rng.normal(size=(rows, 3)).astype(np.float32), "image": rng.integers(0, 255, (rows, 1, 8, 8)).astype(np.uint8)}
    weights = np.where(np.arange(rows) % 7 == 0, 9, 1).astype(np.float32)
    held = folds(rows, 3)
    return tensors(inputs, rng.integers(0, 2, rows), np.arange(rows), weights), plan_of([~mask for mask in held], held, repeats=1)


def arrays_of(rows: Rows) -> dict[str, torch.Tensor]:
    assert rows.weights is not None
    return {**rows.inputs, "labels": rows.labels, "index": rows.index, "weights": rows.weights}


def test_rows_move_to_a_device_where_they_take_at_most_half_of_what_is_free() -> None:
    rows, _ = pictured()
    taken = 60 * (3 * 4 + 64 + 8 + 8)
    for free, device in ((2 * taken, "meta"), (2 * taken - 1, "cpu"), (0, "cpu")):
        found = placed(rows, ELSEWHERE, free)
        assert {array.device.type for name, array in arrays_of(found).items() if name != "weights"} == {device}
        assert found.weights is rows.weights
    here = placed(rows, torch.device("cpu"), 10**9)
    assert all(one is other for one, other in zip(arrays_of(here).values(), arrays_of(rows).values(), strict=True)), "no copy"
    assert fitting.free_bytes(torch.device("cpu")) == 0


def test_batches_of_rows_on_another_device_are_made_there() -> None:
    rows, plan = pictured()
    near = placed(rows, ELSEWHERE, 10**9)
    augment = augmentation(Augment(shift=2, flip=True), rows.inputs)
    for here, there in (
        (Training(rows, plan, 8, seed=1, augment=augment), Training(near, plan, 8, seed=1, augment=augment)),
        (Judging(rows, plan, 16), Judging(near, plan, 16)),
    ):
        assert len(list(here)) > 1
        for one, other in zip(here, there, strict=True):
            forms = [{name: (array.shape, array.dtype) for name, array in arrays_of(batch).items()} for batch in (one, other)]
            assert forms[0] == forms[1]
            assert {array.device.type for array in arrays_of(other).values()} == {"meta"}


def test_batches_of_rows_that_stay_are_pinned_before_they_move(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda array: pinned.append(array) or array.clone())
    rows, _ = pictured()
    moved = rows.to(ELSEWHERE, pin=True)
    assert len(pinned) == 5
    assert {array.device.type for array in arrays_of(moved).values()} == {"meta"}
    moved.to(ELSEWHERE, pin=True)
    rows.to(torch.device("cpu"))
    assert len(pinned) == 5, "nothing that is there, and nothing on the CPU"


def test_a_training_takes_its_batches_from_the_rows_that_were_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, plan = example(90, 3, (4,), 2), single(60, 90)
    settings = train.Train(max_epochs=2, accelerator="cpu", network=TINY)
    calls: list[tuple[str, int]] = []

    def elsewhere(given: Rows, device: torch.device, free: int) -> Rows:
        calls.append((device.type, free))
        return Rows(given.inputs, 1 - given.labels, given.index)

    def curves() -> list[list[float]]:
        return fitting.fit(rows, plan, settings, lambda _: TabularNetwork(KNOTS[:3], [4], 2, TINY), tmp_path / "last.ckpt").curves

    before = curves()
    monkeypatch.setattr(fitting, "placed", elsewhere)
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 7)
    assert curves() != before
    assert calls == [("cpu", 7)]


def test_small_data_takes_several_steps_per_epoch() -> None:
    assert fitting.batch_size(340, 256) == 42
    assert fitting.batch_size(30000, 256) == 256
    assert fitting.batch_size(5, 256) == 16


def folds(rows: int, count: int) -> list[np.ndarray]:
    """Masks of the rows held out, by turns."""
    return [np.arange(rows) % count == fold for fold in range(count)]


def test_networks_side_by_side_learn_what_they_would_learn_alone() -> None:
    """One vectorised pass and one pass after the other give the same logits, gradients and clipping for each of three networks."""
    rows = example(30)
    rows.inputs["categories"].clamp_(min=1)  # code 0, which only rows outside the training have, learns nothing either way
    torch.manual_seed(0)
    networks = [TabularNetwork(KNOTS[:3], [4, 3], 3, TINY).eval() for _ in range(3)]
    inputs = {name: value[None].expand(3, *value.shape) for name, value in rows.inputs.items()}
    together = Stack(networks, rows.inputs)
    assert together.vectorised
    in_turn = Stack(networks, rows.inputs)
    in_turn.vectorised, in_turn.networks = False, torch.nn.ModuleList(networks)
    found = []
    for stack in (together.eval(), in_turn.eval()):
        logits, embedding = stack(inputs)
        torch.nn.functional.cross_entropy(logits.flatten(0, 2), rows.labels.repeat(3).repeat_interleave(logits.shape[2])).backward()
        stack.clip(1e-3)
        found.append((logits.detach(), embedding.detach()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for network, module in enumerate(networks):
        squares = 0.0
        for name, weight in module.named_parameters():
            gradient = together.weights[name.replace(".", "/")].grad[network]
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-7)
            squares += float(gradient.square().sum())
            torch.testing.assert_close(together.state(network)[name], weight.detach())
        assert squares**0.5 == pytest.approx(1e-3, rel=1e-3)


class Normalised(torch.nn.Module):
    """A network that vmap cannot run: batch normalisation changes buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.out = torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = torch.relu(self.norm(self.layer(inputs["numbers"])))
        return self.out(embedding)[:, None], embedding[:, None]


def test_what_cannot_be_vectorised_is_trained_in_turn(tmp_path: Path) -> None:
    rows, held = example(60, 3, (), 2), folds(60, 3)
    settings = train.Train(max_epochs=3, accelerator="cpu")
    fitted = fitting.fit(rows, plan_of([~mask for mask in held], held, repeats=1), settings, lambda _: Normalised(), tmp_path / "last.ckpt")
    assert len(fitted.networks) == 3
    content = export(fitted.networks, rows.inputs)
    scores = Network(content)({"numbers": rows.inputs["numbers"].numpy()})
    assert np.isfinite(scores.logits).all()


class Fourier(torch.nn.Module):
    """Random features in a tensor that is in no state_dict, as users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = torch.randn(3, 8)
        self.out = torch.nn.Linear(8, 2)

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = torch.sin(inputs["numbers"] @ self.frequencies)
        return self.out(embedding)[:, None], embedding[:, None]


class Assigned(Fourier):
    """A running mean that each forward pass in training replaces: vmap would drop it."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * inputs["numbers"].mean(dim=0).detach()
        return super().forward({"numbers": inputs["numbers"] - self.mean})


@pytest.mark.parametrize("kind", [Fourier, Assigned])
def test_what_a_network_holds_beside_its_weights_ships_as_it_was_trained(kind: type[torch.nn.Module], tmp_path: Path) -> None:
    rows, held = example(60, 3, (), 2), folds(60, 3)
    plan, settings = plan_of([~mask for mask in held], held, repeats=1), train.Train(max_epochs=3, accelerator="cpu")
    fitted = fitting.fit(rows, plan, settings, lambda _: kind(), tmp_path / "last.ckpt")
    scored = Network(export(fitted.networks, rows.inputs)).run({"numbers": rows.inputs["numbers"].numpy()}, ["each"])[0]
    for network, mask in enumerate(held):
        loss = -scored[mask, network][np.arange(mask.sum()), rows.labels.numpy()[mask]].mean()
        assert loss == pytest.approx(fitted.curves[fitted.epochs[network]][network], abs=1e-5)


def test_a_network_of_a_fold_learns_nothing_from_the_labels_of_its_fold(tmp_path: Path) -> None:
    """With one epoch there is nothing to stop: flipped labels of a fold leave its network as it was, and change the others."""
    rows, held = example(90, 3, (4,), 2), folds(90, 3)
    plan, settings = plan_of([~mask for mask in held], held, repeats=1), train.Train(max_epochs=1, accelerator="cpu", network=TINY)
    flipped = Rows(rows.inputs, torch.where(torch.from_numpy(held[0]), 1 - rows.labels, rows.labels), rows.index)
    before, after = (
        fitting.fit(given, plan, settings, lambda _: TabularNetwork(KNOTS[:3], [4], 2, TINY), tmp_path / "last.ckpt").networks
        for given in (rows, flipped)
    )
    same = [
        all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in pair), strict=True)) for pair in zip(before, after, strict=True)
    ]
    assert same == [True, False, False]


def test_a_network_is_stopped_by_the_other_folds_of_its_repetition() -> None:
    held = folds(12, 3) + folds(12, 3)[::-1]
    plan = plan_of([~mask for mask in held], held, repeats=2)
    assert plan.judges == ((1, 2), (0, 2), (0, 1), (4, 5), (3, 5), (3, 4))
    best = fitting.Best([[1], [0]])
    stack = SimpleNamespace(broken=lambda: None, state=lambda network: {})
    module = SimpleNamespace(stack=stack, train_loss=0.0, valid_log_loss=0.0, current_epoch=0, global_step=0)
    for epoch in range(12):
        module.held_log_loss = [abs(epoch - 3), abs(epoch - 8)]
        best.on_train_epoch_end(None, module)
    best.finish()
    assert best.epochs == [8, 3]


def test_held_rows_of_unequal_folds_are_judged_once_each() -> None:
    rows = example(50)
    held = [np.arange(50) < 20, np.arange(50) >= 20]
    batches = list(Judging(rows, plan_of([~mask for mask in held], held, repeats=1), 16))
    assert max(batch.labels.numel() for batch in batches) == 16, "of all networks together"
    index, weights = (torch.cat([getattr(batch, name) for batch in batches], dim=1) for name in ("index", "weights"))
    for network, mask in enumerate(held):
        assert sorted(index[network][weights[network] > 0].tolist()) == np.flatnonzero(mask).tolist()


def test_rows_are_scored_by_the_networks_that_never_saw_them() -> None:
    rows = example(40)
    torch.manual_seed(0)
    networks = [TabularNetwork(KNOTS[:3], [4, 3], 3, TINY).eval() for _ in range(3)]
    network, inputs = Network(export(networks, rows.inputs)), {name: value.numpy() for name, value in rows.inputs.items()}
    unseen = np.random.default_rng(0).random((40, 3)) < 0.5
    unseen[0], unseen[1] = True, False
    found = network.unseen_logits(inputs, unseen)
    with torch.inference_mode():
        each = np.stack([np.exp(Exported([one], list(rows.inputs))(*rows.inputs.values())[0].numpy()) for one in networks], axis=1)
    for row, mask in enumerate(unseen):
        np.testing.assert_allclose(np.exp(found[row]), each[row][mask if mask.any() else slice(None)].mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(found[:2], network(inputs).logits[:2])
    with pytest.raises(ExpostError, match="must have 3 folds in all, as model"):
        network.unseen_logits(inputs, unseen[:, :2])


def test_a_value_that_a_network_never_saw_is_a_zero_embedding_to_it() -> None:
    rows = example(60, 0, (4, 3))
    network = TabularNetwork([], [4, 3], 2, TINY)
    network.forget(rows.take(rows.inputs["categories"][:, 0] != 2).inputs)
    assert not network.categories[0].weight[2].any()  # type: ignore[union-attr]
    assert network.categories[0].weight[[1, 3]].any(dim=1).all()  # type: ignore[union-attr]
    assert network.categories[1].weight[1:].any(dim=1).all()  # type: ignore[union-attr]


def test_a_time_budget_ends_the_training_with_the_best_so_far_and_says_so(split: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_params(split, max_minutes=1e-6, max_epochs=50)
    train.main()
    metrics = json.loads((split / "data/train/metrics.json").read_text())
    assert (metrics["epochs"], metrics["out_of_time"]) == (1, 1)
    assert "train.max_minutes cut it short" in capsys.readouterr().err
    with_params(split, max_minutes=60.0)
    train.main()
    assert json.loads((split / "data/train/metrics.json").read_text())["out_of_time"] == 0


class Interrupted(Callback):
    """Ends a training after an epoch, as an error would."""

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Raise in the fourth epoch, when its checkpoint is written."""
        if module.current_epoch == 3:
            raise RuntimeError("interrupted")


def test_networks_side_by_side_go_on_from_a_checkpoint_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", 0.0)
    rows, held = example(150, 3, (4,), 2), folds(150, 3)
    network = TINY.model_copy(update={"dropout": 0.3})
    settings = train.Train(max_epochs=7, accelerator="cpu", network=network)
    given = rows, plan_of([~mask for mask in held], held, repeats=1), settings, lambda _: TabularNetwork(KNOTS[:3], [4], 2, network)
    whole = fitting.fit(*given, tmp_path / "whole/last.ckpt")
    with pytest.raises(RuntimeError, match="interrupted"):
        fitting.fit(*given, tmp_path / "cut/last.ckpt", watchers=(Interrupted(),))
    again = fitting.fit(*given, tmp_path / "cut/last.ckpt")
    assert (again.curves, again.epochs) == (whole.curves, whole.epochs)
    for one, other in zip(again.networks, whole.networks, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_dropout_is_on_in_every_epoch_of_networks_side_by_side(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watch(Callback):
        """Notes whether two passes over the same rows differ."""

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Rows, index: int) -> None:
            """Compare two passes."""
            seen.append(not torch.equal(module.stack(batch.inputs)[0], module.stack(batch.inputs)[0]))

    rows, held = example(60, 3, (4,), 2), folds(60, 3)
    network = TINY.model_copy(update={"dropout": 0.3})
    settings = train.Train(max_epochs=3, accelerator="cpu", network=network)
    plan = plan_of([~mask for mask in held], held, repeats=1)
    fitting.fit(rows, plan, settings, lambda _: TabularNetwork(KNOTS[:3], [4], 2, network), tmp_path / "last.ckpt", watchers=(Watch(),))
    assert len(seen) >= 3
    assert all(seen)
