"""Registering under faults: killed at every step, answers lost, many at once, no room, a locked database, a registry that goes away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines import failpoints, proof, registry
from pipelines.bundle import Bundle
from pipelines.commands import mirror, publish
from pipelines.ledger import Ledger, UnreachableError
from tests.conftest import ROOT, run
from tests.faults.proxy import Server, between, free_port
from tests.registering import DATA, MODEL, another_result, client, judge, judged_world, prepared, register, runs, silent, uri, versions

REGISTER = "from tests.registering import register; register()"
MOMENTS = [name for name in failpoints.NAMES if name.startswith("register.")]


@pytest.fixture(autouse=True)
def _proving_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version proves itself in this process: a fresh one is the matter of tests/stages/test_proof.py, and takes seconds."""
    monkeypatch.setattr(registry, "prove", proof.prove)


def state() -> dict[str, Any]:
    """What the registry holds for who uses it: live versions with their tags, aliases, the run's state and files."""
    (live,) = registry.versions(MODEL, uri())
    registry.fetch_bundle(MODEL, uri(), live["version"], Path("fetched"))
    verdict = registry.verdict(MODEL, uri(), live["version"])
    run_id = live.pop("run_id")
    files = [(folder, item.path) for folder in ("gate", "golden", "report") for item in client().list_artifacts(run_id, folder)]
    aliases = client().get_registered_model(MODEL).aliases
    assert registry.artifact(MODEL, uri(), live["version"], "report/card.md") == Path("data/report/card.md").read_bytes()
    del live["registered_at"], live["files_sha256"]  # params.yaml is among the files, and names the workspace's folder
    return {"live": live, "aliases": aliases, "verdict": verdict, "files": files, "run": client().get_run(run_id).info.status}


