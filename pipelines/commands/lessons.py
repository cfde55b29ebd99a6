"""`expost lessons`: what earlier champions taught, which is a criterion for every later challenger until a person retires it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.commands.mirror import refresh_mirror
from pipelines.errors import must
from pipelines.ledger import Ledger
from pipelines.params import load
from pipelines.params.registry import Registry

SHOWN = ("name", "version", "support", "share", "regret", "conditions", "at", "retired")


def lessons() -> list[dict[str, Any]]:
    """Lessons of the versions that were promoted, active and retired, in the order in which they were learned.

    Each has an `id`, version and number, as in "3.1", and `retired`: null, or who, at and why.
    """
    params, made = load(Registry), list[dict[str, Any]]()
    for row in Ledger(params.ledger_uri).lessons(params.model):
        number = 1 + sum(other["version"] == row["version"] for other in made)
        made.append({"id": f"{row['version']}.{number}", **{name: row.get(name) for name in SHOWN}})
    return made


def retire(lesson: str, *, by: str, why: str, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Let a lesson, by its id or its name, no longer be a criterion; by name it is retired for all versions that taught it.

    Returns those that were active before, with who and why. Raises ExpostError where there is no such lesson, or no reason is given.
    """
    params, known = load(Registry), lessons()
    found = [one for one in known if lesson in (one["id"], one["name"])]
    if not found:
        active = ", ".join(f"{one['id']} ({one['name']})" for one in known if one["retired"] is None)
        remedy = f"Active lessons: {active or 'none'}; `expost lessons` lists them."
        raise must("a lesson must be named by its id or its name", f"got {lesson!r}", remedy)
    ledger = Ledger(params.ledger_uri)
    for one in found:
        ledger.retire_lesson(params.model, one["version"], one["name"], why=why, who=by)
    refresh_mirror(report)
    return [{"id": one["id"], "name": one["name"], "retired_by": by, "why": why} for one in found if one["retired"] is None]
