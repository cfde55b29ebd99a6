"""How the tracking store is reached: MLflow's client with short patience, a local store made whole, and one message when it fails."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import without_password
from pipelines.ledger import UnreachableError

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE = Path("mlflow")
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default retries for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def store_uri(tracking_uri: str) -> str:
    """Address of the tracking store: MLflow's usual environment variable wins over params.yaml."""
    return os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri


def _is_local(uri: str) -> bool:
    return uri.startswith("sqlite:")


def _absolute(uri: str) -> str:
    """MLflow keeps one open database for each address that it has seen: two workspaces in one process must not share the relative one."""
    import sqlalchemy as sa

    if not _is_local(uri) or not (database := sa.make_url(uri).database) or database.startswith((":memory:", "file:")):
        return uri
    return sa.make_url(uri).set(database=str(Path(database).absolute())).render_as_string(hide_password=False)


@contextmanager
def reached(tracking_uri: str) -> Iterator[MlflowClient]:
    """A client of the store; whatever goes wrong inside becomes one UnreachableError."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    uri = store_uri(tracking_uri)
    if _is_local(uri):
        STORE.mkdir(exist_ok=True)
        # a store without a server would otherwise make a folder ./mlruns for artifacts that nobody puts there
        os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", str((STORE / "artifacts").absolute()))
    import requests
    import sqlalchemy as sa
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for noisy in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # its errors come with tracebacks, and ours says what went wrong
    try:
        if _is_local(uri):
            _make_store(uri)
        address = _absolute(uri)
        yield MlflowClient(tracking_uri=address, registry_uri=address)
    except (MlflowException, sa.exc.SQLAlchemyError, requests.RequestException, OSError) as error:
        rule, remedy = _rule(error)
        reason = without_password(_reason(error))[:160].rstrip(".")
        raise UnreachableError(
            f"{rule}, however: {without_password(uri)}: {reason}. What the stages computed is safe on disk: {remedy}, and it goes on from there."
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of what went wrong, from the database itself where it was one."""
    cause: BaseException | None = error
    while cause is not None:
        if (original := getattr(cause, "orig", None)) is not None:
            return f"{type(original).__name__}: {original}".splitlines()[0]
        cause = cause.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _rule(error: BaseException) -> tuple[str, str]:
    """The rule that `error` breaks, and the remedy as a clause."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(words in str(error) for words in ("No space left on device", "disk is full", "Disk quota exceeded")):
        return "the registry's store must have room", "free some space there and run `expost retrain` again"
    if "database is locked" in str(error):
        return "the registry's database must be free to write", "run `expost retrain` again when the process that holds it has ended"
    return (
        "the registry must be within reach",
        "run `expost retrain` again when the registry answers, or mend registry.tracking_uri in params.yaml",
    )


def _make_store(uri: str) -> None:
    """Make a new SQLite store beside its place and move it there whole: one killed halfway through its migrations would never open again."""
    import sqlalchemy as sa
    from mlflow import MlflowClient

    database = sa.make_url(uri).database
    if not database or Path(database).exists():
        return
    place = Path(database)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".new-store-") as scratch:
        young, grown = Path(scratch) / "young.db", Path(scratch) / "grown.db"
        MlflowClient(tracking_uri=f"sqlite:///{young}").get_experiment("0")
        with closing(sqlite3.connect(young)) as source, closing(sqlite3.connect(grown)) as copy:
            source.backup(copy)
        with suppress(FileExistsError):  # another process was faster
            os.link(grown, place)


def experiment(client: MlflowClient, tracking_uri: str, model: str) -> str:
    """Id of the experiment `model`, created where it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(model)
    if found is None:
        place = (STORE / "artifacts").absolute().as_uri() if _is_local(store_uri(tracking_uri)) else None
        try:
            return str(client.create_experiment(model, artifact_location=place))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(model)
            if found is None:
                raise
    return str(found.experiment_id)


def again(write: Callable[[], object]) -> None:
    """Call `write`, and again where another process wrote the same row at that moment: then it finds the row and updates it."""
    from mlflow.exceptions import MlflowException

    for last in (False, False, True):
        try:
            write()
            return
        except MlflowException as error:
            if last or error.error_code != "BAD_REQUEST":  # so it reports a unique constraint that two writers ran into
                raise


def prepare(tracking_uri: str, model: str) -> None:
    """Create the store and the experiment where they are missing: a new SQLite store takes seconds, best spent beside the training."""
    with reached(tracking_uri) as client:
        experiment(client, tracking_uri, model)
