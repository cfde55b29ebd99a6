"""The bundle: nothing in it is used before all of it is verified; what it encodes is what training saw."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.bundle import FILES, Bundle, write_manifest
from pipelines.calltime import utility_of
from pipelines.core import policy
from pipelines.errors import ExpostError
from tests.stages.shipped import mixed_table


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "data/package/bundle", tmp_path / "bundle"))


def test_a_whole_bundle_loads_and_names_its_parts(folder: Path) -> None:
    bundle = Bundle.load(folder)
    assert bundle.classes == ["good", "bad"]
    assert bundle.actions_named == ["pass", "stop"]
    assert bundle.utility(None).tolist() == [[0, -1], [-5, 0]]
    assert bundle.schema["split"]["salt"] == "1"
    assert set(bundle.manifest["files"]) == set(FILES)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_changed_byte_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ExpostError):
        Bundle.load(folder)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_or_truncated_file_is_refused(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ExpostError):
        Bundle.load(folder)
    (folder / name).unlink()
    with pytest.raises(ExpostError, match=f"{name} is missing"):
        Bundle.load(folder)


def test_an_extra_file_is_refused(folder: Path) -> None:
    (folder / "code.py").write_text("raise SystemExit('must never run')")
    with pytest.raises(ExpostError, match=r"code\.py is extra"):
        Bundle.load(folder)


def test_a_link_is_refused_even_to_the_right_content(folder: Path, tmp_path: Path) -> None:
    (folder / "policy.json").rename(tmp_path / "policy.json")
    (folder / "policy.json").symlink_to(tmp_path / "policy.json")
    with pytest.raises(ExpostError, match="plain file"):
        Bundle.load(folder)


def test_a_file_beyond_its_size_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / "schema.json").open("r+b") as stream:
        stream.truncate(1 << 33)  # sparse: takes no room, but would take 8 GB of memory
    with pytest.raises(ExpostError, match="at most"):
        Bundle.load(folder)


def test_a_manifest_that_lists_a_path_or_other_joint_digests_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for change in ({"files": {**manifest["files"], "../x": "0"}}, {"weights_sha256": "0" * 64}, {"format": 2}, {"files": [1]}):
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ExpostError):
            Bundle.load(folder)


def test_a_network_that_onnx_cannot_load_is_an_error_and_not_a_crash(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"not a network")
    write_manifest(folder)
    bundle = Bundle.load(folder)
    with pytest.raises(ExpostError, match="ONNX"):
        _ = bundle.network


def test_digests_follow_what_they_cover(folder: Path) -> None:
    before = Bundle.load(folder).manifest
    policy = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(policy | {"kind": "other"}))
    after = write_manifest(folder)
    assert after["weights_sha256"] == before["weights_sha256"]
    assert after["policy_sha256"] != before["policy_sha256"]
    assert after["bundle_sha256"] != before["bundle_sha256"]


def test_the_ways_to_write_a_row_score_alike(world: Path) -> None:
    bundle = Bundle.load(world / "data/package/bundle")
    table = mixed_table()
    text = table.with_columns(
        pl.col("colour").map_elements(lambda value: f"  {value} ", return_dtype=pl.String),
        pl.col("flag").cast(pl.Int64),
        pl.col("day").cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%S"),
        pl.col("number").cast(pl.String),
    )
    typed = pl.read_parquet(world / "data/ingest/table.parquet")
    expected = bundle.encode(table)
    for frame in (text, typed, table.select(reversed(table.columns))):
        encoded = bundle.encode(frame)
        np.testing.assert_array_equal(encoded.inputs["numbers"], expected.inputs["numbers"])
        np.testing.assert_array_equal(encoded.inputs["categories"], expected.inputs["categories"])
        assert encoded.unseen == {}


def test_scores_do_not_depend_on_the_batch(world: Path) -> None:
    bundle = Bundle.load(world / "data/package/bundle")
    inputs = bundle.encode(mixed_table()).inputs
    whole, by_seven = bundle.score(inputs), bundle.network(inputs, batch=7)
    np.testing.assert_allclose(by_seven.logits, whole.logits, atol=1e-6)
    np.testing.assert_allclose(by_seven.embedding, whole.embedding, atol=1e-5)
    np.testing.assert_allclose(np.exp(whole.logits).sum(axis=1), 1, atol=1e-6)
    for threads in (1, 3):
        np.testing.assert_array_equal(bundle.network.logits(inputs, threads=threads), whole.logits)


def test_a_missing_feature_is_named_with_its_nearest_name(world: Path) -> None:
    bundle = Bundle.load(world / "data/package/bundle")
    with pytest.raises(ExpostError, match=r"heavy is missing \(nearest: heavyy\)"):
        bundle.encode(mixed_table(20).rename({"heavy": "heavyy"}))
    assert len(bundle.encode(mixed_table(20).drop("outcome", "key")).inputs["numbers"]) == 20


def test_unseen_values_are_counted_and_scored(world: Path) -> None:
    bundle = Bundle.load(world / "data/package/bundle")
    table = mixed_table(20).with_columns(colour=pl.Series(["violet"] * 3 + ["red"] * 15 + [None] * 2))
    encoded = bundle.encode(table)
    assert encoded.unseen == {"colour": 3}
    assert np.isfinite(bundle.probabilities(bundle.score(encoded.inputs).logits)).all()


def test_values_that_are_not_of_their_kind_are_named(world: Path) -> None:
    bundle = Bundle.load(world / "data/package/bundle")
    table = mixed_table(20)
    wrong = table.with_columns(number=pl.Series(["1.5"] * 19 + ["many"]))
    with pytest.raises(ExpostError, match=r"number.*row 20.*many"):
        bundle.encode(wrong)
    with pytest.raises(ExpostError, match=r"heavy.*finite.*row 3"):
        bundle.encode(table.with_columns(heavy=pl.when(pl.int_range(pl.len()) == 2).then(float("inf")).otherwise("heavy")))
    dated = table.with_columns(day=pl.lit(datetime.date(2030, 1, 1)))
    assert np.isfinite(bundle.encode(dated).inputs["numbers"]).all()


def test_scoring_imports_no_torch_no_prefect_no_mlflow(world: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, np.arange(5))
    code = (
        "import sys; from pipelines import bundle; bundle.main(sys.argv[1:]);"
        "print(sorted({'torch', 'lightning', 'prefect', 'mlflow', 'dvc', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    arguments = [str(world / "data/package/bundle"), str(world / "data/ingest/table.parquet"), str(rows), str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert np.load(tmp_path / "probabilities.npy").shape == (5, 2)


def referenced(folder: Path, prior: list[float]) -> Bundle:
    """The bundle in `folder` with the class shares `prior` of calib, and whether or not the stages wrote them."""
    calibrator = json.loads((folder / "calibrator.json").read_text())
    calibrator["reference"] = {"prior": prior, "edges": [[]], "counts": [[10.0], [10.0]]}
    (folder / "calibrator.json").write_text(json.dumps(calibrator))
    write_manifest(folder)
    return Bundle.load(folder)


def test_another_utility_changes_the_decision_and_no_probability(world: Path) -> None:
    bundle = Bundle.load(world / "data/package/bundle")
    other = bundle.with_utility(
        utility_of("unit: kr\nmatrix: {bad: {go: -1, ask: -0.3, stop: 0}, good: {go: 0, ask: -0.3, stop: -1}}", "x")
    )
    assert (other.actions_named, other.policy["unit"], other.policy["kind"]) == (["go", "ask", "stop"], "kr", "analytic")
    assert bundle.actions_named == ["pass", "stop"]
    p = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    decided = other.decide(p)
    assert decided.actions.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(decided.probability, p)
    np.testing.assert_allclose(decided.expected, [-0.1, -0.3, -0.2])


def test_a_prior_given_with_a_utility_corrects_from_the_shares_of_calib_and_an_old_one_is_kept(folder: Path) -> None:
    bundle = referenced(folder, [0.8, 0.2])
    matrix = "matrix: {good: {pass: 0, stop: -1}, bad: {pass: -5, stop: 0}}"
    p = np.array([[0.8, 0.2], [0.5, 0.5]])
    corrected = bundle.with_utility(utility_of(f"{matrix}\nprior: {{bad: 0.5}}", "x"))
    assert corrected.policy["prior"] == {"data": [0.8, 0.2], "deployment": [0.5, 0.5]}
    np.testing.assert_allclose(corrected.decide(p).probability, policy.under_prior(p, [0.8, 0.2], [0.5, 0.5]))
    np.testing.assert_allclose(corrected.with_utility(utility_of(matrix, "x")).decide(p).probability[0], [0.5, 0.5])
    np.testing.assert_array_equal(bundle.with_utility(utility_of(matrix, "x")).decide(p).probability, p)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("matrix: {good: {a: 0, b: -1}, evil: {a: -5, b: 0}}", r"\['good', 'bad'\], however: its rows are \['good', 'evil'\]"),
        ("matrix: {good: {a: 0, b: -1}, bad: {a: -5, b: 0}}\nlimits: {b: {at_most: 0.1}}", "limits.*expost retune"),
        (
            "matrix: {good: {a: 0, b: -1}, bad: {a: -5, b: 0}}\nrequire: {recall: {class: bad, at_least: 0.9}}",
            "requirements.*expost retune",
        ),
        ("matrix: {good: {a: 0, b: -number}, bad: {a: -5, b: 0}}", "'number' has the role feature"),
        ("matrix: {good: {a: 0, b: -amount}, bad: {a: -5, b: 0}}", "no column 'amount'"),
    ],
)
def test_a_utility_that_the_model_cannot_decide_with_is_refused(world: Path, text: str, message: str) -> None:
    with pytest.raises(ExpostError, match=message):
        Bundle.load(world / "data/package/bundle").with_utility(utility_of(text, "x"))


def test_a_bundle_without_the_shares_of_calib_takes_no_prior(folder: Path) -> None:
    bundle = Bundle.load(folder)
    bundle.calibrator.pop("reference", None)
    with pytest.raises(ExpostError, match=r"class shares of calib.*expost retrain"):
        bundle.with_utility(utility_of("matrix: {good: {a: 0, b: -1}, bad: {a: -5, b: 0}}\nprior: {bad: 0.5}", "x"))
