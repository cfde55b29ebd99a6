"""What follows from the ledger's rows, in the order in which they were written: who was rejected, who came before, where the floor stands.

A row has kind (promote, override, rollback, reject), epoch, at, who, why, from_version, to_version, digests; pure functions over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipelines.errors import must

Row = Mapping[str, Any]
Rows = Sequence[Row]

KINDS = ("promote", "override", "rollback", "reject")


def changes(rows: Rows) -> list[Row]:
    """The rows that changed who reigns."""
    return [row for row in rows if row["kind"] != "reject"]


def refused(rows: Rows) -> dict[int, Row]:
    """Versions that no promotion without override may take, each with the row that says why: rejected, or rolled back from."""
    found: dict[int, Row] = {}
    for row in rows:
        if row["kind"] == "reject":
            found[row["to_version"]] = row
            continue
        found.pop(row["to_version"], None)
        if row["kind"] == "rollback":
            found[row["from_version"]] = row
    return found


def refusal(rows: Rows, version: int, bundle_sha256: str | None) -> Row | None:
    """The row by which the version, or its bundle under another version's number, was rejected or rolled back from; None where none was."""
    found: dict[str | None, Row] = {}
    bundles: dict[int, str | None] = {}
    for row in rows:
        bundle = _bundle(row)
        if row["kind"] == "reject":
            found[bundle] = row
            continue
        bundles[row["to_version"]] = bundle
        left = bundles.get(row["from_version"])
        if row["kind"] == "rollback":
            found[left] = row
        found.pop(bundle, None)
    return refused(rows).get(version) or (found.get(bundle_sha256) if bundle_sha256 else None)


def told(row: Row, version: int) -> str:
    """Who refused `version` by this row, when and why."""
    rejected = row["kind"] == "reject"
    about = row["to_version"] if rejected else row["from_version"]
    what = "it" if about == version else f"version {about}, which is the same bundle,"
    return f"{row['who']} {'rejected' if rejected else 'rolled back from'} {what} on {row['at'][:10]}: {row['why']}"


def _bundle(row: Row) -> str | None:
    """Digest of the row's bundle, None where an earlier program did not keep it."""
    return row["digests"].get("bundle_sha256") or None


def previous(rows: Rows) -> Row | None:
    """The latest reign of another version and bundle than the one that reigns, of those not refused; None where there is none."""
    reigned = changes(rows)
    for row in reversed(reigned):
        version, bundle = row["to_version"], _bundle(row)
        same = version == reigned[-1]["to_version"] or (bundle is not None and bundle == _bundle(reigned[-1]))
        if not same and refusal(rows, version, bundle) is None:
            return row
    return None


def target(model: str, rows: Rows, to: int | None) -> Row:
    """The row of the reign that a rollback to `to` brings back, the present one where it has been done; raises ExpostError."""
    reigned = changes(rows)
    if not reigned:
        raise must("there must be a champion to roll back from", f"model {model} never had one", "Run `expost retrain`.")
    if to is None:
        found = reigned[-1] if reigned[-1]["kind"] == "rollback" else previous(rows)
        if found is None:
            remedy = "`expost history` shows who reigned; `--to N` names one of them."
            raise must("there must be an earlier champion to roll back to", "no other version reigned that was not rejected since", remedy)
        return found
    found = next((row for row in reversed(reigned) if row["to_version"] == to), None)
    if found is None:
        known = ", ".join(str(version) for version in sorted({row["to_version"] for row in reigned}))
        remedy = f"These did: {known}. Another version takes `expost promote {to}`."
        raise must("a rollback must be to a version that reigned before", f"version {to} never did", remedy)
    refusing = refusal(rows, to, _bundle(found))
    if refusing and refusing["kind"] == "reject":
        raise must("a rollback must be to a version that was not rejected", told(refusing, to), f"Use `expost promote {to} --override`.")
    return found


def anchor(rows: Rows) -> Row | None:
    """The reign that absolute floors are measured from: the first one, or the latest override, at which a person accepted a drop.

    A rollback brings back the floor of the version that it brings back. None where no version ever reigned.
    """
    floor: Row | None = None
    floors: dict[int, Row] = {}
    for row in changes(rows):
        if row["kind"] == "rollback":
            floor = floors[row["to_version"]]
        elif row["kind"] == "override" or floor is None:
            floor = row
        floors[row["to_version"]] = floor
    return floor


def at(rows: Rows, moment: datetime) -> Row | None:
    """The row by which the version that reigned at `moment` (with its zone) had come to reign; None before the first."""
    begun = [row for row in changes(rows) if datetime.fromisoformat(row["at"]) <= moment]
    return begun[-1] if begun else None
