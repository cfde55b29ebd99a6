"""`expost status`."""

from __future__ import annotations

from typing import Any

import typer

from flows.cli.common import example, interruptible, print_json


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("status", epilog=example("expost status", "expost status --json"))(status)


@interruptible
def status(
    as_json: bool = typer.Option(False, "--json", help="Print JSON: model, epoch, champion, challenger, last_verdict, waiting, drift."),
) -> None:
    """Show which version reigns, which one challenges, the last verdict, and what waits for a person."""
    from pipelines.commands.status import status as read

    found = read()
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"model {found['model']}", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("", "version", "verdict", "data", "weights", "policy", "registered"):
        table.add_column(name, no_wrap=True)
    for role in ("champion", "challenger"):
        entry = found[role]
        digests = [str(entry[name])[:8] for name in ("data_digest", "weights_sha256", "policy_sha256")] if entry else []
        when = str(entry["registered_at"])[:10] if entry else ""
        table.add_row(role, *([str(entry["version"]), entry["verdict"], *digests, when] if entry else ["none"]))
    console = Console()
    console.print(table)
    last = found["last_verdict"]
    console.print(f"last verdict: {last['verdict']}" if last else "last verdict: none yet")
    for reason in last["reasons"] if last else []:
        console.print(f"  {reason}")
    for version in found["waiting"]:
        console.print(f"version {version} waits for review: expost review {version}")
    if found["drift"]:
        typer.echo(f"warning: {found['drift']} The next `expost retrain` or `expost sync` sets it back.", err=True)
