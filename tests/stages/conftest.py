"""Fixtures of the stages' tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines import champion, evaluate, gate, report
from tests.conftest import Once
from tests.stages.judging import crown, other_policy, quick, validated


@pytest.fixture(scope="session")
def judged(world: Path, once: Once) -> Path:
    """A workspace with a champion, judged and reported. Read only."""

    def fill(folder: Path) -> None:
        shutil.copytree(world, folder, dirs_exist_ok=True)
        crown(folder, folder / "data/package/bundle", other_policy)
        validated(folder)
        quick(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for stage in (champion, evaluate, gate, report):
                stage.main()

    return once("judged", fill)


@pytest.fixture
def copy(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(judged, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder
