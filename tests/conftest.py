"""Shared fixtures: a workspace is a clone of the source tree in a temporary folder, with its own git and DVC."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from hypothesis import settings

import pipelines  # noqa: F401  telemetry off before anything else is imported
from tests.postgres import postgres_server  # noqa: F401  a fixture

# A loaded machine is no failure, and what decides whether a change lands must not be drawn by lot.
settings.register_profile("expost", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("expost")

logging.raiseExceptions = False  # Prefect says good-bye when pytest has closed the streams already

ROOT = Path(__file__).parents[1]
REAL_DATA = Path(os.environ.get("EXPOST_DATA", ROOT / "../shared/data")).resolve()


#: What takes minutes comes first, so that no worker is left with it at the end.
SLOWEST = ("tests/test_docs.py", "tests/flows", "tests/faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by `SLOWEST`, otherwise as they were."""
    places = [ROOT / name for name in SLOWEST]

    def place(item: pytest.Item) -> int:
        return next((i for i, path in enumerate(places) if item.path == path or path in item.path.parents), len(places))

    items.sort(key=place)


def real_table(name: str) -> Path:
    """Path of a real table, or a skip that says what is absent."""
    path = REAL_DATA / name / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"the real table {name} is absent: {path.name} not found beside the repository (set EXPOST_DATA)")
    return path


def make_workspace(folder: Path) -> Path:
    """Copy the source tree (what git tracks or would track, without the tests) into `folder`: a git repository with one commit."""
    listed = subprocess.run(["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and not name.startswith("tests/") and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    _share_environment(folder / ".venv")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return folder


def _share_environment(folder: Path) -> None:
    """The tests' own virtual environment under another path, newer than all that make compares it with: make must not install it again."""
    folder.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".ready":
            (folder / entry.name).symlink_to(entry)
    (folder / ".ready").touch()


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


#: Called with a name and what fills a new folder; returns the folder of that name, filled by whoever came first.
Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """What takes long is made once for all of the workers that run side by side; the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        folder, ready = shared / f"once-{name}", shared / f"once-{name}.ready"
        with FileLock(shared / f"once-{name}.lock"):
            if not ready.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed in it
                folder.mkdir()
                fill(folder)
                ready.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def first_run(once: Once, prefect_home: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A workspace on the default data after its first `make retrain`, and what that printed. Read only: copy before changing anything."""

    def fill(folder: Path) -> None:
        done = run("make", "retrain", cwd=make_workspace(folder / "workspace"))
        (folder / "done.json").write_text(json.dumps([done.args, done.returncode, done.stdout, done.stderr]))

    folder = once("retrained", fill)
    return folder / "workspace", subprocess.CompletedProcess(*json.loads((folder / "done.json").read_text()))


@pytest.fixture(scope="session")
def retrained(first_run: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """The workspace of `first_run`, which must have ended with PASS."""
    folder, done = first_run
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return folder


@pytest.fixture
def workspace_copy(retrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the retrained workspace, as the current directory, free to change."""
    folder = tmp_path / "workspace"
    shutil.copytree(retrained, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Prefect home for the whole run: migrating its database costs ten seconds once."""
    home = tmp_path_factory.mktemp("prefect")
    os.environ["PREFECT_HOME"] = str(home)
    return home


@pytest.fixture(scope="session")
def world(once: Once) -> Path:
    """A workspace with a small mixed table, taken from ingest to package. Read only: copy it before changing anything."""
    from tests.stages.shipped import run_stages, write_lock, write_world

    def fill(folder: Path) -> None:
        write_world(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            run_stages("ingest", "split", "train", "calibrate", "decide", "package")
        write_lock(folder)

    return once("world", fill)


@pytest.fixture(scope="session")
def template(once: Once) -> Path:
    """A fresh store, made once: its migrations take seconds."""
    from pipelines import tracking

    return once("store", lambda folder: tracking.prepare(f"sqlite:///{folder}/mlflow.db", "template")) / "mlflow.db"


@pytest.fixture
def ready(world: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose stages have run, with a store of its own, where no champion reigns, as the current directory."""
    from tests.registering import judged_world, prepared

    folder = prepared(world, template, tmp_path / "ready")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    judged_world()
    return folder


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Versions that were asked to prove themselves, without the fresh process, which takes seconds and has tests of its own."""
    from pipelines import registry

    asked: list[int] = []
    monkeypatch.setattr(registry, "prove", lambda model, uri, version: asked.append(version))
    return asked
