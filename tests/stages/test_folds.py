"""Networks of folds through every stage: who calibrates, who decides, who is compared, has not learnt from the row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import champion, contest, decide, evaluate, package, store, train
from pipelines.bundle import Bundle
from tests.stages.judging import crown, other_policy, params, quick
from tests.stages.shipped import run_stages, write_world


def folded(values: dict[str, Any]) -> None:
    values["split"].update(folds=3, repeats=2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world with networks of three folds, drawn twice, taken from ingest to package. Read only: copy it."""
    folder = tmp_path_factory.mktemp("pool")
    write_world(folder)
    params(folder, folded)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages("ingest", "split", "train", "calibrate", "decide", "package")
    return folder


@pytest.fixture
def copy(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(pool, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    quick(folder)
    return folder


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a group per row, where half of the rows stand a second time under another group. Read only: copy it."""
    folder = tmp_path_factory.mktemp("grouped")
    write_world(folder)
    source = folder / "data/raw/table/mixed.csv"
    once = pl.read_csv(source)
    pl.concat([once, once.head(350).with_columns(key=pl.lit("again ") + pl.col("key"))]).write_csv(source)
    params(folder, folded)
    params(folder, lambda values: values["ingest"]["columns"]["key"].update(role="group"))
    quick(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages("ingest", "split", "train", "calibrate", "decide", "package")
    return folder


def array(stage: str, name: str) -> Any:
    return np.load(store.stage_path(stage, f"{name}.npy"))


def test_all_rows_before_the_holdout_calibrate_as_networks_that_never_saw_them_see_them(copy: Path) -> None:
    parts, unseen = array("split", "parts"), array("split", "unseen")
    before = np.flatnonzero(np.isin(parts, (0, 1, 2)))
    np.testing.assert_array_equal(array("calibrate", "rows"), before)
    bundle = Bundle.load("data/package/bundle")
    inputs = bundle.encode(pl.read_parquet("data/ingest/table.parquet")[before]).inputs
    (each,) = bundle.network.run(inputs, ["each"])
    assert each.shape == (len(before), 6, 2)
    expected = np.stack([np.exp(row[mask]).mean(axis=0) for row, mask in zip(each, unseen[before], strict=True)])
    np.testing.assert_allclose(np.exp(array("train", "logits")), expected, atol=1e-6)
    np.testing.assert_allclose(np.exp(array("train", "shipped")), np.exp(each).mean(axis=1), atol=1e-6)
    metrics = json.loads(Path("data/train/metrics.json").read_text())
    labels = array("split", "labels")[before]
    assert metrics["networks"] == 6
    assert metrics["valid_log_loss"] == pytest.approx(-np.log(expected[np.arange(len(before)), labels]).mean(), abs=1e-5)
    notes = json.loads(Path("data/calibrate/summary.json").read_text())
    assert notes["rows"] == len(before)


def test_a_new_row_is_scored_by_the_average_and_a_row_of_the_pool_by_those_that_never_saw_it(copy: Path) -> None:
    table, bundle = contest.read_table(), Bundle.load("data/package/bundle")
    index = np.flatnonzero(table.parts >= 0)
    scored = contest.score(bundle, table, index, table.unseen)
    held, pooled = table.parts[index] == 3, table.calib[index]
    np.testing.assert_allclose(scored.probability[held], bundle.calibrated(table.frame[index[held]])[0], atol=1e-9)
    np.testing.assert_allclose(scored.probability[pooled], bundle.probabilities(array("train", "logits")), atol=1e-6)


def test_a_champion_of_folds_is_compared_and_decided_anew_on_the_rows_of_the_pool(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle", other_policy)
    champion.main()
    evaluate.main()
    evaluation = json.loads(Path("data/evaluate/evaluation.json").read_text())
    parts = array("split", "parts")
    assert evaluation["rows"]["compared"] == (parts == 3).sum()
    assert evaluation["calib_rows"] == np.isin(parts, (0, 1, 2)).sum()


def test_a_champion_of_one_network_is_decided_anew_on_its_own_calib_rows_only(copy: Path, world: Path) -> None:
    crown(copy, world / "data/package/bundle", other_policy)
    champion.main()
    evaluate.main()
    evaluation = json.loads(Path("data/evaluate/evaluation.json").read_text())
    assert evaluation["calib_rows"] == (np.load(world / "data/split/parts.npy") == 2).sum()
    assert evaluation["champion"]["utility"]["mean"] is not None


def test_other_costs_change_the_policy_and_neither_weights_nor_folds(copy: Path) -> None:
    before = Bundle.load("data/package/bundle").manifest
    params(copy, lambda values: values["utility"]["matrix"]["bad"].update({"pass": -20}))
    decide.main()
    package.main()
    after = Bundle.load("data/package/bundle").manifest
    assert after["weights_sha256"] == before["weights_sha256"]
    assert after["policy_sha256"] != before["policy_sha256"]


def test_the_same_seed_gives_the_same_bytes(copy: Path) -> None:
    before = store.sha256(Path("data/train/model.onnx"))
    train.main()
    assert store.sha256(Path("data/train/model.onnx")) == before


def test_no_network_learns_from_or_is_stopped_by_a_row_equal_to_one_that_it_scores(grouped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(grouped)
    inputs, _ = train.read_inputs()
    hashes = array("split", "row_hash")[inputs.rows]
    assert len(np.unique(hashes)) < len(hashes)
    for network in range(6):
        scored = hashes[inputs.unseen[:, network]]
        assert not np.isin(hashes[inputs.seen(network)], scored).any()
        repetition = range(network // 3 * 3, network // 3 * 3 + 3)
        assert not np.isin(hashes[np.any([inputs.held(other) for other in repetition if other != network], axis=0)], scored).any()
        assert not (inputs.held(network) & inputs.seen(network)).any()


def test_a_champion_is_judged_on_no_row_of_its_pool_that_a_network_may_know_from_an_equal_one(
    grouped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the very rule of the challenger: any of the rows may be newer than the champion."""
    folder = Path(shutil.copytree(grouped, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    crown(folder, folder / "data/package/bundle", other_policy)
    champion.main()
    table = contest.read_table()
    placed = contest.placed_under(table.rule, table)
    out_of_pool = table.calib & ~placed.calib
    once_in_each = placed.unseen[table.calib].reshape(-1, 2, 3).sum(axis=2)
    assert once_in_each.max() == 1 and out_of_pool.any() and not placed.unseen[out_of_pool].any()
    assert placed.unseen[placed.calib].any(axis=1).all() and not (placed.unseen[table.calib] & ~table.unseen[table.calib]).any()
    evaluate.main()
    assert json.loads(Path("data/evaluate/evaluation.json").read_text())["calib_rows"] == placed.calib.sum() < table.calib.sum()
