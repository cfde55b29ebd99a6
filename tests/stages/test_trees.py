"""Boosted trees beside the networks: the same trees in LightGBM, torch and the file that ships, and nobody's own labels in them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch
import yaml
from scipy.special import softmax
from sklearn.metrics import log_loss

from pipelines import store, train
from pipelines.core.pool import pooled
from pipelines.errors import ExpostError
from pipelines.facts import learners
from pipelines.network import boost as boosting
from pipelines.network import partners
from pipelines.network.boost import boost
from pipelines.network.data import Plan, Rows, plan_of, tensors
from pipelines.network.export import export
from pipelines.network.partners import Partner
from pipelines.network.stack import log_mean_probability
from pipelines.network.tabm import TabularNetwork
from pipelines.network.trees import OWN_FEATURE, Features, Trees, bytes_of, heap_of
from pipelines.params.train import Boosting
from pipelines.params.train import Network as NetworkParams
from pipelines.scoring import Network
from tests.stages.shipped import params

TINY = NetworkParams(k=3, width=8, number_embedding=4, bins=4)
SIZES = (4, 40)


def rows_of(count: int = 300, classes: int = 3, *, seed: int = 0) -> Rows:
    """Numbers, a category of few values and one of many; the labels depend on all of them. Codes 0, of values never seen, are rare."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, 2)).astype(np.float32).round(1)
    categories = np.stack([rng.integers(0, size, count) for size in SIZES], axis=1)
    score = numbers[:, 0] * (categories[:, 0] - 1.5) + np.sin(categories[:, 1])
    labels = np.digitize(score + 0.3 * rng.normal(size=count), np.quantile(score, np.arange(1, classes) / classes))
    return tensors({"numbers": numbers, "categories": categories}, labels, np.arange(count))


def folds(rows: int, count: int = 3) -> Plan:
    held = [np.arange(rows) % count == fold for fold in range(count)]
    return plan_of([~mask for mask in held], held, repeats=1)


def grown(rows: Rows, plan: Plan, classes: int = 3, *, seconds: float | None = None, **changed: Any) -> Partner:
    return boost(rows, plan, Boosting(**changed), cardinalities=list(SIZES), classes=classes, seed=0, seconds=seconds)


@pytest.mark.parametrize("classes", [2, 3])
def test_trees_as_tensors_are_lightgbms_to_the_row(classes: int) -> None:
    """On values that are the thresholds themselves, next to them, far outside, and on codes that no row had."""
    rows = rows_of(400, classes)
    features = Features(rows.inputs, SIZES)
    X, labels = features(rows.inputs).numpy(), rows.labels.numpy()
    objective = {"objective": "binary"} if classes == 2 else {"objective": "multiclass", "num_class": classes}
    data = lightgbm.Dataset(X, labels, params={"verbose": -1})
    booster = lightgbm.train({**objective, "num_leaves": 12, "max_depth": 5, "min_data_in_leaf": 2, "verbose": -1}, data, 30)
    dump = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    trees = Trees(features, [dump], 1 if classes == 2 else classes)
    thresholds = np.concatenate([heap_of(tree, 5).threshold for tree in dump])
    # LightGBM's own border of zero, 1e-35, is dumped with fewer digits than it has: no number lies there.
    edges = thresholds[np.isfinite(thresholds) & (np.abs(thresholds) > 1e-30)].astype(np.float32)
    edges = np.concatenate([edges, np.nextafter(edges, np.float32(9)), np.nextafter(edges, np.float32(-9)), [-1e30, 1e30]]).astype(
        np.float32
    )
    rng = np.random.default_rng(1)
    asked = {
        "numbers": torch.from_numpy(rng.permutation(np.resize(edges, (600, 2)))),
        "categories": torch.from_numpy(np.stack([rng.integers(0, size, 600) for size in SIZES], axis=1)),
    }
    expected = booster.predict(features(asked).numpy(), raw_score=True)
    found = trees(asked)[:, 0].numpy()
    np.testing.assert_allclose(found[:, 1] - found[:, 0] if classes == 2 else found, expected, atol=2e-5)


