"""Who reigns, since when and why: a small database of ours, since MLflow's aliases have no compare-and-swap."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipelines.errors import ExpostError, must

_TABLES = sa.MetaData()
_CHAMPION = sa.Table(
    "champion",
    _TABLES,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("version", sa.Integer),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("digests", sa.Text, nullable=False),
)
_HISTORY = sa.Table(
    "history",
    _TABLES,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.String(250), nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("from_version", sa.Integer),
    sa.Column("to_version", sa.Integer, nullable=False),
    sa.Column("verdict_sha256", sa.String(64), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.UniqueConstraint("model", "epoch"),  # a second winner of one epoch cannot even be written
)
_EVALUATION = sa.Table(
    "evaluation",
    _TABLES,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("at", sa.String(40), nullable=False),
)
_LOOK = sa.Table(
    "look",
    _TABLES,
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("row_hash", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("count", sa.Integer, nullable=False),
)

DIGESTS = ("bundle_sha256", "weights_sha256", "policy_sha256")


class UnreachableError(ExpostError):
    """The ledger or the registry did not answer, or failed while it did; what was computed is safe on disk."""


@dataclass(frozen=True)
class Reign:
    """The champion of `model`: its version (None before the first), the epoch (number of promotions so far) and its digests."""

    model: str
    version: int | None
    epoch: int
    digests: dict[str, str]


class Ledger:
    """The database at `uri` (SQLite or PostgreSQL), its tables created where they are missing."""

    def __init__(self, uri: str) -> None:
        self._engine = _engine(os.environ.get("EXPOST_LEDGER_URI", uri))
        with self._transaction() as connection:
            for table in _TABLES.sorted_tables:
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            reason = str(error.orig).splitlines()[0]
            raise UnreachableError(
                f"the ledger must be within reach, however: {self._engine.url.render_as_string(hide_password=True)}: {reason}. What the stages "
                "computed is safe on disk: run `expost retrain` again when it answers; or mend registry.ledger_uri in params.yaml."
            ) from error

    def reign(self, model: str) -> Reign:
        """Who reigns now."""
        with self._transaction() as connection:
            return self._reign(connection, model)

    @staticmethod
    def _reign(connection: sa.Connection, model: str) -> Reign:
        row = connection.execute(sa.select(_CHAMPION).where(_CHAMPION.c.model == model)).one_or_none()
        return Reign(model, row.version, row.epoch, json.loads(row.digests)) if row else Reign(model, None, 0, {})

    def promote(
        self,
        model: str,
        version: int,
        *,
        verdict: Mapping[str, Any],
        digests: Mapping[str, str],
        verdict_sha256: str,
        why: str,
        who: str = "",
    ) -> Reign:
        """Make `version` the champion, if the verdict is PASS and the champion that it was judged against still reigns.

        One transaction: a compare-and-swap on the epoch and an append-only row of history. Raises ExpostError otherwise.
        """
        expected = _admitted(verdict, digests)
        with self._transaction() as connection:
            before = self._reign(connection, model)
            self._swap(connection, before, version, expected, digests)
            values = {"model": model, "epoch": before.epoch + 1, "who": who or _user(), "at": _now(), "from_version": before.version}
            connection.execute(sa.insert(_HISTORY).values(**values, to_version=version, verdict_sha256=verdict_sha256, why=why))
        return Reign(model, version, before.epoch + 1, dict(digests))

    @staticmethod
    def _swap(connection: sa.Connection, before: Reign, version: int, expected: Mapping[str, Any], digests: Mapping[str, str]) -> None:
        judged = expected.get("bundle_sha256")
        if before.epoch != expected["epoch"] or (judged and judged != before.digests.get("bundle_sha256")):
            raise _overtaken(before.epoch, expected["epoch"])
        values = {"version": version, "epoch": before.epoch + 1, "digests": json.dumps(dict(digests), sort_keys=True)}
        try:
            if before.epoch == 0:
                connection.execute(sa.insert(_CHAMPION).values(model=before.model, **values))
                return
            here = (_CHAMPION.c.model == before.model) & (_CHAMPION.c.epoch == before.epoch)
            if connection.execute(sa.update(_CHAMPION).where(here).values(**values)).rowcount != 1:
                raise _overtaken(before.epoch + 1, expected["epoch"])
        except sa.exc.IntegrityError as error:  # another first champion was written between our read and our write
            raise _overtaken(before.epoch + 1, expected["epoch"]) from error

    def history(self, model: str) -> list[dict[str, Any]]:
        """Promotions in their order: epoch, who, at (UTC, ISO 8601), from_version, to_version, verdict_sha256, why."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(_HISTORY).where(_HISTORY.c.model == model).order_by(_HISTORY.c.epoch)).mappings()
            return [{name: value for name, value in row.items() if name not in ("id", "model")} for row in rows]

    def count_look(self, model: str, key: str, hashes: Iterable[int]) -> int:
        """Count one look at the holdout rows with these uint64 hashes; the same `key` (the evaluation's digest) counts once.

        Returns the largest count over these rows.
        """
        rows = sorted({_signed(value) for value in hashes})
        count = sa.text(
            "INSERT INTO look (model, row_hash, count) VALUES (:model, :row_hash, 1) "
            "ON CONFLICT (model, row_hash) DO UPDATE SET count = look.count + 1"
        )
        with self._transaction() as connection:
            first = connection.execute(
                sa.text("INSERT INTO evaluation (model, key, at) VALUES (:model, :key, :at) ON CONFLICT (model, key) DO NOTHING"),
                {"model": model, "key": key, "at": _now()},
            ).rowcount
            if first and rows:
                connection.execute(count, [{"model": model, "row_hash": row} for row in rows])
            return _most(connection, model, rows)

    def looks(self, model: str, hashes: Iterable[int]) -> int:
        """The largest number of looks that any of these rows has had."""
        with self._transaction() as connection:
            return _most(connection, model, sorted({_signed(value) for value in hashes}))


