"""The ledger's tables: opened, brought up to date, and guarded by triggers where a program's promise would not do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipelines.errors import must

#: 1 had champion, history without kind and digests, evaluation and look; 2 no bundle of registrations and rejections, and no guard of inserts
SCHEMA = 3
PATIENCE = 30  #: seconds to wait for a database that another process holds, unless its address says `timeout`

TABLES = sa.MetaData()


def _table(name: str, *columns: Any) -> sa.Table:
    return sa.Table(name, TABLES, *columns)


def _model(**options: Any) -> sa.Column[str]:
    return sa.Column("model", sa.String(250), nullable=False, **options)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str, **options: Any) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, **{"nullable": False, **options})


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True, autoincrement=True)


def _at() -> sa.Column[str]:
    return sa.Column("at", sa.String(40), nullable=False)


def _bundle() -> sa.Column[str]:
    return sa.Column("bundle_sha256", sa.String(64))


def _verdict() -> sa.Column[str]:
    return sa.Column("verdict_sha256", sa.String(64), nullable=False)


#: Who reigns, one row per model; the epoch counts promotions and rollbacks.
CHAMPION = _table("champion", _model(primary_key=True), _number("version", nullable=True), _number("epoch"), _text("digests"))
#: Every change of who reigns. A second winner of one epoch cannot even be written.
HISTORY = _table(
    "history",
    _id(),
    _model(),
    _number("epoch"),
    _text("who"),
    _at(),
    _number("from_version", nullable=True),
    _number("to_version"),
    _verdict(),
    _text("why"),
    sa.Column("kind", sa.String(20), nullable=False, server_default="promote"),
    sa.Column("digests", sa.Text),
    sa.UniqueConstraint("model", "epoch"),
)
#: Versions that a person rejected, with the epoch that reigned then.
REJECTION = _table(
    "rejection", _id(), _model(), _number("version"), _number("epoch"), _text("who"), _at(), _verdict(), _text("why"), _bundle()
)
#: Each time a version was registered with a verdict, and the epoch that the verdict was given against (null: none was known).
REGISTRATION = _table(
    "registration",
    _id(),
    _model(),
    _number("version"),
    _at(),
    sa.Column("verdict", sa.String(20), nullable=False),
    _verdict(),
    _number("epoch", nullable=True),
    _bundle(),
)
#: Evaluations that were counted as looks at the holdout, and how many looks each of its rows has had.
EVALUATION = _table("evaluation", _model(primary_key=True), sa.Column("key", sa.String(64), primary_key=True), _at())
LOOK = _table(
    "look", _model(primary_key=True), sa.Column("row_hash", sa.BigInteger, primary_key=True, autoincrement=False), _number("count")
)
#: What champions taught, and what was retired of it by hand.
LESSON = _table("lesson", _id(), _model(), _number("version"), _text("name"), _at(), _text("content"))
RETIREMENT = _table("retirement", _id(), _model(), _number("version"), _text("name"), _text("who"), _at(), _text("why"))
_SCHEMA = _table("ledger_schema", sa.Column("version", sa.Integer, primary_key=True, autoincrement=False), _at())
sa.Index("lesson_once", LESSON.c.model, LESSON.c.version, LESSON.c.name, unique=True)
sa.Index("retirement_once", RETIREMENT.c.model, RETIREMENT.c.version, RETIREMENT.c.name, unique=True)
sa.Index("registration_of", REGISTRATION.c.model, REGISTRATION.c.version)

#: Columns that tables of an earlier schema lack.
_ADDED = [
    (column.table.name, column) for column in (HISTORY.c.kind, HISTORY.c.digests, REGISTRATION.c.bundle_sha256, REJECTION.c.bundle_sha256)
]
#: Rows of these are never changed or deleted.
FIXED = (HISTORY, REJECTION, REGISTRATION, EVALUATION, LESSON, RETIREMENT)
#: Rows of these may change in one way only.
GUARDED = {
    "champion": ("NEW.epoch <> OLD.epoch + 1 OR NEW.model <> OLD.model", "the epoch rises by one"),
    "look": ("NEW.count < OLD.count OR NEW.model <> OLD.model OR NEW.row_hash <> OLD.row_hash", "looks are never taken back"),
}


def engine_of(uri: str) -> sa.Engine:
    """An engine that keeps no connection open; raises ExpostError where `uri` is none, or its database has no driver here."""
    try:
        url = sa.make_url(uri)
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() == "postgresql":
            options = {"connect_timeout": 10, "options": f"-c lock_timeout={PATIENCE}s", "application_name": "expost"}
            return sa.create_engine(url, poolclass=sa.NullPool, connect_args={k: v for k, v in options.items() if k not in url.query})
        if url.get_backend_name() != "sqlite":
            raise sa.exc.ArgumentError("neither SQLite nor PostgreSQL")
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        patience = {} if "timeout" in url.query else {"timeout": PATIENCE}
        engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=patience)
    except (sa.exc.ArgumentError, ImportError, OSError) as error:
        remedy = "Write it like sqlite:///mlflow/ledger.db or postgresql://host/name, which needs `pip install 'expost[postgresql]'`."
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
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def is_current(connection: sa.Connection) -> bool:
    """Whether the tables are those of this program; one statement, since every command asks."""
    return bool(sa.inspect(connection).has_table(_SCHEMA.name)) and connection.scalar(sa.select(sa.func.max(_SCHEMA.c.version))) == SCHEMA


def bring_up_to_date(connection: sa.Connection, now: str) -> None:
    """Create what is missing in one transaction, keeping every row; raises ExpostError where a newer program made the tables."""
    if connection.dialect.name == "postgresql":  # CREATE ... IF NOT EXISTS is not safe there against itself
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('expost.ledger'))"))
    inspector = sa.inspect(connection)
    had = set(inspector.get_table_names())
    found = connection.scalar(sa.select(sa.func.max(_SCHEMA.c.version))) if _SCHEMA.name in had else None
    if found is not None and found > SCHEMA:
        raise must(f"the ledger's tables must be of schema {SCHEMA} or older", f"they are of schema {found}", "Install a newer expost.")
    if found == SCHEMA:  # another process was faster
        return
    lacking = [column for name, column in _ADDED if name in had and column.name not in {one["name"] for one in inspector.get_columns(name)}]
    _widen(connection, lacking)
    TABLES.create_all(connection)
    for statement in _triggers(connection.dialect.name):
        connection.execute(sa.text(statement))
    connection.execute(sa.insert(_SCHEMA).values(version=SCHEMA, at=now))


def _widen(connection: sa.Connection, lacking: Sequence[sa.Column[Any]]) -> None:
    """Add the columns that older tables lack; what the digests of a history of schema 1 were is known for the champion only."""
    for column in lacking:
        definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")
    if HISTORY.c.digests in lacking:
        known = sa.select(CHAMPION.c.digests).where(CHAMPION.c.model == HISTORY.c.model).scalar_subquery()
        reigning = sa.exists().where(CHAMPION.c.model == HISTORY.c.model, CHAMPION.c.epoch == HISTORY.c.epoch)
        connection.execute(sa.update(HISTORY).where(reigning, HISTORY.c.digests.is_(None)).values(digests=known))


def _taken(table: str) -> str:
    """SQL: whether the row that is inserted has a key that a row of `table` has, which SQLite's REPLACE would remove without a trigger."""
    named = TABLES.tables[table]
    rules = [rule for rule in named.constraints if isinstance(rule, sa.PrimaryKeyConstraint | sa.UniqueConstraint)]
    keys = [rule.columns.keys() for rule in rules] + [index.columns.keys() for index in named.indexes if index.unique]
    same = sorted(" AND ".join(f"{name} = NEW.{name}" for name in key) for key in keys)
    return f"EXISTS (SELECT 1 FROM {table} WHERE {' OR '.join(f'({one})' for one in ('rowid = NEW.rowid', *same))})"


