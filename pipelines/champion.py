"""Copy the champion's mirror into the DAG, so that everything after it works offline; standard library only, it runs every time."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from pipelines import store
from pipelines.errors import ExpostError, must

MIRROR = Path("mlflow/champion")
UNKNOWN = ("version", "epoch", "bundle_sha256", "weights_sha256", "policy_sha256", "first")
#: What may stand beside the status and the bundles: looks and evaluations counted so far, lessons of earlier champions, the champion's data.
NOTES = ("looks.npy", "evaluations.json", "lessons.json", "profile.json")
#: "unsynced": never mirrored, so nothing is known; "none": the ledger was asked and no champion reigns; "champion": one reigns.
STATES = ("unsynced", "none", "champion")
REMEDY = f"Delete {MIRROR} and run `expost retrain`, which mirrors the champion again."


def read_status(mirror: Path) -> dict[str, Any]:
    """Status of the mirror; a missing mirror is "unsynced". Raises ExpostError where it is not a status."""
    if not os.path.lexists(mirror / "status.json"):
        if (mirror / "bundle").exists():
            raise must(f"{mirror} must have a status.json beside its bundle", "it is missing", REMEDY)
        return {"state": "unsynced", **dict.fromkeys(UNKNOWN)}
    status = store.parse_json(store.plain_bytes(mirror / "status.json", 1 << 16, REMEDY), mirror / "status.json", REMEDY)
    if not isinstance(status, dict) or status.get("state") not in STATES:
        state = status.get("state") if isinstance(status, dict) else status
        raise must(f"{mirror}/status.json must have a state among {list(STATES)}", f"it is {state!r}", REMEDY)
    return status


def check_bundle(folder: Path, status: dict[str, Any]) -> None:
    """Raise ExpostError unless the files in `folder` have the joint digest that the status names."""
    digests = {path.name: store.sha256(path) for path in folder.iterdir() if path.name != "manifest.json"}
    lines = "\n".join(f"{name}:{digests[name]}" for name in sorted(digests))
    found = hashlib.sha256(lines.encode()).hexdigest()
    named = str(status.get("bundle_sha256"))
    if found != named:
        raise must(f"{folder} must have the digest in status.json", f"{found[:12]} instead of {named[:12]}", REMEDY)


def copy_bundle(name: str, out: Path, entry: dict[str, Any]) -> None:
    """Copy a bundle of the mirror into `out` and check the copy, so that a mirror that changes meanwhile cannot slip through."""
    if not (MIRROR / name).is_dir():
        raise must(f"{MIRROR / name} must exist where the status names its model", "it is missing", REMEDY)
    store.copy_folder(MIRROR / name, out / name, REMEDY)
    check_bundle(out / name, entry)


def copy_note(name: str, out: Path) -> None:
    """Copy a file of the mirror into `out`, where there is one."""
    if os.path.lexists(MIRROR / name):
        store.copy_plain(MIRROR / name, out / name, REMEDY)


def copy_mirror(out: Path) -> None:
    """Write the mirror's status and notes into `out`, and the bundles that the status names."""
    status = read_status(MIRROR)
    store.write_json(out / "status.json", status)
    if status["state"] == "champion":
        copy_bundle("bundle", out, status)
    if status.get("first") is not None:
        copy_bundle("first", out, status["first"])
    for name in NOTES:
        copy_note(name, out)


def main() -> None:
    """Write data/champion: status.json, bundle/ where a champion reigns, first/ where its floor is another, and the notes."""
    for last in (False, False, True):
        try:
            with store.stage_folder("champion") as out:
                copy_mirror(out)
            return
        except (ExpostError, OSError):  # a promotion or rollback may be putting another mirror in its place at this moment
            if last:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    store.run_stage(main)
