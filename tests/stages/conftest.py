"""Fixtures of the stages' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.shipped import run_stages, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a small mixed table, taken from ingest to package. Read only: copy it before changing anything."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages("ingest", "split", "train", "calibrate", "decide", "package")
    return folder
