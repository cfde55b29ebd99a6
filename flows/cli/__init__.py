"""The `expost` command: one short module per command, which imports what that command needs when it runs."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import TracebackType

import typer

from pipelines.errors import without_password
from pipelines.store import one_message

COMMANDS = (
    *("init", "retrain", "retune", "tune", "gate", "whatif", "predict"),
    *("status", "review", "promote", "reject", "rollback", "history", "explain", "lessons"),
    *("schedule", "expectations", "check", "sync", "ui"),
)

app = typer.Typer(
    name="expost",
    help="Retrain classifiers whose errors cost unequally: learn first with a symmetric loss, decide afterwards with the costs.",
    epilog="Exit codes: 0 done, identical to the champion, or passed and waiting for review; 1 bad data, bad configuration or a failed stage; 2 usage; 3 the gate blocked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"expost {version('expost')}")
        raise typer.Exit


@app.callback()
def _root(
    _: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version and exit."),
) -> None:
    pass


for _name in COMMANDS:
    import_module(f"flows.cli.{_name}").add(app)


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """One line for a fault of ours; the traceback on request."""
    if os.environ.get("EXPOST_DEBUG") == "1":
        sys.__excepthook__(kind, error, trace)
        return
    text = without_password(" ".join(str(error).split()))[:500]
    print(f"error: expost met a fault of its own, {kind.__name__}: {text}. Set EXPOST_DEBUG=1 to see where.", file=sys.stderr)


def main() -> None:
    """Run the command line; expected errors are one message on stderr and exit code 1."""
    sys.excepthook = _unexpected
    with one_message():
        typer.main.get_command(app)()  # calling the app itself would put typer's own hook in the place of ours
