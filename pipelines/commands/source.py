"""Read `ingest.source` anew and version it with DVC where its content changed.

The order makes it safe to kill at any moment: the files are copied beside data/raw, read once, swapped in whole, and only then `dvc add`
runs; the next run compares the source with what stands in data/raw, and data/raw with what data/raw.dvc says.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipelines.errors import ExpostError, must
from pipelines.params import load
from pipelines.params.ingest import Ingest
from pipelines.tables import inside_raw, located, read_files

RAW = Path("data", "raw")
_POINTER = RAW.with_name("raw.dvc")

#: Name of each file below data/raw -> where its bytes are now.
Files = dict[str, Path]


@dataclass(frozen=True)
class SourceState:
    """What `sync_source` found: whether the data version changed, the md5 in data/raw.dvc, and the files below data/raw."""

    changed: bool
    digest: str
    files: tuple[str, ...]


def sync_source(report: Callable[[str], None] = print) -> SourceState:
    """Bring data/raw up to `ingest.source` (and `ingest.holdout_source`) and put it under DVC where its content changed.

    Sources inside data/raw stay where they are. Raises ExpostError where a source cannot be read; what stood in data/raw then
    stands. Running it again after it was killed at any moment gives the same result.
    """
    params = load(Ingest)
    before = _recorded()
    for folder in (RAW, RAW / "table", RAW / "holdout"):
        _recover(folder)
    absent = not RAW.exists()
    wanted = {"table": params.source} | ({"holdout": params.holdout_source} if params.holdout_source else {})
    outside = {name: source for name, source in wanted.items() if not inside_raw(source)}
    for name in wanted.keys() - outside.keys():
        _check_readable(_inside(wanted[name]), wanted[name])
    if len(outside) == len(wanted):
        _bring(RAW, outside, report)
    else:  # data/raw holds a source itself, so only the other source's folder may be replaced
        for name, source in outside.items():
            _bring(RAW / name, {"": source}, report)
    files = _listing(RAW)
    digest = _directory_digest(files)
    if digest != before or absent:  # absent: a fresh clone, whose cache is empty too
        _dvc_add()
        digest = _recorded() or digest
    if digest != before:
        report(f"data/raw has a new version: {len(files)} {'file' if len(files) == 1 else 'files'}, {digest}")
    return SourceState(digest != before, digest, tuple(files))


def _inside(source: str) -> list[Path]:
    try:
        with located(source) as files:
            return list(files.values())
    except ExpostError as error:
        raise ExpostError(f"{error} In a fresh clone, `dvc pull` brings data/raw.") from None


def _bring(folder: Path, sources: dict[str, str], report: Callable[[str], None]) -> None:
    """Replace `folder` by the files of `sources` (subfolder -> source) where their content differs."""
    with ExitStack() as stack:
        files: Files = {}
        for name, source in sources.items():
            found = stack.enter_context(located(source))
            files |= {f"{name}/{file}" if name else file: path for file, path in found.items()}
        if _same(files, _listing(folder)):
            return
        report(f"reading {', '.join(sources.values())}")
        with _beside(folder) as temporary:
            _copy(files, temporary)
            for name, source in sources.items():
                _check_readable(list(_listing(temporary / name).values()), source)
            _swap(temporary, folder)


def _listing(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _same(one: Files, other: Files) -> bool:
    if one.keys() != other.keys() or any(one[name].stat().st_size != other[name].stat().st_size for name in one):
        return False
    return all(_md5(one[name]) == _md5(other[name]) for name in one)


def _md5(path: Path) -> str:
    try:
        stat = path.stat()
        return _md5_of(path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise must(f"{path} must be readable", str(error), "Check its permissions; data/raw stands as it was.") from error


@lru_cache(maxsize=4096)  # the same bytes are compared with the source and summed for DVC: a large table is read once
def _md5_of(path: Path, inode: int, size: int, modified: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _copy(files: Files, folder: Path) -> None:
    """Copy the files; raises ExpostError where one was written to meanwhile, since half of the new rows would be lost in silence."""
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            before = path.stat()
            shutil.copyfile(path, target)
            after = path.stat()
        except OSError as error:
            raise must(
                f"{path} must be readable", str(error), "Check its permissions and the free space; data/raw stands as it was."
            ) from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise must(f"{path} must not change while it is read", "it was written to meanwhile", "Run again when the writer has finished.")


def _check_readable(files: list[Path], source: str) -> None:
    """Read the files once, so that a truncated one never becomes a data version."""
    if not files:
        raise must(f"{source} must hold at least one table", "none is there", "Check ingest.source in params.yaml.")
    read_files(files)


def _paths(folder: Path) -> tuple[Path, Path]:
    """Where the new content is made and the old one waits: on the same disk, in data/, outside of what DVC tracks."""
    stem = "_".join(folder.relative_to(RAW.parent).parts)
    return RAW.parent / f".{stem}.writing", RAW.parent / f".{stem}.old"


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    temporary, _ = _paths(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, folder: Path) -> None:
    _, old = _paths(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Undo what a killed run left: between the two renames of a swap the old content has no name of its own."""
    temporary, old = _paths(folder)
    if old.exists() and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        old.rename(folder)
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)


def _recorded() -> str | None:
    """The md5 in data/raw.dvc, or None where there is none."""
    import yaml

    if not _POINTER.exists():
        return None
    try:
        return str(yaml.safe_load(_POINTER.read_text(encoding="utf-8"))["outs"][0]["md5"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        return None  # `dvc add` writes it anew


def _directory_digest(files: Files) -> str:
    """DVC's own digest of a folder, without starting DVC for a second; should DVC change it, `dvc add` merely runs each time."""
    entries = [{"md5": _md5(path), "relpath": name} for name, path in sorted(files.items(), key=lambda item: tuple(item[0].split("/")))]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def keep_cache_private() -> None:
    """Tell `dvc` by itself which private folder its cache of digests is in, as the environment tells it here; a file that stands is kept."""
    local, cache = Path(".dvc/config.local"), os.environ.get("DVC_SITE_CACHE_DIR")
    if cache and not local.exists() and local.parent.is_dir():
        local.write_text(f"[core]\n    site_cache_dir = {cache}\n", encoding="utf-8")


def _dvc_add() -> None:
    keep_cache_private()
    command = [sys.executable, "-m", "dvc", "add", RAW.as_posix(), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    if done.returncode:
        got = " ".join(done.stderr.split())[-600:] or f"exit code {done.returncode}"
        remedy = "Outside a git repository run `git init` first; the data is in data/raw, so the next run goes on."
        raise must("`dvc add data/raw` must succeed", got, remedy)
