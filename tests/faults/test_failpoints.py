"""Failpoints: only the named moment is hit, and a name that does not exist is no silent success."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from pipelines import failpoints
from pipelines.errors import ExpostError


def test_only_the_named_moment_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.reach("register.version")
    monkeypatch.setenv(failpoints.VARIABLE, "register.version:raise")
    failpoints.reach("register.alias")
    with pytest.raises(OSError, match=r"register\.version"):
        failpoints.reach("register.version")


def test_kill_ends_the_process_at_once() -> None:
    code = "import os; os.environ['EXPOST_FAILPOINT'] = 'register.run:kill'; from pipelines.failpoints import reach; reach('register.run')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("wanted", ["register.version", "register.version:explode", "register.nothing:kill", ":kill"])
def test_a_name_or_an_action_that_does_not_exist_is_an_error_at_every_moment(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, wanted)
    with pytest.raises(ExpostError, match="must name a failpoint"):
        failpoints.reach("promote.mirror")