def _triggers(dialect: str) -> list[str]:
    """Statements that make the database itself refuse what must not happen to its rows."""
    refused: list[tuple[str, str, str | None, str]] = [
        (table.name, event, None, "rows are never changed or deleted") for table in FIXED for event in ("UPDATE", "DELETE")
    ]
    refused += [(name, "UPDATE", when, why) for name, (when, why) in GUARDED.items()]
    refused += [(name, "DELETE", None, "rows are never deleted") for name in GUARDED]
    made = []
    if dialect == "sqlite":
        refused += [(name, "INSERT", _taken(name), "rows are never replaced") for name in (*(table.name for table in FIXED), *GUARDED)]
    if dialect == "postgresql":
        made.append(
            "CREATE OR REPLACE FUNCTION expost_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION 'table % of the ledger: %', TG_TABLE_NAME, TG_ARGV[0]; END$$"
        )
        refused += [(table, "TRUNCATE", None, "rows are never deleted") for table in (*(table.name for table in FIXED), *GUARDED)]
    for table, event, when, why in refused:
        head = f"{table}_{event.lower()} BEFORE {event} ON {table} FOR EACH {'STATEMENT' if event == 'TRUNCATE' else 'ROW'}"
        condition = f" WHEN ({when})" if when else ""
        if dialect == "postgresql":
            made.append(f"CREATE OR REPLACE TRIGGER {head}{condition} EXECUTE FUNCTION expost_refuse('{why}')")
        else:
            made.append(
                f"CREATE TRIGGER IF NOT EXISTS {head}{condition} BEGIN SELECT RAISE(ABORT, 'table {table} of the ledger: {why}'); END"
            )
    return made
