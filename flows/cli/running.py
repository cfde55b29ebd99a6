"""A flow run from the command line: a Prefect server, the flow, its panel or JSON, and the exit code."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import typer

from flows.cli.common import print_json

BLOCKED_EXIT = 3


def check_and_lock() -> None:
    """Refuse at once, before a server is started, what the flow itself would refuse; the flow takes the lock itself."""
    from flows.workspace import check_workspace, exclusive
    from pipelines.commands.check import check_params

    check_params()
    check_workspace()
    with exclusive():
        pass


def run(title: str, work: Callable[[], Any], *, as_json: bool) -> None:
    """Run the flow that `work` calls, which returns its state; show its outcome under `title`, and exit with 0, or 3 where the gate blocked."""
    seconds = _start_server()
    started = time.monotonic()
    from flows.retrain import outcome_of

    outcome = outcome_of(work())
    if as_json:
        print_json({**outcome.as_json(), "server_seconds": round(seconds, 1), "seconds": round(time.monotonic() - started, 1)})
    else:
        from flows.graph import data_digest
        from flows.panel import show

        show(outcome, data_digest(), title=title, seconds=time.monotonic() - started, server_seconds=seconds)
    raise typer.Exit(BLOCKED_EXIT if outcome.blocked else 0)


def _start_server() -> float:
    """Have a Prefect server answer: the one that PREFECT_API_URL names, or a temporary one; returns the seconds that took."""
    from pipelines.errors import must

    started = time.monotonic()
    _protect_temporary_server()
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


def _protect_temporary_server() -> None:
    """Let a temporary server ask for a password that this process and those it starts alone know, and no page read its answers."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return
    from flows.server import CLIENT_AUTH, new_auth, protected

    auth = new_auth()
    os.environ.update(protected(auth, []) | {CLIENT_AUTH: auth})
    refresh_global_settings_context()


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
