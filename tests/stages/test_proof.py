"""The shipped model proves itself in a fresh process, or says in one message why it does not."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest

from pipelines import failpoints, fresh, golden, proof, registry, store
from pipelines.bundle import Bundle
from pipelines.errors import ExpostError
from pipelines.registry import prove
from tests.registering import MODEL, client, register, uri
from tests.stages.judging import edit, redone


@pytest.fixture
def package(world: Path, tmp_path: Path) -> Path:
    """A folder of the stage package, free to change."""
    return Path(shutil.copytree(world / "data/package", tmp_path / "package"))


def test_golden_rows_are_a_few_rows_of_calib_with_the_pipelines_own_figures(world: Path) -> None:
    folder = world / "data/package"
    rows, expected = pl.read_parquet(folder / golden.INPUTS), json.loads((folder / golden.EXPECTED).read_text())
    assert 24 <= len(rows) <= golden.ROWS
    assert rows.columns == ["number", "heavy", "colour", "flag", "day", "note"]  # neither key nor target
    table = pl.read_parquet(world / "data/ingest/table.parquet").with_row_index()
    found = rows.join(table, on=rows.columns, nulls_equal=True, how="left", maintain_order="left")["index"].to_numpy()
    calib = np.load(world / "data/calibrate/rows.npy")
    assert set(found.tolist()) <= set(calib.tolist())
    assert set(found.tolist()) <= set(np.flatnonzero(np.load(world / "data/split/parts.npy") == 2).tolist())
    of_calib = np.load(world / "data/calibrate/probabilities.npy")[np.searchsorted(calib, found)]
    np.testing.assert_array_equal(expected["probabilities"], of_calib)
    assert golden.check(Bundle.load(folder / "bundle"), folder, golden.digest(folder)) <= golden.TOLERANCE


def test_an_action_that_a_rounding_could_change_is_not_expected(package: Path) -> None:
    bundle = Bundle.load(package / "bundle")
    row = pl.read_parquet(package / golden.INPUTS)[:1]
    golden.write(package, bundle, pl.concat([row] * 2), np.array([[5 / 6, 1 / 6], [0.99, 0.01]]))  # U = [[0, -1], [-5, 0]]: t* = 1/6
    assert json.loads((package / golden.EXPECTED).read_text())["actions"] == [None, "pass"]


def test_a_rare_action_is_among_the_golden_rows(package: Path) -> None:
    bundle, row = Bundle.load(package / "bundle"), pl.read_parquet(package / golden.INPUTS)[:1]
    bad = np.linspace(0.3, 0.9, 1000)
    bad[[1, 500]] = 0.01
    golden.write(package, bundle, pl.concat([row] * 1000), np.column_stack([1 - bad, bad]))
    expected = json.loads((package / golden.EXPECTED).read_text())
    assert expected["actions"].count("pass") == 2
    assert 24 <= len(expected["actions"]) <= golden.ROWS
    of_stop = [bad for (_, bad), action in zip(expected["probabilities"], expected["actions"], strict=True) if action == "stop"]
    assert (min(of_stop), max(of_stop)) == (bad[0], bad[-1])


def probability(value: dict[str, Any]) -> None:
    value["probabilities"][3] = [value["probabilities"][3][0] + 2e-5, value["probabilities"][3][1] - 2e-5]


def nan(value: dict[str, Any]) -> None:
    value["probabilities"][0] = [None, None]


def action(value: dict[str, Any]) -> None:
    row = value["actions"].index("stop")
    value["actions"][row] = "pass"


def fewer(value: dict[str, Any]) -> None:
    value["probabilities"] = []


@pytest.mark.parametrize(
    "change, message",
    [
        (probability, r"must reproduce the probabilities of its golden rows to 1e-05, however: they differ by 2e-05"),
        (nan, r"must reproduce the probabilities"),
        (action, r"must take the actions of its golden rows, however: 1 of \d+ differ: row \d+ gets stop instead of pass"),
        (fewer, r"must hold a probability per row and class"),
    ],
)
def test_a_figure_that_differs_is_named(package: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    edit(package / golden.EXPECTED, change)
    with pytest.raises(ExpostError, match=message):
        golden.check(Bundle.load(package / "bundle"), package, golden.digest(package))


def test_golden_rows_of_another_bundle_prove_nothing(package: Path) -> None:
    redone(package / "bundle", offsets=[0.0, 1e-9])
    with pytest.raises(ExpostError, match="must belong to the bundle that they prove"):
        golden.check(Bundle.load(package / "bundle"), package, golden.digest(package))


def swap_rows(folder: Path) -> None:
    """Other inputs with the figures that the bundle gives them: all fits together, and nothing is what was registered."""
    path = folder / golden.INPUTS
    pl.read_parquet(path).with_columns(pl.col("heavy") + 1).write_parquet(path)
    edit(folder / golden.EXPECTED, lambda value: value.update(inputs_sha256=store.sha256(path)))


def test_a_version_proves_itself_or_names_what_is_wrong_with_it(ready: Path, tmp_path: Path) -> None:
    register()
    prove(MODEL, uri(), 1)
    stored = {path.name: path for path in Path("mlflow/artifacts").rglob("*") if path.name in (*golden.FILES, "policy.json")}
    faults: list[tuple[str, Callable[[Path], object], str]] = [
        (
            golden.INPUTS,
            lambda path: path.write_bytes(b"no table"),
            r"must have the file golden/golden\.parquet as it was registered, however: its digest is",
        ),
        (golden.INPUTS, Path.unlink, r"must have the file golden/golden\.parquet as it was registered, however: it is missing"),
        ("policy.json", lambda path: path.write_text("{}"), r"policy\.json must have the SHA-256"),
        (
            golden.EXPECTED,
            lambda path: swap_rows(path.parent),
            r"must have the file golden/golden\.json as it was registered, however: its digest is",
        ),
    ]
    for name, change, message in faults:
        kept = Path(shutil.copytree(stored[name].parent, tmp_path / "kept"))
        change(stored[name])
        with pytest.raises(ExpostError, match=message) as caught:
            proof.prove(MODEL, uri(), 1)
        if name == golden.EXPECTED:
            break  # the last one stays, for the fresh process to find
        shutil.rmtree(stored[name].parent)
        kept.rename(stored[name].parent)
    with pytest.raises(ExpostError) as told:
        prove(MODEL, uri(), 1)
    assert str(told.value) == f"version 1 of model tested must prove itself in a fresh process, however: {caught.value}"


def test_a_proof_that_hangs_is_ended(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    (tmp_path / "sitecustomize.py").write_text("import sys, time\nif 'pipelines.proof' in sys.orig_argv:\n    time.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(
        ExpostError, match=r"must prove itself in a fresh process, however: it had not ended after 1 seconds and was killed"
    ):
        prove(MODEL, uri(), 1, seconds=1)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_is_ended_takes_its_children_with_it(tmp_path: Path) -> None:
    note = tmp_path / "children"
    with pytest.raises(TimeoutError):
        fresh.run(["sh", "-c", f"sleep 1000 & echo $! > {note}; setsid sleep 1000 & echo $! >> {note}; wait"], 1)
    children = [int(line) for line in note.read_text().split()]
    assert len(children) == 2
    deadline = time.monotonic() + 60  # they are killed at once; a loaded machine may take a moment to bury them
    while any(map(alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_version_without_golden_rows_cannot_prove_itself(ready: Path) -> None:
    register()
    client().delete_model_version_tag(MODEL, "1", "golden_sha256")
    with pytest.raises(ExpostError, match="must have golden rows to prove itself, however: it has none"):
        registry.fetch_golden(MODEL, uri(), 1, ready)


def test_an_earlier_verdict_is_read_until_the_new_one_is_whole(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register("FAIL")
    monkeypatch.setenv(failpoints.VARIABLE, "register.files:raise")
    with pytest.raises(ExpostError, match=r"register\.files"):
        register("PASS")
    assert registry.verdict(MODEL, uri(), 1)["verdict"] == "FAIL"
    monkeypatch.delenv(failpoints.VARIABLE)
    register("PASS")
    assert registry.verdict(MODEL, uri(), 1)["verdict"] == "PASS"


def test_a_verdict_that_was_changed_in_the_store_is_refused(ready: Path) -> None:
    register("FAIL")
    for path in Path("mlflow/artifacts").rglob("verdict.json"):
        path.write_text(path.read_text().replace("FAIL", "PASS"))
    with pytest.raises(
        ExpostError, match=r"version 1 must have the file gate/\w+/verdict\.json as it was registered, however: its digest is"
    ):
        registry.verdict(MODEL, uri(), 1)


def test_files_of_a_version_are_read_as_they_were_registered_or_not_at_all(ready: Path) -> None:
    register()
    assert registry.artifact(MODEL, uri(), 1, "report/card.md") == b"# Model card\n"
    for path in ("report/none.html", "report", "../../MLmodel", "golden/../report/card.md"):
        with pytest.raises(registry.AbsentError, match=rf"version 1 must have the file {path}, however: it was registered without it"):
            registry.artifact(MODEL, uri(), 1, path)

    card, listing = next(Path("mlflow/artifacts").rglob("report/card.md")), next(Path("mlflow/artifacts").rglob("files/*.json"))
    card.write_text("# Another card\n")
    edit(listing, lambda value: value.update({"report/card.md": store.sha256(card)}))
    with pytest.raises(ExpostError, match=r"version 1 must have the file files/\w+\.json as it was registered, however: its digest is"):
        registry.artifact(MODEL, uri(), 1, "report/card.md")


def test_a_file_that_was_changed_or_lost_in_the_store_is_no_absent_one(ready: Path) -> None:
    register()
    card = next(Path("mlflow/artifacts").rglob("report/card.md"))
    for change, got in ((lambda: card.write_text("# Another card\n"), "its digest is"), (card.unlink, "it is missing")):
        change()
        with pytest.raises(ExpostError, match=rf"must have the file report/card\.md as it was registered, however: {got}") as caught:
            registry.artifact(MODEL, uri(), 1, "report/card.md")
        assert not isinstance(caught.value, registry.AbsentError)


def test_a_version_that_does_not_exist_proves_nothing(ready: Path) -> None:
    register()
    with pytest.raises(ExpostError, match=r"must be one of model tested, however: 2\. Versions: 1"):
        prove(MODEL, uri(), 2)
