"""A stable hash of rows, of our own making: no upgrade of a library may move a row to another part.

The canonical form, named "blake2b64-v1", is nine bytes per column, columns in the alphabetical order of their names:

- a number: 0x01 and its float64 bits, big-endian, with -0.0 written as 0.0
- text: 0x02 and the 8-byte BLAKE2b digest of its UTF-8 form (NFC-normalised and stripped)
- missing (NaN, no text): 0x00 and eight zero bytes

A row's hash is the 8-byte BLAKE2b digest of that, read big-endian. tests/core/test_rowhash.py holds golden values.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Name of the canonical form, kept in the split's rule; a change of any byte above needs a new name.
HASH = "blake2b64-v1"

Hashes = npt.NDArray[np.uint64]
_WIDTH = 9
_CHUNK = 100_000  # rows whose canonical bytes are held at once: 18 MB at 20 columns


@dataclass(frozen=True)
class Text:
    """A column of text: `codes` (n,) into `values`, -1 where missing."""

    codes: npt.NDArray[np.int32]
    values: tuple[str, ...]

    @classmethod
    def of(cls, items: Sequence[str | None]) -> Text:
        """Encode a sequence of strings, None where missing."""
        values = tuple(sorted({item for item in items if item is not None}))
        index: dict[str | None, int] = {value: code for code, value in enumerate(values)}
        return cls(np.array([index.get(item, -1) for item in items], dtype=np.int32), values)

    def __len__(self) -> int:
        return len(self.codes)


#: A column as the hash takes it: float64 (n,) with NaN for missing, or text.
Column = npt.NDArray[np.float64] | Text


def row_hashes(columns: Mapping[str, Column]) -> Hashes:
    """Hash of each row over `columns` (name -> n values): uint64 (n,); the order in which they are given does not matter."""
    ordered = [columns[name] for name in sorted(columns)]
    rows = len(ordered[0]) if ordered else 0
    found = np.empty(rows, dtype=np.uint64)
    digests = [_digests(column.values) if isinstance(column, Text) else None for column in ordered]
    for start in range(0, rows, _CHUNK):
        part = slice(start, min(start + _CHUNK, rows))
        buffer = np.zeros((part.stop - part.start, _WIDTH * len(ordered)), dtype=np.uint8)
        for i, (column, digest) in enumerate(zip(ordered, digests, strict=True)):
            cell = buffer[:, _WIDTH * i : _WIDTH * (i + 1)]
            if isinstance(column, Text):
                assert digest is not None
                _put_text(cell, column.codes[part], digest)
            else:
                _put_numbers(cell, column[part])
        found[part] = _hash_each(buffer.tobytes(), buffer.shape[1])
    return found


def positions(hashes: Hashes, salt: str) -> npt.NDArray[np.float64]:
    """Place of each hash in [0, 1) under `salt`: float64 (n,), uniform, the same for equal hashes, unrelated between salts."""
    key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    unique, inverse = np.unique(hashes, return_inverse=True)
    drawn = _hash_each(unique.astype(">u8").tobytes(), 8, key)
    return ((drawn >> np.uint64(11)).astype(np.float64) / 2.0**53)[inverse]


def _hash_each(rows: bytes, width: int, key: bytes = b"") -> Hashes:
    blake2b = hashlib.blake2b
    joined = b"".join([blake2b(rows[i : i + width], digest_size=8, key=key).digest() for i in range(0, len(rows), width)])
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64)


def _digests(values: Sequence[str]) -> npt.NDArray[np.uint8]:
    """(V + 1, 9) canonical bytes of the values; the last row stands for missing, where code -1 finds it."""
    table = np.zeros((len(values) + 1, _WIDTH), dtype=np.uint8)
    for row, value in zip(table, values, strict=False):
        text = unicodedata.normalize("NFC", value).strip().encode()
        if text:
            row[0] = 2
            row[1:] = np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), dtype=np.uint8)
    return table


def _put_text(cell: npt.NDArray[np.uint8], codes: npt.NDArray[np.int32], digests: npt.NDArray[np.uint8]) -> None:
    cell[:] = digests[codes]


def _put_numbers(cell: npt.NDArray[np.uint8], numbers: npt.NDArray[np.float64]) -> None:
    given = ~np.isnan(numbers)
    plain = np.where(given, numbers, 0.0) + 0.0  # -0.0 + 0.0 is 0.0
    cell[:, 0] = given
    cell[:, 1:] = plain.astype(">f8").view(np.uint8).reshape(-1, 8)