def test_a_tree_without_a_split_and_one_that_ends_early_are_whole() -> None:
    features = Features({"numbers": torch.zeros(3, 1)}, ())
    leaf = {"leaf_value": 0.5}
    split = {"split_feature": 0, "threshold": 0.1, "left_child": {"leaf_value": -1.0}, "right_child": {**leaf}}
    deep = {"split_feature": 0, "threshold": -1.0, "left_child": {"leaf_value": 4.0}, "right_child": split}
    trees = Trees(features, [[leaf, deep]], 1)
    found = trees({"numbers": torch.tensor([[-2.0], [-1.0], [0.1], [0.2]])})
    # 0.1 as a float32 is above 0.1 as a float64: it goes right, as it does in LightGBM.
    np.testing.assert_allclose(found[:, 0, 1], [4.5, 4.5, 1.0, 1.0])
    assert not found[:, :, 0].any()


def test_each_value_is_split_by_alone_in_order_and_by_how_frequent_it_is() -> None:
    codes = torch.tensor([[1, code] for code in range(OWN_FEATURE + 2) for _ in range(code + 1)] + [[2, 0]])
    features = Features({"categories": codes}, (4, OWN_FEATURE + 5))
    found = features({"categories": torch.tensor([[1, OWN_FEATURE + 1], [2, 0], [3, OWN_FEATURE + 4]])}).numpy()
    np.testing.assert_array_equal(found[:, :2], [[1, OWN_FEATURE + 1], [2, 0], [3, OWN_FEATURE + 4]])
    assert found.shape[1] == 2 + 1 + OWN_FEATURE + 1, "of two values one has a feature, of many the most frequent, which are ranked too"
    np.testing.assert_array_equal(found[:, 2], [0, 1, 0])
    np.testing.assert_array_equal(found[:, 3:-1].sum(axis=1), [1, 0, 0])
    assert found[0, -1] == 0 and found[2, -1] > found[1, -1] > found[0, -1]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("count", [1, 3])
def test_the_file_pools_each_network_with_its_own_trees(classes: int, count: int) -> None:
    rows = rows_of(classes=classes)
    plan = folds(len(rows)) if count > 1 else plan_of([np.arange(300) < 200], [np.arange(300) >= 200], repeats=0)
    boosted = grown(rows, plan, classes, rounds=20)
    torch.manual_seed(0)
    networks = [TabularNetwork([[-1.0, 0.0, 1.0]] * 2, SIZES, classes, TINY).eval() for _ in range(count)]
    content = export(networks, rows.inputs, [(boosted.module, 0.3)])
    assert content == export(networks, rows.inputs, [(boosted.module, 0.3)]), "the bytes depend on weights and trees alone"
    with torch.inference_mode():
        alone = [log_mean_probability(network(rows.inputs)[0]).numpy() for network in networks]
        trees = boosted.module(rows.inputs).numpy()
    expected = np.exp([pooled([one, trees[:, network]], [0.7, 0.3]) for network, one in enumerate(alone)]).mean(axis=0)
    inputs = {name: value.numpy() for name, value in rows.inputs.items()}
    for batch in (1, 7, 300):
        np.testing.assert_allclose(softmax(Network(content)(inputs, batch=batch).logits, axis=1), expected, atol=1e-5)


def test_trees_of_a_fold_learn_nothing_from_the_labels_of_its_fold() -> None:
    """All grow the same number of trees here: flipped labels of a fold leave its own as they were, and change the others."""
    rows, plan = rows_of(classes=2), folds(300)
    flipped = rows.labels.clone()
    flipped[plan.held[0]] = 1 - flipped[plan.held[0]]
    before, after = (
        grown(Rows(rows.inputs, labels, rows.index), plan, 2, rounds=1).module(rows.inputs) for labels in (rows.labels, flipped)
    )
    assert [torch.equal(before[:, m], after[:, m]) for m in range(3)] == [True, False, False]


