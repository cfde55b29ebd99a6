"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import store


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with store.stage_folder("train") as out:
        (out / "a").write_text("old")
    return tmp_path / "data"


def standing(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_stage_that_fails_leaves_the_old_folder_as_it_was(folder: Path) -> None:
    with pytest.raises(RuntimeError), store.stage_folder("train") as out:
        (out / "a").write_text("half")
        raise RuntimeError
    assert standing(folder) == {"train/a": "old"}


def test_a_stage_that_ends_replaces_all_of_it(folder: Path) -> None:
    with store.stage_folder("train") as out:
        (out / "b").write_text("new")
    assert standing(folder) == {"train/b": "new"}


def test_a_rename_that_fails_brings_the_old_folder_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if path.name.endswith(".writing"):
            raise OSError("no space left on device")
        return rename(path, target)

    with pytest.raises(OSError, match="no space"), store.stage_folder("train") as out:
        (out / "a").write_text("new")
        monkeypatch.setattr(Path, "rename", full)
    assert standing(folder) == {"train/a": "old"}


def test_json_that_is_not_finite_is_refused_and_written_as_missing(tmp_path: Path) -> None:
    store.write_json(tmp_path / "x.json", {"a": float("nan"), "b": [1.5, float("inf")]})
    assert store.read_json(tmp_path / "x.json") == {"a": None, "b": [1.5, None]}
    (tmp_path / "y.json").write_text('{"a": NaN}')
    with pytest.raises(store.ExpostError, match="finite"):
        store.read_json(tmp_path / "y.json")
