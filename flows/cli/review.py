"""`expost review`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.cli.common import example, interruptible, print_json


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("review", epilog=example("expost review", "expost review 4", "expost review 4 --open"))(review)


@interruptible
def review(
    version: Annotated[int | None, typer.Argument(min=1, help="The version to look at; without it, what waits is listed.")] = None,
    *,
    open_page: Annotated[bool, typer.Option("--open", help="Open the version's review page in a browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the versions that wait for a person, or show one with its verdict, reasons and review page."""
    from pipelines.commands import explain

    if version is None:
        if open_page:
            raise typer.BadParameter("--open needs the number of a version")
        found = explain.waiting_now()
        if as_json:
            print_json(found)
        else:
            _list(found)
        return
    told = explain.review(version)
    if as_json:
        print_json(told)
    else:
        _show(told)
    if open_page:
        _open(told)


def _list(found: list[dict[str, Any]]) -> None:
    if not found:
        typer.echo("nothing waits for review")
    for row in found:
        until = "expired on" if row["expired"] else "may be promoted until"
        typer.echo(f"version {row['version']}  PASS  registered {row['at'][:10]}, {until} {row['expires_at'][:10]}")
    if found:
        typer.echo("expost review N --open shows one of them; expost promote N or expost reject N decides.")


def _show(told: dict[str, Any]) -> None:
    typer.echo(f"version {told['version']}: {told['verdict']}")
    for reason in told["reasons"]:
        typer.echo(f"  {reason}")
    typer.echo(told["sentences"][-1])
    typer.echo(f"page: {told['page'] or 'none was logged with this version'}")


def _open(told: dict[str, Any]) -> None:
    import webbrowser
    from pathlib import Path

    from pipelines.errors import must

    if told["page"] is None:
        raise must(f"version {told['version']} must have a review page", "none was logged with it", "Run `expost gate`, which makes one.")
    if not webbrowser.open(Path(told["page"]).as_uri()):
        typer.echo(f"no browser was found: open {told['page']}", err=True)
