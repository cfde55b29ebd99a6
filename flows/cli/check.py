"""`expost check`."""

from __future__ import annotations

import typer

from flows.cli.common import example, interruptible


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("check", epilog=example("expost check"))(check)


@interruptible
def check() -> None:
    """Check the whole of params.yaml without running anything."""
    from pipelines.commands.check import check_params

    check_params()
    typer.echo("params.yaml keeps all the rules.")
