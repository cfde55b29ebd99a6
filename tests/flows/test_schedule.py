"""New rows and a schedule that fires: a new data version, unchanged parts of the old rows, a new challenger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows.graph import data_digest
from pipelines.errors import ExpostError
from tests.conftest import edit_params, run
from tests.stages.shipped import TINY, mixed_table


def tiny(params: dict[str, Any]) -> None:
    params["train"] |= TINY
    params["decide"] |= {"policies": ["analytic"]}


def status(workspace: Path) -> dict[str, Any]:
    return dict(json.loads(run("expost", "status", "--json", cwd=workspace).stdout))


def parts(workspace: Path) -> dict[int, int]:
    """Part by row hash."""
    hashes, found = (np.load(workspace / f"data/split/{name}.npy") for name in ("row_hash", "parts"))
    return dict(zip(hashes.tolist(), found.tolist(), strict=True))


def test_appended_rows_are_retrained_on_when_the_schedule_fires(workspace: Path) -> None:
    source = workspace.parent / "outside.csv"
    mixed_table(700).write_csv(source)
    command = (
        "expost",
        "init",
        str(source),
        "--target",
        "outcome",
        "--positive",
        "bad",
        "--cost-fn",
        "5",
        "--cost-fp",
        "1",
        "--key",
        "key",
    )
    made = run(*command, "--model", "scheduled", cwd=workspace)
    assert made.returncode == 0, made.stderr
    edit_params(workspace, tiny)
    first = run("expost", "retrain", "--json", cwd=workspace)
    assert first.returncode in (0, 3), first.stderr
    assert json.loads(first.stdout)["version"] == 1
    before, digest = parts(workspace), data_digest()

    mixed_table(760, seed=0).tail(60).write_csv(workspace.parent / "new.csv")
    added = (workspace.parent / "new.csv").read_text().splitlines()[1:]
    source.write_text(source.read_text() + "\n".join(line.replace("row ", "new ", 1) for line in added) + "\n")
    with serving(workspace, "* * * * *") as server:
        found = status(workspace)
        deadline = time.monotonic() + 420
        while newest(found) == 1:
            assert server.poll() is None, (workspace / "schedule.log").read_text()
            assert time.monotonic() < deadline, (workspace / "schedule.log").read_text()
            time.sleep(1)
            found = status(workspace)

    assert data_digest() != digest
    after = parts(workspace)
    assert len(after) > len(before)
    assert {key: after[key] for key in before} == before
    assert newest(found) == 2
    newer = max((entry for entry in (found["champion"], found["challenger"]) if entry), key=lambda entry: entry["version"])
    assert newer["data_digest"] == data_digest()


def newest(found: dict[str, Any]) -> int:
    return max(entry["version"] for entry in (found["champion"], found["challenger"]) if entry)


class serving:  # noqa: N801  used like a function
    """`expost schedule` until the block ends, stopped as by Ctrl-C."""

    def __init__(self, workspace: Path, cron: str) -> None:
        self.workspace, self.cron = workspace, cron

    def __enter__(self) -> subprocess.Popen[bytes]:
        binary = Path(sys.executable).parent
        environment = {**os.environ, "PATH": f"{binary}{os.pathsep}{os.environ['PATH']}"}
        with (self.workspace / "schedule.log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(binary / "expost"), "schedule", "--cron", self.cron],
                cwd=self.workspace,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("cron", "timezone"), [("nope", "UTC"), ("99 3 * * 1", "UTC"), ("0 3 * * 1", "Mars/Olympus")])
def test_a_schedule_that_is_none_is_refused(cron: str, timezone: str) -> None:
    from flows.schedule import check_cron

    with pytest.raises(ExpostError, match="--cron and --timezone must name a schedule"):
        check_cron(cron, timezone)


def test_prefect_yaml_names_the_flows_that_are_served() -> None:
    from flows import retrain

    deployments = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]
    assert [deployment["name"] for deployment in deployments] == ["retrain", "retune"]
    for deployment in deployments:
        path, name = deployment["entrypoint"].split(":")
        assert (Path(__file__).parents[2] / path).exists()
        assert getattr(retrain, name).name == deployment["name"]