def _engine(uri: str) -> sa.Engine:
    """An engine that keeps no connection open; raises ExpostError where `uri` is none, or its database has no driver here."""
    try:
        url = sa.make_url(uri)
        if url.get_backend_name() != "sqlite":
            return sa.create_engine(url, pool_pre_ping=True, poolclass=sa.NullPool)
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"timeout": 60})
    except (sa.exc.ArgumentError, ImportError, OSError) as error:
        remedy = "Write it like sqlite:///mlflow/ledger.db, or install the driver of its database."
        raise must("registry.ledger_uri must name a database that can be opened", type(error).__name__, remedy) from error
    _one_writer_at_a_time(engine)
    return engine


def _one_writer_at_a_time(engine: sa.Engine) -> None:
    """Take SQLite's write lock at BEGIN: a transaction that reads first and writes later could otherwise fail instead of waiting."""

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _admitted(verdict: Mapping[str, Any], digests: Mapping[str, str]) -> Mapping[str, Any]:
    """The verdict's champion with its epoch; raises ExpostError where the verdict does not allow a promotion of these digests."""
    champion = verdict.get("champion") or {}
    if verdict.get("verdict") != "PASS":
        raise must(
            "a promotion must have the verdict PASS", f"it is {verdict.get('verdict')}", "See the reasons in data/gate/verdict.json."
        )
    if champion.get("state") not in ("none", "champion"):
        remedy = "Run `expost retrain`, which mirrors the champion before it judges."
        raise must(
            "a promotion must be judged against the champion that reigns", f"the verdict's champion is {champion.get('state')}", remedy
        )
    challenger = verdict.get("challenger") or {}
    for name in DIGESTS:
        if not digests.get(name) or challenger.get(name) != digests[name]:
            got = f"{name} is {str(challenger.get(name))[:12]} in the verdict and {str(digests.get(name))[:12]} in the version"
            raise must("a promotion must be of the very bundle that was judged", got, "Run `expost retrain` again.")
    return {"epoch": champion.get("epoch") or 0, "bundle_sha256": champion.get("bundle_sha256")}


def _overtaken(found: int, expected: int) -> ExpostError:
    remedy = "Run `expost retrain` again: it judges against the champion that reigns now."
    return must(
        "a promotion must follow the champion that it was judged against", f"epoch {found} reigns, epoch {expected} was judged", remedy
    )


def _most(connection: sa.Connection, model: str, rows: list[int]) -> int:
    most = 0
    for start in range(0, len(rows), 500):  # SQLite allows a limited number of bound values
        here = (_LOOK.c.model == model) & _LOOK.c.row_hash.in_(rows[start : start + 500])
        most = max(most, connection.execute(sa.select(sa.func.max(_LOOK.c.count)).where(here)).scalar() or 0)
    return most


def _signed(value: int) -> int:
    """A uint64 as the int64 with the same bits, which databases can hold."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return "unknown"
