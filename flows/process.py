"""One stage in a process of its own: `dvc repro --single-item`, its lines as they come, and the one message when it fails."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flows.workspace import Processes
from pipelines.errors import must
from pipelines.store import CHECKED

COMMAND = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")
PROGRESS_EVERY = 5.0  # seconds between shown states of a progress bar, which redraws itself many times a second
LAST_LINES = 8
DVCS_ADVICE = (
    "To track the changes with git",
    "git add",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
    "Updating lock",
    "Generating lock",
)


def stage_environment() -> dict[str, str]:
    """The environment of a stage: `python` is the interpreter that runs the flow, its output is not held back, params.yaml is checked."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "120", CHECKED: "1"}


class Lines:
    """Bytes to lines: full lines as they come, a progress bar (ended by carriage returns) every few seconds."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._rest, self._shown_at = show, "", time.monotonic()
        self._text = codecs.getincrementaldecoder("utf-8")("replace").decode  # a chunk may end within a character
        self.seen: list[str] = []

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = (self._rest + self._text(chunk)).replace("\r\n", "\n").split("\n")
        for line in lines:
            self._line(line.rsplit("\r", 1)[-1].rstrip())
        if "\r" in self._rest:
            *states, self._rest = self._rest.split("\r")
            if time.monotonic() - self._shown_at > PROGRESS_EVERY and states[-1].strip():
                self._shown_at = time.monotonic()
                self._show(states[-1].strip())

    def close(self) -> None:
        """Take what is left after the last newline."""
        self._line((self._rest + self._text(b"", True)).rstrip())
        self._rest = ""

    def _line(self, line: str) -> None:
        if line and not line.strip().startswith(DVCS_ADVICE):
            self.seen.append(line)
            self._show(line)


def run_stage(stage: str, processes: Processes, show: Callable[[str], None]) -> None:
    """Run one stage to its end; raises ExpostError with the stage's own message where it fails."""
    lines = Lines(show)
    code = processes.run([*COMMAND, stage], stage_environment(), lines.feed)
    lines.close()
    if code:
        raise failure(stage, code, lines.seen)


def run_dvc(*arguments: str) -> None:
    """Run one of DVC's other commands to its end; raises ExpostError with what it said where it fails."""
    done = subprocess.run([*COMMAND[:4], *arguments], env=stage_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        got = " / ".join(lines)[-600:] or f"it ended with code {done.returncode}"
        remedy = "Mend what it names (`dvc remote list` shows the remote) and run again."
        raise must(f"`dvc {' '.join(arguments)}` must end well", got, remedy)


def failure(stage: str, code: int, lines: list[str]) -> Exception:
    """The stage's own `error: ...` message, or its last lines where it died without one."""
    from pipelines.errors import ExpostError

    start = next((number for number, line in enumerate(lines) if line.startswith("error: ")), None)
    if start is not None:
        end = next((number for number in range(start, len(lines)) if lines[number].startswith("ERROR: ")), len(lines))
        return ExpostError("\n".join(lines[start:end]).removeprefix("error: "))
    shown = "\n  ".join(line for line in lines[-LAST_LINES:])
    end_of = f"it ended with code {code}" if code > 0 else f"it was ended by signal {-code}"
    return must(
        f"stage {stage} must end well", f"{end_of}; its last lines:\n  {shown}\n", f"See them all with `dvc repro --single-item {stage}`."
    )