def test_the_number_of_cores_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, found = rows_of(), []
    for plan in (folds(300), plan_of([np.arange(300) < 200], [np.arange(300) >= 200], repeats=0)):
        for cores in (1, 2, 4):
            monkeypatch.setattr(boosting, "cores", lambda cores=cores: cores)
            found.append(grown(rows, plan, rounds=30).module(rows.inputs))
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
        found.clear()


def test_trees_stop_where_their_held_out_log_loss_is_lowest() -> None:
    """Labels that depend on nothing: the first rounds are the best ones, and `patience` rounds more are tried."""
    rows = rows_of(classes=2)
    noise = Rows(rows.inputs, torch.from_numpy(np.random.default_rng(5).integers(0, 2, 300)), rows.index)
    found = grown(noise, folds(300), 2, patience=7, learning_rate=0.3)
    assert len(found.curve) == found.figures["rounds"] + 7
    assert found.curve[found.figures["rounds"] - 1] == min(found.curve)
    assert len(found.module.root) == 3 * found.figures["rounds"]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_networks_whose_trees_find_no_split_in_a_round_keep_their_own(classes: int, seed: int) -> None:
    """A flag that few rows have: LightGBM keeps no tree of a round without a split, so folds end with different numbers of them."""
    rng = np.random.default_rng(seed)
    flag = rng.random((400, 1)) < (0.03 if classes == 2 else 0.5)
    labels = rng.integers(0, 2, 400) if classes == 2 else rng.integers(0, 3, 400) * flag[:, 0]
    rows, plan = tensors({"categories": flag.astype(np.int64) + 1}, labels, np.arange(400)), folds(400, 5)
    found = boost(rows, plan, Boosting(), cardinalities=[3], classes=classes, seed=0)
    with torch.inference_mode():
        trees = found.module(rows.inputs).numpy()
    for network, (held, logits) in enumerate(zip(plan.held, found.held, strict=True)):
        np.testing.assert_allclose(trees[held.numpy(), network], logits, atol=1e-5)
    losses = [
        log_loss(labels[held.numpy()], softmax(own, axis=1), labels=range(classes)) for held, own in zip(plan.held, found.held, strict=True)
    ]
    assert np.mean(losses) == pytest.approx(found.curve[found.figures["rounds"] - 1], abs=1e-5)


def test_trees_of_many_classes_and_networks_take_no_more_of_the_file_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, most = rows_of(), 7 * 3 * 3 * bytes_of(6) + 1
    monkeypatch.setattr(boosting, "MOST_BYTES", most)
    found = grown(rows, folds(300), rounds=50, learning_rate=0.01)
    assert len(found.curve) == found.figures["rounds"] == 7
    taken = sum(getattr(found.module, name).nbytes for name in ("feature", "threshold", "value", "root", "leaf"))
    assert taken <= most


def test_with_weights_trees_learn_how_often_things_happened() -> None:
    numbers = np.repeat([[0.0], [1.0]], 200, axis=0).astype(np.float32)
    labels = np.tile([0, 0, 0, 0, 1, 1, 1, 1], 50)
    weights = np.where(labels == numbers[:, 0], 9.0, 1.0).astype(np.float32) * 50
    rows = tensors({"numbers": numbers}, labels, np.arange(400), weights)
    found = boost(rows, folds(400, 4), Boosting(rounds=200, learning_rate=0.2), cardinalities=[], classes=2, seed=0)
    probability = softmax(found.module({"numbers": torch.tensor([[0.0], [1.0]])}).numpy(), axis=2)
    np.testing.assert_allclose(probability[:, :, 1], [[0.1] * 4, [0.9] * 4], atol=0.03)


def test_no_time_leaves_one_round_and_is_said() -> None:
    found = grown(rows_of(), folds(300), seconds=0.0)
    assert (found.figures["rounds"], found.out_of_time) == (1, True)


