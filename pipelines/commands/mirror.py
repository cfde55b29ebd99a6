"""The champion's mirror: what the ledger says reigns, copied to `mlflow/champion/` so that the stages work offline."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from pipelines import registry, reigns, store
from pipelines.errors import ExpostError, must
from pipelines.ledger import DIGESTS, Ledger, Reign, UnreachableError
from pipelines.params import load
from pipelines.params.registry import Registry

if TYPE_CHECKING:
    from pipelines.looks import Hashes

MIRROR = Path("mlflow/champion")
STATUS, BUNDLE = MIRROR / "status.json", MIRROR / "bundle"
INCOMING, OLD, LOCK = (MIRROR.with_name(f".champion.{name}") for name in ("writing", "old", "lock"))
PROFILE = "profile.json"
PATIENCE = 120  #: seconds to wait for another process that writes the mirror, which may be fetching a bundle


def refresh_mirror(report: Callable[[str], None]) -> dict[str, Any]:
    """Bring mirror and alias up to date with the ledger and return the mirror's status; `report` is told of an alias that had drifted.

    Where the ledger or the registry is out of reach, the mirror that stands is kept and `report` says so.
    """
    try:
        params = load(Registry)
        MIRROR.parent.mkdir(exist_ok=True)
        with _alone():
            ledger = Ledger(params.ledger_uri)
            status = _refresh(params, ledger, ledger.reign(params.model))
    except ExpostError as error:
        kept = _standing().get("state", "unsynced")
        report(f"The champion's mirror is kept as it is ({kept}): {error}")
        return _standing()
    try:
        drift = alias_drift(params, ledger)
        if drift and set_alias(params, ledger) is not None:
            drift += " It was set back."
    except UnreachableError as error:
        drift = f"Nobody knows where the alias champion points: {error}"
    if drift:
        report(drift)
    return status


def settle_looks(ledger: Ledger, model: str) -> None:
    """Count the looks at the holdout that were noted here, by `dvc repro` too, and forget the notes."""
    from pipelines import looks

    for key, hashes in looks.pending().items():
        count_look(ledger, model, key, hashes)
        looks.settle(key)


def count_look(ledger: Ledger, model: str, key: str, hashes: Hashes) -> int:
    """Count the look `key` at rows with these hashes `(n,)`, once; returns the most looks that any of them has had."""
    from pipelines import looks

    ledger.count_look(model, key, map(int, looks.uncounted(key, hashes, ledger.evaluations(model))))
    return ledger.looks(model, map(int, hashes))


@contextmanager
def _alone() -> Iterator[None]:
    try:
        with FileLock(LOCK, timeout=PATIENCE):
            yield
    except Timeout as error:
        got = f"another process has held {LOCK} for {PATIENCE} seconds"
        raise must("one process at a time may write the mirror", got, "Run again when it has ended.") from error


def set_alias(params: Registry, ledger: Ledger) -> int | None:
    """Point the alias `champion` at the version that reigns, again where another came to reign meanwhile; returns that version."""
    while True:
        reign = ledger.reign(params.model)
        if reign.version is not None:
            registry.crown(params.model, params.tracking_uri, reign.version)
        if ledger.reign(params.model).epoch == reign.epoch:
            return reign.version


def alias_drift(params: Registry, ledger: Ledger) -> str | None:
    """A sentence where the alias `champion` points elsewhere than the ledger says; raises UnreachableError."""
    pointed, reign = registry.crowned(params.model, params.tracking_uri), ledger.reign(params.model)
    if pointed == reign.version:
        return None
    found = "is not set" if pointed is None else f"points to version {pointed}"
    truth = "no version reigns" if reign.version is None else f"version {reign.version} reigns"
    return f"The alias champion {found}, but the ledger says that {truth}: someone moved it, or a run ended before it could set it."


def _refresh(params: Registry, ledger: Ledger, reign: Reign) -> dict[str, Any]:
    """Build the mirror as it should be beside the one that stands, of whose bundles those that are right are kept, and swap them."""
    shutil.rmtree(INCOMING, ignore_errors=True)
    INCOMING.mkdir(parents=True)
    first = _first(params, ledger, reign)
    wanted = {**_entry(reign.version, reign.digests), "state": "none" if reign.version is None else "champion", "epoch": reign.epoch}
    wanted["first"] = first
    if reign.version is not None:
        kept = _bring(params, wanted, "bundle")
        _bring_profile(params, reign.version, kept=kept)
        if first is not None:
            _bring(params, first, "first")
    settle_looks(ledger, params.model)
    _write_notes(ledger, params.model)
    store.write_json(INCOMING / STATUS.name, wanted)
    if _differ(INCOMING, MIRROR):
        _replace()
    else:
        shutil.rmtree(INCOMING)
    return wanted


def _entry(version: int | None, digests: dict[str, str]) -> dict[str, Any]:
    return {"version": version, **{name: digests.get(name) for name in DIGESTS}}


def _first(params: Registry, ledger: Ledger, reign: Reign) -> dict[str, Any] | None:
    """The version that absolute floors are measured from, where that is another than the champion."""
    row = reigns.anchor(ledger.history(params.model))
    if row is None or row["to_version"] == reign.version:
        return None
    digests = row["digests"]
    if not digests:  # a ledger of an earlier schema did not note them
        tags = next((one for one in registry.versions(params.model, params.tracking_uri) if one["version"] == row["to_version"]), {})
        digests = {name: str(tags.get(name)) for name in DIGESTS}
    return _entry(row["to_version"], digests)


def _bring(params: Registry, entry: dict[str, Any], name: str) -> bool:
    """Put the bundle of `entry` into the new mirror; returns whether the one that stands could be taken."""
    from pipelines.bundle import Bundle

    for standing in (MIRROR / "bundle", MIRROR / "first"):
        try:
            if standing.is_dir() and Bundle.load(standing).manifest["bundle_sha256"] == entry["bundle_sha256"]:
                shutil.copytree(standing, INCOMING / name, symlinks=True)
                return True
        except ExpostError:  # damaged: it is fetched again
            continue
    registry.fetch_bundle(params.model, params.tracking_uri, entry["version"], INCOMING / name, entry["bundle_sha256"])
    return False


def _bring_profile(params: Registry, version: int, *, kept: bool) -> None:
    """The profile of the data that the champion was evaluated on, where it was logged; fetched with its bundle only."""
    if kept and _standing().get("version") == version:
        if (MIRROR / PROFILE).is_file():
            shutil.copy2(MIRROR / PROFILE, INCOMING / PROFILE)
        return
    try:
        content = registry.artifact(params.model, params.tracking_uri, version, f"evaluate/{PROFILE}")
    except registry.AbsentError:  # it has none
        return
    (INCOMING / PROFILE).write_bytes(content)


def _write_notes(ledger: Ledger, model: str) -> None:
    """Looks, evaluations and lessons, each left out where there is none."""
    import numpy as np

    hashes, counts = ledger.look_counts(model)
    if len(hashes):
        table = np.empty(len(hashes), dtype=[("row_hash", np.uint64), ("count", np.int32)])
        table["row_hash"], table["count"] = hashes, counts
        np.save(INCOMING / "looks.npy", table)
    # what two champions taught alike is one criterion: counted twice, it would weaken all others
    lessons = {lesson["name"]: lesson for lesson in ledger.lessons(model) if lesson["retired"] is None}
    kept = [{name: value for name, value in lesson.items() if name not in ("retired", "at")} for lesson in lessons.values()]
    for name, listed in (("evaluations.json", ledger.evaluations(model)), ("lessons.json", kept)):
        if listed:
            store.write_json(INCOMING / name, listed)


def _standing() -> dict[str, Any]:
    if not STATUS.exists():
        return {}
    try:
        status = store.read_json(STATUS)
    except ExpostError:
        return {}
    return status if isinstance(status, dict) else {}


def _differ(one: Path, other: Path) -> bool:
    """Whether two mirrors differ in a name or a byte."""
    names = [sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) for folder in (one, other)]
    return names[0] != names[1] or not all(filecmp.cmp(one / name, other / name, shallow=False) for name in names[0])


def _replace() -> None:
    """Swap the whole folder; a kill in between leaves no mirror, which reads as "unsynced", never a wrong champion."""
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
