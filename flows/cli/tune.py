"""`expost tune`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from flows.cli.common import example, interruptible, print_json


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    shown = ("expost tune", "expost tune --trials 60 --write", "expost tune --storage postgresql+psycopg://user@host/optuna --trials 200")
    app.command("tune", epilog=example(*shown))(tune)


@interruptible
def tune(
    *,
    trials: Annotated[
        int, typer.Option("--trials", min=2, max=10_000, help="Trials that the study holds in the end, earlier ones counted.")
    ] = 30,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="Database of the study, shared by machines; a file in .checkpoints without it."),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the best into params.yaml if other seeds confirm it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Search learning rate, weight decay, width and dropout by held-out log loss; costs and the holdout are not looked at.

    Goes on where an earlier call ended. Several calls at once share the trials. The best is then trained beside the present parameters with other seeds: only a difference that these confirm
    counts.
    """
    from pipelines.commands.tune import tune as run

    found = run(trials=trials, storage=storage, write=write, told=lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        print_json(found)
    else:
        _show(found, write)


def _show(found: dict[str, Any], write: bool) -> None:
    best = ", ".join(f"train.{name}: {value:.3g}" for name, value in found["best"].items())
    print(f"{found['trials']} trials, {found['pruned']} of them pruned. Best held-out log loss {found['best_log_loss']:.4f} with {best}.")
    confirmed = found["confirmed"]
    if confirmed is None:
        print("These are the parameters as they stand: nothing to change.")
        return
    if confirmed["saved"] is None:
        print(f"With {confirmed['best'].count(None)} of {confirmed['seeds']} other seeds its loss is not finite.")
    else:
        saved = f"{confirmed['saved']:+.4f} nats per row, 95 % interval {confirmed['low']:+.4f} to {confirmed['high']:+.4f}"
        print(f"With {confirmed['seeds']} other seeds it saves {saved}.")
    if not found["better"]:
        print("That is not surely better: params.yaml stays as it is.")
    else:
        print(
            "Written to params.yaml. Next: `expost retrain`." if write else "Surely better: `expost tune --write` puts it into params.yaml."
        )
