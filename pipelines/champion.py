"""Copy the champion's mirror into the DAG, so that everything after it works offline; standard library only, it runs every time."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from pipelines import store
from pipelines.errors import ExpostError, must

MIRROR = Path("mlflow/champion")
UNKNOWN = ("version", "epoch", "bundle_sha256", "weights_sha256", "policy_sha256")
#: "unsynced": never mirrored, so nothing is known; "none": the ledger was asked and no champion reigns; "champion": one reigns.
STATES = ("unsynced", "none", "champion")
REMEDY = f"Delete {MIRROR} and run `expost retrain`, which mirrors the champion again."


def read_status(mirror: Path) -> dict[str, Any]:
    """Status of the mirror; a missing mirror is "unsynced". Raises ExpostError where it is not a status."""
    if not (mirror / "status.json").exists():
        if (mirror / "bundle").exists():
            raise must(f"{mirror} must have a status.json beside its bundle", "it is missing", REMEDY)
        return {"state": "unsynced", **dict.fromkeys(UNKNOWN)}
    status = store.read_json(mirror / "status.json")
    if not isinstance(status, dict) or status.get("state") not in STATES:
        state = status.get("state") if isinstance(status, dict) else status
        raise must(f"{mirror}/status.json must have a state among {list(STATES)}", f"it is {state!r}", REMEDY)
    return status


def check_bundle(folder: Path, status: dict[str, Any]) -> None:
    """Raise ExpostError unless the files in `folder` are plain, complete and have the joint digest that the status names."""
    if not folder.is_dir():
        raise must(f"{folder} must exist where the status says that a champion reigns", "it is missing", REMEDY)
    odd = sorted(path.name for path in folder.iterdir() if path.is_symlink() or not path.is_file())
    if odd:
        raise must(f"{folder} must hold plain files only", f"it holds {odd}", REMEDY)
    digests = {path.name: store.sha256(path) for path in folder.iterdir() if path.name != "manifest.json"}
    lines = "\n".join(f"{name}:{digests[name]}" for name in sorted(digests))
    found = hashlib.sha256(lines.encode()).hexdigest()
    named = str(status.get("bundle_sha256"))
    if found != named:
        raise must(f"{folder} must have the digest in status.json", f"{found[:12]} instead of {named[:12]}", REMEDY)


def main() -> None:
    """Write data/champion/status.json and, where a champion reigns, data/champion/bundle."""
    status = read_status(MIRROR)
    with store.stage_folder("champion") as out:
        store.write_json(out / "status.json", status)
        if status["state"] == "champion":
            try:
                shutil.copytree(MIRROR / "bundle", out / "bundle", symlinks=True)
            except OSError as error:
                raise ExpostError(f"{MIRROR}/bundle must be readable, however: {error}. {REMEDY}") from error
            check_bundle(out / "bundle", status)  # the copy is checked, so a mirror that changes meanwhile cannot slip through


if __name__ == "__main__":
    store.run_stage(main)
