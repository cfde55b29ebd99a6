"""`expost lessons`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.cli.common import example, interruptible, print_json
from flows.cli.promote import By, Why


def add(app: typer.Typer) -> None:
    """Add the group of commands to `app`: alone it lists."""
    shown = ("expost lessons", "expost lessons --json", 'expost lessons retire 3.1 --by Ana --why "the product is gone"')
    group = typer.Typer(
        help="What champions taught: where they fail, a criterion for later challengers until retired.", epilog=example(*shown)
    )
    group.callback(invoke_without_command=True)(_listed)
    group.command("retire", epilog=example(shown[-1], 'expost lessons retire "age > 50" --by Ana --why "mended"'))(retire)
    app.add_typer(group, name="lessons")


def _listed(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list.")] = False) -> None:
    if context.invoked_subcommand is None:
        show(as_json)


@interruptible
def show(as_json: bool) -> None:
    """List the lessons of champions, active and retired."""
    from pipelines.commands.lessons import lessons

    found = lessons()
    if as_json:
        print_json(found)
    elif found:
        _table(found)
    else:
        typer.echo("no champion has taught a lesson yet")


def _table(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("id", "lesson", "share", "state"):
        table.add_column(name, no_wrap=name == "id")
    for one in found:
        gone = one["retired"]
        state = "active" if gone is None else f"retired {gone['at'][:10]} by {gone['who']}: {gone['why']}"
        table.add_row(one["id"], one["name"], "" if one["share"] is None else f"{one['share']:.1%}", state)
    Console().print(table, markup=False)


@interruptible
def retire(
    lesson: Annotated[str, typer.Argument(help="The lesson's id or its name, as `expost lessons` shows them.")],
    *,
    by: By,
    why: Why,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: those that were active, with retired_by and why.")] = False,
) -> None:
    """Let a lesson no longer be a criterion of the gate; the ledger keeps who and why."""
    from pipelines.commands.lessons import retire as let_go

    done = let_go(lesson, by=by, why=why, report=lambda line: typer.echo(line, err=True))
    if as_json:
        print_json(done)
    else:
        for one in done:
            typer.echo(f"lesson {one['id']} ({one['name']}) is retired")
        if not done:
            typer.echo("it was retired already")
