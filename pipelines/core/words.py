"""Free text as hashed words: a row of text becomes a few whole numbers, by a hash that is fitted on nothing and stable for good.

The form, named "words-v1": NFKC, case folded; words are runs of letters, marks and digits, with every digit read as 0 (a telephone number tells by its
shape), and each other character that is no white space is a word too. Words and pairs of neighbours, in order of appearance and each once,
are numbered by BLAKE2b from 2 to BUCKETS - 1. 0 fills up a row, 1 stands for a missing text. tests/core/test_words.py holds golden values.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

#: Numbers fit 16 bits; words and pairs of one row that are kept: what comes later in a longer text is not read.
BUCKETS, LENGTH = 1 << 15, 128
FILL, MISSING = 0, 1
#: Characters of a text that are looked at: a word of a text has at least one.
_READ = 16 * LENGTH

_WORD = re.compile(r"\w+|[^\w\s]")
_DIGIT = re.compile(r"\d")


def ids(texts: Sequence[str]) -> NDArray[np.int16]:
    """Numbers (n + 1, LENGTH) of the words of n texts, each once, filled up with 0; the last row is a missing text's, where code -1 finds it."""
    found = np.full((len(texts) + 1, LENGTH), FILL, dtype=np.int16)
    known: dict[str, int] = {}
    for row, text in zip(found, texts, strict=False):
        numbers = list(dict.fromkeys(_numbered(_terms(text), known)))[:LENGTH]
        row[: len(numbers)] = numbers
    found[-1, 0] = MISSING
    return found


def _terms(text: str) -> Iterator[str]:
    words = _WORD.findall(_DIGIT.sub("0", unicodedata.normalize("NFKC", text[:_READ]).casefold()))
    for place, word in enumerate(words):
        yield word
        if place:
            yield f"{words[place - 1]} {word}"


def _numbered(terms: Iterator[str], known: dict[str, int]) -> Iterator[int]:
    for term in terms:
        number = known.get(term)
        if number is None:
            drawn = int.from_bytes(hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
            number = known[term] = 2 + drawn % (BUCKETS - 2)
        yield number
