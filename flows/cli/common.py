"""What the commands share."""

from __future__ import annotations

import functools
import json
import signal
import threading
from collections.abc import Callable
from typing import Any, ParamSpec

from pipelines.errors import ExpostError

P = ParamSpec("P")


def example(*commands: str) -> str:
    """Examples for the end of a command's help."""
    return "Examples:\n\n" + "\n\n".join(f"[bold]{command}[/bold]" for command in commands)


def print_json(value: Any) -> None:
    """Print JSON on stdout, for machines."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def interruptible(command: Callable[P, None]) -> Callable[P, None]:
    """Let Ctrl-C and SIGTERM end `command` with one message and exit code 1, instead of click's "Aborted!"."""

    @functools.wraps(command)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> None:
        main = threading.current_thread() is threading.main_thread()  # others may set no handler
        before = signal.signal(signal.SIGTERM, signal.default_int_handler) if main else None
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            raise ExpostError("interrupted; nothing half-written was left, the next run goes on") from None
        finally:
            if main:
                signal.signal(signal.SIGTERM, before)

    return wrapped
