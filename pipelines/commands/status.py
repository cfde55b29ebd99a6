"""Which version reigns, which one challenges, and the last verdict."""

from __future__ import annotations

from typing import Any

from pipelines import registry
from pipelines.commands.explain import waiting
from pipelines.commands.mirror import alias_drift
from pipelines.commands.promotion import VERDICT
from pipelines.commands.publish import read_verdict
from pipelines.ledger import Ledger
from pipelines.params import load
from pipelines.params.registry import Registry

SHOWN = ("version", "data_digest", "weights_sha256", "policy_sha256", "verdict", "registered_at")


def status() -> dict[str, Any]:
    """Keys model, epoch, champion, challenger (the newest version that does not reign), last_verdict, each null where there is none;
    waiting (versions that a person is to decide on) and drift (a sentence where the alias points elsewhere than the ledger, else null).

    Raises UnreachableError where the registry or the ledger is out of reach.
    """
    params = load(Registry)
    ledger = Ledger(params.ledger_uri)
    reign = ledger.reign(params.model)
    versions = registry.versions(params.model, params.tracking_uri)
    reigning = next((one for one in versions if one["version"] == reign.version), None)
    challenging = next((one for one in versions if one["version"] != reign.version), None)
    return {
        "model": params.model,
        "epoch": reign.epoch,
        "champion": _entry(reigning),
        "challenger": _entry(challenging),
        "last_verdict": _last_verdict(),
        "waiting": [row["version"] for row in waiting(ledger, params)],
        "drift": alias_drift(params, ledger),
    }


def _entry(version: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if version is None else {name: version.get(name) for name in SHOWN}


def _last_verdict() -> dict[str, Any] | None:
    if not VERDICT.exists():
        return None
    verdict = read_verdict()
    return {"verdict": verdict["verdict"], "identical": bool(verdict.get("identical")), "reasons": list(verdict.get("reasons") or [])}
