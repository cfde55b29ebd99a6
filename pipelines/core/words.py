"""Free text as hashed words: a row of text becomes a few whole numbers, by a hash that is fitted on nothing and stable for good.

The form, named "words-v2": NFKC, case folded; words are runs of letters, marks and digits, with every digit read as 0 (a telephone number tells by its
shape), and each other character that is no white space is a word too. Words and pairs of neighbours, then the pieces of 2 to 4 characters of
each word with a space at either end, in order of appearance and each once, are numbered by BLAKE2b: words and pairs from 2, pieces from PIECES.
0 fills up a row, 1 stands for a missing text. tests/core/test_words.py holds golden values.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

#: Numbers fit 16 bits; words, pairs and pieces of one row that are kept: of a longer text first the pieces are left out, then the later words.
PIECES, BUCKETS, LENGTH = 1 << 15, 1 << 16, 512
FILL, MISSING = 0, 1
#: Of a text's numbers those that a model reads which was fitted before there were pieces.
LENGTH_BEFORE_PIECES = 128
#: Characters in a piece of a word: at least, at most.
SHORTEST, LONGEST = 2, 4
#: Characters of a text that are looked at.
_READ = 4 * LENGTH

_WORD = re.compile(r"\w+|[^\w\s]")
_DIGIT = re.compile(r"\d")


def ids(texts: Sequence[str]) -> NDArray[np.uint16]:
    """Numbers (n + 1, LENGTH) of the words of n texts, each once, filled up with 0; the last row is a missing text's, where code -1 finds it."""
    found = np.full((len(texts) + 1, LENGTH), FILL, dtype=np.uint16)
    known: tuple[dict[str, int], dict[str, int]] = {}, {}
    pieces: dict[str, tuple[int, ...]] = {}
    for row, text in zip(found, texts, strict=False):
        words = _WORD.findall(_DIGIT.sub("0", unicodedata.normalize("NFKC", text[:_READ]).casefold()))
        numbers = dict.fromkeys(_number(term, known[0], MISSING + 1, PIECES) for term in _words_and_pairs(words))
        for word in words if len(numbers) < LENGTH else ():
            if word not in pieces:
                pieces[word] = tuple(_number(piece, known[1], PIECES, BUCKETS) for piece in _pieces(f" {word} "))
            numbers.update(dict.fromkeys(pieces[word]))
        row[: len(numbers)] = list(islice(numbers, LENGTH))
    found[-1, 0] = MISSING
    return found


def _words_and_pairs(words: Sequence[str]) -> Iterator[str]:
    for place, word in enumerate(words):
        yield word
        if place:
            yield f"{words[place - 1]} {word}"


def _pieces(word: str) -> Iterator[str]:
    for size in range(SHORTEST, LONGEST + 1):
        for start in range(len(word) - size + 1):
            yield word[start : start + size]


def _number(term: str, known: dict[str, int], first: int, end: int) -> int:
    """The number of a term, from `first` to `end` - 1."""
    number = known.get(term)
    if number is None:
        drawn = int.from_bytes(hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        number = known[term] = first + drawn % (end - first)
    return number
