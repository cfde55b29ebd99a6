"""Looks at the holdout: counted per row, noted where they happen, and what they do to the verdict of the stage gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import champion, evaluate, gate, holdout, looks, store
from pipelines.commands.mirror import count_look, settle_looks
from pipelines.errors import ExpostError
from pipelines.ledger import Ledger
from tests.stages.judging import crown, params
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
    hashes = pl.read_parquet("data/evaluate/rows.parquet")["look_hash"].to_list()
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


def test_an_identical_challenger_is_no_look(copy: Path) -> None:  # noqa: F811
    for key in looks.pending():
        looks.settle(key)
    crown(copy, copy / "data/package/bundle")
    champion.main()
    evaluate.main()
    assert run()["identical"] is True
    assert looks.pending() == {}


ROWS, NEXT = "1" * 64, "2" * 64
SHOWN, FIRST, SECOND = (looks.key_of(ROWS, criteria) for criteria in (looks.SHOWN, "first criteria", "second criteria"))
OTHER = looks.key_of(NEXT, "first criteria")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([SHOWN], 1),
        ([SHOWN, SHOWN], 1),
        ([FIRST], 1),
        ([SHOWN, FIRST], 1),
        ([FIRST, SHOWN], 1),
        ([SHOWN, FIRST, SHOWN, FIRST], 1),
        ([FIRST, SECOND], 2),
        ([SHOWN, FIRST, SECOND], 2),
        ([FIRST, SHOWN, SECOND, SHOWN], 2),
        ([SHOWN, OTHER], 2),
        ([looks.key_of(NEXT, looks.SHOWN), SHOWN, FIRST, OTHER], 2),
    ],
)
def test_evaluating_and_judging_the_same_rows_is_one_look_whenever_it_is_counted(
    empty: None, tmp_path: Path, order: list[str], expected: int
) -> None:
    at_once, each, rows = Ledger(f"sqlite:///{tmp_path}/once.db"), Ledger(f"sqlite:///{tmp_path}/each.db"), [int(value) for value in HASHES]
    for key in order:
        looks.note(key, HASHES)
        settle_looks(each, "m")  # as where a mirror is refreshed between two stages
    for key in order:
        looks.note(key, HASHES)
    assert (looks.before(KEY, HASHES, Path("data/champion")) == expected).all()  # by the notes alone
    settle_looks(at_once, "m")
    assert looks.pending() == {}
    assert (at_once.looks("m", rows), each.looks("m", rows)) == (expected, expected)
    for ledger in (at_once, each):
        folder = mirrored(dict.fromkeys(rows, expected), ledger.evaluations("m"))
        assert (looks.before(KEY, HASHES, folder) == expected).all()
        known = [key for key in order if key != SHOWN and key[:32] == SHOWN[:32]] or [SHOWN]
        assert all((looks.before(key, HASHES, folder) == expected - 1).all() for key in known)
        assert all(count_look(ledger, "m", key, HASHES) == expected for key in order)  # again: no other look


def test_evaluate_alone_is_a_look_and_the_gate_after_it_is_the_same(copy: Path) -> None:  # noqa: F811
    shown, ledger = looks.pending(), Ledger("sqlite:///ledger.db")
    assert list(shown) == [looks.key_of(store.sha256(Path("data/evaluate/rows.parquet")), looks.SHOWN)]
    (hashes,) = shown.values()
    settle_looks(ledger, "m")
    mirrored(dict.fromkeys(map(int, hashes), 1), ledger.evaluations("m"))
    verdict = run()
    assert verdict["looks"]["before"] == 0
    assert count_look(ledger, "m", verdict["evaluation_key"], hashes) == 1
    evaluate.main()
    settle_looks(ledger, "m")
    assert ledger.looks("m", map(int, hashes)) == 1


def test_rows_keep_their_count_under_another_split_and_other_features() -> None:
    frame = pl.DataFrame({"id": ["a", "b", None], "x": [1.0, 2.0, 3.0], "y": [0.0, 0.0, 0.0], "target": ["no", "yes", "no"]})
    wide = {"columns": [{"name": "id", "role": "key"}, {"name": "x", "role": "feature"}, {"name": "y", "role": "feature"}]}
    narrow = {"columns": wide["columns"][:2]}
    with_key, without_y = holdout.look_hashes(frame, wide), holdout.look_hashes(frame.drop("y"), narrow)
    assert (with_key[:2] == without_y[:2]).all()
    assert len(set(with_key.tolist())) == 3
    changed = holdout.look_hashes(frame.with_columns(pl.Series("target", ["yes", "no", "yes"])), wide)
    assert (changed == with_key).all()
    unnamed = {"columns": wide["columns"][1:]}
    assert len(set(holdout.look_hashes(frame, unnamed).tolist())) == 3  # by all values where no column is the key


def test_the_rows_are_written_with_the_hashes_that_they_are_counted_by(copy: Path) -> None:  # noqa: F811
    rows = pl.read_parquet("data/evaluate/rows.parquet")
    parts, table = np.load("data/split/parts.npy"), pl.read_parquet("data/ingest/table.parquet")
    schema = store.read_json(Path("data/ingest/schema.json"))
    assert (rows["look_hash"].to_numpy() == holdout.look_hashes(table, schema)[parts == 3]).all()


@pytest.mark.parametrize("content", [b"junk", b"", b"\x93NUMPY\x01", b"PK\x03\x04", "unended header", "another header"])
def test_a_damaged_note_or_mirror_is_named_with_its_remedy(empty: None, content: bytes | str) -> None:
    folder = mirrored({5: 1})
    if isinstance(content, str):
        written = (folder / "looks.npy").read_bytes()
        content = written.replace(b"'descr'", b"(descr'") if content == "unended header" else written.replace(b"False", b"F lse")
    (folder / "looks.npy").write_bytes(content)
    with pytest.raises(ExpostError, match=r"data/champion/looks\.npy must hold .* however: .*Run `expost retrain`"):
        looks.before(KEY, HASHES, folder)
    mirrored({5: 1})
    looks.NOTED.mkdir(parents=True)
    (looks.NOTED / "abc.npy").write_bytes(content)
    for asked in (looks.pending, lambda: looks.before(KEY, HASHES, folder)):
        with pytest.raises(ExpostError, match=r"mlflow/looks/abc\.npy must hold .* however: .*Delete it"):
            asked()


def test_a_note_or_list_of_another_form_is_refused(empty: None) -> None:
    looks.note(KEY, HASHES)
    np.save(looks.NOTED / "abc.npy", np.zeros(3))
    with pytest.raises(ExpostError, match=r"abc\.npy must hold .* type float64"):
        looks.pending()
    looks.settle("abc")
    folder = mirrored({5: 1})
    (folder / "evaluations.json").write_text('{"a": 1}')
    with pytest.raises(ExpostError, match="must list the evaluations"):
        looks.before(KEY, HASHES, folder)


def test_a_slice_without_its_mask_is_refused_by_name(copy: Path) -> None:  # noqa: F811
    path = Path("data/evaluate/evaluation.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"slices": [{"name": "the old", "kind": "declared"}]}))
    change_rows(lambda rows: rows.drop([name for name in rows.columns if name.startswith("slice_")]))
    with pytest.raises(ExpostError, match="'the old'"):
        gate.main()
