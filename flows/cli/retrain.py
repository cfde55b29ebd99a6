"""`expost retrain`."""

from __future__ import annotations

import signal
import threading
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
    from pipelines.errors import must

    started = time.monotonic()
    answers: list[tuple[str, Exception | None]] = []
    asking = threading.Thread(target=_ask_server, args=(answers,), daemon=True)
    asking.start()
    while asking.is_alive():
        asking.join(0.2)
    where, trouble = answers[0]
    if isinstance(trouble, RuntimeError):  # the temporary server did not start in time
        raise must("a Prefect server must answer", str(trouble), "Run again, or start one with `make ui`.") from trouble
    if trouble is not None:
        raise must("a Prefect server must answer", f"{where}: {trouble}", "Start it, or unset PREFECT_API_URL to use a temporary one.")
    return time.monotonic() - started


def _ask_server(answers: list[tuple[str, Exception | None]]) -> None:
    """Append the server's address and why it does not answer, None where it does.

    This runs in a thread that blocks SIGINT, as does then what it starts: a terminal sends Ctrl-C to the temporary server too, and without
    its server a run cannot end in order. The server is ended with this process.
    """
    from prefect.client.orchestration import get_client

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True) as client:
            answers.append((str(client.api_url), client.api_healthcheck()))
    except RuntimeError as error:
        answers.append(("a temporary server", error))


def _run() -> Outcome:
    from flows.retrain import outcome_of, retrain

    return outcome_of(retrain(return_state=True))
