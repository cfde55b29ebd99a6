"""The ledger on SQLite and on PostgreSQL: races, older tables, rows that the database itself keeps, and a database that is held."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipelines.errors import ExpostError
from pipelines.ledger import Ledger, UnreachableError
from pipelines.ledgertables import FIXED, GUARDED, engine_of
from tests.conftest import ROOT
from tests.ledgering import DATABASES, MODEL, address, digests, judged, promoted

RACERS, TRIES = 8, 12

RACE = """
import sys
from pipelines.admission import OvertakenError
from pipelines.ledger import Ledger
from tests.ledgering import MODEL, judged
uri, me, wins = sys.argv[1], int(sys.argv[2]), 0
ledger = Ledger(uri)
for attempt in range(int(sys.argv[3])):
    version = me * 100 + attempt + 1
    try:
        ledger.promote(MODEL, version, claim=judged(str(version), ledger.reign(MODEL)), why="race")
        wins += 1
    except OvertakenError:
        pass
print(wins)
"""


@pytest.fixture(params=DATABASES)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return address(request.param, tmp_path, request)


def test_racing_processes_win_each_epoch_once(uri: str) -> None:
    """Each of them also makes the tables, all at once."""
    command = [sys.executable, "-c", RACE, uri]
    racers = [
        subprocess.Popen([*command, str(me), str(TRIES)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for me in range(RACERS)
    ]
    finished = [racer.communicate(timeout=300) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * RACERS, finished
    wins = sum(int(out) for out, _ in finished)
    ledger = Ledger(uri)
    history = ledger.history(MODEL)
    assert ledger.reign(MODEL).epoch == wins == len(history) > 0
    assert [row["epoch"] for row in history] == list(range(1, wins + 1))
    # a chain: each winner replaced the one before it
    assert [row["from_version"] for row in history[1:]] == [row["to_version"] for row in history[:-1]]
    assert ledger.reign(MODEL).version == history[-1]["to_version"]


def _everything(ledger: Ledger) -> None:
    """A row in each table."""
    promoted(ledger, 1, lessons=[{"name": "x <= 1", "conditions": []}])
    ledger.reject(MODEL, 2, why="bad")
    ledger.note_registration(MODEL, 1, {"verdict": "PASS"}, "f" * 64)
    ledger.count_look(MODEL, "key", [1, 2**64 - 1])
    ledger.retire_lesson(MODEL, 1, "x <= 1", why="gone")


def test_the_database_itself_keeps_its_rows(uri: str) -> None:
    _everything(Ledger(uri))
    engine = engine_of(uri)
    statements = [f"DELETE FROM {table}" for table in (*(table.name for table in FIXED), *GUARDED)]
    statements += [f"UPDATE {table.name} SET model = 'other'" for table in FIXED]
    statements += ["UPDATE champion SET version = 7", "UPDATE champion SET epoch = epoch - 1", "UPDATE look SET count = 0"]
    if engine.dialect.name == "postgresql":
        statements += ["TRUNCATE history", "TRUNCATE look, champion"]
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError, match="of the ledger: "), engine.begin() as connection:
            connection.execute(sa.text(statement))
    columns = "epoch, who, at, from_version, to_version, verdict_sha256, why, kind, digests"
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.text(f"INSERT INTO history (id, model, {columns}) SELECT 99, model, {columns} FROM history"))


def test_sqlite_replaces_no_row(tmp_path: Path) -> None:
    """REPLACE removes the row that is in its way, and no trigger on DELETE hears of it."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger(uri)
    _everything(ledger)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        before = list(connection.iterdump())
        statements = []
        for table in (*(table.name for table in FIXED), *GUARDED):
            names = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
            other = [name if name != "model" else "'other'" for name in names]
            statements += [
                f"REPLACE INTO {table} SELECT * FROM {table}",
                f"REPLACE INTO {table} (rowid, {', '.join(names)}) SELECT rowid, {', '.join(other)} FROM {table}",
                f"UPDATE OR REPLACE {table} SET model = 'other'",
            ]
        rest = "epoch, 'eve', at, from_version, 9, verdict_sha256, why, kind, digests"
        statements += [
            f"REPLACE INTO history (model, epoch, who, at, from_version, to_version, verdict_sha256, why, kind, digests) SELECT model, {rest} FROM history",
            "REPLACE INTO lesson (model, version, name, at, content) SELECT model, version, name, at, '{}' FROM lesson",
            "INSERT INTO look SELECT model, row_hash, 0 FROM look WHERE true ON CONFLICT (model, row_hash) DO UPDATE SET count = 0",
        ]
        for statement in statements:
            with pytest.raises(sqlite3.IntegrityError, match="of the ledger: "):
                connection.execute(statement)
        connection.rollback()
        assert list(connection.iterdump()) == before
    promoted(ledger, 3)
    assert (ledger.reign(MODEL).version, ledger.count_look(MODEL, "another", [1, 2])) == (3, 2)


