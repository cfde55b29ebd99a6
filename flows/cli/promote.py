"""`expost promote`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.common import example, interruptible, print_json

By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who decides; the ledger keeps it.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason; the ledger keeps it.")]


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    shown = ('expost promote 4 --by Ana --why "reviewed with Ben"', 'expost promote 5 --by Ana --why "the old one is withdrawn" --override')
    app.command("promote", epilog=example(*shown))(promote)


@interruptible
def promote(
    version: Annotated[int, typer.Argument(min=1, help="The registered version that is to reign.")],
    *,
    by: By,
    why: Why,
    override: Annotated[
        bool, typer.Option("--override", help="Also where its verdict is not PASS, or it was rejected; recorded as an override.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: version, epoch, changed.")] = False,
) -> None:
    """Let a version reign: it proves itself in a fresh process, then ledger, alias and mirror follow."""
    from pipelines.commands import reigning

    done = reigning.promote(version, by=by, why=why, override=override, report=lambda line: typer.echo(line, err=True))
    if as_json:
        print_json(done)
    else:
        typer.echo(f"version {version} {'reigns now' if done['changed'] else 'reigned already'}, in epoch {done['epoch']}")
