"""Looks at the holdout, counted on its rows: the statements behind the ledger's methods."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipelines.ledgertables import EVALUATION, LOOK

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def listed(hashes: Iterable[int]) -> str:
    """Distinct uint64 hashes as a JSON list of the int64 with the same bits, which databases can hold."""
    return json.dumps(sorted({value - (1 << 64) if value >= 1 << 63 else value for value in hashes}))


def count(connection: sa.Connection, model: str, key: str, rows: str, now: str) -> None:
    """Add one look at `rows`, unless the evaluation `key` was counted before."""
    if connection.scalar(sa.select(EVALUATION.c.key).where(EVALUATION.c.model == model, EVALUATION.c.key == key)) is not None:
        return
    first = connection.execute(
        sa.text("INSERT INTO evaluation (model, key, at) VALUES (:model, :key, :at) ON CONFLICT (model, key) DO NOTHING"),
        {"model": model, "key": key, "at": now},
    ).rowcount
    if not first:  # another process was faster
        return
    insert = f"INSERT INTO look (model, row_hash, count) SELECT :model, hash, 1 FROM ({_each(connection)}) AS listed WHERE "
    if connection.dialect.name == "postgresql":
        statements = [insert + "true ON CONFLICT (model, row_hash) DO UPDATE SET count = look.count + 1"]
    else:  # one writer at a time; a row that is there may not be inserted again, whatever would become of the conflict
        here = "model = :model AND row_hash"
        statements = [
            f"UPDATE look SET count = count + 1 WHERE {here} IN ({_each(connection)})",
            f"{insert} NOT EXISTS (SELECT 1 FROM look WHERE {here} = hash)",
        ]
    for statement in statements:
        connection.execute(sa.text(statement), {"model": model, "rows": rows})


def most(connection: sa.Connection, model: str, rows: str) -> int:
    """The largest number of looks that any of `rows` has had."""
    query = f"SELECT max(count) FROM look WHERE model = :model AND row_hash IN ({_each(connection)})"
    return int(connection.scalar(sa.text(query), {"model": model, "rows": rows}) or 0)


def counts(connection: sa.Connection, model: str) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Hashes `(n,)` of all rows ever looked at, ascending, and how often `(n,)`."""
    import numpy as np

    found = connection.execute(sa.select(LOOK.c.row_hash, LOOK.c.count).where(LOOK.c.model == model)).all()
    hashes = np.array([row[0] for row in found], dtype=np.int64).view(np.uint64)
    order = np.argsort(hashes)
    return hashes[order], np.array([row[1] for row in found], dtype=np.int32)[order]


def _each(connection: sa.Connection) -> str:
    """SQL for the numbers of a JSON list, one row each: one statement for any number of rows."""
    if connection.dialect.name == "postgresql":
        return "SELECT value::bigint AS hash FROM json_array_elements_text(CAST(:rows AS json))"
    return "SELECT value AS hash FROM json_each(:rows)"
