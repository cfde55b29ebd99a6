"""`expost retrain`."""

from __future__ import annotations

from typing import Any

import typer

from flows.cli.common import example, interruptible


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("retrain", epilog=example("expost retrain", "expost retrain --json > outcome.json"))(retrain)


@interruptible
def retrain(as_json: bool = typer.Option(False, "--json", help="Print the outcome as JSON instead of the panel.")) -> None:
    """Bring data, model, decision policy and verdict up to date; register the result, and promote it if the gate passes it."""
    from flows.cli.running import check_and_lock, run

    check_and_lock()
    run("expost retrain", _flow, as_json=as_json)


def _flow() -> Any:
    from flows.retrain import retrain

    return retrain(return_state=True)
