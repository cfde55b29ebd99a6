"""The workspace belongs to one run at a time; what a killed run left running is ended before the next one starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines import store
from pipelines.errors import ExpostError, must

LOCK = Path(".expost.lock")
MLFLOW, SITE_CACHE = Path("mlflow"), "DVC_SITE_CACHE_DIR"
HOLDER = Path(".dvc/tmp/expost.json")  # git-ignored by DVC
USERS = Path(".dvc/tmp/rwlock")  # where DVC notes which process reads and writes which outs


def check_workspace() -> None:
    """Raise ExpostError unless the current directory is a workspace: stages, DVC, and a git repository around them."""
    if not Path("dvc.yaml").exists():
        raise must("expost must run in a workspace", f"{Path.cwd()} has no dvc.yaml", "Change to the repository's root.")
    try:
        inside = subprocess.run(["git", "rev-parse", "--is-inside-work-tree"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise must("git must be on the PATH", "it is missing", "Install git: DVC needs it.") from error
    if inside.returncode:
        raise must("the workspace must be a git repository", f"{Path.cwd()} is none", "Run `git init` here.")
    if not Path(".dvc/config").exists():
        raise must("the workspace must have DVC set up", ".dvc/config is missing", "Restore it from the repository, or run `dvc init`.")
    keep_private()


def keep_private() -> None:
    """Make the folders for what is computed here, and DVC's own cache, for their owner alone; raises ExpostError where others may write there.

    DVC unpickles what lies in that cache, and by default it is /var/tmp/dvc, where everybody on the machine may write.
    """
    for folder in (MLFLOW, Path(".dvc/cache"), Path(".dvc/tmp")):
        folder.mkdir(mode=0o700, exist_ok=True)
    if {path.name for path in MLFLOW.iterdir()} <= {"README.md"}:  # as git made it
        MLFLOW.chmod(0o700)
    cache = Path(os.environ.setdefault(SITE_CACHE, str(_user_cache())))
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = cache.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        remedy = f"Choose another with {SITE_CACHE}, or run `chmod 700 {cache}`: DVC unpickles what lies there."
        raise must(f"{cache} must belong to who runs this, and others must not write there", "it does not, or they may", remedy)


def _user_cache() -> Path:
    """A folder of the user's own; one in the workspace where there is no home to write to."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expost" / "dvc"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return Path(".dvc/tmp/site-cache").absolute()
    return home


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold the workspace; raises ExpostError naming the process that holds it already."""
    from filelock import FileLock, Timeout

    lock = FileLock(LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        holder = _holder().get("pid", "unknown")
        remedy = "Wait until it ends, or stop it with Ctrl-C; use another clone to run beside it."
        raise must("one run at a time may use a workspace", f"process {holder} uses this one", remedy) from None
    try:
        for child in _holder().get("children", []):
            _end_leftover(child)
        _forget_users()
        _write()
        yield
    finally:
        HOLDER.unlink(missing_ok=True)
        lock.release()


def _holder() -> dict[str, Any]:
    try:
        holder = store.read_json(HOLDER)
    except ExpostError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _write() -> None:
    """Note this process and what it started: stages, and Prefect's temporary server, which outlives a killed run too."""
    import psutil

    children = []
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            children.append({"pid": process.pid, "created": process.create_time()})
    store.write_json(HOLDER, {"pid": os.getpid(), "children": children})


def _end_leftover(child: dict[str, Any]) -> None:
    """End what a killed flow left: a stage would write its files in between those of this run, a server would run for ever."""
    import psutil

    with suppress(psutil.Error, KeyError):
        process = psutil.Process(child["pid"])
        if process.create_time() == child["created"]:  # not another process that got the same number
            _end_group(process.pid)
            process.kill()  # one that leads no group
            process.wait(10)


def _forget_users() -> None:
    """Remove DVC's notes where no DVC runs: cut short by a kill, or naming a number that another process has now, they stop it for good."""
    with suppress(FileNotFoundError):
        for _ in range(2):
            try:
                notes = json.loads(USERS.read_text(encoding="utf-8"))
                users = [*notes.get("write", {}).values(), *(user for users in notes.get("read", {}).values() for user in users)]
            except ValueError:
                users = []
                time.sleep(0.1)  # half-written at this moment perhaps
            if any(_is_dvc(int(user["pid"])) for user in users):
                return
        USERS.unlink()


def _is_dvc(pid: int) -> bool:
    import psutil

    with suppress(psutil.Error):
        return any(Path(argument).name == "dvc" for argument in psutil.Process(pid).cmdline())
    return False


def _end_group(group: int, how: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, how)


class Processes:
    """The processes of the running stages, each in a group of its own, so that they can be ended with all their children."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._guard = threading.Lock()

    def run(self, command: list[str], environment: dict[str, str], emit: Callable[[bytes], None]) -> int:
        """Run `command`, hand over its output as it comes, and return its exit code."""
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        ) as process:
            self._note(process, True)
            assert process.stdout is not None
            try:
                while chunk := os.read(process.stdout.fileno(), 65536):
                    emit(chunk)
                return process.wait()
            finally:
                self._note(process, False)

    def _note(self, process: subprocess.Popen[bytes], running: bool) -> None:
        with self._guard:
            if running:
                self._running[process.pid] = process
            else:
                self._running.pop(process.pid, None)
            _write()

    def end(self, patience: float = 3) -> None:
        """End every running process with its children: as Ctrl-C does, so that stages clear away what they began to write, then at once."""
        with self._guard:
            running = list(self._running.values())
        for process in running:
            _end_group(process.pid, signal.SIGINT)
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            _end_group(process.pid)