@pytest.fixture(scope="module")
def clean(world: Path, template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the registry holds after registering without a fault."""
    folder = prepared(world, template, tmp_path_factory.mktemp("clean") / "ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        judged_world()
        register()
        return state()


def in_another_process(code: str = REGISTER, **environment: str) -> subprocess.Popen[str]:
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path, **environment}, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_registering_leaves_nothing_that_does_not_verify_and_the_next_run_ends_as_a_clean_one(
    ready: Path, clean: dict[str, Any], moment: str
) -> None:
    killed = in_another_process(**{failpoints.VARIABLE: f"{moment}:kill"})
    said = killed.communicate()[1]
    assert killed.returncode == -signal.SIGKILL, said
    assert len(versions()) == (moment in ("register.version", "register.alias"))
    for version in versions():
        registry.fetch_bundle(MODEL, uri(), int(version.version), ready / "found")
        assert Bundle.load(ready / "found").manifest["bundle_sha256"] == version.tags["bundle_sha256"]
    register()
    assert state() == clean
    assert "RUNNING" not in runs().values()
    assert len(versions()) == 1


def test_a_failure_after_the_version_was_made_is_made_good_by_the_next_run(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "register.version:raise")
    with pytest.raises(UnreachableError, match=r"failpoint register\.version"):
        register()
    assert list(runs().values()) == ["FAILED"]
    monkeypatch.delenv(failpoints.VARIABLE)
    assert not register().created
    assert list(runs().values()) == ["FINISHED"]
    assert len(versions()) == 1


AT_ONCE = """
import os, sys, traceback
import mlflow, onnxruntime, polars
from tests.registering import register
def at_once(count, model):
    ready, go = os.pipe()
    children = []
    for _ in range(count):
        if (child := os.fork()) == 0:
            os.close(go)
            os.read(ready, 1)  # ends for all at the same moment
            try:
                os.write(1, f"{model} {register(model=model).created}\\n".encode())
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    os.close(go)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)
sys.exit(at_once(2, "pair") + at_once(8, "tested"))
"""


def test_the_same_result_registered_by_several_at_once_is_one_live_version(ready: Path, clean: dict[str, Any]) -> None:
    done = run(sys.executable, "-c", AT_ONCE, cwd=ready, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["pair False", "pair True", *["tested False"] * 7, "tested True"]
    assert state() == clean
    assert [one["version"] for one in registry.versions("pair", uri())] == [1]
    assert [int(version.version) for version in versions() if "duplicate" not in version.tags] == [1]
    assert set(runs().values()) == {"FINISHED"}


@pytest.fixture(scope="module")
def server(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tracking server that keeps the artifacts too, on an empty store."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "mlflow.db")
    found = Server(folder)
    found.start()
    yield found
    found.kill()


@pytest.mark.parametrize("request_", ["runs/create", "logged-models", "registered-models/create", "model-versions/create"])
def test_an_answer_that_is_lost_leaves_one_live_version(
    ready: Path, server: Server, request_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    model = f"lost-{request_.replace('/', '-')}"
    verdict = judge("FAIL")
    with between(server, lambda name: name.startswith("POST ") and name.endswith(request_)) as (url, seen):
        first = registry.register(model, url, data_digest=DATA, verdict=verdict)
        assert len(seen) > 1
        again = registry.register(model, url, data_digest=DATA, verdict=verdict)
        assert (first.version, first.created, again.version, again.created) == (1, True, 1, False)
        assert [one["version"] for one in registry.versions(model, url)] == [1]
        registry.fetch_bundle(model, url, 1, ready / "found")
        assert registry.verdict(model, url, 1) == verdict
    states = runs(MlflowClient(f"http://127.0.0.1:{server.port}"), model)
    assert states.pop(first.run_id) == "FINISHED"
    assert set(states.values()) <= {"KILLED"}


def test_a_server_that_dies_while_registering_is_one_message_and_the_next_run_registers(
    ready: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    before = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    with between(server, lambda name: name.endswith("artifacts/bundle/model.onnx"), instead=server.kill) as (url, seen):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(UnreachableError, match=r"^the registry must be within reach, however: .* safe on disk") as caught:
            publish.publish(DATA, silent)
        assert seen
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.port}")
    assert registry.versions(MODEL, "") == []
    assert publish.publish(DATA, silent).promoted
    assert [one["version"] for one in registry.versions(MODEL, "")] == [1]


def test_a_closed_port_is_one_message_and_exit_code_1(ready: Path) -> None:
    done = run("expost", "status", cwd=ready, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the registry must be within reach, however: http://127.0.0.1:")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture
def small_disk(world: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As `ready`, with registry, ledger and mirror on a disk of 16 MB, whose folder it returns."""
    folder = prepared(world, template, tmp_path / "ready")
    place, kept = folder / "mlflow", folder / "kept"
    place.rename(kept)
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {mounted.stderr.strip()}")
    shutil.copytree(kept, place, dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    judged_world()
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_registers_nothing_and_leaves_the_champion(small_disk: Path) -> None:
    assert publish.publish(DATA, silent).promoted
    mirrored, filler = json.loads(mirror.STATUS.read_text()), small_disk / "filler"
    another_result()
    judge("PASS")
    for room in (200_000, 0):  # too little for the model, nothing at all
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free + (filler.stat().st_size if filler.exists() else 0) - room))
        with pytest.raises(UnreachableError, match=r"(No space left on device|disk is full)") as caught:
            publish.publish(DATA, silent)
        assert len(str(caught.value).splitlines()) == 1
    assert json.loads(mirror.STATUS.read_text()) == mirrored
    assert Bundle.load(mirror.BUNDLE).manifest["bundle_sha256"] == mirrored["bundle_sha256"]
    filler.unlink()
    assert [one["version"] for one in registry.versions(MODEL, uri())] == [1]
    assert Ledger(f"sqlite:///{small_disk}/ledger.db").reign(MODEL).version == 1
    assert register().version == 2
    assert "RUNNING" not in runs().values()


def test_a_database_that_another_process_holds_is_waited_for_a_while_and_then_named(ready: Path) -> None:
    fresh = uri().replace("/mlflow/", "/./mlflow/")  # a store that this process has not opened yet: 5 seconds of patience, else 20
    holder = sqlite3.connect("mlflow/mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UnreachableError, match=r"the registry's database must be free to write, however: .*database is locked"):
        registry.register(MODEL, fresh, data_digest=DATA, verdict=publish.read_verdict())
    holder.execute("ROLLBACK")
    holder.close()
    assert register().created
