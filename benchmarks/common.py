"""What the benchmarks share: a temporary workspace, commands in it, results as JSON."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
REAL_DATA = Path(os.environ.get("EXPOST_DATA", ROOT / "../shared/data")).resolve()


def make_workspace(folder: Path) -> Path:
    """Clone the files that git tracks, as they stand, into `folder`: a git repository with one commit."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return folder


@dataclass(frozen=True)
class Ran:
    """A finished command: seconds of wall time, exit code, output, and where it was measured peak resident memory in MB."""

    seconds: float
    code: int
    output: str
    peak_mb: float | None = None


def run(*command: str, cwd: Path, expect: tuple[int, ...] = (0,), **environment: str) -> Ran:
    """Run a command with the virtual environment first on PATH; raises RuntimeError with its output on an unexpected exit code.

    The workspace's own code comes first on Python's path: `expost` would else be the checkout's, which may have moved on.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(cwd), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    ran = Ran(time.perf_counter() - started, done.returncode, done.stdout)
    if ran.code not in expect:
        raise RuntimeError(f"{' '.join(command)} ended with {ran.code}:\n{ran.output[-3000:]}")
    return ran


def measured(*command: str, cwd: Path, **environment: str) -> Ran:
    """`run`, with the command's own peak memory, and seconds that are its alone; see `benchmarks.launch`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        ran = run(sys.executable, "-S", str(ROOT / "benchmarks/launch.py"), str(report), *command, cwd=cwd, expect=(0,), **environment)
        return Ran(code=ran.code, output=ran.output, **json.loads(report.read_text()))


def largest_child_mb() -> float:
    """Peak resident memory, in MB, of the largest process among all descendants that have ended."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """What the figures were measured on, in words that name no host."""
    return {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system(), "processor": platform.machine()}


def save(name: str, value: dict[str, Any]) -> None:
    """Write `benchmarks/results/<name>.json`."""
    write_json(RESULTS / f"{name}.json", value)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_name(f".{path.name}.writing")
    unfinished.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    unfinished.replace(path)
