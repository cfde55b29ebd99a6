"""`expost predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.common import example, interruptible


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    shown = (
        "expost predict new.csv scored.parquet",
        "expost predict new.csv scored.csv --keep id",
        "expost predict new.csv old.csv --version 3",
    )
    app.command("predict", epilog=example(*shown))(predict)


@interruptible
def predict(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="CSV, TSV or Parquet with the feature columns; a target is ignored.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="CSV, TSV or Parquet: probability_<class>, action, expected_utility.")],
    version: Annotated[int | None, typer.Option("--version", min=1, help="Score with this version instead of the champion.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="Carry over this input column (repeat it, or separate by commas); 'all' keeps all.")
    ] = None,
) -> None:
    """Score new rows with the champion: probabilities, the action to take and its expected utility, in the order of the rows."""
    from pipelines.commands.predict import predict as score

    names = [name for item in keep or [] for name in item.split(",") if name]
    kept: list[str] | Literal["all"] = "all" if names == ["all"] else names
    score(source, target, _bundle(version), keep=kept)


def _bundle(version: int | None) -> Path:
    """The champion's mirror, fetched where it was never filled; or another version, fetched."""
    from pipelines.commands.mirror import BUNDLE, fetched, refresh_mirror
    from pipelines.params import load
    from pipelines.params.registry import Registry

    if version is not None:
        return fetched(version)
    if not BUNDLE.exists():
        load(Registry)  # outside of a workspace, says that and no more
        status = refresh_mirror(lambda text: typer.echo(text, err=True))
        if status.get("state") != "champion":
            from pipelines.errors import must

            raise must("a champion must reign before rows can be scored", "none does", "Run `expost retrain`, or name a version.")
    return BUNDLE
