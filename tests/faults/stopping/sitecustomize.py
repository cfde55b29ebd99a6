"""Imported by every Python that starts with this folder on PYTHONPATH: stops one process at one moment, where a test then kills it.

`EXPOST_STOP_AT` is "STAGE:MOMENT", or "expost:mirrored" for the command itself; the process stopped writes its number to `EXPOST_STOPPED`.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

who, _, moment = os.environ.get("EXPOST_STOP_AT", "").partition(":")
#: Moments: the folder to write in was made; all is written there; it has its final name; checkpoints were kept;
#: the mirror of a new champion is to be made.
FOLDER = Path("data", f".{who}.writing")
MOMENTS: dict[str, tuple[str, Path, bool, int]] = {
    "opened": ("mkdir", FOLDER, False, 1),
    "written": ("rename", FOLDER, True, 1),
    "renamed": ("rename", FOLDER, False, 1),
    "training": ("replace", Path("last.ckpt.writing"), False, 3),
    "mirrored": ("write_bytes", Path("mlflow/.champion.writing/profile.json"), True, 1),
}


def stop() -> None:
    Path(os.environ["EXPOST_STOPPED"]).write_text(f"{os.getpid()} ")
    while True:
        signal.pause()


def stop_at(method: str, path: Path, before: bool, count: int) -> None:
    """Stop before or after the `count`-th call of a method of `Path` on `path`."""
    honest, seen = getattr(Path, method), [0]

    def wrapped(self: Path, *arguments: Any, **options: Any) -> Any:
        hit = self.parts[-len(path.parts) :] == path.parts
        seen[0] += hit
        if before and hit and seen[0] == count:
            stop()
        result = honest(self, *arguments, **options)
        if not before and hit and seen[0] == count:
            stop()
        return result

    setattr(Path, method, wrapped)


if who and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs in the background, these tests too
    signal.signal(signal.SIGINT, signal.default_int_handler)
started = sys.orig_argv[1:]
if who and (started == ["-m", f"pipelines.{who}"] or (who == "expost" and Path(started[0]).name == "expost")):
    stop_at(*MOMENTS[moment])
