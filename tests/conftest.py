"""Shared fixtures: a workspace is a clone of the source tree in a temporary folder, with its own git and DVC."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipelines  # noqa: F401  telemetry off before anything else is imported

ROOT = Path(__file__).parents[1]
REAL_DATA = Path(os.environ.get("EXPOST_DATA", ROOT / "../shared/data")).resolve()
SOURCE = (
    "pipelines",
    "flows",
    "dvc.yaml",
    "params.yaml",
    "prefect.yaml",
    "data/expectations.json",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
    "mlflow/README.md",
)


def real_table(name: str) -> Path:
    """Path of a real table, or a skip that says what is absent."""
    path = REAL_DATA / name / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"the real table {name} is absent: {path.name} not found beside the repository (set EXPOST_DATA)")
    return path


def make_workspace(folder: Path) -> Path:
    """Copy the source tree into `folder` and make it a git repository with one commit."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SOURCE:
        origin, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(origin, target)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return folder


def edit_params(workspace: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Apply `change` to the workspace's params.yaml as plain types."""
    path = workspace / "params.yaml"
    values = yaml.safe_load(path.read_text())
    change(values)
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def run(*command: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the virtual environment in `cwd`; returns it finished, output as text, never raising on its exit code."""
    binary = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binary}{os.pathsep}{os.environ['PATH']}", **extra}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=900)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh workspace with the default data's configuration, as the current directory."""
    folder = make_workspace(tmp_path / "workspace")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Prefect home for the whole run: migrating its database costs ten seconds once."""
    home = tmp_path_factory.mktemp("prefect")
    os.environ["PREFECT_HOME"] = str(home)
    return home
