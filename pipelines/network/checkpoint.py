"""A checkpoint that is either whole or ignored: written beside, then renamed, with its digest next to it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from pipelines import store


def _digest(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _writing(path: Path) -> Path:
    return path.with_name(path.name + ".writing")


def save(path: Path, write: Callable[[str], None]) -> None:
    """Write a checkpoint with `write(temporary path)`, then its digest, then rename both into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _writing(path)
    write(str(temporary))
    with store.atomic_file(_digest(path)) as digest:
        digest.write_text(store.sha256(temporary), encoding="utf-8")
    temporary.replace(path)


def remove(path: Path) -> None:
    """Remove a checkpoint and its folder, whether they are there or not."""
    shutil.rmtree(path.parent, ignore_errors=True)


def intact(path: Path) -> bool:
    """Whether a checkpoint is there and has the digest written with it; a damaged one is removed and said."""
    wanted = _digest(path).read_text(encoding="utf-8") if _digest(path).exists() else None
    if _writing(path).exists() and store.sha256(_writing(path)) == wanted:  # the end came between the two renames
        _writing(path).replace(path)
    if not path.exists():
        return False
    if store.sha256(path) == wanted:
        print(f"going on from the checkpoint {path}", file=sys.stderr)
        return True
    print(f"the checkpoint {path} is damaged and is ignored: training starts anew", file=sys.stderr)
    path.unlink()
    return False
