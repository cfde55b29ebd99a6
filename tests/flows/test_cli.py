"""The command line: help with examples, exit codes, one message per error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import COMMANDS
from tests.conftest import edit_params, run


@pytest.mark.parametrize("command", [*((name,) for name in COMMANDS if name != "expectations"), ("expectations", "accept")])
def test_every_command_has_help_with_examples(command: tuple[str, ...], tmp_path: Path) -> None:
    shown = run("expost", *command, "--help", cwd=tmp_path, COLUMNS="200")
    assert shown.returncode == 0
    assert "Examples:" in shown.stdout
    assert f"expost {' '.join(command)}" in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("retrain", "--no-such-option"),
        ("predict", "only-one"),
        ("schedule",),
        ("predict", "a", "b", "--version", "0"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert run("expost", *arguments, cwd=tmp_path).returncode == 2


def test_version_and_help_need_no_workspace(tmp_path: Path) -> None:
    assert run("expost", "--version", cwd=tmp_path).stdout.startswith("expost 0.")
    assert run("expost", "--help", cwd=tmp_path).returncode == 0


def one_message(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that failed as it should: exit 1, one `error: `, no traceback, nothing on stdout."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("command", ["retrain", "retune", "gate", "check", "sync", "status", "review", "history"])
def test_outside_of_a_workspace_the_message_says_where_to_go(command: str, tmp_path: Path) -> None:
    assert "params.yaml must exist" in one_message(run("expost", command, cwd=tmp_path))


def test_a_broken_rule_is_told_before_anything_starts(workspace: Path) -> None:
    edit_params(workspace, lambda values: values["train"].update(class_weight="balanced", seeed=1))
    message = one_message(run("expost", "retrain", cwd=workspace))
    assert "train.class_weight is refused" in message
    assert "did you mean seed?" in message
    assert not (workspace / "data/ingest").exists()


def test_without_git_the_message_says_git_init(workspace: Path) -> None:
    subprocess.run(["rm", "-rf", ".git"], cwd=workspace, check=True)
    assert "Run `git init` here" in one_message(run("expost", "retrain", cwd=workspace, GIT_CEILING_DIRECTORIES=str(workspace.parent)))


def test_a_second_retrain_is_refused_at_once(workspace: Path) -> None:
    from flows.workspace import exclusive

    with exclusive():
        assert "one run at a time may use a workspace" in one_message(run("expost", "retrain", cwd=workspace))


def test_predict_without_a_champion_says_what_to_do(workspace: Path) -> None:
    (workspace / "new.csv").write_text("a\n1\n")
    message = run("expost", "predict", "new.csv", "out.csv", cwd=workspace)
    assert message.returncode == 1
    assert "a champion must reign before rows can be scored, however: none does. Run `expost retrain`" in message.stderr
    assert not (workspace / "out.csv").exists()


def test_a_fault_of_its_own_is_one_line_and_a_traceback_on_request(workspace: Path) -> None:
    code = "import sys; sys.argv = ['expost', 'check']; import pipelines.commands.check as c; c.check_params = lambda: 1 / 0; from flows.cli import main; main()"
    short = run(sys.executable, "-c", code, cwd=workspace)
    assert "ZeroDivisionError: division by zero. Set EXPOST_DEBUG=1" in one_message(short)
    assert "Traceback" in run(sys.executable, "-c", code, cwd=workspace, EXPOST_DEBUG="1").stderr


def test_the_committed_configuration_is_inits_own_to_replace() -> None:
    from pipelines.commands.paramsfile import is_untouched

    text = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")
    assert is_untouched(text), "params.yaml was changed without its digest: `expost init` would refuse to replace it in a fresh clone"
