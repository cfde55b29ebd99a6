"""Who reigns, since when and why: a small database of ours, since MLflow's aliases have no compare-and-swap."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipelines import ledgerlooks, reigns
from pipelines.admission import DIGESTS, RETRAIN, Claim, OvertakenError, admitted, against, expired, overtaken
from pipelines.errors import ExpostError, must
from pipelines.ledgertables import (
    CHAMPION,
    EVALUATION,
    HISTORY,
    LESSON,
    REGISTRATION,
    REJECTION,
    RETIREMENT,
    bring_up_to_date,
    engine_of,
    is_current,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DIGESTS", "Ledger", "OvertakenError", "Reign", "UnreachableError"]

SHOWN = ("kind", "epoch", "at", "who", "why", "from_version", "to_version", "verdict_sha256", "digests")


class UnreachableError(ExpostError):
    """The ledger or the registry did not answer, or failed while it did; what was computed is safe on disk."""


@dataclass(frozen=True)
class Reign:
    """The champion of `model`: its version (None before the first), the epoch (promotions and rollbacks so far) and its digests."""

    model: str
    version: int | None
    epoch: int
    digests: dict[str, str]


class Ledger:
    """The database at `uri` (SQLite or PostgreSQL), its tables created or brought up to date; EXPOST_LEDGER_URI wins over `uri`.

    `clock` gives the present moment with its zone. Every method is one transaction.
    """

    def __init__(self, uri: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._engine = engine_of(os.environ.get("EXPOST_LEDGER_URI", uri))
        with self._reading() as connection:
            ready = is_current(connection)
        if not ready:
            with self._writing() as connection:
                bring_up_to_date(connection, self._now())

    @contextmanager
    def _reading(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        try:
            with self._engine.execution_options(writes=writes).begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            where, reason = self._engine.url.render_as_string(hide_password=True), str(error.orig).strip().splitlines()[0]
            held = any(word in reason for word in ("database is locked", "lock timeout"))
            rule = "the ledger must be free to read and write" if held else "the ledger must be within reach"
            remedy = "when the process that holds it has ended" if held else "when it answers, or mend registry.ledger_uri in params.yaml"
            raise UnreachableError(
                f"{rule}, however: {where}: {reason}. What the stages computed is safe on disk: run the command again {remedy}."
            ) from error

    def _writing(self) -> AbstractContextManager[sa.Connection]:
        return self._reading(writes=True)

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="seconds")

    def reign(self, model: str) -> Reign:
        """Who reigns now."""
        with self._reading() as connection:
            return _reign(connection, model)

    def history(self, model: str) -> list[dict[str, Any]]:
        """All deeds in their order: kind (promote, override, rollback, reject), epoch, at (UTC, ISO 8601), who, why, from_version,
        to_version (the version promoted, brought back or rejected), verdict_sha256, digests (of a rejection the bundle's alone; empty where an older ledger had none).
        """
        with self._reading() as connection:
            return _deeds(connection, model)

    def promote(
        self,
        model: str,
        version: int,
        *,
        claim: Claim,
        why: str,
        who: str = "",
        lessons: Sequence[Mapping[str, Any]] = (),
        override: bool = False,
    ) -> Reign:
        """Make `version` the champion, if its verdict is PASS and the champion that it was judged against still reigns.

        `override` admits another verdict, and a version that was rejected; the row says so. Asked twice, it is done once. Raises
        OvertakenError where another champion reigns by now, ExpostError where the claim does not hold.
        """
        with self._writing() as connection:
            before = _locked(connection, model)
            kind = self._examined(connection, before, version, claim, why, override=override)
            if kind is None:
                return before
            row = {"kind": kind, "who": who, "why": why, "verdict_sha256": claim.verdict_sha256}
            reign = self._swap(connection, before, version, claim.digests, row)
            _teach(connection, model, version, lessons, self._now())
        return reign

    def examine(self, model: str, version: int, *, claim: Claim, why: str, override: bool = False) -> None:
        """Raise what `promote` would raise now, and change nothing: what takes longer need not be begun."""
        with self._reading() as connection:
            self._examined(connection, _reign(connection, model), version, claim, why, override=override)

    def _examined(self, connection: sa.Connection, before: Reign, version: int, claim: Claim, why: str, *, override: bool) -> str | None:
        """The kind of promotion that the claim allows, None where this very one has been done; raises ExpostError."""
        epoch, bundle = admitted(claim)
        rows = _deeds(connection, before.model)
        if _is_done(before, rows, version, claim, epoch):
            return None
        if before.epoch != epoch or (bundle and bundle != before.digests.get("bundle_sha256")):
            raise overtaken(before.epoch, epoch)
        registered = _registration(connection, before.model, version, claim.verdict_sha256)
        if too_old := expired(claim, datetime.fromisoformat(registered["at"]) if registered else None, self._clock()):
            raise too_old
        word = registered["verdict"] if registered else claim.verdict.get("verdict")
        refusal = reigns.refusal(rows, version, claim.digests["bundle_sha256"])
        doubt = against(word, reigns.told(refusal, version) if refusal else None)
        if doubt and not override:
            raise doubt
        if doubt:
            _need_reason("an override", why)
        return "override" if doubt else "promote"

    def _swap(self, connection: sa.Connection, before: Reign, version: int, digests: Mapping[str, str], row: Mapping[str, Any]) -> Reign:
        """The compare-and-swap on the epoch with its row of history."""
        epoch, told = before.epoch + 1, json.dumps({name: digests[name] for name in DIGESTS}, sort_keys=True)
        here = (CHAMPION.c.model == before.model) & (CHAMPION.c.epoch == before.epoch)
        changed = connection.execute(sa.update(CHAMPION).where(here).values(version=version, epoch=epoch, digests=told))
        if changed.rowcount != 1:
            raise overtaken(epoch, before.epoch)
        last = connection.scalar(sa.select(sa.func.max(HISTORY.c.at)).where(HISTORY.c.model == before.model)) or ""
        place = {"model": before.model, "epoch": epoch, "from_version": before.version, "to_version": version, "digests": told}
        values = {**row, **place, "who": row["who"] or _user(), "at": max(self._now(), last)}  # clocks differ, the order of epochs does not
        connection.execute(sa.insert(HISTORY).values(**values))
        return Reign(before.model, version, epoch, json.loads(told))

    def rollback(
        self,
        model: str,
        *,
        why: str,
        who: str = "",
        to: int | None = None,
        epoch: int | None = None,
        digests: Mapping[str, str] | None = None,
    ) -> Reign:
        """Let an earlier champion reign again: version `to`, or the one before the present one. The version left counts as rejected.

        Where that has been done, nothing is changed. `epoch` is the one that was seen to reign, `digests` those of `to`, for a ledger that
        does not know them. Raises OvertakenError where another epoch reigns by now, ExpostError where there is nothing to roll back to.
        """
        _need_reason("a rollback", why)
        with self._writing() as connection:
            before, rows = _locked(connection, model), _deeds(connection, model)
            target = reigns.target(model, rows, to)
            if target["to_version"] == before.version:
                return before
            if epoch is not None and epoch != before.epoch:
                raise overtaken(before.epoch, epoch)
            known = target["digests"] or digests
            if not known:
                raise must("the digests of the version rolled back to must be known", "this ledger has none", "Use `expost promote`.")
            row = {"kind": "rollback", "who": who, "why": why, "verdict_sha256": target["verdict_sha256"]}
            return self._swap(connection, before, target["to_version"], known, row)

    def reject(self, model: str, version: int, *, why: str, who: str = "", verdict_sha256: str = "", bundle_sha256: str = "") -> None:
        """Note that `version` is not to reign, nor its bundle under another number; a later promotion needs an override.

        The same said twice is noted once. `bundle_sha256` serves where the ledger does not know the version's.
        """
        _need_reason("a rejection", why)
        with self._writing() as connection:
            before, rows = _locked(connection, model), _deeds(connection, model)
            if before.version == version:
                raise must("a version that is rejected must not reign", f"version {version} does", "Use `expost rollback --why TEXT`.")
            known = reigns.refused(rows).get(version)
            if known and (known["kind"], known["who"], known["why"]) == ("reject", who or _user(), why):
                return
            last = max((row["at"] for row in rows), default="")
            bundle = _registered_bundle(connection, model, version) or bundle_sha256 or None
            values = {"model": model, "version": version, "epoch": before.epoch, "who": who or _user(), "why": why, "bundle_sha256": bundle}
            connection.execute(sa.insert(REJECTION).values(**values, at=max(self._now(), last), verdict_sha256=verdict_sha256))

    def note_registration(self, model: str, version: int, verdict: Mapping[str, Any], verdict_sha256: str) -> None:
        """Note that `version` was registered with this verdict now: its age counts from here, anew each time that it is given."""
        champion = verdict.get("champion") or {}
        epoch = (champion.get("epoch") or 0) if champion.get("state") in ("none", "champion") else None
        values = {"model": model, "version": version, "at": self._now(), "verdict": str(verdict.get("verdict")), "epoch": epoch}
        bundle = (verdict.get("challenger") or {}).get("bundle_sha256")
        with self._writing() as connection:
            connection.execute(sa.insert(REGISTRATION).values(**values, verdict_sha256=verdict_sha256, bundle_sha256=bundle))

    def registrations(self, model: str) -> list[dict[str, Any]]:
        """Registrations in their order: version, at, verdict, verdict_sha256, epoch (judged against; None where no champion was known),
        bundle_sha256 (None where an earlier program did not keep it).
        """
        names = ("version", "at", "verdict", "verdict_sha256", "epoch", "bundle_sha256")
        with self._reading() as connection:
            found = connection.execute(sa.select(REGISTRATION).where(REGISTRATION.c.model == model).order_by(REGISTRATION.c.id)).mappings()
            return [{name: row[name] for name in names} for row in found]

    def lessons(self, model: str) -> list[dict[str, Any]]:
        """Lessons of promoted versions: what was given, with version, at, and retired: null or {who, at, why}."""
        with self._reading() as connection:
            gone = connection.execute(sa.select(RETIREMENT).where(RETIREMENT.c.model == model)).mappings()
            retired = {(row["version"], row["name"]): {name: row[name] for name in ("who", "at", "why")} for row in gone}
            found = connection.execute(sa.select(LESSON).where(LESSON.c.model == model).order_by(LESSON.c.id)).mappings()
            return [
                {
                    **json.loads(row["content"]),
                    "version": row["version"],
                    "at": row["at"],
                    "retired": retired.get((row["version"], row["name"])),
                }
                for row in found
            ]

    def retire_lesson(self, model: str, version: int, name: str, *, why: str, who: str = "") -> None:
        """Let a lesson no longer be a criterion; raises ExpostError where `version` has none of that name."""
        _need_reason("whoever retires a lesson", why)
        with self._writing() as connection:
            _locked(connection, model)
            here = {"model": model, "version": version, "name": name}
            names = connection.scalars(sa.select(LESSON.c.name).where(LESSON.c.model == model, LESSON.c.version == version)).all()
            if name not in names:
                raise must(f"version {version} must have the lesson that is retired", f"{name!r}", f"It has: {', '.join(names) or 'none'}.")
            done = sa.select(RETIREMENT.c.id).filter_by(**here)
            if connection.scalar(done) is None:
                connection.execute(sa.insert(RETIREMENT).values(**here, who=who or _user(), at=self._now(), why=why))

    def count_look(self, model: str, key: str, hashes: Iterable[int]) -> int:
        """Count one look at the holdout rows with these uint64 hashes; the same `key` (the evaluation's digest) counts once.

        Returns the largest count over these rows.
        """
        rows = ledgerlooks.listed(hashes)
        with self._writing() as connection:
            ledgerlooks.count(connection, model, key, rows, self._now())
            return ledgerlooks.most(connection, model, rows)

    def looks(self, model: str, hashes: Iterable[int]) -> int:
        """The largest number of looks that any of these rows has had."""
        with self._reading() as connection:
            return ledgerlooks.most(connection, model, ledgerlooks.listed(hashes))

    def look_counts(self, model: str) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """Hashes `(n,)` of all holdout rows ever looked at, ascending, and how often `(n,)`."""
        with self._reading() as connection:
            return ledgerlooks.counts(connection, model)

    def evaluations(self, model: str) -> list[str]:
        """Keys of the evaluations that were counted, ascending."""
        with self._reading() as connection:
            return list(connection.scalars(sa.select(EVALUATION.c.key).where(EVALUATION.c.model == model).order_by(EVALUATION.c.key)))


def _reign(connection: sa.Connection, model: str, *, lock: bool = False) -> Reign:
    query = sa.select(CHAMPION).where(CHAMPION.c.model == model)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return Reign(model, row.version, row.epoch, json.loads(row.digests)) if row else Reign(model, None, 0, {})


def _locked(connection: sa.Connection, model: str) -> Reign:
    """Who reigns, the row held until the transaction ends, so that deeds on one model follow one another."""
    if connection.scalar(sa.select(CHAMPION.c.model).where(CHAMPION.c.model == model)) is None:
        start = sa.text(
            "INSERT INTO champion (model, version, epoch, digests) VALUES (:model, NULL, 0, '{}') ON CONFLICT (model) DO NOTHING"
        )
        connection.execute(start, {"model": model})
    return _reign(connection, model, lock=True)


def _deeds(connection: sa.Connection, model: str) -> list[dict[str, Any]]:
    """History and rejections in one order: a rejection stands after the deed by which the epoch of its time began."""
    changes = connection.execute(sa.select(HISTORY).where(HISTORY.c.model == model)).mappings()
    rejected = connection.execute(sa.select(REJECTION).where(REJECTION.c.model == model)).mappings()
    rows = [((row["epoch"], 0, row["id"]), {**row, "digests": json.loads(row["digests"] or "{}")}) for row in changes]
    for row in rejected:
        given = {**row, "kind": "reject", "from_version": None, "to_version": row["version"], "digests": _of_bundle(row)}
        rows.append(((row["epoch"], 1, row["id"]), given))
    return [{name: row[name] for name in SHOWN} for _, row in sorted(rows, key=lambda item: item[0])]


def _of_bundle(row: sa.RowMapping) -> dict[str, str]:
    return {"bundle_sha256": row["bundle_sha256"]} if row["bundle_sha256"] else {}


def _registered_bundle(connection: sa.Connection, model: str, version: int) -> str | None:
    """Digest of the bundle that `version` is, as noted when it was registered."""
    here = (REGISTRATION.c.model == model) & (REGISTRATION.c.version == version)
    found: str | None = connection.scalar(sa.select(sa.func.max(REGISTRATION.c.bundle_sha256)).where(here))
    return found


def _is_done(before: Reign, rows: reigns.Rows, version: int, claim: Claim, epoch: int) -> bool:
    """Whether this very promotion was the last change: its answer may have been lost."""
    last = reigns.changes(rows)[-1:]
    return bool(
        last
        and (before.version, before.epoch, before.digests) == (version, epoch + 1, {name: claim.digests[name] for name in DIGESTS})
        and last[0]["kind"] != "rollback"
        and last[0]["verdict_sha256"] == claim.verdict_sha256
    )


def _registration(connection: sa.Connection, model: str, version: int, verdict_sha256: str) -> sa.RowMapping | None:
    """The latest registration of `version` with this verdict, None where the ledger knows none of `version`; raises ExpostError where it
    knows other verdicts only: files and tags of the registry can be changed by others.
    """
    here = (REGISTRATION.c.model == model) & (REGISTRATION.c.version == version)
    rows = (
        connection.execute(sa.select(REGISTRATION).where(here).order_by(REGISTRATION.c.at.desc(), REGISTRATION.c.id.desc()))
        .mappings()
        .all()
    )
    found = next((row for row in rows if row["verdict_sha256"] == verdict_sha256), None)
    if rows and found is None:
        known = ", ".join(sorted({f"{row['verdict_sha256'][:12]} ({row['verdict']})" for row in rows}))
        got = f"it is {verdict_sha256[:12]}, and the ledger knows {known} of version {version}"
        raise must("a promotion must carry a verdict that the ledger noted when its version was registered", got, RETRAIN)
    return found


def _teach(connection: sa.Connection, model: str, version: int, lessons: Sequence[Mapping[str, Any]], now: str) -> None:
    """Note the lessons, without their example cases: these are rows of the data, which a row that is never deleted must not hold."""
    known = set(connection.scalars(sa.select(LESSON.c.name).where(LESSON.c.model == model, LESSON.c.version == version)))
    for lesson in lessons:
        if lesson["name"] not in known:
            kept = {name: value for name, value in lesson.items() if name not in ("failures", "successes")}
            content = json.dumps(kept, sort_keys=True)
            connection.execute(sa.insert(LESSON).values(model=model, version=version, name=lesson["name"], at=now, content=content))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return "unknown"


def _need_reason(deed: str, why: str) -> None:
    if not why.strip():
        raise must(f"{deed} must say why", "nothing is said", "Add --why TEXT.")
