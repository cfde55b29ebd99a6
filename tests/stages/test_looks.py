"""Looks at the holdout: counted per row, noted where they happen, and what they do to the verdict of the stage gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import gate, looks
from pipelines.errors import ExpostError
from tests.stages.judging import params
from tests.stages.test_gate_stage import change_rows, copy, evaluated, run  # noqa: F401

KEY = "a" * 64


def mirrored(counts: dict[int, int], keys: list[str] | None = None) -> Path:
    folder = Path("data/champion")
    folder.mkdir(parents=True, exist_ok=True)
    table = np.array([*counts.items()], dtype=[("row_hash", "<u8"), ("count", "<i4")])
    np.save(folder / "looks.npy", table)
    (folder / "evaluations.json").write_text(json.dumps(keys or []))
    return folder


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


HASHES = np.array([5, 2**64 - 1, 7], dtype=np.uint64)


def test_counts_come_from_the_mirror_and_from_notes_that_were_not_counted_yet(empty: None) -> None:
    folder = mirrored({5: 3, 2**64 - 1: 1}, ["b" * 64])
    assert looks.before(KEY, HASHES, folder).tolist() == [3, 1, 0]
    looks.note("c" * 64, np.array([7, 5], dtype=np.uint64))
    looks.note("b" * 64, HASHES)  # counted already, not settled yet
    assert looks.before(KEY, HASHES, folder).tolist() == [4, 1, 1]
    looks.settle("c" * 64)
    assert looks.before(KEY, HASHES, folder).tolist() == [3, 1, 0]


def test_the_same_look_again_is_no_other_look(empty: None) -> None:
    looks.note(KEY, HASHES)
    looks.note(KEY, HASHES)
    assert list(looks.pending()) == [KEY]
    assert looks.before(KEY, HASHES, Path("data/champion")).tolist() == [0, 0, 0]
    assert looks.before(KEY, HASHES, mirrored({5: 1, 2**64 - 1: 1, 7: 1}, [KEY])).tolist() == [0, 0, 0]


def test_other_criteria_on_the_same_rows_are_another_look() -> None:
    assert looks.key_of("rows", "criteria") != looks.key_of("rows", "others")


def test_a_mirror_of_another_form_is_refused(empty: None) -> None:
    folder = mirrored({5: 1})
    np.save(folder / "looks.npy", np.zeros(3))
    with pytest.raises(ExpostError, match="hashes and counts"):
        looks.before(KEY, HASHES, folder)


def test_the_gate_notes_its_look_and_judges_alike_when_run_again(copy: Path) -> None:  # noqa: F811
    first = run()
    assert list(looks.pending()) == [first["evaluation_key"]]
    assert first["looks"] == {"before": 0, "alpha": 0.05, "retired_rows": 0, "limit": 50}
    assert run() == first


def test_an_earlier_look_tightens_and_one_too_many_asks_for_fresh_rows(copy: Path) -> None:  # noqa: F811
    hashes = pl.read_parquet("data/evaluate/rows.parquet")["row_hash"].to_list()
    mirrored(dict.fromkeys(map(int, hashes[:10]), 3))
    seen: dict[str, Any] = run()
    assert (seen["looks"]["before"], seen["looks"]["alpha"]) == (3, pytest.approx(0.05 / 16))
    params(copy, lambda values: values.setdefault("gate", {}).update(max_looks=3))
    retired = run()
    assert (retired["looks"]["before"], retired["looks"]["retired_rows"]) == (1, 10)  # the look before this one was under other criteria
    assert next(item for item in retired["criteria"] if item["criterion"] == "utility")["rows"] == len(hashes) - 10
    mirrored(dict.fromkeys(map(int, hashes), 3))
    none_left = run()
    assert none_left["verdict"] == "INSUFFICIENT_DATA"
    assert any("fresh rows are needed" in reason for reason in none_left["reasons"])


def test_an_identical_champion_is_no_look(copy: Path) -> None:  # noqa: F811
    path = Path("data/evaluate/evaluation.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"identical": True}))
    assert run()["identical"] is True
    assert looks.pending() == {}


def test_a_slice_without_its_mask_is_refused_by_name(copy: Path) -> None:  # noqa: F811
    path = Path("data/evaluate/evaluation.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"slices": [{"name": "the old", "kind": "declared"}]}))
    change_rows(lambda rows: rows.drop([name for name in rows.columns if name.startswith("slice_")]))
    with pytest.raises(ExpostError, match="'the old'"):
        gate.main()
