"""`expost init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.common import example, interruptible

COST = "a number, or an expression over the row's columns"


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    shown = (
        "expost init loans.parquet --target default --positive yes --cost-fn 5 --cost-fp 1",
        "expost init 'exports/*.csv' --target outcome --utility utility.yaml --key id --time date",
        "expost init tv_churn.csv --target churned --cost-fn C_FN --cost-fp C_FP --cost-tp C_TP --cost-tn C_TN",
        "expost init clicks.csv --target fraud --cost-fn '0.75 * amount' --cost-fp 5 --role amount=feature+cost --weight times",
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
    cost_fn: Annotated[str | None, typer.Option("--cost-fn", metavar="COST", help=f"What a missed positive costs: {COST}.")] = None,
    cost_fp: Annotated[str | None, typer.Option("--cost-fp", metavar="COST", help="What a false alarm costs, likewise.")] = None,
    cost_tp: Annotated[str | None, typer.Option("--cost-tp", metavar="COST", help="What acting on a positive costs; 0.")] = None,
    cost_tn: Annotated[str | None, typer.Option("--cost-tn", metavar="COST", help="What leaving a negative alone costs; 0.")] = None,
    utility: Annotated[
        Path | None, typer.Option("--utility", help="YAML with unit and matrix[true class][action], instead of costs.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Column whose equal values never cross parts, such as a patient.")] = None,
    time: Annotated[str | None, typer.Option("--time", help="Date column; later rows go to the holdout.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Column that names each row once.")] = None,
    weight: Annotated[str | None, typer.Option("--weight", help="Column that counts identical rows, each written once.")] = None,
    role: Annotated[list[str] | None, typer.Option("--role", metavar="COLUMN=ROLE", help="Role of a column (repeat it).")] = None,
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
            cost_tp=cost_tp,
            cost_tn=cost_tn,
            utility_file=utility,
            group=group,
            time=time,
            key=key,
            weight=weight,
            ignore=ignore or (),
            roles=role or (),
            model=model,
            force=force,
            report=typer.echo,
            where=where,
        )
