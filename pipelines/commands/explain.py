"""Which version reigned when, what waits for a person, and why a version was or was not promoted, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines import registry, reigns, store
from pipelines.commands.promotion import known_version
from pipelines.errors import ExpostError, must
from pipelines.ledger import Ledger, Reign, UnreachableError
from pipelines.params import load
from pipelines.params.registry import Registry

PAGES = Path("mlflow/review")
PAGE = "report/review.html"


def history(at: str | None = None) -> list[dict[str, Any]]:
    """All deeds on the model in their order, or, with `at`, the one by which the version that reigned then had come to reign, if any."""
    params = load(Registry)
    rows = Ledger(params.ledger_uri).history(params.model)
    if at is None:
        return rows
    found = reigns.at(rows, moment(at))
    return [] if found is None else [dict(found)]


def moment(text: str) -> datetime:
    """A moment written in ISO 8601, in UTC where it names no zone; a day stands for its end."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise must(
            "a time must be written like 2026-11-26 or 2026-11-26T14:00", repr(text), "Mend it; without a zone it is UTC."
        ) from error
    if len(text.strip()) == len("2026-11-26"):
        found += timedelta(days=1, seconds=-1)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def waiting(ledger: Ledger, params: Registry) -> list[dict[str, Any]]:
    """Versions that passed against the champion that reigns and wait for a person, oldest first: version, at, expires_at, expired,
    verdict_sha256.
    """
    reign, rows = ledger.reign(params.model), ledger.history(params.model)
    last = {row["version"]: row for row in ledger.registrations(params.model)}
    found = []
    for version, row in sorted(last.items()):
        passed = row["verdict"] == "PASS" and row["epoch"] == reign.epoch
        if passed and version != reign.version and reigns.refusal(rows, version, row["bundle_sha256"]) is None:
            until = datetime.fromisoformat(row["at"]) + timedelta(days=params.expires_after)
            kept = {name: row[name] for name in ("version", "at", "verdict_sha256")}
            found.append({**kept, "expires_at": until.isoformat(timespec="seconds"), "expired": until < datetime.now(UTC)})
    return found


def waiting_now() -> list[dict[str, Any]]:
    """What `waiting` gives for this workspace."""
    params = load(Registry)
    return waiting(Ledger(params.ledger_uri), params)


def review(version: int) -> dict[str, Any]:
    """What a reviewer needs of a version: verdict, reasons, state, sentences, and the page, written to `mlflow/review` (null: it has none)."""
    params = load(Registry)
    told = explain(version)
    verdict = _verdict(params, known_version(params, version))
    page: Path | None = PAGES / f"version-{version}.html"
    try:
        content = registry.artifact(params.model, params.tracking_uri, version, PAGE)
    except registry.AbsentError:  # an earlier program registered it, without a page
        page = None
    else:
        with store.atomic_file(PAGES / f"version-{version}.html") as temporary:
            temporary.write_bytes(content)
    reasons = list(verdict.get("reasons") or [])
    return {**told, "verdict": verdict.get("verdict"), "reasons": reasons, "page": None if page is None else str(page.absolute())}


def explain(version: int) -> dict[str, Any]:
    """`state` of a version (reigns, reigned, rejected, waiting, expired, overtaken, blocked) and `sentences` that say how it came about."""
    params = load(Registry)
    ledger = Ledger(params.ledger_uri)
    tags, rows, reign = known_version(params, version), ledger.history(params.model), ledger.reign(params.model)
    registered = [row for row in ledger.registrations(params.model) if row["version"] == version]
    verdict = _verdict(params, tags)
    refusal = reigns.refusal(rows, version, tags.get("bundle_sha256"))
    state = state_of(version, rows, reign, verdict, refused=refusal is not None)
    if state == "waiting" and registered and _is_old(registered[-1]["at"], params.expires_after):
        state = "expired"
    sentences = [
        _registered(tags, registered),
        *_judged(version, verdict),
        *_deeds(version, rows),
        *([f"It is refused, since {reigns.told(refusal, version)}"] if state == "rejected" and refusal else []),
        _conclusion(version, state, reign, verdict),
    ]
    return {"model": params.model, "version": version, "state": state, "sentences": sentences}


