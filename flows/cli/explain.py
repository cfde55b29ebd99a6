"""`expost explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.common import example, interruptible, print_json


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("explain", epilog=example("expost explain 4", "expost explain 4 --json"))(explain)


@interruptible
def explain(
    version: Annotated[int, typer.Argument(min=1, help="The registered version.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: version, state, sentences.")] = False,
) -> None:
    """Say in sentences why a version was or was not promoted."""
    from pipelines.commands.explain import explain as read

    found = read(version)
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(found["sentences"]))
