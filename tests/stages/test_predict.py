"""Predict: row order, formats, what is carried, what is refused; nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipelines.bundle import Bundle
from pipelines.commands import rowfiles as module
from pipelines.commands.predict import predict
from pipelines.errors import ExpostError
from tests.stages.shipped import mixed_table

OUTPUTS = ["probability_good", "probability_bad", "action", "expected_utility"]


@pytest.fixture
def bundle(world: Path) -> Path:
    return world / "data/package/bundle"


def silent(text: str) -> None:
    del text


def test_formats_agree_and_rows_keep_their_order(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 64)
    table = mixed_table(300, seed=5)
    table.write_csv(tmp_path / "in.csv")
    table.write_csv(tmp_path / "in.tsv", separator="\t")
    table.write_parquet(tmp_path / "in.parquet")
    results = []
    for source, target in (("in.csv", "out.parquet"), ("in.tsv", "out.csv"), ("in.parquet", "out.tsv")):
        assert predict(tmp_path / source, tmp_path / target, bundle, keep=["key"], report=silent).rows == 300
        path = tmp_path / target
        read = pl.read_parquet(path) if target.endswith("parquet") else pl.read_csv(path, separator="\t" if target.endswith("tsv") else ",")
        assert read.columns == ["key", *OUTPUTS]
        assert read["key"].to_list() == table["key"].to_list()
        results.append(read)
    for other in results[1:]:
        assert_frame_equal(results[0], other, abs_tol=1e-6)


def test_figures_are_the_bundles_own(bundle: Path, tmp_path: Path) -> None:
    table = mixed_table(100, seed=6)
    table.write_parquet(tmp_path / "in.parquet")
    result = predict(tmp_path / "in.parquet", tmp_path / "out.parquet", bundle, report=silent)
    out = pl.read_parquet(tmp_path / "out.parquet")
    probability = out.select(OUTPUTS[:2]).to_numpy()
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    stop = probability[:, 1] > 1 / 6
    assert out["action"].to_list() == np.where(stop, "stop", "pass").tolist()
    np.testing.assert_allclose(out["expected_utility"], np.where(stop, -probability[:, 0], -5 * probability[:, 1]))
    assert result.actions == dict(zip(*np.unique(out["action"], return_counts=True), strict=True))
    loaded = Bundle.load(bundle)
    inputs = loaded.encode(table).inputs
    np.testing.assert_allclose(probability, loaded.probabilities(loaded.score(inputs).logits))


def test_the_target_is_not_used_and_that_is_said(bundle: Path, tmp_path: Path) -> None:
    table = mixed_table(50, seed=7)
    lines: list[str] = []
    for name, frame in (("with", table), ("without", table.drop("outcome")), ("garbage", table.with_columns(outcome=pl.lit("?")))):
        frame.write_csv(tmp_path / f"{name}.csv")
        predict(tmp_path / f"{name}.csv", tmp_path / f"{name}.out.csv", bundle, report=lines.append)
    assert len({(tmp_path / f"{name}.out.csv").read_bytes() for name in ("with", "without", "garbage")}) == 1
    assert lines == ["the input's column outcome is the target: it was not used for scoring"] * 2


def test_unseen_values_are_scored_and_counted_over_batches(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    mixed_table(50).with_columns(colour=pl.lit("violet")).write_csv(tmp_path / "in.csv")
    lines: list[str] = []
    result = predict(tmp_path / "in.csv", tmp_path / "out.csv", bundle, report=lines.append)
    assert result.unseen == {"colour": 50}
    assert any("50 of 50 rows hold a value of colour" in line for line in lines)


def test_keep_all_carries_the_columns_as_written(bundle: Path, tmp_path: Path) -> None:
    table = mixed_table(30).with_columns(code=pl.lit("007"))
    table.write_csv(tmp_path / "in.csv")
    predict(tmp_path / "in.csv", tmp_path / "out.csv", bundle, keep="all", report=silent)
    out = pl.read_csv(tmp_path / "out.csv", infer_schema=False)
    assert_frame_equal(out.select(table.columns), pl.read_csv(tmp_path / "in.csv", infer_schema=False))


def bad_inputs() -> dict[str, tuple[str, object, str]]:
    table = mixed_table(30)
    return {
        "missing feature": ("in.csv", table.drop("flag"), "flag is missing"),
        "no rows": ("in.csv", table.head(0), "must have rows"),
        "no rows, parquet": ("in.parquet", table.head(0), "must have rows"),
        "empty file": ("in.csv", b"", "must have rows"),
        "truncated": ("in.parquet", "half", "readable table"),
        "not a table": ("in.parquet", b"PAR1 this is no table", "readable table"),
        "kind": ("in.csv", table.with_columns(heavy=pl.lit("much")), "row 1: 'much'"),
        "twice": ("in.csv", b"number,number ,heavy\n1,2,3\n", "distinct names"),
        "format": ("in.xlsx", b"x", "CSV, TSV or Parquet"),
    }


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_one_message_and_leaves_the_old_output(bundle: Path, tmp_path: Path, case: str) -> None:
    name, content, message = bad_inputs()[case]
    source = tmp_path / name
    if isinstance(content, pl.DataFrame):
        content.write_csv(source) if name.endswith("csv") else content.write_parquet(source)
    elif isinstance(content, bytes):
        source.write_bytes(content)
    else:
        mixed_table(30).write_parquet(source)
        source.write_bytes(source.read_bytes()[:-100])
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(ExpostError, match=message):
        predict(source, tmp_path / "out.csv", bundle, report=silent)
    assert (tmp_path / "out.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "out.csv"})


def test_a_bad_value_in_a_later_batch_names_its_row_and_leaves_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    table = mixed_table(30).with_columns(heavy=pl.Series(["1"] * 25 + ["oops"] + ["1"] * 4))
    table.write_csv(tmp_path / "in.csv")
    with pytest.raises(ExpostError, match="row 26: 'oops'"):
        predict(tmp_path / "in.csv", tmp_path / "out.csv", bundle, report=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_refused_requests(bundle: Path, tmp_path: Path) -> None:
    mixed_table(5).with_columns(action=pl.lit("x")).write_csv(tmp_path / "in.csv")
    for keep, output, message in (
        (["kye"], "out.csv", "nearest are key"),
        (["action"], "out.csv", "named like the output's"),
        ((), "in.csv", "another file"),
        ((), "out.json", "CSV, TSV or Parquet"),
    ):
        with pytest.raises(ExpostError, match=message):
            predict(tmp_path / "in.csv", tmp_path / output, bundle, keep=keep, report=silent)
    with pytest.raises(ExpostError, match="missing"):
        predict(tmp_path / "none.csv", tmp_path / "out.csv", bundle)
    with pytest.raises(ExpostError, match="bundle's folder"):
        predict(tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "no-bundle")


def test_neither_prefect_nor_torch_is_imported(bundle: Path, tmp_path: Path) -> None:
    mixed_table(5).write_csv(tmp_path / "in.csv")
    code = (
        "import sys; from pipelines.commands.predict import predict; predict(*sys.argv[1:]);"
        "print(sorted({'torch', 'lightning', 'prefect', 'mlflow', 'dvc', 'great_expectations', 'optuna'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["in.parquet", "in.csv"])
def test_on_a_terminal_a_bar_shows_rows_and_their_total_where_the_file_says_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    table = mixed_table(300).drop("outcome")
    table.write_csv(tmp_path / name) if name.endswith("csv") else table.write_parquet(tmp_path / name)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    predict(tmp_path / name, tmp_path / "out.csv", bundle, report=silent)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("300/300" if name == "in.parquet" else "300/?") in shown.err


def test_many_small_batches_side_by_side_keep_their_order(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = mixed_table(400, seed=3)
    table.write_parquet(tmp_path / "in.parquet")
    monkeypatch.setattr(module, "BATCH", 3)
    predict(tmp_path / "in.parquet", tmp_path / "many.parquet", bundle, keep=["key"], report=silent)
    monkeypatch.setattr(module, "BATCH", 1000)
    predict(tmp_path / "in.parquet", tmp_path / "one.parquet", bundle, keep=["key"], report=silent)
    many, one = pl.read_parquet(tmp_path / "many.parquet"), pl.read_parquet(tmp_path / "one.parquet")
    assert many["key"].to_list() == table["key"].to_list()
    assert_frame_equal(many, one, abs_tol=1e-6)
