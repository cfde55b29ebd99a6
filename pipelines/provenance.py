"""What a result was made of: digests of code and configuration, and the seed, as dvc.lock records them up to the stage `package`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import must
from pipelines.params.train import Train

LOCK = Path("dvc.lock")
SHIPS = "package"
RAW = "data/raw"


def digests(lock: Path = LOCK) -> dict[str, str]:
    """SHA-256 `code_digest` and `configuration_digest` (without the seed), and `seed`, of the stage `package` and all that it reads.

    Nothing after `package` counts: another gate is another verdict on the same result. Raises ExpostError where the file does not record it.
    """
    stages = _recorded(lock)
    code: dict[str, Any] = {}
    configuration: dict[str, Any] = {}
    seed: Any = Train.model_fields["seed"].default
    for name in _above(SHIPS, stages):
        entry = stages[name]
        code[name] = str(entry.get("cmd"))
        for dep in entry.get("deps") or []:
            if not _is_data(dep["path"], stages):
                (code if dep["path"].endswith(".py") else configuration)[dep["path"]] = str(dep.get("md5"))
        for file, sections in (entry.get("params") or {}).items():
            for section, values in sections.items():
                kept = dict(values) if isinstance(values, dict) else values
                if section == "train" and isinstance(kept, dict):
                    seed = kept.pop("seed", seed)
                configuration[f"{file}:{name}:{section}"] = kept
    return {"code_digest": _sha256(code), "configuration_digest": _sha256(configuration), "seed": str(seed)}


def _recorded(lock: Path) -> dict[str, Any]:
    found = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.exists() else None
    stages = found.get("stages") if isinstance(found, dict) else None
    if not isinstance(stages, dict) or SHIPS not in stages:
        got = f"it has no entry for {SHIPS}" if lock.exists() else "it is missing"
        raise must(f"{lock} must record how the result was made", got, "Run `expost retrain` (or `dvc repro`), which writes it.")
    return stages


def _above(name: str, stages: dict[str, Any]) -> list[str]:
    """`name` and every stage whose outs it reads, directly or through others, sorted."""
    found, todo = {name}, [name]
    while todo:
        read = [dep["path"] for dep in stages[todo.pop()].get("deps") or []]
        writers = {
            other for other, entry in stages.items() if any(_within(path, out["path"]) for out in entry.get("outs") or [] for path in read)
        }
        todo += sorted(writers - found)
        found |= writers
    return sorted(found)


def _is_data(path: str, stages: dict[str, Any]) -> bool:
    """Whether `path` is the raw data, which has a digest of its own, or another stage's out, which follows from the rest."""
    return _within(path, RAW) or any(_within(path, out["path"]) for entry in stages.values() for out in entry.get("outs") or [])


def _within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
