"""A workspace with fast fake stages, for the mechanics of the graph and the flow."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

STAGE = """
import pathlib, sys, yaml
name, *inputs = sys.argv[1:]
values = yaml.safe_load(open("params.yaml"))[name]
out = pathlib.Path("data", name)
out.mkdir(parents=True)
print(f"stage {name} speaks")
if values.get("fail"):
    print(f"error: {name} must be told to succeed, however: it was told to fail. Change it.", file=sys.stderr)
    sys.exit(1)
if values.get("die"):
    print("last words", flush=True)
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
if values.get("hang"):
    import subprocess, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path("hanging").write_text(str(child.pid))
    time.sleep(600)
text = "".join(pathlib.Path("data", upstream, "out.txt").read_text() for upstream in inputs)
(out / "out.txt").write_text(f"{name} {values['value'] % 10}; {text}")
"""

DVC = """
stages:
  first: {desc: the first one, cmd: python stage.py first, deps: [stage.py], params: [first], outs: [data/first]}
  second: {cmd: python stage.py second first, deps: [stage.py, data/first], params: [second], outs: [data/second]}
  aside: {cmd: python stage.py aside, deps: [stage.py], params: [aside], outs: [data/aside]}
  third: {cmd: python stage.py third second aside, deps: [stage.py, data/second, data/aside/out.txt], params: [third], outs: [data/third]}
"""

PARAMS = """
first: {value: 1}
second: {value: 2}
aside: {value: 3}
third: {value: 4}
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git and DVC workspace: first -> second -> third, and aside -> third; an out holds its value modulo ten."""
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in {"stage.py": STAGE, "dvc.yaml": DVC, "params.yaml": PARAMS, ".gitignore": "/data/\n"}.items():
        (folder / name).write_text(text)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text(
        "[core]\n    analytics = false\n    check_update = false\n    remote = local\n['remote \"local\"']\n    url = ../.dvcstore\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    return folder
