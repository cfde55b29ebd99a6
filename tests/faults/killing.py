"""Start a command of a workspace, wait until one of its processes stops at a named moment, and kill it there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

STOPPING = Path(__file__).parent / "stopping"
PATIENCE = 300


@dataclass
class Stopped:
    """A command that waits at the moment named, the process that does, and all processes of the command."""

    command: subprocess.Popen[bytes]
    stage: psutil.Process
    family: list[psutil.Process]
    output: Path

    def signal(self, how: signal.Signals) -> None:
        """Send a signal to the command's process group, as a terminal does on Ctrl-C; stages of the flow are in groups of their own."""
        os.killpg(self.command.pid, how)

    def ended(self) -> int:
        """Exit code of the command, which must end by itself now."""
        return self.command.wait(60)

    @property
    def said(self) -> str:
        """All that the command wrote."""
        return self.output.read_text()

    def left(self) -> list[psutil.Process]:
        """Processes of the command that still run a few seconds later."""
        return psutil.wait_procs(self.family, 10)[1]


@contextmanager
def stopped(workspace: Path, *command: str, at: str) -> Iterator[Stopped]:
    """Run `command` in a process group of its own until it stops at `at`, see stopping/sitecustomize.py; at the end all of it is gone."""
    notes = Path(tempfile.mkdtemp(dir=workspace.parent))
    marker, output = notes / "stopped", notes / "output.txt"
    binary = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{binary}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(STOPPING),
        "PYTHONUNBUFFERED": "1",
        "EXPOST_STOP_AT": at,
        "EXPOST_STOPPED": str(marker),
    }
    family: list[psutil.Process] = []
    with (
        output.open("wb") as stream,
        subprocess.Popen(
            [str(binary / command[0]), *command[1:]],
            cwd=workspace,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + PATIENCE
            while not (marker.exists() and marker.read_text().endswith(" ")):
                assert process.poll() is None, f"it never stopped at {at}:\n{output.read_text()}"
                assert time.monotonic() < deadline, f"it did not come to {at}:\n{output.read_text()}"
                time.sleep(0.02)
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            yield Stopped(process, psutil.Process(int(marker.read_text())), family, output)
        finally:
            for member in [*family, psutil.Process(process.pid)] if process.poll() is None else family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
