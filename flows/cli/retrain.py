"""`expost retrain`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from flows.cli.common import example, interruptible, print_json

if TYPE_CHECKING:
    from pipelines.commands.publish import Outcome

BLOCKED_EXIT = 3


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("retrain", epilog=example("expost retrain", "expost retrain --json > outcome.json"))(retrain)


@interruptible
def retrain(as_json: bool = typer.Option(False, "--json", help="Print the outcome as JSON instead of the panel.")) -> None:
    """Bring data, model, decision policy and verdict up to date; register the result, and promote it if the gate passes it."""
    from flows.workspace import check_workspace, exclusive
    from pipelines.commands.check import check_params

    check_params()
    check_workspace()
    with exclusive():  # refuse at once, before a server is started; the flow takes the lock itself
        pass
    seconds = _start_server()
    started = time.monotonic()
    outcome = _run()
    if as_json:
        print_json({**outcome.as_json(), "server_seconds": round(seconds, 1), "seconds": round(time.monotonic() - started, 1)})
    else:
        from flows.graph import data_digest
        from flows.panel import show

        show(outcome, data_digest(), seconds=time.monotonic() - started, server_seconds=seconds)
    raise typer.Exit(BLOCKED_EXIT if outcome.blocked else 0)


def _start_server() -> float:
    """Have a Prefect server answer: the one that PREFECT_API_URL names, or a temporary one; returns the seconds that took."""
    from prefect.client.orchestration import get_client

    from pipelines.errors import must

    started = time.monotonic()
    try:
        with get_client(sync_client=True) as client:
            trouble = client.api_healthcheck()
            where = client.api_url
    except RuntimeError as error:  # the temporary server did not start in time
        raise must("a Prefect server must answer", str(error), "Run again, or start one with `make ui`.") from error
    if trouble is not None:
        raise must("a Prefect server must answer", f"{where}: {trouble}", "Start it, or unset PREFECT_API_URL to use a temporary one.")
    return time.monotonic() - started


def _run() -> Outcome:
    from flows.retrain import outcome_of, retrain

    return outcome_of(retrain(return_state=True))
