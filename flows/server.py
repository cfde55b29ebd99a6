"""Servers on loopback: a Prefect server for schedules (a temporary one has no scheduler), and the pages of `expost ui`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.errors import must

HOST = "127.0.0.1"
STARTUP_SECONDS = 120.0


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def need_free(port: int) -> None:
    """Raise ExpostError where somebody listens on `port` of loopback already: their answer would be taken for ours."""
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((HOST, port)) == 0:
            raise must(f"port {port} of {HOST} must be free", "another server answers there", "Stop it, or choose another port (--help).")


@contextmanager
def running(command: list[str], health: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; raises ExpostError where `health` does not answer in time."""
    log = Path(".dvc/tmp") / f"{command[2]}-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        _wait(process, health, log)
        yield process
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(health, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    got = f"it ended with code {process.returncode}" if process.poll() is not None else f"no answer in {STARTUP_SECONDS:.0f} s"
    raise must(f"a server must answer at {health}", got, f"See {log}.")


def _end(process: subprocess.Popen[bytes]) -> None:
    import signal

    for how, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


@contextmanager
def prefect_server(port: int, *, ui: bool) -> Iterator[str]:
    """A Prefect server on loopback, with a scheduler; yields its API's address."""
    need_free(port)
    origin = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--ui" if ui else "--no-ui"]
    settings = {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origin,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_API_URL": f"{origin}/api",
    }
    with running(command, f"{origin}/api/health", settings):
        yield f"{origin}/api"


@contextmanager
def mlflow_server(port: int, store_uri: str) -> Iterator[str]:
    """MLflow's page over the local store, on loopback, for exactly this host."""
    need_free(port)
    hosts = f"{HOST}:{port},localhost:{port}"
    artifacts = (Path("mlflow") / "artifacts").absolute().as_uri()
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", artifacts, "--allowed-hosts", hosts]
    # the address may hold a password, which everybody on the machine could read on the command line
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": store_uri}
    with running(command, f"http://{HOST}:{port}/health", settings):
        yield f"http://{HOST}:{port}"
