"""Helpers of the tests of champion to report: who reigns in a workspace, and what its bundle is changed into."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipelines import bundle

DIGESTS = ("bundle_sha256", "weights_sha256", "policy_sha256")


def crown(workspace: Path, origin: Path, change: Callable[[Path], None] | None = None) -> dict[str, Any]:
    """Mirror the bundle in `origin`, changed and with a new manifest, as the champion of `workspace`; returns its status."""
    mirror = workspace / "mlflow/champion"
    shutil.rmtree(mirror, ignore_errors=True)
    shutil.copytree(origin, mirror / "bundle")
    if change is not None:
        change(mirror / "bundle")
    manifest = bundle.write_manifest(mirror / "bundle")
    status = {"state": "champion", "version": 1, "epoch": 1, **{name: manifest[name] for name in DIGESTS}}
    (mirror / "status.json").write_text(json.dumps(status))
    return status


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON object in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def redone(folder: Path, **changes: Any) -> None:
    """Change keys of a bundle's policy, and give it the manifest of what it is now."""
    edit(folder / "policy.json", lambda policy: policy.update(changes))
    bundle.write_manifest(folder)


def params(workspace: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the workspace's params.yaml in place."""
    values = yaml.safe_load((workspace / "params.yaml").read_text())
    change(values)
    (workspace / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def quick(workspace: Path) -> None:
    """Few resamples: intervals are other tests' matter."""
    params(workspace, lambda values: values.update(evaluate={"resamples": 100}))


def other_policy(folder: Path) -> None:
    """A champion that decides a little differently."""
    edit(folder / "policy.json", lambda policy: policy.update(offsets=[0.0, 0.3]))


def validated(workspace: Path) -> None:
    """What the stage validate would have written."""
    folder = workspace / "data/validate"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"success": True, "checks": [{"check": "rows", "ok": True}]}))
