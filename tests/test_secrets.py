"""A password in an address is in no message, file, page or tag, whatever goes wrong."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from pipelines import publication
from pipelines.commands import publish
from pipelines.errors import ExpostError, must, without_password
from pipelines.params import PARAMS, load
from pipelines.params.registry import Registry
from tests.conftest import make_workspace
from tests.stages.judging import params, validated
from tests.stages.shipped import run_stages

SECRET = "hunter2-s3cret"
TRACKING = f"http://me:{SECRET}@127.0.0.1:1"
LEDGERS = {
    "PostgreSQL": f"postgresql://me:{SECRET}@127.0.0.1:1/x",
    "PostgreSQL by query": f"postgresql://127.0.0.1:1/x?user=me&password={SECRET}",
    "no driver": f"postgresql+nodriver://me:{SECRET}@127.0.0.1:1/x",
    "another database": f"mysql+pymysql://me:{SECRET}@127.0.0.1:1/x",
    "no address": f"nothing://me:{SECRET}@@/x",
}
COMMANDS = (
    *(
        "status",
        "status --json",
        "history",
        "history --json",
        "explain 1",
        "explain 1 --json",
        "review",
        "review 1",
        "gate",
        "gate --dry-run",
    ),
    *(
        "promote 1 --by me --why good",
        "promote 1 --by me --why good --override",
        "reject 1 --by me --why bad",
        "rollback --by me --why bad",
    ),
    *("predict in.csv out.csv --version 1", "predict in.csv out.csv", "lessons", "sync", "check"),
)


def test_a_password_is_hidden_in_any_text_that_holds_an_address() -> None:
    assert without_password("postgresql://me:s3cr@t@db:5432/mlflow") == "postgresql://me:***@db:5432/mlflow"
    assert without_password("at http://me:secret@host:5000, twice http://a:b@c") == "at http://me:***@host:5000, twice http://a:***@c"
    assert (
        without_password("postgresql://db/x?user=me&password=secret&sslmode=require")
        == "postgresql://db/x?user=me&password=***&sslmode=require"
    )
    for plain in ("sqlite:///mlflow/mlflow.db", "http://127.0.0.1:5000", "https://host/a:b@c", "token = 5", "no address: a:b@c"):
        assert without_password(plain) == plain
    assert SECRET not in str(must("x", TRACKING, "Y."))


@pytest.mark.parametrize("key", ["tracking_uri", "ledger_uri"])
@pytest.mark.parametrize("uri", [TRACKING, *LEDGERS.values()])
def test_params_yaml_takes_no_password_since_git_and_mlflow_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    PARAMS.write_text(json.dumps({"registry": {key: uri}}))
    with pytest.raises(ExpostError, match=rf"registry\.{key}: .*must hold no password.*PGPASSWORD") as caught:
        load(Registry)
    assert SECRET not in str(caught.value)
    PARAMS.write_text(json.dumps({"registry": {key: [uri]}}))
    with pytest.raises(ExpostError) as caught:
        load(Registry)
    assert SECRET not in str(caught.value)


@pytest.fixture(scope="module")
def judged(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace as git has it, with the results of the stages, ready to be published; read only."""
    folder = make_workspace(tmp_path_factory.mktemp("secrets") / "workspace")
    shutil.copytree(world / "data", folder / "data", dirs_exist_ok=True)
    shutil.copy(world / "params.yaml", folder)
    validated(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages("champion", "evaluate", "gate")
    return folder


@pytest.fixture
def workspace(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path(shutil.copytree(judged, tmp_path / "workspace", symlinks=True))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (folder / "in.csv").write_text("number\n1\n")
    yield folder
    assert not [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and SECRET.encode() in path.read_bytes()]


def said(command: str, caplog: pytest.LogCaptureFixture) -> str:
    """All that a command says: on stdout and stderr, in its error, to the log."""
    with caplog.at_level(logging.DEBUG):
        done = CliRunner().invoke(cli.app, command.split())
    error = done.exception
    chain = []
    while isinstance(error, ExpostError):
        chain.append(str(error))
        error = None
    return "\n".join([done.output, *chain, *(record.getMessage() for record in caplog.records)])


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_says_it_where_the_registry_is_out_of_reach(
    workspace: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", TRACKING)
    assert SECRET not in said(command, caplog)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_says_it_where_the_ledger_is_out_of_reach(
    workspace: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("EXPOST_LEDGER_URI", LEDGERS["PostgreSQL"])
    assert SECRET not in said(command, caplog)


@pytest.mark.parametrize("ledger", LEDGERS)
def test_no_form_of_the_address_is_said(
    workspace: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, ledger: str
) -> None:
    monkeypatch.setenv("EXPOST_LEDGER_URI", LEDGERS[ledger])
    text = said("history", caplog)
    assert "ledger" in text
    assert SECRET not in text


def test_what_is_published_names_no_password_and_neither_does_a_failure_to(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", TRACKING)
    monkeypatch.setenv("EXPOST_LEDGER_URI", LEDGERS["PostgreSQL"])
    with pytest.raises(ExpostError) as caught:
        publish.publish("0" * 32, told.append)
    logged = [f"{key} {value}" for key, value in publication.params()] + [
        path.read_text(errors="replace") for path, _ in publication.files()
    ]
    assert SECRET not in "\n".join([str(caught.value), *told, *logged])


def test_params_that_name_an_address_are_published_without_harm(workspace: Path) -> None:
    params(workspace, lambda values: values.setdefault("registry", {}).update(ledger_uri="postgresql://me@127.0.0.1:1/x"))
    assert load(Registry).ledger_uri == "postgresql://me@127.0.0.1:1/x"