OLD = """
CREATE TABLE champion (model VARCHAR(250) NOT NULL, version INTEGER, epoch INTEGER NOT NULL, digests TEXT NOT NULL, PRIMARY KEY (model));
CREATE TABLE history (id {id} PRIMARY KEY, model VARCHAR(250) NOT NULL, epoch INTEGER NOT NULL, who TEXT NOT NULL, at VARCHAR(40) NOT NULL,
  from_version INTEGER, to_version INTEGER NOT NULL, verdict_sha256 VARCHAR(64) NOT NULL, why TEXT NOT NULL, UNIQUE (model, epoch));
CREATE TABLE evaluation (model VARCHAR(250) NOT NULL, key VARCHAR(64) NOT NULL, at VARCHAR(40) NOT NULL, PRIMARY KEY (model, key));
CREATE TABLE look (model VARCHAR(250) NOT NULL, row_hash BIGINT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (model, row_hash));
INSERT INTO champion VALUES ('m', 2, 2, '{digests}');
INSERT INTO history (model, epoch, who, at, from_version, to_version, verdict_sha256, why)
  VALUES ('m', 1, 'ann', '2026-11-01T00:00:00+00:00', NULL, 1, 'v', 'first'), ('m', 2, 'ann', '2026-11-02T00:00:00+00:00', 1, 2, 'w', 'second');
INSERT INTO evaluation VALUES ('m', 'key', '2026-11-02T00:00:00+00:00');
INSERT INTO look VALUES ('m', -1, 3);
"""


def test_tables_of_an_earlier_version_are_brought_up_to_date_with_their_rows(uri: str) -> None:
    engine = engine_of(uri)
    serial = "SERIAL" if engine.dialect.name == "postgresql" else "INTEGER"
    with engine.execution_options(writes=True).begin() as connection:
        for statement in OLD.format(id=serial, digests=json.dumps(digests("2"), sort_keys=True)).split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    for _ in range(2):
        ledger = Ledger(uri)
        assert (ledger.reign(MODEL).version, ledger.reign(MODEL).epoch, ledger.reign(MODEL).digests) == (2, 2, digests("2"))
        rows = ledger.history(MODEL)
        assert [(row["kind"], row["who"], row["to_version"], row["why"]) for row in rows] == [
            ("promote", "ann", 1, "first"),
            ("promote", "ann", 2, "second"),
        ]
        assert [row["digests"] for row in rows] == [{}, digests("2")]  # of an earlier champion the old tables kept none
        assert ledger.looks(MODEL, [2**64 - 1]) == 3
        assert ledger.evaluations(MODEL) == ["key"]
    with pytest.raises(ExpostError, match="the digests of the version rolled back to must be known"):
        ledger.rollback(MODEL, why="so")
    assert ledger.rollback(MODEL, why="so", digests=digests("1")).version == 1
    assert promoted(ledger, 3).epoch == 4
    with pytest.raises(sa.exc.DBAPIError, match="of the ledger: "), engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM history WHERE epoch = 1"))
    if engine.dialect.name == "sqlite":
        with pytest.raises(sa.exc.IntegrityError, match="of the ledger: "), engine.begin() as connection:
            connection.execute(sa.text("REPLACE INTO look VALUES ('m', -1, 1)"))


def test_a_ledger_of_schema_2_gets_the_guards_and_columns_that_it_lacked(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/ledger.db"
    _everything(Ledger(uri))
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        for table in (*(table.name for table in FIXED), *GUARDED):
            connection.execute(f"DROP TRIGGER {table}_insert")
        for table in ("registration", "rejection"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN bundle_sha256")
        connection.execute("UPDATE ledger_schema SET version = 2")
    ledger = Ledger(uri)
    assert [row["kind"] for row in ledger.history(MODEL)] == ["promote", "reject"]
    assert [row["version"] for row in ledger.registrations(MODEL)] == [1]
    ledger.reject(MODEL, 3, why="so")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, pytest.raises(sqlite3.IntegrityError, match="of the ledger: "):
        connection.execute("REPLACE INTO champion VALUES ('m', 9, 9, '{}')")


def test_tables_of_a_later_version_are_left_alone(uri: str) -> None:
    Ledger(uri)
    with engine_of(uri).execution_options(writes=True).begin() as connection:
        connection.execute(sa.text("INSERT INTO ledger_schema (version, at) VALUES (99, '2030')"))
    with pytest.raises(ExpostError, match=r"must be of schema \d+ or older, however: they are of schema 99\. Install a newer expost"):
        Ledger(uri)


def test_many_rows_are_counted(uri: str) -> None:
    ledger, rows = Ledger(uri), [number * 2**40 for number in range(100_000)]
    assert ledger.count_look(MODEL, "a", rows) == 1
    assert ledger.count_look(MODEL, "b", rows[:10]) == 2
    hashes, counts = ledger.look_counts(MODEL)
    assert (len(hashes), int(counts.sum())) == (100_000, 100_010)


def test_a_sqlite_database_that_is_held_is_waited_for_and_then_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}?timeout=0.3")
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        for deed in (lambda: ledger.reign(MODEL), lambda: promoted(ledger, 1), lambda: Ledger(f"sqlite:///{path}?timeout=0.3")):
            with pytest.raises(UnreachableError, match=r"the ledger must be free to read and write, however: .*: database is locked\."):
                deed()
        holder.execute("ROLLBACK")
    assert promoted(ledger, 1).epoch == 1


def test_a_row_that_is_held_in_postgresql_is_waited_for_and_then_told(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    uri = address("postgresql", tmp_path, request)
    promoted(Ledger(uri), 1)
    impatient = Ledger(f"{uri}?options=-c%20lock_timeout%3D300ms")
    claim = judged("2", impatient.reign(MODEL))
    with engine_of(uri).begin() as holder:
        holder.execute(sa.text("SELECT * FROM champion FOR UPDATE"))
        assert impatient.reign(MODEL).version == 1
        with pytest.raises(UnreachableError, match=r"the ledger must be free to read and write, however: .*lock timeout"):
            impatient.promote(MODEL, 2, claim=claim, why="so")
    assert impatient.promote(MODEL, 2, claim=claim, why="so").epoch == 2


def test_a_server_that_does_not_answer_is_one_message_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(UnreachableError, match=r"the ledger must be within reach, however: .*me:\*\*\*@127\.0\.0\.1:1/x") as caught:
        Ledger("postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)
