"""What MLflow remembers: one run per retraining, one version per result, and the aliases. The only importer of mlflow.

Files first: everything that is published here already lies on disk, so losing the registry never loses a training run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import publication
from pipelines.bundle import MANIFEST, Bundle
from pipelines.errors import must
from pipelines.ledger import UnreachableError

if TYPE_CHECKING:
    from mlflow import MlflowClient

SERVING = Path(__file__).with_name("serving.py")
STORE = Path("mlflow")
CHALLENGER, CHAMPION = "challenger", "champion"
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default retries for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class Registered:
    """A registered version; `created` is False where the same result had been registered before."""

    version: int
    run_id: str
    created: bool
    url: str


def store_uri(tracking_uri: str) -> str:
    """Address of the tracking store: MLflow's usual environment variable wins over params.yaml."""
    return os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri


def without_password(uri: str) -> str:
    """`uri` as it may be shown: `scheme://user:secret@host` becomes `scheme://user:***@host`."""
    return re.sub(r"(://[^/@:\s]*):[^/\s]*@", r"\1:***@", uri)


def _is_local(uri: str) -> bool:
    return uri.startswith("sqlite:")


@contextmanager
def _reached(tracking_uri: str) -> Iterator[MlflowClient]:
    """A client of the store; whatever goes wrong inside becomes one UnreachableError."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    uri = store_uri(tracking_uri)
    if _is_local(uri):
        STORE.mkdir(exist_ok=True)
        # a store without a server would otherwise make a folder ./mlruns for artifacts that nobody puts there
        os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", str((STORE / "artifacts").absolute()))
    import logging

    import requests
    import sqlalchemy as sa
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for noisy in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        if _is_local(uri):
            _make_store(uri)
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, sa.exc.SQLAlchemyError, requests.RequestException, OSError) as error:
        reason = without_password(str(error).splitlines()[0])[:160]
        raise UnreachableError(
            f"the registry must be within reach, however: {without_password(uri)}: {reason}. What the stages computed is safe on disk: run `expost retrain` "
            "again when the registry answers, and it goes on from there; or mend registry.tracking_uri in params.yaml."
        ) from error


def prepare(tracking_uri: str, model: str) -> None:
    """Create the store and the experiment where they are missing: a new SQLite store takes seconds, best spent beside the training."""
    with _reached(tracking_uri) as client:
        _experiment(client, tracking_uri, model)


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


def _experiment(client: MlflowClient, tracking_uri: str, model: str) -> str:
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


def run_key(bundle_sha256: str, data_digest: str) -> str:
    """Key of a result: the same bundle from the same data is one version, however often it is registered."""
    return hashlib.sha256(f"{bundle_sha256}\n{data_digest}".encode()).hexdigest()


def register(
    model: str, tracking_uri: str, *, data_digest: str, verdict: Mapping[str, Any], folder: Path = Path("data/package/bundle")
) -> Registered:
    """Register what the stages left in the workspace as a run and a version with the alias `challenger`.

    Idempotent: a result that has a version keeps it, and only its verdict is brought up to date. Raises UnreachableError.
    """
    manifest = Bundle.load(folder).manifest
    key = run_key(manifest["bundle_sha256"], data_digest)
    facts = {name: str(manifest[name]) for name in ("bundle_sha256", "weights_sha256", "policy_sha256")}
    facts |= {"run_key": key, "data_digest": data_digest, **publication.verdict_tags(verdict)}
    with _reached(tracking_uri) as client:
        experiment = _experiment(client, tracking_uri, model)
        version = _version_of(client, model, key)
        created = version is None
        if version is None:
            version = _publish(client, experiment, model, folder, facts)
        elif version.tags.get("verdict_sha256") != facts["verdict_sha256"]:
            _judge_again(client, model, version, facts)
        client.set_registered_model_alias(model, CHALLENGER, str(version.version))
        return Registered(int(version.version), version.run_id, created, run_url(store_uri(tracking_uri), experiment, version.run_id))


def run_url(uri: str, experiment: str, run_id: str) -> str:
    """Where the run's page is: on the server, or where `make ui` shows the local store."""
    base = without_password(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{base}/#/experiments/{experiment}/runs/{run_id}"


def _version_of(client: MlflowClient, model: str, key: str) -> Any:
    """The lowest version with this key; later ones, born of a repeated request, are tagged as its duplicates."""
    found = client.search_model_versions(f"name='{model}' and tags.run_key='{key}'", max_results=1000)
    versions = sorted(found, key=lambda version: int(version.version))
    for later in versions[1:]:
        if "duplicate" not in later.tags:
            client.set_model_version_tag(model, later.version, "duplicate", str(versions[0].version))
    return versions[0] if versions else None


def _publish(client: MlflowClient, experiment: str, model: str, folder: Path, facts: Mapping[str, str]) -> Any:
    for lost in client.search_runs([experiment], f"tags.run_key = '{facts['run_key']}' and attributes.status = 'RUNNING'"):
        client.set_terminated(lost.info.run_id, "KILLED")
    run = client.create_run(experiment, run_name=f"retrain-{facts['bundle_sha256'][:8]}", tags=dict(facts))
    run_id, status = run.info.run_id, "FAILED"
    try:
        _log_run(client, run_id, facts)
        source, model_id = _log_model(client, experiment, run_id, folder, facts)
        _create_version(client, model, (source, run_id, model_id), facts)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return _version_of(client, model, facts["run_key"])


def _log_run(client: MlflowClient, run_id: str, facts: Mapping[str, str]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    for start in range(0, len(params := publication.params()), 100):
        client.log_batch(run_id, params=[Param(name, value) for name, value in params[start : start + 100]])
    at = int(run.info.start_time) if (run := client.get_run(run_id)) else 0
    measured = [Metric(name, value, at, step) for name, value, step in publication.metrics()]
    for start in range(0, len(measured), 1000):
        client.log_batch(run_id, metrics=measured[start : start + 1000])
    data = publication.dataset(facts["data_digest"])
    client.log_inputs(run_id, [DatasetInput(Dataset(**data), [InputTag("mlflow.data.context", "training")])])
    for path, place in publication.files():
        client.log_artifact(run_id, str(path), place)


def _log_model(client: MlflowClient, experiment: str, run_id: str, folder: Path, facts: Mapping[str, str]) -> tuple[str, str]:
    """Upload the model, its manifest last, verify what arrived and link it to the run; returns (where it lies, its id)."""
    from mlflow.entities import LoggedModelOutput

    logged = client.create_logged_model(experiment, name="bundle", source_run_id=run_id, tags=dict(facts), model_type="expost")
    with tempfile.TemporaryDirectory() as scratch:
        local, last = Path(scratch) / "model", Path(scratch) / "manifest"
        _save_model(local, folder, run_id, logged.model_id)
        last.mkdir()
        (local / "artifacts/bundle" / MANIFEST).rename(last / MANIFEST)
        client.log_model_artifacts(logged.model_id, str(local))
        client.log_model_artifacts(logged.model_id, str(last), "artifacts/bundle")
        _fetch(f"{logged.artifact_location}/artifacts/bundle", Path(scratch) / "arrived", facts["bundle_sha256"])
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.artifact_location), str(logged.model_id)


def _save_model(local: Path, folder: Path, run_id: str, model_id: str) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it recommends type hints to get a signature, which is given
        mlflow.pyfunc.save_model(
            str(local),
            python_model=str(SERVING),
            artifacts={"bundle": str(folder.absolute())},
            signature=_signature(Bundle.load(folder)),
            input_example=publication.example(folder),
            pip_requirements=publication.requirements(),
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )


def _signature(bundle: Bundle) -> Any:
    """What the model takes and gives: features, and any column that a utility may read, since MLflow drops those not named here."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    costs = [column for column in bundle.schema["others"] if column["role"] == "cost"]
    kinds = {"number": "double"}
    inputs = [
        ColSpec(kinds.get(column["kind"], "string"), column["name"], required=False) for column in (*bundle.schema["columns"], *costs)
    ]
    outputs = [ColSpec("double", f"probability_{name}") for name in bundle.classes]
    utility = ParamSpec("utility", DataType.string, "")
    return ModelSignature(
        Schema(inputs), Schema([*outputs, ColSpec("string", "action"), ColSpec("double", "expected_utility")]), ParamSchema([utility])
    )


def _create_version(client: MlflowClient, model: str, origin: tuple[str, str, str], facts: Mapping[str, str]) -> None:
    from mlflow.exceptions import MlflowException

    source, run_id, model_id = origin

    try:
        client.get_registered_model(model)
    except MlflowException:
        client.create_registered_model(model, description="Trained with a symmetric loss; decides with the utility matrix (expost).")
    client.create_model_version(model, source, run_id, tags=dict(facts), description=publication.card(), model_id=model_id)


def _judge_again(client: MlflowClient, model: str, version: Any, facts: Mapping[str, str]) -> None:
    """The same result under a new verdict: tags and card follow, the earlier verdicts stay with the run."""
    for name, value in facts.items():
        client.set_model_version_tag(model, version.version, name, value)
    client.update_model_version(model, version.version, publication.card())
    for path, place in publication.files():
        if path.name in ("verdict.json", "card.md"):
            client.log_artifact(version.run_id, str(path), place)


def crown(model: str, tracking_uri: str, version: int) -> None:
    """Point the alias `champion` at the version that the ledger says reigns."""
    with _reached(tracking_uri) as client:
        if client.get_registered_model(model).aliases.get(CHAMPION) not in (version, str(version)):
            client.set_registered_model_alias(model, CHAMPION, str(version))


def fetch_bundle(model: str, tracking_uri: str, version: int, folder: Path, bundle_sha256: str | None = None) -> None:
    """Download the bundle of `version` into `folder` (replaced whole), verified against its manifest, its tag and `bundle_sha256`."""
    from mlflow.exceptions import MlflowException

    with _reached(tracking_uri) as client:
        try:
            found = client.get_model_version(model, str(version))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = [str(one["version"]) for one in _versions(client, model)]
            remedy = f"Versions: {', '.join(known) or 'none'}; `expost status` shows them."
            raise must(f"the version must be one of model {model}", str(version), remedy) from error
        digests = {str(digest) for digest in (found.tags.get("bundle_sha256"), bundle_sha256) if digest}
        if len(digests) != 1:
            got = "it has none" if not digests else f"its tag and the ledger differ: {', '.join(sorted(digest[:12] for digest in digests))}"
            remedy = "Do not use that version: expost did not register it as it is now."
            raise must(f"version {version} of model {model} must have one bundle_sha256", got, remedy)
        _fetch(f"{found.source.rstrip('/')}/artifacts/bundle", folder, digests.pop())


def _fetch(uri: str, folder: Path, bundle_sha256: str) -> None:
    from mlflow.artifacts import download_artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        # a local store hands out its own folder: copy, so that what was verified is what is used
        arrived, copy = Path(download_artifacts(artifact_uri=uri, dst_path=f"{scratch}/download")), Path(scratch) / "bundle"
        shutil.copytree(arrived, copy, symlinks=True)
        found = Bundle.load(copy).manifest["bundle_sha256"]
        if found != bundle_sha256:
            remedy = "Do not use that version: something changed its files in the registry's store."
            raise must(f"the bundle in the registry must have the digest {bundle_sha256[:12]}", f"it is {found[:12]}", remedy)
        shutil.rmtree(folder, ignore_errors=True)
        copy.rename(folder)


def versions(model: str, tracking_uri: str) -> list[dict[str, Any]]:
    """All versions that are no duplicates, newest first, each with `version`, `registered_at` (UTC) and its tags."""
    with _reached(tracking_uri) as client:
        return _versions(client, model)


def _versions(client: MlflowClient, model: str) -> list[dict[str, Any]]:
    found = [one for one in client.search_model_versions(f"name='{model}'", max_results=10_000) if "duplicate" not in one.tags]
    shown = [
        {**one.tags, "version": int(one.version), "registered_at": publication.moment(one.creation_timestamp), "run_id": one.run_id}
        for one in found
    ]
    return sorted(shown, key=lambda one: -int(one["version"]))
