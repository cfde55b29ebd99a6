"""`expost init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.common import example, interruptible


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    shown = (
        "expost init loans.parquet --target default --positive yes --cost-fn 5 --cost-fp 1",
        "expost init 'exports/*.csv' --target outcome --utility utility.yaml --key id --time date",
    )
    app.command("init", epilog=example(*shown))(init)


@interruptible
def init(
    source: Annotated[
        str, typer.Argument(metavar="TABLE", help="CSV, TSV or Parquet; a folder or glob of parts; or a URL that fsspec opens.")
    ],
    target: Annotated[str, typer.Option("--target", help="The column to predict.")],
    *,
    positive: Annotated[str | None, typer.Option("--positive", help="The class that an action is meant for (two classes).")] = None,
    cost_fn: Annotated[float | None, typer.Option("--cost-fn", min=0, help="What a missed positive costs.")] = None,
    cost_fp: Annotated[float | None, typer.Option("--cost-fp", min=0, help="What a false alarm costs.")] = None,
    utility: Annotated[
        Path | None, typer.Option("--utility", help="YAML with unit and matrix[true class][action], instead of costs.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Column whose equal values never cross parts, such as a patient.")] = None,
    time: Annotated[str | None, typer.Option("--time", help="Date column; later rows go to the holdout.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Column that names each row once.")] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", help="Column to leave out (repeat it).")] = None,
    where: Annotated[str | None, typer.Option("--where", help="Filter on the rows, as ingest.where in params.yaml.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Name of the registered model; the table's name without it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite params.yaml and data/expectations.json that were edited.")] = False,
) -> None:
    """Profile a table, propose a role for each column, and write params.yaml and data/expectations.json."""
    from flows.workspace import check_workspace, exclusive
    from pipelines.commands.init import init_workspace

    check_workspace()
    with exclusive():
        init_workspace(
            source,
            target,
            positive=positive,
            cost_fn=cost_fn,
            cost_fp=cost_fp,
            utility_file=utility,
            group=group,
            time=time,
            key=key,
            ignore=ignore or (),
            model=model,
            force=force,
            report=typer.echo,
            where=where,
        )
