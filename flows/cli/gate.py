"""`expost gate`."""

from __future__ import annotations

import typer

from flows.cli.common import example, interruptible


def add(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("gate", epilog=example("expost gate --dry-run", "expost gate --json"))(gate)


@interruptible
def gate(
    *,
    dry_run: bool = typer.Option(False, "--dry-run", help="Register and promote nothing. It counts as a look at the holdout all the same."),
    as_json: bool = typer.Option(False, "--json", help="Print the outcome as JSON instead of the panel."),
) -> None:
    """Judge what stands in the workspace against the champion that reigns now, register and promote it; exit code 3 unless it is PASS.

    Nothing before the evaluation is computed anew.
    """
    from flows import graph
    from flows.cli.running import check_and_lock, run

    check_and_lock()
    if not graph.missing_outs():  # else the flow fetches them first
        graph.refuse_stale_before("evaluate", but=("champion",))

    def flow() -> object:
        from flows.retrain import judge

        return judge(dry_run, return_state=True)

    run("expost gate", flow, as_json=as_json)