@pytest.fixture
def split(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with trees whose next stage is train."""
    folder = tmp_path / "split"
    shutil.copytree(world / "data/split", folder / "data/split")
    monkeypatch.chdir(folder)
    with_trees(folder)
    return folder


def with_trees(folder: Path, **changed: object) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params(trees={"rounds": 200}, **changed)))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: store.sha256(path) for path in sorted((folder / "data/train").iterdir())}


def test_the_stage_ships_both_and_says_what_each_is_worth(split: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main()
    said, metrics = capsys.readouterr().err, json.loads((split / "data/train/metrics.json").read_text())
    before = json.loads((world / "data/train/metrics.json").read_text())
    assert metrics["network_log_loss"] == pytest.approx(before["valid_log_loss"], abs=1e-5)
    assert metrics["valid_log_loss"] <= min(metrics["tree_log_loss"], metrics["network_log_loss"]) + 1e-6
    assert 0 <= metrics["tree_share"] <= 1
    assert f"{metrics['tree_rounds']} rounds of trees" in said and f"share is {metrics['tree_share']:.2f}" in said
    np.testing.assert_array_equal(np.load(split / "data/train/embeddings.npy"), np.load(world / "data/train/embeddings.npy"))
    assert Network((split / "data/train/model.onnx").read_bytes())


def test_the_card_says_what_both_are_worth_and_nothing_where_there_are_no_trees() -> None:
    training = {
        "networks": 5,
        "tree_rounds": 81,
        "tree_share": 0.4761,
        "network_log_loss": 0.4976,
        "tree_log_loss": 0.4984,
        "valid_log_loss": 0.48849,
    }
    said = learners({"training": training})
    assert said is not None and "shares of 0.48 of boosted trees (rounds: 81), 0.52 of the network;" in said
    assert said.endswith("(the mean of each alone): network 0.4976, trees 0.4984, all together 0.4885")
    alone = learners({"training": {**training, "tree_share": 0.0}})
    assert alone is not None and alone.startswith("the network ships alone, since nothing beside it made it better; log loss")
    assert learners({"training": {"networks": 5, "valid_log_loss": 0.5}}) is None
    assert learners({}) is None


def test_trees_that_are_worth_nothing_do_not_ship(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train.main()
    with_trees = json.loads((split / "data/train/metrics.json").read_text())
    monkeypatch.setattr(partners, "best_shares", lambda *_: [1.0, 0.0])
    train.main()
    without = json.loads((split / "data/train/metrics.json").read_text())
    assert with_trees["tree_share"] > 0 == without["tree_share"]
    assert without["model_bytes"] < with_trees["model_bytes"] / 2


def test_a_training_that_was_cut_off_goes_on_to_the_same_bytes(
    split: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main()
    whole = digests(split)
    shutil.rmtree(split / "data/train")

    def cut(*given: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.network.fit.CHECKPOINT_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.network.export.export", cut)
        with pytest.raises(KeyboardInterrupt):
            train.main()
    assert not (split / "data/train").exists()
    assert "going on from the checkpoint" not in capsys.readouterr().err
    train.main()
    assert "going on from the checkpoint" in capsys.readouterr().err
    assert digests(split) == whole


def test_a_library_that_cannot_be_loaded_is_one_message_and_nothing_is_written(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ExpostError, match=r"must be able to load LightGBM, however: .*brew install libomp"):
        train.main()
    assert not (split / "data/train").exists()


def test_trees_have_half_of_the_time_at_most(split: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_trees(split, max_minutes=1e-6)
    train.main()
    metrics = json.loads((split / "data/train/metrics.json").read_text())
    assert (metrics["tree_rounds"], metrics["epochs"], metrics["out_of_time"], metrics["tree_out_of_time"]) == (1, 1, 1, 1)
    assert "train.max_minutes cut it short" in capsys.readouterr().err
