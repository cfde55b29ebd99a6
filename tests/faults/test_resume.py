"""kill -9 or Ctrl-C at any stage: the next run goes on, and ends where an undisturbed one does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import edit_params, make_workspace, run
from tests.faults.killing import stopped

STAGES = ("ingest", "validate", "split", "train", "calibrate", "decide", "package", "champion", "evaluate", "gate", "report")
#: What each stage is killed at; "renamed" is after its work, before DVC has taken it over.
MOMENTS = dict(zip(STAGES, ("opened", "written", "renamed", "training", *("opened", "written", "renamed") * 3), strict=False))


def quick(params: dict[str, Any]) -> None:
    params["train"]["network"].update(k=2, blocks=1, width=16, number_embedding=4, bins=4)
    params["train"].update(max_epochs=8, patience=8, learning_rate=0.01)
    params["calibrate"].update(methods=["identity", "temperature"], repeats=1)
    params["decide"].update(trials=10)
    params["evaluate"].update(resamples=100)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with its data, on which no stage ran; it keeps a checkpoint after each epoch. Read only: copy it."""
    folder = make_workspace(tmp_path_factory.mktemp("fresh") / "workspace")
    edit_params(folder, quick)
    source = folder / "pipelines/network/fit.py"
    text, found = re.subn(r"(?m)^CHECKPOINT_EVERY = .*$", "CHECKPOINT_EVERY = 0.0", source.read_text())
    assert found == 1
    source.write_text(text)
    synced = run("expost", "sync", "--data-only", cwd=folder)
    assert synced.returncode == 0, synced.stderr
    return folder


@pytest.fixture(scope="module")
def undisturbed(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same workspace after `dvc repro`. Read only: copy it."""
    folder = Path(shutil.copytree(fresh, tmp_path_factory.mktemp("undisturbed") / "workspace", symlinks=True))
    done = run("dvc", "repro", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def outs(workspace: Path) -> dict[str, Any]:
    """The digests of each stage's outs in dvc.lock."""
    lock = yaml.safe_load((workspace / "dvc.lock").read_text())
    return {name: [(out["path"], out["md5"]) for out in stage["outs"]] for name, stage in lock["stages"].items()}


def named(*stages: str) -> list[str]:
    """The stages without champion, which always runs."""
    return [name for name in stages if name != "champion"]


def ran(output: str) -> list[str]:
    return named(*re.findall(r"Running stage '(\w+)'", output))


def leftovers(workspace: Path) -> list[str]:
    found = [path.name for path in (workspace / "data").iterdir() if path.name.endswith((".writing", ".old"))]
    return found + [path.name for path in (workspace / ".checkpoints").glob("*") if path.suffix != ".journal"]  # studies are kept


def test_dvc_repro_goes_on_after_kill_9_in_every_stage(fresh: Path, undisturbed: Path, tmp_path: Path) -> None:
    workspace = Path(shutil.copytree(fresh, tmp_path / "workspace", symlinks=True))
    killed_before: list[str] = []
    for name, moment in MOMENTS.items():
        with stopped(workspace, "dvc", "repro", at=f"{name}:{moment}") as command:
            # what was done stays done: only the stage killed last runs again
            assert ran(command.said) == killed_before + named(name)
            command.signal(signal.SIGKILL)
            assert command.ended() == -signal.SIGKILL
            assert command.left() == []
        killed_before = named(name)
        if name == "train":
            (checkpoint,) = (workspace / ".checkpoints").glob("*/last.ckpt")
            assert checkpoint.stat().st_size > 0
        if name == "calibrate":  # the run that came this far has trained, from the checkpoint
            assert "going on from the checkpoint" in command.said
    done = run("dvc", "repro", cwd=workspace)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outs(workspace) == outs(undisturbed)
    assert leftovers(workspace) == []
    assert (workspace / "data/train/model.onnx").read_bytes() == (undisturbed / "data/train/model.onnx").read_bytes()


def model(workspace: Path) -> dict[str, Any]:
    done = run("expost", "status", "--json", cwd=workspace)
    assert done.returncode == 0, done.stderr
    status: dict[str, Any] = json.loads(done.stdout)
    return status


def test_expost_retrain_goes_on_after_kill_9_and_ctrl_c_and_registers_once(fresh: Path, tmp_path: Path) -> None:
    workspace = Path(shutil.copytree(fresh, tmp_path / "workspace", symlinks=True))

    with stopped(workspace, "expost", "retrain", at="decide:opened") as command:
        command.command.send_signal(signal.SIGKILL)  # it alone: what it started is left behind
        command.ended()
        assert command.stage.is_running()

        with stopped(workspace, "expost", "retrain", at="evaluate:written") as second:
            assert command.left() == []  # the next run has ended what the first one left, Prefect's temporary server too
            second.signal(signal.SIGINT)
            assert second.ended() == 1
            assert second.left() == []
    errors = [line for line in second.said.splitlines() if line.lower().startswith("error")]
    assert errors == ["error: interrupted; nothing half-written was left, the next run goes on"]
    assert "Traceback" not in second.said
    assert leftovers(workspace) == []

    (workspace / ".dvc/tmp/rwlock").write_text("")  # as a kill may leave it
    # promoted in the ledger, not mirrored yet
    with stopped(workspace, "expost", "retrain", at="expost:mirrored") as third:
        assert model(workspace)["champion"]["version"] == 1
        third.signal(signal.SIGKILL)
        third.ended()

    another = {"pid": os.getpid(), "cmd": "dvc repro"}  # a number that was a killed DVC's and is another process's now
    (workspace / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {str(workspace / "data/champion"): another}, "read": {}}))
    done = run("expost", "retrain", "--json", cwd=workspace)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["verdict"], outcome["identical"], outcome["created"]) == ("PASS", True, False)
    status = model(workspace)
    assert status["champion"]["version"] == 1
    assert status["challenger"] is None  # no second version
    assert json.loads((workspace / "mlflow/champion/status.json").read_text())["version"] == 1
