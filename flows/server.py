"""Servers on loopback: a Prefect server for schedules (a temporary one has no scheduler), and the pages of `expost ui`."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flows import guard
from pipelines.errors import must

HOST = "127.0.0.1"
STARTUP_SECONDS = 120.0
#: Environment variables: a server's name, for its log; what a Prefect server asks for, and what its clients say.
NAME, SERVER_AUTH, CLIENT_AUTH = "EXPOST_SERVER", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"


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
def running(command: list[str], health: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; raises ExpostError where `health` does not answer in time."""
    log = Path(".dvc/tmp") / f"{environment[NAME]}-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
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


def guarded(name: str, app: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a server on `port` of loopback that answers to exactly its own address; `app` as in `flows.guard`."""
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "flows.guard:app",
        "--host",
        HOST,
        "--port",
        str(port),
        "--log-level",
        "warning",
    ]
    return command, {guard.GUARDED: app, guard.HOSTS: ",".join(hosts(port)), NAME: name}


def hosts(port: int) -> list[str]:
    """The names of a server on `port` of loopback."""
    return [f"{HOST}:{port}", f"localhost:{port}"]


@dataclass(frozen=True)
class PrefectServer:
    """A Prefect server's API, and what it wants to know from whoever asks it: a user and a password, as `user:password`."""

    api: str
    auth: str

    @property
    def client(self) -> dict[str, str]:
        """Environment of its clients."""
        return {"PREFECT_API_URL": self.api, CLIENT_AUTH: self.auth}


def new_auth() -> str:
    """What a server of ours is to ask for: PREFECT_SERVER_API_AUTH_STRING where it is set, else drawn anew at each start."""
    return os.environ.get(SERVER_AUTH) or f"expost:{secrets.token_urlsafe(24)}"


def protected(auth: str, origins: Sequence[str]) -> dict[str, str]:
    """Environment of a Prefect server: it wants `auth` and lets pages of `origins` alone read its answers."""
    return {
        SERVER_AUTH: auth,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }


@contextmanager
def prefect_server(port: int, *, ui: bool) -> Iterator[PrefectServer]:
    """A Prefect server on loopback, with a scheduler and a password."""
    need_free(port)
    server = PrefectServer(f"http://{HOST}:{port}/api", new_auth())
    command, settings = guarded("prefect", "prefect.server.api.server:create_app()", port)
    settings |= protected(server.auth, [f"http://{host}" for host in hosts(port)]) | server.client
    settings |= {"PREFECT__SERVER_FINAL": "1", "PREFECT_SERVER_UI_ENABLED": str(ui).lower()}
    with running(command, f"{server.api}/health", settings):
        yield server


@contextmanager
def mlflow_server(port: int, store_uri: str) -> Iterator[str]:
    """MLflow's page over the local store, on loopback."""
    need_free(port)
    command, settings = guarded("mlflow", "mlflow.server.fastapi_app:app", port)
    settings |= {
        # What `mlflow server` would set; the address may hold a password, which everybody on the machine could read on a command line.
        "_MLFLOW_SERVER_FILE_STORE": store_uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": store_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (Path("mlflow") / "artifacts").absolute().as_uri(),
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts(port)),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{host}" for host in hosts(port)),
    }
    with running(command, f"http://{HOST}:{port}/health", settings):
        yield f"http://{HOST}:{port}"
