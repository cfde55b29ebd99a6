"""The champion's mirror: what the ledger says reigns, copied to `mlflow/champion/` so that the stages work offline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import registry, store
from pipelines.errors import ExpostError
from pipelines.ledger import DIGESTS, Ledger, Reign
from pipelines.params import load
from pipelines.params.registry import Registry

MIRROR = Path("mlflow/champion")
STATUS, BUNDLE = MIRROR / "status.json", MIRROR / "bundle"
INCOMING, OLD = MIRROR.with_name(".champion.writing"), MIRROR.with_name(".champion.old")


def refresh_mirror(report: Callable[[str], None]) -> dict[str, Any]:
    """Bring the mirror up to date with the ledger and return its status.

    Where the ledger or the registry is out of reach, the mirror that stands is kept and `report` says so.
    """
    try:
        return _refresh(load(Registry))
    except ExpostError as error:
        kept = _standing().get("state", "unsynced")
        report(f"The champion's mirror is kept as it is ({kept}): {error}")
        return _standing()


def _refresh(params: Registry) -> dict[str, Any]:
    reign = Ledger(params.ledger_uri).reign(params.model)
    wanted = _status(reign)
    if _standing() == wanted and (reign.version is None or _is_whole(reign)):
        return wanted
    shutil.rmtree(INCOMING, ignore_errors=True)
    if reign.version is not None:
        # the alias is a projection of the ledger; a mirror that lags is the trace of a run that ended before it set the alias
        registry.crown(params.model, params.tracking_uri, reign.version)
        registry.fetch_bundle(params.model, params.tracking_uri, reign.version, INCOMING / "bundle", reign.digests["bundle_sha256"])
    _replace(wanted)
    return wanted


def _status(reign: Reign) -> dict[str, Any]:
    state = "none" if reign.version is None else "champion"
    return {"state": state, "version": reign.version, "epoch": reign.epoch, **{name: reign.digests.get(name) for name in DIGESTS}}


def _standing() -> dict[str, Any]:
    if not STATUS.exists():
        return {}
    try:
        status = store.read_json(STATUS)
    except ExpostError:
        return {}
    return status if isinstance(status, dict) else {}


def _is_whole(reign: Reign) -> bool:
    from pipelines.bundle import Bundle

    try:
        return bool(Bundle.load(BUNDLE).manifest["bundle_sha256"] == reign.digests["bundle_sha256"])
    except ExpostError:
        return False


def _replace(status: dict[str, Any]) -> None:
    """Swap the whole folder; a kill in between leaves no mirror, which reads as "unsynced", never a wrong champion."""
    store.write_json(INCOMING / "status.json", status)
    shutil.rmtree(OLD, ignore_errors=True)
    if MIRROR.exists():
        MIRROR.rename(OLD)
    INCOMING.rename(MIRROR)
    shutil.rmtree(OLD, ignore_errors=True)


def fetched(version: int) -> Path:
    """The bundle of any registered version, fetched once into `mlflow/versions/`; every use verifies it against its manifest."""
    params = load(Registry)
    folder = MIRROR.with_name("versions") / params.model / str(version)
    registry.fetch_bundle(params.model, params.tracking_uri, version, folder)
    return folder
