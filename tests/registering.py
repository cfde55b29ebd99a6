"""Helpers of the tests of registering: a workspace whose stages have run, with a store of its own, and what its registry holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from mlflow import MlflowClient

from pipelines import registry, rivals, store
from pipelines.bundle import write_manifest
from pipelines.commands import mirror, publish
from pipelines.gate import gate_sha256, utility_sha256
from pipelines.params import load
from pipelines.params.gate import Gate
from tests.stages.judging import other_policy
from tests.stages.shipped import renew_golden

DATA = "0123456789abcdef0123456789abcdef.dir"
MODEL = "tested"


def silent(_: str) -> None:
    pass


def prepared(world: Path, template: Path, folder: Path) -> Path:
    """Copy `world` and an empty store into `folder`, and write what the stages after package would have written."""
    shutil.copytree(world, folder)
    (folder / "mlflow").mkdir()
    shutil.copy(template, folder / "mlflow/mlflow.db")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    places = {name: f"sqlite:///{folder}/mlflow/{file}" for name, file in (("tracking_uri", "mlflow.db"), ("ledger_uri", "ledger.db"))}
    (folder / "params.yaml").write_text(yaml.safe_dump({**params, "registry": {"model": MODEL, **places}}))
    return folder


def judged_world() -> None:
    """Write what evaluate, gate and report would have written into the current directory."""
    mirror.refresh_mirror(silent)
    pl.DataFrame({"row_hash": pl.Series([1, 2, 2**64 - 1], dtype=pl.UInt64)}).write_parquet(made("evaluate/rows.parquet"))
    made("evaluate/evaluation.json").write_text(json.dumps({"challenger": {"utility": {"mean": -0.5}}, "identical": False}))
    made("report/card.md").write_text("# Model card\n")
    made("report/gate.png").write_bytes(b"picture")
    Path("data/raw.dvc").write_text("outs: []\n")
    judge("PASS")


def made(name: str) -> Path:
    """Path of a file under data/, its folder made."""
    path = Path("data") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def judge(word: str, *, identical: bool = False) -> dict[str, Any]:
    """Write a verdict as the gate would, against the champion that is mirrored."""
    manifest = json.loads(Path("data/package/bundle/manifest.json").read_text())
    found = {
        "verdict": word,
        "identical": identical,
        "reasons": [f"It was judged {word}."],
        "criteria": [],
        "challenger": {name: manifest[name] for name in ("bundle_sha256", "weights_sha256", "policy_sha256")},
        "champion": json.loads(mirror.STATUS.read_text()) if mirror.STATUS.exists() else {"state": "unsynced"},
        "data_sha256": rivals.data_sha256(),
        "gate_sha256": gate_sha256(load(Gate)),
        "utility_sha256": utility_sha256(),
        "evaluation_key": store.sha256(made("evaluate/rows.parquet")),
    }
    store.write_json(made("gate/verdict.json"), found)
    return found


def another_result() -> None:
    """Change the challenger's policy, so that it is another result."""
    other_policy(Path("data/package/bundle"))
    write_manifest(Path("data/package/bundle"))
    renew_golden(Path("data/package"))


def uri() -> str:
    """Address of the workspace's own store."""
    return f"sqlite:///{Path.cwd()}/mlflow/mlflow.db"


def register(word: str | None = None, model: str = MODEL) -> registry.Registered:
    """Register what is in the workspace, judged so first where a word is given."""
    if word is not None:
        judge(word)
    return registry.register(model, uri(), data_digest=DATA, verdict=publish.read_verdict())


def client() -> MlflowClient:
    """MLflow's own view of the workspace's store."""
    return MlflowClient(uri(), uri())


def versions() -> list[Any]:
    """All that MLflow lists as versions, in order."""
    return sorted(client().search_model_versions(f"name='{MODEL}'"), key=lambda version: int(version.version))


def runs(there: MlflowClient | None = None, model: str = MODEL) -> dict[str, str]:
    """Status of each run of the model's experiment."""
    there = there or client()
    found = there.search_runs([there.get_experiment_by_name(model).experiment_id])
    return {run.info.run_id: run.info.status for run in found}
