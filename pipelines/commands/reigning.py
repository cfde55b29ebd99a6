"""What a person does about who reigns: promote, reject, roll back. Each says who and why, and may be repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pipelines import registry, reigns
from pipelines.admission import DIGESTS
from pipelines.commands.mirror import refresh_mirror
from pipelines.commands.promotion import carried_out, known_version, version_claim
from pipelines.errors import must
from pipelines.ledger import Ledger, Reign
from pipelines.params import load
from pipelines.params.registry import Registry

Report = Callable[[str], None]


def promote(version: int, *, by: str, why: str, override: bool, report: Report) -> dict[str, Any]:
    """Let a registered version reign on its verdict, or against it with `override`; returns the reign and whether it `changed`."""
    _signed("a promotion", by, why)
    params = load(Registry)
    ledger = Ledger(params.ledger_uri)
    before = ledger.reign(params.model)
    if before.version == version:
        return _as_it_is(before, report)
    tags = known_version(params, version)
    claim = version_claim(params, tags)
    ledger.examine(params.model, version, claim=claim, why=why, override=override)
    lessons = _lessons(params, version)

    def swap() -> Reign:
        return ledger.promote(params.model, version, claim=claim, why=why, who=by, lessons=lessons, override=override)

    return {**asdict(carried_out(params, ledger, version, swap, report)), "changed": True}


def reject(version: int, *, by: str, why: str) -> dict[str, Any]:
    """Note that a registered version is not to reign; returns who said so and why."""
    _signed("a rejection", by, why)
    params = load(Registry)
    tags = known_version(params, version)
    known = {name: str(tags.get(name) or "") for name in ("verdict_sha256", "bundle_sha256")}
    Ledger(params.ledger_uri).reject(params.model, version, why=why, who=by, **known)
    return {"model": params.model, "version": version, "rejected_by": by, "why": why}


def rollback(*, to: int | None, by: str | None, why: str, report: Report) -> dict[str, Any]:
    """Let an earlier champion reign again, proven like a new one; returns the reign and whether it `changed`. `by` None: the user."""
    _signed("a rollback", by, why)
    params = load(Registry)
    ledger = Ledger(params.ledger_uri)
    before, rows = ledger.reign(params.model), ledger.history(params.model)
    target = reigns.target(params.model, rows, to)
    version = int(target["to_version"])
    if before.version == version:
        return _as_it_is(before, report)
    digests = target["digests"] or {name: str(known_version(params, version).get(name)) for name in DIGESTS}

    def swap() -> Reign:
        return ledger.rollback(params.model, to=version, why=why, who=by or "", epoch=before.epoch, digests=digests)

    return {**asdict(carried_out(params, ledger, version, swap, report)), "changed": True}


def _signed(deed: str, by: str | None, why: str) -> None:
    """Refuse a blank name or reason: the ledger keeps both for ever."""
    for what, given, option in (("who decides", by, "--by NAME"), ("why", why, "--why TEXT")):
        if given is not None and not given.strip():
            raise must(f"{deed} must say {what}", "nothing is said", f"Add {option}.")


def _as_it_is(reign: Reign, report: Report) -> dict[str, Any]:
    """Nothing to change in the ledger; alias and mirror may lag behind it all the same."""
    refresh_mirror(report)
    return {**asdict(reign), "changed": False}


def _lessons(params: Registry, version: int) -> list[dict[str, Any]]:
    try:
        content = registry.artifact(params.model, params.tracking_uri, version, "decide/lessons.json")
    except registry.AbsentError:  # an earlier program registered it, without lessons
        return []
    return list(json.loads(content)["lessons"])
