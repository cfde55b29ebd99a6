"""The source becomes a DVC version when, and only when, its content changed; a kill or a bad source loses nothing."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipelines.commands import source
from pipelines.commands.source import SourceState, sync_source
from pipelines.errors import ExpostError
from pipelines.tables import read_table

OLD, NEW = "a,y\n1,no\n2,yes\n", "a,y\n1,no\n2,yes\n3,no\n"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository without git: `dvc add` is real."""
    folder = tmp_path / "workspace"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n")
    monkeypatch.chdir(folder)
    return folder


def configure(**changes: Any) -> None:
    section = {"target": "y", "classes": ["no", "yes"], "columns": {"a": {"role": "feature", "kind": "number"}}, **changes}
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": section}))


def sync() -> SourceState:
    return sync_source(lambda line: None)


def count_adds(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Let `dvc add` run as it does, and note each time."""
    calls: list[None] = []
    add = source._dvc_add
    monkeypatch.setattr(source, "_dvc_add", lambda: (calls.append(None), add())[1])
    return calls


@pytest.fixture
def quick_add(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write data/raw.dvc without starting DVC, for tests of what happens before it."""

    def add() -> None:
        digest = source._directory_digest(source._listing(source.RAW))
        Path("data/raw.dvc").write_text(yaml.safe_dump({"outs": [{"md5": digest, "path": "raw"}]}))

    monkeypatch.setattr(source, "_dvc_add", add)


def contents() -> dict[str, str]:
    return {path.relative_to("data").as_posix(): path.read_text() for path in sorted(Path("data").rglob("*")) if path.is_file()}


def test_a_file_is_versioned_once_per_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, adds = tmp_path / "t.csv", count_adds(monkeypatch)
    configure(source=str(table))
    table.write_text(OLD)
    first = sync()
    assert first == SourceState(True, yaml.safe_load(Path("data/raw.dvc").read_text())["outs"][0]["md5"], ("table/t.csv",))
    table.touch()
    assert sync() == SourceState(False, first.digest, first.files)
    assert len(adds) == 1  # DVC does not start where nothing changed
    table.write_text(NEW)
    second = sync()
    assert second.changed and second.digest != first.digest
    assert Path("data/raw/table/t.csv").read_text() == NEW
    table.write_text(OLD)
    assert sync().digest == first.digest  # the digest names the content
    assert not list(Path("data").glob(".raw*"))


@pytest.mark.usefixtures("quick_add")
def test_parts_of_a_folder_that_went_away_go_away(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    (parts / "2024").mkdir(parents=True)
    (parts / "2024" / "1.csv").write_text(OLD)
    (parts / "2.csv").write_text(OLD)
    (parts / "README.md").write_text("not a table")
    configure(source=str(parts))
    assert sync().files == ("table/2.csv", "table/2024/1.csv")
    (parts / "2.csv").unlink()
    assert sync().files == ("table/2024/1.csv",)


@pytest.mark.usefixtures("quick_add")
def test_a_file_without_a_suffix_gets_one_by_which_ingest_finds_it(tmp_path: Path) -> None:
    (tmp_path / "export").write_text(OLD)
    configure(source=str(tmp_path / "export"))
    assert sync().files == ("table/export.csv",)
    assert not sync().changed
    assert len(read_table("data/raw/table")) == 2


def test_the_holdout_source_stands_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(OLD)
    (tmp_path / "h.csv").write_text(NEW)
    configure(source=str(tmp_path / "t.csv"), holdout_source=f"file://{tmp_path}/h.csv")
    assert sync().files == ("holdout/h.csv", "table/t.csv")
    configure(source=str(tmp_path / "t.csv"))
    state = sync()
    assert state.changed and state.files == ("table/t.csv",)


def test_a_source_inside_data_raw_stays_where_it_is() -> None:
    Path("data/raw/mine").mkdir(parents=True)
    Path("data/raw/mine/t.csv").write_text(OLD)
    configure(source="data/raw/mine/t.csv")
    assert sync().files == ("mine/t.csv",)
    Path("data/raw/mine/t.csv").write_text(NEW)
    assert sync().changed
    Path("h.csv").write_text(OLD)
    configure(source="data/raw/mine/t.csv", holdout_source="h.csv")
    assert sync().files == ("holdout/h.csv", "mine/t.csv")
    shutil.rmtree("data/raw")
    with pytest.raises(ExpostError, match=r"data/raw/mine/t.csv is missing.*dvc pull"):
        sync()


def test_the_default_is_the_table_that_scikit_learn_ships() -> None:
    from sklearn.datasets import load_breast_cancer

    configure(source="sklearn:breast_cancer")
    first = sync()
    assert not sync().changed
    table, data = read_table("data/raw/table"), load_breast_cancer()
    assert table.drop("diagnosis").to_numpy().tolist() == data.data.tolist()  # not a bit is lost in CSV
    assert table.columns == [*data.feature_names, "diagnosis"]
    assert table["diagnosis"].to_list() == [str(data.target_names[label]) for label in data.target]
    assert first.digest == "704c39e6bef358c58a04914256679628.dir"  # scikit-learn 1.9.1; these bytes depend on no other library


def test_a_fresh_clone_without_data_gets_the_same_version(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(OLD)
    configure(source=str(tmp_path / "t.csv"))
    first = sync()
    shutil.rmtree("data/raw")
    shutil.rmtree(".dvc/cache")
    again = sync()
    assert again == SourceState(False, first.digest, first.files)
    assert list(Path(".dvc/cache").rglob("*.dir"))  # so that `dvc push` has something to push


@pytest.mark.usefixtures("quick_add")
@pytest.mark.parametrize("fault", ["missing", "truncated", "remote", "duplicate", "empty folder"])
def test_a_bad_source_leaves_the_former_data(tmp_path: Path, fault: str) -> None:
    good = tmp_path / "t.csv"
    good.write_text(OLD)
    configure(source=str(good))
    sync()
    before = contents()
    bad = {"missing": str(tmp_path / "gone.csv"), "remote": "http://127.0.0.1:9/t.csv"}.get(fault, str(tmp_path / "bad"))
    if fault == "truncated":
        pl.DataFrame({"a": range(1000)}).write_parquet(tmp_path / "whole")
        (tmp_path / "bad").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    elif fault == "duplicate":
        (tmp_path / "bad").write_text("a,a\n1,2\n")
    elif fault == "empty folder":
        (tmp_path / "bad").mkdir()
    configure(source=bad)
    with pytest.raises(ExpostError, match=r"gone\.csv|127\.0\.0\.1:9|bad"):
        sync()
    assert contents() == before


@pytest.mark.usefixtures("quick_add")
def test_a_source_that_is_written_to_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "t.csv"
    table.write_text(OLD)
    configure(source=str(table))
    sync()
    before = contents()
    table.write_text(NEW)
    copy = shutil.copyfile

    def slow(origin: Path, target: Path) -> None:
        copy(origin, target)
        with table.open("a") as stream:
            stream.write("4,yes\n")

    monkeypatch.setattr(source.shutil, "copyfile", slow)
    with pytest.raises(ExpostError, match="must not change while it is read"):
        sync()
    assert contents() == before


def test_without_a_repository_the_remedy_is_git_init(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(OLD)
    configure(source=str(tmp_path / "t.csv"))
    shutil.rmtree(".dvc")
    with pytest.raises(ExpostError, match="git init"):
        sync()


#: Kill the process, for good, at the named moment of `sync_source`.
KILL = """
import os, pathlib, shutil, signal, sys
from pipelines.commands import source

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

moment, calls = sys.argv[1], []
if moment == "while copying":
    source.shutil.copyfile = lambda origin, target: (pathlib.Path(target).write_text("half"), die())
elif moment == "before the swap":
    source._swap = die
elif moment == "between the renames":
    rename = pathlib.Path.rename
    pathlib.Path.rename = lambda self, target: die() if calls else (calls.append(1), rename(self, target))
elif moment == "before dvc add":
    source._dvc_add = die
source.sync_source()
"""


@pytest.mark.parametrize("moment", ["while copying", "before the swap", "between the renames", "before dvc add"])
def test_after_a_kill_the_next_run_goes_on(tmp_path: Path, moment: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(OLD)
    configure(source=str(table))
    old = sync()
    table.write_text(NEW)
    done = subprocess.run([sys.executable, "-c", KILL, moment], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    new = sync()
    assert new.changed and new.digest != old.digest
    assert contents()["raw/table/t.csv"] == NEW
    assert not sync().changed
    assert {path.name for path in Path("data").iterdir()} - {".gitignore"} == {"raw", "raw.dvc"}


@pytest.mark.usefixtures("quick_add")
@pytest.mark.parametrize("moment", ["while copying", "before the swap", "between the renames"])
def test_after_a_kill_the_old_data_is_not_lost_where_the_source_is(tmp_path: Path, moment: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(OLD)
    configure(source=str(table))
    sync()
    table.write_text(NEW)
    subprocess.run([sys.executable, "-c", KILL, moment], capture_output=True, check=False)
    table.unlink()
    with pytest.raises(ExpostError, match="missing"):
        sync()
    assert contents()["raw/table/t.csv"] == OLD
