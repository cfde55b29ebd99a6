"""Stage package: the bundle is proven in a fresh process, or is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines import package, store
from pipelines.bundle import Bundle
from pipelines.errors import ExpostError


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
    assert [column["name"] for column in schema["columns"]] == ["number", "heavy", "colour", "flag", "day"]
    assert schema["target"] == "outcome"
    assert schema["split"] == json.loads((world / "data/split/meta.json").read_text())["rule"]


@pytest.mark.parametrize("stage, name", [("train", "logits.npy"), ("calibrate", "probabilities.npy")])
def test_other_numbers_than_the_bundles_own_are_refused_and_leave_the_old_bundle(copy: Path, stage: str, name: str) -> None:
    path = copy / "data" / stage / name
    values = np.load(path)
    values[0] += 1e-3
    np.save(path, values)
    before = store.sha256(copy / "data/package/bundle/manifest.json")
    with pytest.raises(ExpostError, match="must reproduce"):
        package.main()
    assert store.sha256(copy / "data/package/bundle/manifest.json") == before


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
