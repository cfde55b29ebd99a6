"""`expost schedule`."""

from __future__ import annotations

import typer

from flows.cli.common import example, interruptible


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "schedule", epilog=example('expost schedule --cron "0 3 * * 1"', 'expost schedule --cron "@daily" --timezone Europe/Berlin')
    )(schedule)


@interruptible
def schedule(
    cron: str = typer.Option(..., "--cron", help="When to retrain: minute, hour, day of month, month, day of week."),
    timezone: str = typer.Option("UTC", "--timezone", help="Time zone of the schedule, an IANA name."),
) -> None:
    """Serve retraining on a schedule as a Prefect deployment in this workspace until stopped; each run reads the source anew.

    The flow `retune` is served beside it, to be run when it is asked for.
    """
    from flows.schedule import check_cron, serve
    from flows.workspace import check_workspace
    from pipelines.commands.check import check_params

    check_params()
    check_workspace()
    check_cron(cron, timezone)
    serve(cron, timezone)
