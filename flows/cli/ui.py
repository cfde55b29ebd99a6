"""`expost ui`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import typer

from flows.cli.common import example

PASSWORD = Path(".dvc/tmp/prefect-password")


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("ui", epilog=example("expost ui", "expost ui --mlflow-port 5001 --prefect-port 4201"))(ui)


def ui(
    mlflow_port: int = typer.Option(5000, "--mlflow-port", min=1, max=65535, help="Port of MLflow's page."),
    prefect_port: int = typer.Option(4200, "--prefect-port", min=1, max=65535, help="Port of Prefect's page."),
) -> None:
    """Show MLflow's and Prefect's pages on 127.0.0.1 until stopped with Ctrl-C; a tracking server of yours is only named.

    Prefect's page asks for a password: a new one at each start, or PREFECT_SERVER_API_AUTH_STRING where that is set.
    """
    from flows.server import mlflow_server, prefect_server
    from pipelines import tracking
    from pipelines.errors import without_password
    from pipelines.params import load
    from pipelines.params.registry import Registry

    params = load(Registry)
    uri = tracking.store_uri(params.tracking_uri)
    there = uri.startswith(("http://", "https://"))
    if not there:
        tracking.prepare(params.tracking_uri, params.model)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops the servers too, as Ctrl-C does
    try:
        pages = contextlib.nullcontext(without_password(uri)) if there else mlflow_server(mlflow_port, uri)
        with pages as mlflow, prefect_server(prefect_port, ui=True) as prefect, _shown(prefect.auth) as password:
            typer.echo(f"MLflow   {mlflow}\nPrefect  {prefect.api.removesuffix('/api')}\n         password: {password}\nCtrl-C stops both.")
            threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("Stopped.")


@contextlib.contextmanager
def _shown(auth: str) -> Iterator[str]:
    """The password for who sits at a terminal; elsewhere, where output may be kept, the file that holds it until the end, for its owner alone."""
    if sys.stdout.isatty():
        yield auth
        return
    PASSWORD.parent.mkdir(parents=True, exist_ok=True)
    PASSWORD.unlink(missing_ok=True)
    with os.fdopen(os.open(PASSWORD, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(f"{auth}\n")
    try:
        yield f"in {PASSWORD}"
    finally:
        PASSWORD.unlink(missing_ok=True)
