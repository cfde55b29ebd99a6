"""Every code block of the documentation runs, in order, in a workspace of its own."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.conftest import ROOT, run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    number: int
    language: str
    info: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}-{self.number}"


def blocks(page: Path) -> list[Block]:
    return [Block(page, i, m[1], m[2].strip(), m[3]) for i, m in enumerate(BLOCK.finditer(page.read_text()), 1)]


ALL = [block for page in PAGES for block in blocks(page)]


def customers(path: Path) -> None:
    """The table of the README's example on own data: 3,000 customers, one in five lost."""
    rng = np.random.default_rng(7)
    months, calls, plan = rng.integers(1, 72, 3000), rng.poisson(1.5, 3000), rng.choice(["basic", "plus", "family"], 3000)
    charge = rng.gamma(6, 10, 3000).round(2)
    logit = -1.2 - 0.04 * months + 0.7 * calls + 0.9 * (plan == "basic") + 0.004 * charge
    churned = np.where(rng.random(3000) < 1 / (1 + np.exp(-logit)), "yes", "no")
    frame = pl.DataFrame({"months": months, "support_calls": calls, "plan": plan, "monthly_charge": charge, "churned": churned})
    frame.write_csv(path)


@pytest.fixture(scope="module")
def documented(retrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the retrained workspace, where the documentation's commands run one after the other."""
    folder = tmp_path_factory.mktemp("docs") / "workspace"
    shutil.copytree(retrained, folder, symlinks=True)
    customers(folder / "customers.csv")
    return folder


def test_there_are_blocks_and_only_languages_that_run() -> None:
    assert len([block for block in ALL if block.page.name == "README.md"]) >= 3
    assert {block.language for block in ALL} <= {"bash", "python", "text", "yaml"}


@pytest.mark.parametrize("block", [block for block in ALL if block.language in ("bash", "python")], ids=str)
def test_block_runs(block: Block, documented: Path) -> None:
    if block.info.startswith("serve"):
        serve(block, documented)
    elif block.language == "python":
        done = run(sys.executable, "-c", block.code, cwd=documented)
        assert done.returncode == 0, done.stderr
    else:
        code = "\n".join(line for line in block.code.splitlines() if not runs_the_tests(line))
        done = run("bash", "-euo", "pipefail", "-c", code, cwd=documented)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def runs_the_tests(line: str) -> bool:
    """Commands that would run this file again; CI runs `make test` itself."""
    return bool(re.match(r"\s*make (test|check|benchmark)\b", line))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="another processor trains other weights (LOG.md)")
def test_the_result_that_the_readme_shows_is_that_of_its_first_command(retrained: Path) -> None:
    (shown,) = (block.code for block in ALL if block.page.name == "README.md" and block.language == "text")
    panel = json.loads((retrained / "data/report/panel.json").read_text())
    for item in panel["utility"]:
        line = f"{item['policy']} {item['mean']:.3f} [{item['low']:.3f}, {item['high']:.3f}]"
        assert line in {" ".join(row.split()) for row in shown.splitlines()}
    assert f"Verdict: {panel['verdict']} " in shown


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / "README.md").read_text()
    assert re.search(r"^make .*\btest$", (ROOT / ".ci/run").read_text(), re.MULTILINE)


def serve(block: Block, folder: Path) -> None:
    """Start a command that serves until stopped, ask each address named in its info string, stop it."""
    addresses = block.info.split()[1:]
    assert addresses, "```bash serve needs the addresses that must answer"
    process = subprocess.Popen(
        ["bash", "-c", block.code], cwd=folder, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 180
        for address in addresses:
            while not answers(address):
                assert process.poll() is None, process.stdout.read() if process.stdout else ""
                assert time.monotonic() < deadline, f"{address} did not answer"
                time.sleep(0.5)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
    deadline = time.monotonic() + 30  # make ends before the servers have said goodbye
    while any(map(answers, addresses)):
        assert time.monotonic() < deadline, "stopping the command left its servers running"
        time.sleep(0.2)


def answers(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(address, timeout=2).status == 200)
    except OSError:
        return False


def test_rendered_tables_are_those_of_the_results() -> None:
    from benchmarks.render import render

    text = (ROOT / "README.md").read_text()
    assert render(text) == text, "run `python -m benchmarks.render`"
