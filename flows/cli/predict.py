"""`expost predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.common import example, interruptible

if TYPE_CHECKING:
    from pipelines.bundle import Bundle


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    shown = (
        "expost predict new.csv scored.parquet",
        "expost predict new.csv scored.csv --keep id --version 3",
        "expost predict new.csv scored.csv --utility other.yaml",
        "expost predict new.csv scored.csv --at-most biopsy=100",
        "expost predict new.csv scored.csv --estimate-prior",
    )
    app.command("predict", epilog=example(*shown))(predict)


@interruptible
def predict(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="CSV, TSV or Parquet with the feature columns; a target is ignored.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="CSV, TSV or Parquet: probability_<class>, action, expected_utility.")],
    *,
    version: Annotated[int | None, typer.Option("--version", min=1, help="Score with this version instead of the champion.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="Carry over this input column (repeat it, or separate by commas); 'all' keeps all.")
    ] = None,
    utility: Annotated[
        Path | None, typer.Option("--utility", help="Decide with the unit and matrix in this YAML or JSON file; the model stays.")
    ] = None,
    cost_fn: Annotated[float | None, typer.Option("--cost-fn", help="Two classes: decide with this cost of a missed positive.")] = None,
    cost_fp: Annotated[float | None, typer.Option("--cost-fp", help="Two classes: decide with this cost of a false alarm.")] = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option(
            "--at-most", metavar="ACTION=ROWS", help="Take this action for so many rows at most, where it is worth most (repeat it)."
        ),
    ] = None,
    estimate_prior: Annotated[
        bool, typer.Option("--estimate-prior", help="Estimate these rows' class shares, and decide under them where they can be believed.")
    ] = False,
) -> None:
    """Score new rows with the champion: probabilities, the action to take and its expected utility, in the order of the rows."""
    from pipelines.commands.predict import Wishes, counts
    from pipelines.commands.predict import predict as score

    names = [name for item in keep or [] for name in item.split(",") if name]
    kept: list[str] | Literal["all"] = "all" if names == ["all"] else names
    wishes = Wishes(utility, cost_fn, cost_fp, counts(at_most or []), estimate_prior)
    score(source, target, _bundle(version), keep=kept, wishes=wishes)


def _bundle(version: int | None) -> Bundle:
    """The champion out of the mirror, which is filled where it never was, or another version, fetched; verified."""
    from pipelines.bundle import Bundle
    from pipelines.commands.mirror import BUNDLE, STATUS, fetched, refresh_mirror
    from pipelines.params import load
    from pipelines.params.registry import Registry

    if version is not None:
        return Bundle.load(fetched(version))
    if not BUNDLE.exists():
        load(Registry)  # outside of a workspace, says that and no more
        status = refresh_mirror(lambda text: typer.echo(text, err=True))
        if status.get("state") != "champion":
            from pipelines.errors import must

            raise must("a champion must reign before rows can be scored", "none does", "Run `expost retrain`, or name a version.")
    from pipelines import store

    return Bundle.load(BUNDLE, str(store.read_json(STATUS).get("bundle_sha256")))
