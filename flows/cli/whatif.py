"""`expost whatif`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.common import example, interruptible, print_json

PLOT = Path("whatif.png")


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    shown = (
        "expost whatif --cost-fn 1..50",
        "expost whatif --cost-fn 20 --cost-fp 0.5..4 --steps 8 --no-plot",
        'expost whatif --cell "malignant/no biopsy=-50..-1" --json',
    )
    app.command("whatif", epilog=example(*shown))(whatif)


@interruptible
def whatif(
    *,
    cost_fn: Annotated[
        str | None, typer.Option("--cost-fn", metavar="A..B", help="Cost of a missed positive, the last class; a range or a number.")
    ] = None,
    cost_fp: Annotated[str | None, typer.Option("--cost-fp", metavar="A..B", help="Cost of a false alarm; a range or a number.")] = None,
    cell: Annotated[
        list[str] | None,
        typer.Option("--cell", metavar="CLASS/ACTION=A..B", help="A cell of utility.matrix; a range or a number (repeat it)."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=2, max=500, help="Points of the range; 21 without it.")] = None,
    plot: Annotated[Path, typer.Option("--plot", help="Where to write the plot, a PNG.")] = PLOT,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Write no plot.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Show what other costs would mean: threshold, action rates and expected utility along a range of them. Changes nothing.

    One option is a range; the rest of the utility is that of params.yaml, whose line is marked.

    Decided analytically on the cross-fitted probabilities of calib; the holdout is not looked at.
    """
    if cost_fn is None and cost_fp is None and not cell:
        raise typer.BadParameter("give --cost-fn, --cost-fp or --cell, one of them as a range such as 1..50")
    from pipelines.commands.whatif import STEPS, check_plot, save_plot, what_if

    if not no_plot:
        check_plot(plot)
    found = what_if(cost_fn=cost_fn, cost_fp=cost_fp, cells=cell or (), steps=steps or STEPS)
    if not no_plot:
        save_plot(found, plot)
    if as_json:
        print_json(found)
    else:
        _show(found, None if no_plot else plot)


def _show(found: dict[str, Any], plot: Path | None) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    console.print(_table(found), markup=True)
    for line in (*found["notes"], *([] if plot is None else [f"Plot: {plot}"])):
        console.print(escape(line), highlight=False)


def _table(found: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    axis, points = found["axis"], found["points"]
    with_threshold = any(point["threshold"] is not None for point in points)
    title = f"Utility per case, {found['unit']}, by the {axis['meaning']}; calib, {found['rows']:,} rows, cross-fitted"
    apart = 2 if len(found["actions"]) <= 3 else 1
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, padding=(0, apart, 0, 0), pad_edge=False)
    shown = [number for number, _ in enumerate(found["actions"])][-1 if len(found["actions"]) == 2 else 0 :]
    heads = [axis["option"].removeprefix("--") if axis["option"].startswith("--") else "cell", *(["threshold"] if with_threshold else [])]
    heads += [f"% {found['actions'][number]}" for number in shown]
    for head in (*heads, "utility", f"{100 * found['confidence']:g} % interval"):
        table.add_column(escape(head), justify="right", header_style="dim")
    table.add_column("best trivial", header_style="dim")
    for point in points:
        utility, trivial = point["utility"], point["trivial"]
        value = f"now {point['value']:.4g}" if point["now"] else f"{point['value']:.4g}"
        cut = ["none" if point["threshold"] is None else f"{point['threshold']:.4g}"] if with_threshold else []
        shares = [f"{100 * point['shares'][number]:.1f}" for number in shown]
        interval = f"[{utility['low']:.3g}, {utility['high']:.3g}]"
        best = escape(f"{trivial['utility']:.3g} {trivial['action']}")
        table.add_row(value, *cut, *shares, f"{utility['mean']:.3g}", escape(interval), best, style="bold" if point["now"] else "")
    return table
