"""`expost rollback`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.common import example, interruptible, print_json
from flows.cli.promote import Why


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    shown = ('expost rollback --why "complaints since Monday"', 'expost rollback --to 2 --by Ana --why "last one audited"')
    app.command("rollback", epilog=example(*shown))(rollback)


@interruptible
def rollback(
    *,
    why: Why,
    to: Annotated[int | None, typer.Option("--to", min=1, metavar="N", help="The earlier champion; by default the one before.")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who decides; by default the user's name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: version, epoch, changed.")] = False,
) -> None:
    """Let an earlier champion reign again. The version left counts as rejected; repeating the command changes nothing more."""
    from pipelines.commands import reigning

    done = reigning.rollback(to=to, by=by, why=why, report=lambda line: typer.echo(line, err=True))
    if as_json:
        print_json(done)
    else:
        said = "reigns again" if done["changed"] else "reigned already, nothing was changed"
        typer.echo(f"version {done['version']} {said}, in epoch {done['epoch']}")