def _verdict(params: Registry, tags: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict that was logged with a version; its word alone where an earlier program logged it elsewhere."""
    try:
        return registry.verdict(params.model, params.tracking_uri, int(tags["version"]))
    except UnreachableError:
        raise
    except ExpostError as error:
        return {"verdict": tags.get("verdict"), "reasons": [f"Its reasons cannot be read: {error}"]}


def state_of(version: int, rows: reigns.Rows, reign: Reign, verdict: Mapping[str, Any], *, refused: bool) -> str:
    """One word for where a version stands."""
    champion = verdict.get("champion") or {}
    if reign.version == version:
        return "reigns"
    if refused:
        return "rejected"
    if any(row["to_version"] == version for row in reigns.changes(rows)):
        return "reigned"
    if verdict.get("verdict") != "PASS":
        return "blocked"
    known = champion.get("state") in ("none", "champion")
    return "waiting" if known and (champion.get("epoch") or 0) == reign.epoch else "overtaken"


def _is_old(at: str, days: float) -> bool:
    return datetime.now(UTC) - datetime.fromisoformat(at) > timedelta(days=days)


def _registered(tags: Mapping[str, Any], registered: Sequence[Mapping[str, Any]]) -> str:
    again = f", and judged again until {_day(registered[-1]['at'])}" if len({row["verdict_sha256"] for row in registered}) > 1 else ""
    return (
        f"Version {tags['version']} was registered on {_day(tags['registered_at'])} from data {str(tags.get('data_digest'))[:12]}{again}."
    )


def _judged(version: int, verdict: Mapping[str, Any]) -> list[str]:
    champion = verdict.get("champion") or {}
    rivals = {
        "champion": f"against version {champion.get('version')}, epoch {champion.get('epoch')}",
        "none": "as a first champion, since none reigned",
    }
    rival = rivals.get(str(champion.get("state")), "without knowing the champion")
    return [f"The gate judged it {verdict.get('verdict')} {rival}:", *(str(reason) for reason in verdict.get("reasons") or [])]


def _deeds(version: int, rows: reigns.Rows) -> list[str]:
    told = []
    for row in rows:
        signed = f"{row['who']} on {_time(row['at'])}: {row['why']}"
        over = f", in the place of version {row['from_version']}" if row["from_version"] is not None else ""
        if row["to_version"] == version:
            told.append(
                {
                    "promote": f"It was promoted to epoch {row['epoch']}{over}, by {signed}",
                    "override": f"It was promoted against the verdict or a rejection (override) to epoch {row['epoch']}{over}, by {signed}",
                    "rollback": f"It was brought back to epoch {row['epoch']}{over}, by {signed}",
                    "reject": f"It was rejected by {signed}",
                }[row["kind"]]
            )
        elif row["from_version"] == version:
            what = "A rollback brought back" if row["kind"] == "rollback" else "Its reign ended with"
            told.append(f"{what} version {row['to_version']}, by {signed}")
    return told


def _conclusion(version: int, state: str, reign: Reign, verdict: Mapping[str, Any]) -> str:
    now = "no version reigns" if reign.version is None else f"version {reign.version} reigns"
    return {
        "reigns": f"Version {version} reigns now, in epoch {reign.epoch}.",
        "reigned": f"It reigned before; now {now}.",
        "rejected": f"It does not reign, and only `expost promote {version} --override` would let it; now {now}.",
        "waiting": f"It passed and waits for a person: `expost promote {version}` or `expost reject {version}`; now {now}.",
        "expired": "It passed and nobody promoted it in time (registry.expires_after): `expost gate` or `expost retrain` judges anew.",
        "overtaken": f"It passed, but against a champion of another epoch; now {now}, in epoch {reign.epoch}, so it must be judged anew.",
        "blocked": f"It was not promoted, since its verdict is {verdict.get('verdict')} and only PASS promotes; now {now}.",
    }[state]


def _day(text: str) -> str:
    return text[:10]


def _time(text: str) -> str:
    return f"{text[:16].replace('T', ' ')} UTC"
