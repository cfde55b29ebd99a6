"""A PostgreSQL server of the tests' own, from Debian's package or whatever lies on the PATH: on loopback, in a temporary folder."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

_NUMBERS = count(1)
_ACCOUNTS = ("postgres", "nobody")


def _binaries() -> Path | None:
    """The folder with `initdb` and `postgres`; None where they are not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    onpath = shutil.which("initdb")
    return found[-1].parent if found else Path(onpath).resolve().parent if onpath else None


def _account() -> str | None:
    """Whom the server runs as: PostgreSQL refuses root."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in _ACCOUNTS if name in names), None) if os.geteuid() == 0 else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[sa.URL]:
    """Address of a running server's maintenance database, or a skip that says what is absent."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is absent: install Debian's package `postgresql`")
    pytest.importorskip("psycopg", reason="the driver is absent: pip install 'expost[postgresql]'")
    account, folder, password = _account(), Path(tempfile.mkdtemp(prefix="expost-postgres-")), secrets.token_hex(16)
    if os.geteuid() == 0 and account is None:
        pytest.skip(f"PostgreSQL does not run as root, and none of the accounts {_ACCOUNTS} exists")
    (folder / "password").write_text(password)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if account:
        for path in (folder, folder / "password"):
            shutil.chown(path, account)
    data, log = folder / "data", folder / "log"
    quick = ["--no-sync", "--encoding", "UTF8", "--locale", "C", "--username", "owner", "--auth", "scram-sha-256"]
    subprocess.run(
        [binaries / "initdb", *quick, "--pwfile", folder / "password", data], user=account, cwd=folder, check=True, capture_output=True
    )
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off", "-p", str(port)]
    with log.open("wb") as stream:
        server = subprocess.Popen([binaries / "postgres", "-D", data, *options], user=account, cwd=folder, stdout=stream, stderr=stream)
    try:
        url = sa.URL.create("postgresql+psycopg", "owner", password, "127.0.0.1", port, "postgres")
        _wait(url, server, log)
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(url: sa.URL, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline, engine = time.monotonic() + 60, sa.create_engine(url, poolclass=sa.NullPool)
    while True:
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return


def new_database(server: sa.URL) -> str:
    """Address of an empty database on `server`, as a user would write it, without naming a driver."""
    name = f"ledger_{next(_NUMBERS)}"
    with sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    return server.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
