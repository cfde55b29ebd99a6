"""`expost ui`."""

from __future__ import annotations

import contextlib
import signal
import threading

import typer

from flows.cli.common import example


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("ui", epilog=example("expost ui", "expost ui --mlflow-port 5001 --prefect-port 4201"))(ui)


def ui(
    mlflow_port: int = typer.Option(5000, "--mlflow-port", min=1, max=65535, help="Port of MLflow's page."),
    prefect_port: int = typer.Option(4200, "--prefect-port", min=1, max=65535, help="Port of Prefect's page."),
) -> None:
    """Show MLflow's and Prefect's pages on 127.0.0.1 until stopped with Ctrl-C; a tracking server of yours is only named."""
    from flows.server import mlflow_server, prefect_server
    from pipelines.params import load
    from pipelines.params.registry import Registry
    from pipelines.tracking import store_uri

    uri = store_uri(load(Registry).tracking_uri)
    there = contextlib.nullcontext(uri) if uri.startswith(("http://", "https://")) else mlflow_server(mlflow_port, uri)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops the servers too, as Ctrl-C does
    try:
        with there as mlflow, prefect_server(prefect_port, ui=True) as prefect:
            typer.echo(f"MLflow   {mlflow}\nPrefect  {prefect.removesuffix('/api')}\nCtrl-C stops both.")
            threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("Stopped.")
