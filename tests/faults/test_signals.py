"""A signal to a training or a study: one message, an exit code that is no success, what stood before stands, and the next run goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.judging import params

#: The stage as `python -m pipelines.train` runs it, with a checkpoint after each epoch; Ctrl-C ends it whatever started the tests.
TRAIN = """
import signal
from pipelines import store, train
from pipelines.network import fit
signal.signal(signal.SIGINT, signal.default_int_handler)
fit.CHECKPOINT_EVERY = 0.0
store.run_stage(train.main, checks=False)
"""
#: `expost tune`, which says that it is in the middle of a training.
TUNE = """
import sys
from flows.cli import main
from pipelines.network.tune import Pruner
honest = Pruner.on_train_epoch_end
def told(*arguments):
    honest(*arguments)
    print("an epoch", file=sys.stderr, flush=True)
Pruner.on_train_epoch_end = told
sys.argv = ["expost", "tune"]
main()
"""
GOES_ON = "nothing half-written was left, the next run goes on"


@pytest.fixture
def endless(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a split, a former training, and parameters by which no training ends, as the current directory."""
    folder = tmp_path / "workspace"
    for name in ("data/ingest", "data/split", "data/train"):
        shutil.copytree(world / name, folder / name)
    shutil.copy(world / "params.yaml", folder)
    monkeypatch.chdir(folder)
    params(folder, lambda values: values["train"].update(max_epochs=100_000, patience=100_000))
    return folder


def ended(code: str, how: signal.Signals, begun: Callable[[str], bool]) -> tuple[int, str]:
    """Exit code of Python with `code`, sent a signal as soon as `begun` accepts what it has written, and all that it wrote."""
    output = Path("output.txt")
    with (
        output.open("wb") as stream,
        subprocess.Popen([sys.executable, "-c", code], stdout=stream, stderr=stream, env=os.environ) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while not begun(output.read_text()):
                assert process.poll() is None, output.read_text()
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.02)
            process.send_signal(how)
            return process.wait(60), output.read_text()
        finally:
            process.kill()


def files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}


def test_a_training_that_a_signal_ends_says_so_and_the_next_one_goes_on(endless: Path) -> None:
    before = files()
    code, said = ended(TRAIN, signal.SIGTERM, lambda _: any(Path(".checkpoints").glob("*/last.ckpt")))
    assert (code, said) == (143, f"error: stopped by SIGTERM; {GOES_ON}, a training from its last checkpoint\n")
    code, said = ended(TRAIN, signal.SIGINT, lambda said: "going on from the checkpoint" in said)
    assert (code, said.splitlines()[1:]) == (1, [f"error: interrupted; {GOES_ON}"])
    assert files() == before


def test_a_study_that_sigterm_ends_says_so(endless: Path) -> None:
    code, said = ended(TUNE, signal.SIGTERM, lambda said: "an epoch" in said)
    assert (code, said.replace("an epoch\n", "")) == (1, f"error: interrupted; {GOES_ON}\n")
