"""The flow around the stages, on fast fake ones: what runs, what is cached, what is not started, what the user reads."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prefect import flow

from flows import graph, retrain
from flows.process import Lines
from flows.workspace import exclusive
from pipelines.errors import ExpostError


@flow(name="stages-only")
def stages_only() -> dict[str, str]:
    with exclusive():
        return retrain.run_stages()


def change(**values: Any) -> None:
    """Set parameters `first_value=7` in the fake workspace."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    for name, value in values.items():
        stage, key = name.split("_")
        params[stage][key] = value
    Path("params.yaml").write_text(yaml.safe_dump(params))


def test_only_what_changed_runs_and_the_rest_is_cached(fake: Path) -> None:
    assert set(stages_only().values()) == {"Completed"}
    assert (fake / "data/third/out.txt").read_text() == "third 4; second 2; first 1; aside 3; "

    assert set(stages_only().values()) == {"Cached"}

    change(second_value=5)
    assert stages_only() == {"first": "Cached", "second": "Completed", "aside": "Cached", "third": "Completed"}

    # the stage runs, but what it writes is the same, so that nothing after it has a reason to run
    change(first_value=11)
    assert stages_only() == {"first": "Completed", "second": "Cached", "aside": "Cached", "third": "Cached"}

    (fake / "data/second/out.txt").unlink()
    assert stages_only()["second"] == "Completed"
    assert (fake / "data/second/out.txt").exists()


def test_a_failed_stage_is_the_message_and_its_dependants_do_not_start(fake: Path) -> None:
    change(second_fail=True)
    with pytest.raises(ExpostError) as caught:
        stages_only()
    assert str(caught.value) == "second must be told to succeed, however: it was told to fail. Change it."
    assert (fake / "data/aside/out.txt").exists()
    assert not (fake / "data/third").exists()

    change(second_fail=False)
    assert stages_only() == {"first": "Cached", "second": "Completed", "aside": "Cached", "third": "Completed"}


def test_a_stage_that_dies_without_a_word_is_named_with_its_last_lines(fake: Path) -> None:
    change(first_die=True)
    with pytest.raises(ExpostError, match=r"(?s)stage first must end well.*last words.*dvc repro --single-item first"):
        stages_only()
    change(first_die=False)
    assert stages_only()["first"] == "Completed"


def test_the_stages_lines_reach_the_log_of_the_run(fake: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("prefect.task_runs")
    logger.addHandler(caplog.handler)
    try:
        stages_only()
    finally:
        logger.removeHandler(caplog.handler)
    assert "stage third speaks" in caplog.messages


def test_the_graph_is_read_from_dvc_yaml(fake: Path) -> None:
    stages = graph.stage_graph()
    assert [(stage.name, stage.upstream) for stage in stages] == [
        ("first", ()),
        ("second", ("first",)),
        ("aside", ()),
        ("third", ("second", "aside")),
    ]
    assert stages[0].desc == "the first one"
    assert stages[0].outs == ("data/first",)
    assert list(graph.changed_stages()) == ["first", "second", "aside", "third"]
    assert graph.outs_digest("first") is None
    assert graph.data_digest() is None


def test_a_second_run_is_refused_and_names_the_holder(fake: Path) -> None:
    with exclusive():
        code = "from flows.workspace import exclusive\nwith exclusive(): pass"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.returncode != 0
    assert f"one run at a time may use a workspace, however: process {os.getpid()} uses this one" in other.stderr
    with exclusive():
        pass


HOLD = """
from flows.workspace import Processes, exclusive
from flows.process import run_stage
with exclusive():
    run_stage("first", Processes(), print)
"""


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_after_kill_9_the_next_run_ends_what_was_left_and_goes_on(fake: Path) -> None:
    change(first_hang=True)
    victim = subprocess.Popen([sys.executable, "-c", HOLD])
    wait_for(fake / "hanging", victim)
    left = psutil.Process(int((fake / "hanging").read_text()))
    victim.kill()
    victim.wait()
    assert left.is_running()

    change(first_hang=False)
    assert stages_only()["first"] == "Completed"
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE


def test_ctrl_c_ends_the_stages_with_their_children(fake: Path) -> None:
    change(first_hang=True)
    code = "import tests.flows.test_retrain as t; t.stages_only()"
    root = Path(__file__).parents[2]
    victim = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.DEVNULL)
    wait_for(fake / "hanging", victim)
    left = psutil.Process(int((fake / "hanging").read_text()))
    victim.send_signal(signal.SIGINT)
    assert victim.wait(60) != 0
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_lines_arrive_whole_however_the_bytes_are_cut(size: int) -> None:
    said = "Größe — 3\nbar 1\rbar 2\rbar done\nTo track the changes with git, run:\nzuletzt é".encode()
    shown: list[str] = []
    lines = Lines(shown.append)
    for start in range(0, len(said), size):
        lines.feed(said[start : start + size])
    lines.close()
    assert lines.seen == shown == ["Größe — 3", "bar done", "zuletzt é"]


def test_a_lock_file_caught_half_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC writes it in place while another stage ends."""
    monkeypatch.chdir(tmp_path)
    whole = "schema: '2.0'\nstages:\n  train:\n    cmd: x\n    outs:\n    - path: data/train\n      hash: md5\n      md5: abc.dir\n"
    Path("dvc.lock").write_text(whole[: whole.index(": md5")])
    monkeypatch.setattr(graph.time, "sleep", lambda _: Path("dvc.lock").write_text(whole))
    assert graph.outs_digest("train") == "data/train:abc.dir"
    Path("dvc.lock").write_text("a: [")
    monkeypatch.setattr(graph.time, "sleep", lambda _: None)
    with pytest.raises(ExpostError, match="must be YAML"):
        graph.outs_digest("train")
