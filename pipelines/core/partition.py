"""Which part each row belongs to: a pure function of a rule and of the row itself, so appended rows move no other row.

`split` applies the rule of params.yaml; `evaluate` applies the rule in a champion's bundle, to find the rows that were its holdout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.core.rowhash import HASH, Column, Hashes, Text, positions, row_hashes
from pipelines.errors import must

PARTS = ("train", "valid", "calib", "holdout")
EXCLUDED = -1

Codes = npt.NDArray[np.int64]
Parts = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Assignment:
    """Each row's part (0 train, 1 valid, 2 calib, 3 holdout, -1 excluded), group code and hash, all (n,).

    `draws` (n,) are the hashes that place a row: of its group, or its own. `group_copies` and `row_copies` count the rows excluded because
    their group, or an equal row, is in a later part.
    """

    parts: Parts
    groups: Codes
    row_hash: Hashes
    group_copies: int
    row_copies: int
    draws: Hashes


def needed(rule: Mapping[str, Any]) -> list[str]:
    """Names of the columns that `assign_parts` wants for this rule, each once."""
    extra = [rule.get("group"), (rule.get("time") or {}).get("name"), (rule.get("column") or {}).get("name")]
    return list(dict.fromkeys([*rule["columns"], *[name for name in extra if name]]))


def assign_parts(rule: Mapping[str, Any], columns: Mapping[str, Column], holdout: Mask | None = None) -> Assignment:
    """Give each row its part under `rule`, the JSON object that `split` writes to meta.json and that ships in the bundle's schema.json.

    `columns` holds at least `needed(rule)`: float64 (n,) with NaN for missing, or `Text`. `holdout` (n,) marks the rows of a second
    file, which are holdout as a whole where the rule says `second_file`; the shares of the other parts then grow. Neither a group nor equal rows cross parts: where a
    date or a declared column would have it so, the copies in the earlier parts are excluded. Raises ExpostError where a column is
    absent, of another type than the rule was made for, or holds a value that the rule does not place.
    """
    _check(rule, columns)
    nowhere = np.zeros(len(columns[rule["columns"][0]]), dtype=bool)
    # A rule made without a second file draws every row; one made with it draws none for the holdout.
    holdout = (nowhere if holdout is None else holdout) if rule["second_file"] else None
    row_hash = row_hashes({name: columns[name] for name in rule["columns"]})
    group_hash = _group_hash(rule, columns, row_hash)
    parts = {"hash": _by_hash, "time": _by_time, "column": _by_column}[rule["by"]](rule, columns, group_hash, holdout)
    if holdout is not None:
        parts[holdout] = PARTS.index("holdout")
    grouped = _without_copies(parts, group_hash)
    final = _without_copies(grouped, row_hash)
    groups = np.unique(group_hash, return_inverse=True)[1].astype(np.int64)
    in_group, in_rows = (int((after == EXCLUDED).sum()) for after in (grouped, final))
    copies = in_group if rule.get("group") else 0
    return Assignment(final, groups, row_hash, copies, in_rows - copies, group_hash)


def folds_of(rule: Mapping[str, Any], draws: Hashes) -> npt.NDArray[np.int8]:
    """Fold of each row in each repetition, `(repeats, n)` int8 from 0, by its own hash or its group's; no repetition where the rule has no folds.

    A row keeps its folds as the table grows. Rows of a group share them; equal rows do too where they have no group, or the same: see `unseen`.
    """
    folds = rule.get("folds") or {"count": 1, "repeats": 0}
    drawn = [np.floor(positions(draws, f"{rule['salt']}/fold/{repeat}") * folds["count"]) for repeat in range(folds["repeats"])]
    return np.stack(drawn).astype(np.int8) if drawn else np.zeros((0, len(draws)), dtype=np.int8)


def unseen(rule: Mapping[str, Any], parts: Parts, draws: Hashes, row_hash: Hashes) -> Mask:
    """Which networks of a model made of this table never saw which row, or one equal to it, neither in training nor in stopping: `(n, M)`.

    One network saw train and valid. With folds network `repeat * count + fold` saw all rows before the holdout outside its own fold, but
    those with an equal row in it: equal rows of several groups may lie in several folds. See `surely_unseen` for a model of an older table.
    """
    own, before = _own(rule, draws), before_holdout(parts)[:, None]
    if not own.shape[1]:
        return np.asarray((parts[:, None] >= PARTS.index("calib")) | (parts[:, None] == EXCLUDED))
    return np.asarray(_over_equal(np.logical_or, own & before, row_hash) | ~before)


def surely_unseen(rule: Mapping[str, Any], parts: Parts, draws: Hashes, row_hash: Hashes) -> Mask:
    """As `unseen`, of a model that was made of an older state of this table, so any row may be new to it: `(n, M)`.

    A network left a row out for an equal one in its fold only if that one was there already. So all rows equal to a row must lie in the
    network's fold, those excluded by now among them. A row before the holdout may have no such network.
    """
    own = _own(rule, draws)
    if not own.shape[1]:
        return unseen(rule, parts, draws, row_hash)
    return np.asarray(_over_equal(np.logical_and, own, row_hash) | ~before_holdout(parts)[:, None])


def judging(unseen: Mask, repeats: int) -> Mask:
    """Which of the rows before the holdout tell when training is to stop, as rows of which network: `(n, M)`, by the mask `unseen` of these rows.

    A network of a fold is stopped by the others of its repetition, so rows that two of them must not see tell nothing.
    """
    each = unseen.reshape(len(unseen), repeats, unseen.shape[1] // repeats)
    return np.asarray(each & (each.sum(axis=2, keepdims=True) == 1)).reshape(unseen.shape)


def before_holdout(parts: Parts) -> Mask:
    """Rows `(n,)` of train, valid and calib: with folds one pool."""
    return np.asarray((parts >= 0) & (parts < PARTS.index("holdout")))


def _own(rule: Mapping[str, Any], draws: Hashes) -> Mask:
    """Whether a row lies in the fold of a network `(n, M)`; M is 0 where the rule has no folds."""
    folds = folds_of(rule, draws)
    count = rule["folds"]["count"] if len(folds) else 0
    return np.asarray(np.moveaxis(folds[:, :, None] == np.arange(count), 0, 1).reshape(len(draws), len(folds) * count))


def _over_equal(combine: np.ufunc, mask: Mask, row_hash: Hashes) -> Mask:
    """The mask `(n, M)` combined over all rows equal to a row."""
    unique, inverse = np.unique(row_hash, return_inverse=True)
    combined = np.full((len(unique), mask.shape[1]), combine.identity, dtype=bool)
    combine.at(combined, inverse, mask)
    return np.asarray(combined[inverse])


def calib_rows(rule: Mapping[str, Any], parts: Parts) -> Mask:
    """Rows `(n,)` that calibrator and policy are fitted on: the part calib, or with folds all rows before the holdout."""
    if rule.get("folds"):
        return before_holdout(parts)
    return np.asarray(parts == PARTS.index("calib"))


def _check(rule: Mapping[str, Any], columns: Mapping[str, Column]) -> None:
    again = "Restore the column, or draw the parts anew (split in params.yaml) and retrain."
    if rule.get("hash") != HASH:
        raise must(f"the split's hash must be {HASH}", repr(rule.get("hash")), "Use the version of expost that made the rule.")
    for name in needed(rule):
        if name not in columns:
            raise must(f"the split needs column {name!r}", "the table has no such column with a role other than ignored", again)
        kind = "text" if isinstance(columns[name], Text) else "number"
        if kind != rule["types"][name]:
            raise must(f"the split needs column {name!r} as {rule['types'][name]}", f"it is {kind}", again)


def _group_hash(rule: Mapping[str, Any], columns: Mapping[str, Column], row_hash: Hashes) -> Hashes:
    """Hash of the group; a row without one is a group together with the rows equal to it."""
    name = rule.get("group")
    if not name:
        return row_hash
    column = columns[name]
    missing = column.codes < 0 if isinstance(column, Text) else np.isnan(column)
    return np.where(missing, row_hash, row_hashes({name: column}))


def _by_hash(rule: Mapping[str, Any], columns: Mapping[str, Column], group_hash: Hashes, holdout: Mask | None) -> Parts:
    return _drawn(group_hash, rule, PARTS if holdout is None else PARTS[:-1])


def _drawn(group_hash: Hashes, rule: Mapping[str, Any], parts: tuple[str, ...]) -> Parts:
    """Parts drawn by hash, from the holdout downwards, so that another share of an earlier part leaves the holdout as it is."""
    shares = np.array([rule["shares"][part] for part in reversed(parts)])
    edges = np.cumsum(shares / shares.sum())[:-1]
    place = np.searchsorted(edges, positions(group_hash, rule["salt"]), side="right")
    return (len(parts) - 1 - place).astype(np.int8)


def _by_time(rule: Mapping[str, Any], columns: Mapping[str, Column], group_hash: Hashes, holdout: Mask | None) -> Parts:
    days = columns[rule["time"]["name"]]
    assert not isinstance(days, Text)
    missing = np.isnan(days) if holdout is None else np.isnan(days) & ~holdout
    if missing.any():
        name, count = rule["time"]["name"], int(missing.sum())
        raise must(
            f"column {name!r} must have a date in every row", f"{count} are missing", "Fill them in, or drop the rows with ingest.where."
        )
    edges = np.array([rule["time"][key] for key in ("valid_from", "calib_from", "holdout_from")])
    return np.searchsorted(edges, days, side="right").astype(np.int8)


def _by_column(rule: Mapping[str, Any], columns: Mapping[str, Column], group_hash: Hashes, holdout: Mask | None) -> Parts:
    name, placed = rule["column"]["name"], rule["column"]["parts"]
    column = columns[name]
    assert isinstance(column, Text)
    rest = _drawn(group_hash, rule, PARTS[:-1])
    parts = np.full(len(column), EXCLUDED, dtype=np.int8)
    unplaced = np.ones(len(column), dtype=bool) if holdout is None else ~holdout
    for code, value in enumerate(column.values):
        if value in placed:
            here = column.codes == code
            parts[here] = rest[here] if placed[value] == "rest" else PARTS.index(placed[value])
            unplaced &= ~here
    if unplaced.any():
        odd = sorted({"(missing)" if code < 0 else column.values[code] for code in column.codes[unplaced].tolist()})
        raise must(
            f"split.column.parts must place every value of {name!r}", f"{odd[:5]} have no part", "Add them under split.column.parts."
        )
    return parts


def _without_copies(parts: Parts, hashes: Hashes) -> Parts:
    """Exclude each row whose hash also stands in a later part; rows excluded already do not count."""
    unique, inverse = np.unique(hashes, return_inverse=True)
    last = np.full(len(unique), EXCLUDED, dtype=np.int8)
    np.maximum.at(last, inverse, parts)
    return np.where(parts == last[inverse], parts, np.int8(EXCLUDED))
