"""What MLflow stores of a result: the run's files, and the model with its manifest last, verified where it arrived."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import publication, store
from pipelines.bundle import MANIFEST, Bundle
from pipelines.errors import must
from pipelines.failpoints import reach
from pipelines.tracking import again

if TYPE_CHECKING:
    from mlflow import MlflowClient

SERVING = Path(__file__).with_name("serving.py")


def log_run(client: MlflowClient, run_id: str, at: int, facts: Mapping[str, str]) -> None:
    """Log parameters, metrics, the data's version and the workspace's files; `at` is the run's start in milliseconds."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    for start in range(0, len(params := publication.params()), 100):
        client.log_batch(run_id, params=[Param(name, value) for name, value in params[start : start + 100]])
    measured = [Metric(name, value, at, step) for name, value, step in publication.metrics()]
    for start in range(0, len(measured), 1000):
        client.log_batch(run_id, metrics=measured[start : start + 1000])
    data = publication.dataset(facts["data_digest"])
    inputs = [DatasetInput(Dataset(**data), [InputTag("mlflow.data.context", "training")])]
    again(lambda: client.log_inputs(run_id, inputs))
    log_files(client, run_id, ())


def log_files(client: MlflowClient, run_id: str, without: Collection[str]) -> None:
    """Log the workspace's files, but for those folders, and then what pins them."""
    for path, where in publication.files():
        if where not in without:
            client.log_artifact(run_id, str(path), where)
    text = publication.listing()
    client.log_text(run_id, text, publication.listing_place(hashlib.sha256(text.encode()).hexdigest()))


def upload(client: MlflowClient, experiment: str, run_id: str, folder: Path, facts: Mapping[str, str]) -> tuple[str, str]:
    """Upload the bundle in `folder`, its manifest last, verify what arrived and link it to the run; returns (where it lies, its id)."""
    from mlflow.entities import LoggedModelOutput

    logged = client.create_logged_model(experiment, name="bundle", source_run_id=run_id, tags=dict(facts), model_type="expost")
    with tempfile.TemporaryDirectory() as scratch:
        local, last = Path(scratch) / "model", Path(scratch) / "manifest"
        _save_model(local, folder, run_id, logged.model_id)
        last.mkdir()
        (local / "artifacts/bundle" / MANIFEST).rename(last / MANIFEST)
        client.log_model_artifacts(logged.model_id, str(local))
        reach("register.upload")
        client.log_model_artifacts(logged.model_id, str(last), "artifacts/bundle")
        reach("register.manifest")
        fetch(client, f"{logged.artifact_location}/artifacts/bundle", Path(scratch) / "arrived", facts["bundle_sha256"])
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.artifact_location), str(logged.model_id)


def abandon(client: MlflowClient, experiment: str, run_id: str) -> None:
    """Mark the models that a run began to upload and did not finish as failed; nothing of them is registered."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # a courtesy to who reads the registry
        for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}' AND status = 'PENDING'"):
            client.finalize_logged_model(model.model_id, "FAILED")


def _save_model(local: Path, folder: Path, run_id: str, model_id: str) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model

    bundle = Bundle.load(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it recommends type hints to get a signature, which is given
        mlflow.pyfunc.save_model(
            str(local),
            python_model=str(SERVING),
            artifacts={"bundle": str(folder.absolute())},
            signature=_signature(bundle),
            input_example=publication.example(folder),
            pip_requirements=publication.requirements(),
            model_config={"bundle_sha256": bundle.manifest["bundle_sha256"]},
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )


def _signature(bundle: Bundle) -> Any:
    """What the model takes and gives: features, and any column that a utility may read, since MLflow drops those not named here."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    costs = [column for column in bundle.schema["others"] if column["role"] == "cost"]
    kinds = {"number": "double", "image": "binary"}
    inputs = [
        ColSpec(kinds.get(column["kind"], "string"), column["name"], required=False) for column in (*bundle.schema["columns"], *costs)
    ]
    outputs = [ColSpec("double", f"probability_{name}") for name in bundle.classes]
    utility = ParamSpec("utility", DataType.string, "")
    return ModelSignature(
        Schema(inputs), Schema([*outputs, ColSpec("string", "action"), ColSpec("double", "expected_utility")]), ParamSchema([utility])
    )


def fetch(client: MlflowClient, source: str, folder: Path, bundle_sha256: str) -> None:
    """Download the bundle at `source` into `folder` (replaced whole), verified against its manifest and `bundle_sha256`."""
    from mlflow.artifacts import download_artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        # a local store hands out its own folder: copy, so that what was verified is what is used
        arrived = Path(download_artifacts(artifact_uri=source, dst_path=f"{scratch}/download", tracking_uri=client.tracking_uri))
        copy = Path(scratch) / "bundle"
        store.copy_folder(arrived, copy, "Do not use that version: something changed its files in the registry's store.")
        found = Bundle.load(copy).manifest["bundle_sha256"]
        if found != bundle_sha256:
            remedy = "Do not use that version: something changed its files in the registry's store."
            raise must(f"the bundle in the registry must have the digest {bundle_sha256[:12]}", f"it is {found[:12]}", remedy)
        shutil.rmtree(folder, ignore_errors=True)
        copy.rename(folder)
