"""`expost reject`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.common import example, interruptible, print_json
from flows.cli.promote import By, Why


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("reject", epilog=example('expost reject 4 --by Ana --why "too many negative flips among the young"'))(reject)


@interruptible
def reject(
    version: Annotated[int, typer.Argument(min=1, help="The registered version that is not to reign.")],
    *,
    by: By,
    why: Why,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: version, rejected_by, why.")] = False,
) -> None:
    """Note that a version is not to reign; only `expost promote --override` lets it from then on."""
    from pipelines.commands import reigning

    done = reigning.reject(version, by=by, why=why)
    if as_json:
        print_json(done)
    else:
        typer.echo(f"version {version} is rejected; the champion stays as it is")
