"""The order of every change of champion: the version proves itself, the ledger swaps, the alias follows, the mirror follows.

A run that ends in between leaves a ledger that says the truth and an alias or mirror that lags, which the next start mends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines import registry, store
from pipelines.admission import DIGESTS, Claim
from pipelines.commands.mirror import refresh_mirror, set_alias
from pipelines.errors import must
from pipelines.failpoints import reach
from pipelines.ledger import Ledger, Reign
from pipelines.params import load
from pipelines.params.gate import Gate
from pipelines.params.registry import Registry

VERDICT = store.stage_path("gate", "verdict.json")
LESSONS = store.stage_path("decide", "lessons.json")


def carried_out(params: Registry, ledger: Ledger, version: int, swap: Callable[[], Reign], report: Callable[[str], None]) -> Reign:
    """Prove `version`, let `swap` change the ledger, and bring alias and mirror after it; may be repeated."""
    reach("promote.prove")
    registry.prove(params.model, params.tracking_uri, version)
    reach("promote.ledger")
    reign = swap()
    reach("promote.alias")
    set_alias(params, ledger)
    reach("promote.mirror")
    refresh_mirror(report)
    return reign


def workspace_claim(params: Registry, verdict: Mapping[str, Any], folder: Path) -> Claim:
    """What the workspace knows of the result that its stages just made."""
    from pipelines import rivals
    from pipelines.bundle import Bundle
    from pipelines.gate import gate_sha256, utility_sha256

    manifest = Bundle.load(folder).manifest
    digests = {name: str(manifest[name]) for name in DIGESTS}
    data, criteria = rivals.data_sha256(), gate_sha256(load(Gate))
    return Claim(digests, verdict, store.sha256(VERDICT), data, criteria, utility_sha256(), expires_after=params.expires_after)


def known_version(params: Registry, version: int) -> dict[str, Any]:
    """Tags, number and time of a registered version; raises ExpostError where there is none of that number."""
    listed = registry.versions(params.model, params.tracking_uri)
    found = next((one for one in listed if one["version"] == version), None)
    if found is None:
        known = ", ".join(str(one["version"]) for one in listed) or "none"
        raise must(
            f"the version must be one of model {params.model}", str(version), f"Versions: {known}; `expost status` shows the newest."
        )
    return found


def version_claim(params: Registry, tags: Mapping[str, Any]) -> Claim:
    """What the registry knows of a version, with the verdict that was logged with it."""
    from pipelines.gate import gate_sha256, utility_sha256

    verdict = registry.verdict(params.model, params.tracking_uri, int(tags["version"]))
    return Claim(
        {name: str(tags.get(name) or "") for name in DIGESTS},
        verdict,
        str(tags["verdict_sha256"]),
        data_sha256=str(tags.get("data_sha256") or ""),
        gate_sha256=gate_sha256(load(Gate)),
        utility_sha256=utility_sha256(),
        registered_at=datetime.fromisoformat(tags["registered_at"]),
        expires_after=params.expires_after,
    )
