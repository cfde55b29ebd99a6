"""Named moments at which a test may end this process or fail it, by the environment variable EXPOST_FAILPOINT; no effect without it."""

from __future__ import annotations

import os
import signal

from pipelines.errors import must

VARIABLE = "EXPOST_FAILPOINT"
ACTIONS = ("kill", "raise")
NAMES = (
    "register.run",
    "register.files",
    "register.upload",
    "register.manifest",
    "register.version",
    "register.alias",
    "promote.prove",
    "promote.ledger",
    "promote.alias",
    "promote.mirror",
)


def reach(name: str) -> None:
    """Come to the moment `name`: kill this process where EXPOST_FAILPOINT is `name:kill`, raise OSError where it is `name:raise`.

    Raises ExpostError where the variable names no moment that exists, or another action.
    """
    assert name in NAMES, f"failpoint {name} is not listed"
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    moment, _, action = wanted.partition(":")
    if moment not in NAMES or action not in ACTIONS:
        remedy = f"Unset it, or write NAME:ACTION with a name of {', '.join(NAMES)}."
        raise must(f"{VARIABLE} must name a failpoint and an action of {', '.join(ACTIONS)}", repr(wanted), remedy)
    if moment != name:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(f"failpoint {name}")
