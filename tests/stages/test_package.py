"""Stage package: the bundle is proven in a fresh process, or is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import package, publication, store
from pipelines.bundle import Bundle, write_manifest
from pipelines.errors import ExpostError
from tests.stages.judging import edit, redone


@pytest.fixture
def copy(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(world, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder


def test_the_proof_covers_every_row_outside_the_holdout(world: Path) -> None:
    proof = json.loads((world / "data/package/proof.json").read_text())
    parts = np.load(world / "data/split/parts.npy")
    assert proof["rows"] == np.isin(parts, (0, 1, 2)).sum()
    assert proof["max_difference"] <= 1e-5


def test_the_same_inputs_give_the_same_bytes(copy: Path) -> None:
    before = {path.name: store.sha256(path) for path in sorted((copy / "data/package").rglob("*")) if path.is_file()}
    package.main()
    assert {path.name: store.sha256(path) for path in sorted((copy / "data/package").rglob("*")) if path.is_file()} == before


def test_schema_holds_the_features_and_the_splits_rule_and_not_the_key(world: Path) -> None:
    schema = Bundle.load(world / "data/package/bundle").schema
    assert [column["name"] for column in schema["columns"]] == ["number", "heavy", "colour", "flag", "day", "note"]
    assert schema["target"] == "outcome"
    assert schema["split"] == json.loads((world / "data/split/meta.json").read_text())["rule"]


@pytest.mark.parametrize("stage, name", [("train", "shipped.npy"), ("calibrate", "probabilities.npy")])
def test_other_numbers_than_the_bundles_own_are_refused_and_leave_the_old_bundle(copy: Path, stage: str, name: str) -> None:
    path = copy / "data" / stage / name
    values = np.load(path)
    values[0] += 1e-3
    np.save(path, values)
    before = store.sha256(copy / "data/package/bundle/manifest.json")
    with pytest.raises(ExpostError, match="must reproduce"):
        package.main()
    assert store.sha256(copy / "data/package/bundle/manifest.json") == before


def test_a_policy_with_costs_of_each_row_and_a_class_prior_is_proven_too(copy: Path) -> None:
    old = json.loads((copy / "data/decide/policy.json").read_text())
    prior = {"data": [0.5, 0.5], "deployment": [0.8, 0.2]}
    cells = [[0.0, -1.0], ["-heavy", 0.0]]
    (copy / "data/decide/policy.json").write_text(json.dumps({**old, "matrix": cells, "threshold": None, "prior": prior}))
    package.main()
    bundle, rows = Bundle.load(copy / "data/package/bundle"), np.load(copy / "data/train/rows.npy")
    assert bundle.cost_columns == ["heavy"]
    scored = package.score_in_fresh_process(copy / "data/package/bundle", rows)
    cost = pl.read_parquet(copy / "data/ingest/table.parquet")["heavy"].to_numpy()[rows]
    odds = scored["probabilities"][:, 1] / scored["probabilities"][:, 0] * (0.2 / 0.8)
    assert (scored["actions"] == (odds * cost > 1)).all()


def test_the_example_of_a_models_input_has_the_costs_that_it_decides_with(copy: Path) -> None:
    folder = copy / "data/package/bundle"
    before = list(publication.example(folder))

    def paid(schema: dict[str, Any]) -> None:
        (cost,) = [column for column in schema["columns"] if column["name"] == "heavy"]
        schema["columns"].remove(cost)
        schema["others"].append({**cost, "role": "cost"})

    edit(folder / "schema.json", paid)
    edit(folder / "preprocessing.json", lambda value: value.update(numbers=[one for one in value["numbers"] if one["name"] != "heavy"]))
    write_manifest(folder)
    assert list(publication.example(folder)) == [name for name in before if name != "heavy"]
    redone(folder, matrix=[[0.0, -1.0], ["-heavy", 0.0]])
    assert sorted(publication.example(folder)) == sorted(before)


def test_a_preprocessing_of_another_training_is_refused(copy: Path) -> None:
    path = copy / "data/train/preprocessing.json"
    fitted = json.loads(path.read_text())
    fitted["numbers"][0]["median"] += 1.0
    path.write_text(json.dumps(fitted))
    with pytest.raises(ExpostError, match="must reproduce"):
        package.main()


def test_a_bundle_that_does_not_load_is_the_fresh_processs_message(copy: Path) -> None:
    (copy / "data/train/model.onnx").write_bytes(b"no network")
    with pytest.raises(ExpostError, match=r"fresh process, however: model.onnx must load"):
        package.main()
