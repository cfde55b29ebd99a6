"""`expost history`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.cli.common import example, interruptible, print_json


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("history", epilog=example("expost history", "expost history --at 2026-11-26", "expost history --json"))(history)


@interruptible
def history(
    *,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Which version reigned then: ISO 8601, in UTC unless it names a zone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list of deeds.")] = False,
) -> None:
    """Show every promotion, override, rollback and rejection: who, when, why; or which version reigned at a time."""
    from pipelines.commands.explain import history as read

    found = read(at)
    if as_json:
        print_json(found)
    elif at is not None:
        typer.echo(f"version {found[0]['to_version']} reigned, since {found[0]['at']}" if found else "no version reigned")
    else:
        _show(found)


def _show(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not found:
        typer.echo("no version has reigned yet")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("epoch", "when (UTC)", "what", "version", "by", "why"):
        table.add_column(name, no_wrap=name != "why")
    for row in found:
        moved = str(row["to_version"]) if row["from_version"] is None else f"{row['from_version']} -> {row['to_version']}"
        table.add_row(str(row["epoch"]), row["at"][:19].replace("T", " "), row["kind"], moved, row["who"], row["why"])
    Console().print(table, markup=False)
