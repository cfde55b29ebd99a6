"""A command in a process of its own with a time limit, at which it is killed with all its children."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

import psutil


def run(command: list[str], seconds: float, **environment: str) -> tuple[int, str]:
    """Run `command` and return its exit code and what it wrote to stderr; raises TimeoutError where it had not ended after `seconds`."""
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C of the terminal reaches it through us, below
    ) as process:
        try:
            said = process.communicate(timeout=seconds)[1]
        except BaseException as error:
            _end(process.pid)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"it had not ended after {seconds:g} seconds") from None
            raise
    return process.returncode, said


def _end(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        processes = [*parent.children(recursive=True), parent]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)  # a signal is only on its way when `kill` returns
