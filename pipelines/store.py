"""Files of the workspace: where each stage writes, written whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pipelines.errors import ExpostError, TerminatedError, must

DATA = Path("data")
#: Most files of a bundle's folder, and the largest of them in bytes: of one that holds more, nothing is copied.
MOST_COPIED, LARGEST_COPIED = 16, 1 << 28

#: Environment variable that is "1" where the whole of params.yaml was checked already, as `expost retrain` does for all its stages.
CHECKED = "EXPOST_PARAMS_CHECKED"


def stage_path(stage: str, *names: str) -> Path:
    """Path of a file that `stage` wrote, relative to the workspace, which is the current directory."""
    return DATA.joinpath(stage, *names)


def need(path: Path) -> Path:
    """Return `path`, or raise ExpostError naming the stage that writes it where it is absent."""
    if not path.exists():
        raise must(f"{path} must exist", "it is missing", "Run `dvc repro` (or `expost retrain`) from the workspace's root.")
    return path


@contextmanager
def stage_folder(stage: str) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `data/<stage>` when the block ends without an error.

    On an error the old folder stands as it was and the temporary one is removed.
    """
    final, temporary, old = DATA / stage, DATA / f".{stage}.writing", DATA / f".{stage}.old"
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if final.exists():
            final.rename(old)
        try:
            temporary.rename(final)
        except OSError:
            if old.exists():
                old.rename(final)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys; NaN and infinities become null, so a reader sees them as missing."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, sort_keys=True, allow_nan=False, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy scalars and arrays, without importing numpy
        return _finite(value.tolist())
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_json(path: Path) -> Any:
    """Read JSON; raises ExpostError where the file is missing or is not JSON as `parse_json` takes it."""
    return parse_json(need(path).read_bytes(), path, "Restore the file, or delete it and run the stage that writes it again.")


def parse_json(content: bytes, name: Path | str, remedy: str) -> Any:
    """The value of JSON text; raises ExpostError naming `name` for other text, numbers that are not finite, and a key that occurs twice."""
    try:
        value = json.loads(
            content.decode("utf-8"), parse_constant=_number, parse_float=_number, parse_int=_integer, object_pairs_hook=_object
        )
        if b"\\u" in content:
            json.dumps(value, ensure_ascii=False).encode()  # half a character, which could not be printed
    except RecursionError as error:
        raise must(f"{name} must be JSON", "it is nested too deep", remedy) from error
    except ValueError as error:
        raise must(f"{name} must be JSON", str(error)[:300], remedy) from error
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _integer(text: str) -> int:
    _number(text)
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in seen if seen.count(key) > 1)[:40]!r} occurs twice")
    return value


def plain_bytes(path: Path, largest: int, remedy: str) -> bytes:
    """Bytes of a plain file of at most `largest` bytes; raises ExpostError for links, pipes and devices, without ever waiting for one.

    What was looked at is what is read: a file that is replaced meanwhile is not, one that grows is refused.
    """
    wrong = must(f"{path} must be a plain file", "it is a link or something else", remedy)
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a device is not even opened
            raise wrong
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise must(f"{path} must be a plain file", error.strerror or str(error), remedy) from error
    with os.fdopen(opened, "rb") as stream:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise wrong
        held = os.fstat(opened).st_size
        content = b"" if held > largest else stream.read(held + 1)  # as much is set aside at once
    if held > largest or len(content) != held:
        got = f"it holds {held}" if held > largest else "it changed while it was read"
        raise must(f"{path} must hold at most {largest} bytes", got, remedy)
    return content


def copy_plain(source: Path, target: Path, remedy: str) -> None:
    """Copy a plain file that is not too large; raises ExpostError for links, pipes, devices and folders, which are not opened."""
    target.write_bytes(plain_bytes(source, LARGEST_COPIED, remedy))


def copy_folder(source: Path, target: Path, remedy: str) -> None:
    """Copy a folder of few plain files to `target`, which must not be there; raises ExpostError as `copy_plain` does."""
    try:
        files = list(itertools.islice(source.iterdir(), MOST_COPIED + 1))
    except OSError as error:
        raise must(f"{source} must be readable", error.strerror or str(error), remedy) from error
    if len(files) > MOST_COPIED:
        raise must(f"{source} must hold at most {MOST_COPIED} files", "it holds more", remedy)
    target.mkdir(parents=True)
    for file in files:
        copy_plain(file, target / file.name, remedy)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the disk cannot: files of stages are replaced, never written into."""
    try:
        target.hardlink_to(need(source))
    except OSError:
        shutil.copyfile(source, target)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_params() -> None:
    """Check the whole of params.yaml before a stage runs, whichever comes first; raises ExpostError with the message.

    Another process does it, so that nothing upstream of `decide` can see the utility; where that was done already, the
    environment says so.
    """
    if os.environ.get(CHECKED) == "1":
        return
    done = subprocess.run([sys.executable, "-m", "pipelines.commands.check"], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or f"the check of params.yaml ended with code {done.returncode}"
        raise ExpostError(said.removeprefix("error: "))


@contextmanager
def one_message() -> Iterator[None]:
    """End the process with one message on stderr where the block raises an ExpostError or is interrupted: code 1, after SIGTERM 143."""
    try:
        yield
    except ExpostError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except TerminatedError:
        said = "stopped by SIGTERM; nothing half-written was left, the next run goes on, a training from its last checkpoint"
        print(f"error: {said}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None
    except KeyboardInterrupt:
        print("error: interrupted; nothing half-written was left, the next run goes on", file=sys.stderr)
        raise SystemExit(1) from None


def _terminated(*_: object) -> NoReturn:
    raise TerminatedError


def run_stage(main: Callable[[], None], *, checks: bool = True) -> None:
    """Run a stage's `main` after a check of params.yaml; an error or a signal is one message on stderr, see `one_message`."""
    if threading.current_thread() is threading.main_thread():  # others may set no handler
        signal.signal(signal.SIGTERM, _terminated)
    with one_message():
        if checks:
            check_params()
        main()
