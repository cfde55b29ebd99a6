"""`expost sync`."""

from __future__ import annotations

import typer

from flows.cli.common import example, interruptible


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("sync", epilog=example("expost sync && dvc repro", "expost sync --data-only"))(sync)


@interruptible
def sync(data_only: bool = typer.Option(False, "--data-only", help="Leave the champion's mirror as it is.")) -> None:
    """Read the source and mirror the champion, as `expost retrain` does first; for those who then run `dvc repro` themselves."""
    from flows.workspace import check_workspace, exclusive
    from pipelines.commands.check import check_params
    from pipelines.commands.source import sync_source

    check_params()
    check_workspace()
    with exclusive():
        state = sync_source(typer.echo)
        typer.echo(f"data version: {state.digest}")
        if not data_only:
            from pipelines.commands.mirror import refresh_mirror

            status = refresh_mirror(typer.echo)
            typer.echo(f"champion: {status.get('version') or status.get('state', 'unsynced')}")
