"""`expost retune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.common import example, interruptible
from flows.cli.init import COST


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    shown = ("expost retune", "expost retune --cost-fn 20 --cost-fp 1", "expost retune --utility utility.yaml --json")
    app.command("retune", epilog=example(*shown))(retune)


@interruptible
def retune(
    *,
    utility: Annotated[
        Path | None, typer.Option("--utility", help="YAML or JSON with unit and matrix[true class][action]: the new section utility.")
    ] = None,
    cost_fn: Annotated[
        str | None, typer.Option("--cost-fn", metavar="COST", help=f"What a missed positive, the last class, costs from now on: {COST}.")
    ] = None,
    cost_fp: Annotated[
        str | None, typer.Option("--cost-fp", metavar="COST", help="What a false alarm costs from now on, likewise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON instead of the panel.")] = False,
) -> None:
    """Decide anew on the same weights: after a change of utility, decide, evaluate or gate in params.yaml, or with a new utility put there.

    Reads no source and trains nothing; the result goes through the same gate, is registered, and promoted if the gate passes it.
    """
    from flows import graph
    from flows.cli.running import check_and_lock, run
    from pipelines.commands.retune import plain, wanted

    check_and_lock()
    asked = wanted(utility, cost_fn, cost_fp)
    if not graph.missing_outs():  # else the flow fetches them first
        graph.refuse_stale_before("decide")

    def flow() -> object:
        from flows.retrain import retune

        return retune(None if asked is None else plain(asked), return_state=True)

    run("expost retune", flow, as_json=as_json)
