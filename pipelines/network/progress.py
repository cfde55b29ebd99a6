"""How far a training is, for whoever waits for it."""

from __future__ import annotations

import sys
import time

EVERY, WIDTH = 10, 24  #: seconds between lines where there is no terminal; characters of the bar


class Progress:
    """A bar on a terminal, written over; elsewhere a line each ten seconds."""

    def __init__(self, total: int) -> None:
        self.total, self.tty, self.said = total, sys.stderr.isatty(), time.monotonic()

    def say(self, done: int, text: str) -> None:
        """Show that `done` of all steps are done, and what there is to say of them."""
        if self.tty:
            filled = round(WIDTH * done / self.total)
            print(f"\r[{'#' * filled}{'.' * (WIDTH - filled)}] {text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar's line."""
        if self.tty:
            print(file=sys.stderr)
