"""`expost expectations`."""

from __future__ import annotations

import typer

from flows.cli.common import example, interruptible


def add(app: typer.Typer) -> None:
    """Add the group of commands to `app`."""
    group = typer.Typer(help="What the data must keep to: data/expectations.json.", no_args_is_help=True)
    group.command("accept", epilog=example("expost expectations accept --dry-run", "expost expectations accept"))(accept)
    group.callback()(lambda: None)  # keeps `accept` a subcommand although it is the only one
    app.add_typer(group, name="expectations")


@interruptible
def accept(dry_run: bool = typer.Option(False, "--dry-run", help="Show what would change and write nothing.")) -> None:
    """Take the data as it is now for the ordinary: recompute the generated expectations, leave the hand-written ones."""
    from pipelines.commands.expectations import accept as take_over

    take_over(typer.echo, dry_run=dry_run)
