"""Hashed words: the same for good, one row at a time, whatever the text."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines import tables
from pipelines.core import encode, words
from pipelines.core.rowhash import Text

#: From `b2sum -l 64` of coreutils, 2 + its value modulo 32766; a change of any of them would make every model read nonsense.
GOLDEN = {"free": 7837, "entry": 25310, "free entry": 8439, "0000": 6515, "!": 21819, "雪": 17788}
#: Of pieces 32768 + the value modulo 32768.
PIECES = {" f": 34061, "e ": 34889, "fre": 36806, "ee ": 35478, "free": 62419}

PROSE = [f"free entry {row % 7} in a comp, txt {row % 3}!" if row % 2 else f"ok, see you at {row % 5}" for row in range(60)]
SOME = st.one_of(
    st.none(),
    st.text(),
    st.sampled_from(PROSE),
    st.text("free entry 1!\u200b\u0301é雪 ", max_size=60),
    st.just("word " * 3000),
    st.just(""),
)


def row(text: str | None) -> list[int]:
    """What a row holds, by the way that `split` goes."""
    found = words.ids([] if text is None else [text])[0]
    return [int(number) for number in found[found != words.FILL]]


def test_numbers_are_the_hash_of_words_and_pairs_in_order_and_each_once() -> None:
    assert {word: row(word)[0] for word in ("free", "entry", "0000", "!", "雪")} == {k: v for k, v in GOLDEN.items() if " " not in k}
    assert row("Free  ENTRY\tfree")[:4] == [*(GOLDEN[word] for word in ("free", "entry", "free entry")), row("entry free")[2]]
    assert row("2024") == row("1999") and row("1999")[0] == GOLDEN["0000"]
    assert row("ﬁ") == row("FI"), "compatibility forms and case make no other word"


def test_pieces_of_words_come_after_all_words_and_are_not_the_words_of_the_same_characters() -> None:
    pieces = [" f", "fr", "re", "ee", "e ", " fr", "fre", "ree", "ee ", " fre", "free", "ree "]
    assert len(row("free")) == 1 + len(pieces)
    assert {piece: row("free")[1 + place] for place, piece in enumerate(pieces) if piece in PIECES} == PIECES
    assert row("free of")[3 : 3 + len(pieces)] == row("free")[1:], "a piece that ends in a space is the same at the end of a text"
    assert min(row("free")[1:]) >= words.PIECES > max(row("free entry")[:3])


def test_a_missing_text_an_empty_one_and_a_long_one() -> None:
    assert row(None) == [words.MISSING]
    assert row("") == row(" \n") == []
    long = words.ids([" ".join(map(chr, range(0x4E00, 0x4E00 + 5000)))])[0]
    assert (long > words.MISSING).all()
    assert words.ids(["word " * 1_000_000])[0].astype(bool).sum() == 19, "the last word is cut, where reading ends"


def fitted() -> dict:
    hashed = words.ids(PROSE)[np.r_[np.arange(len(PROSE)), -1, -1]]
    made = encode.fit(np.zeros((62, 0)), np.zeros((62, 0), np.int32), [], [], {}, texts={"note": hashed})
    return json.loads(json.dumps(made, allow_nan=False))


FITTED = fitted()


@given(st.lists(SOME, min_size=1, max_size=8), st.randoms(use_true_random=False))
@settings(deadline=None)
@example(["word " * 3000, None, "", "free entry"], None)
def test_training_and_scoring_read_any_text_alike(texts: list[str | None], random: object) -> None:
    """`split` hashes the values of the whole table, a scorer those of its batch, in any order, with any neighbours."""
    column = tables.as_text(pl.Series("note", texts, dtype=pl.String))
    whole = tables.arrays(pl.DataFrame([column]), ["note"])["note"]
    assert isinstance(whole, Text)
    trained = encode.transform_texts(FITTED, {"note": words.ids(whole.values)[whole.codes]})
    assert trained.dtype == np.int64
    assert trained.shape == (len(texts), FITTED["texts"][0]["length"])
    assert trained.min() >= 0 and trained.max() < encode.text_sizes(FITTED)[0][0]
    for place, value in enumerate(column.to_list()):
        one = Text.of([value])
        narrow = words.ids(one.values)[one.codes]
        narrow = narrow[:, : max(1, int((narrow != 0).sum()))]  # `split` keeps no wider an array than its longest row
        np.testing.assert_array_equal(encode.transform_texts(FITTED, {"note": narrow})[0], trained[place])


def test_a_model_fitted_before_texts_had_pieces_reads_what_it_read() -> None:
    """Then a row held 128 words and pairs, numbered as they are now."""
    item = FITTED["texts"][0]
    old = {"name": "note", "words": [number for number in item["words"] if number < words.PIECES], "length": 128}
    found = words.ids([" ".join(f"{chr(0x4E00 + place)} free" for place in range(60)) + " entry"])[:1]
    assert GOLDEN["entry"] in found[0] and GOLDEN["entry"] in old["words"]
    assert GOLDEN["entry"] not in found[0, :128]
    code = 1 + old["words"].index(GOLDEN["entry"])
    assert code not in encode.transform_texts({"texts": [old]}, {"note": found})[0]
    assert code in encode.transform_texts({"texts": [{**old, "read": words.LENGTH}]}, {"note": found})[0]


def test_what_is_fitted_are_the_words_of_several_rows_and_rows_without_any_are_counted() -> None:
    item = FITTED["texts"][0]
    once = words.ids(["only here, and there"])
    assert GOLDEN["free entry"] in item["words"] and words.MISSING in item["words"]
    assert item["words"] == sorted(item["words"])
    rows = words.ids(["free", "", "unheard of", "ok unheard"])
    codes = encode.transform_texts(FITTED, {"note": rows})
    assert (codes.astype(bool).sum(axis=1) > 0).tolist() == [True, False, True, True, True]
    assert encode.unseen_counts(FITTED, {}, {}, {"note": words.ids(["free", "", "雪 雪", "freely", "ok"])}) == {"note": 2}, (
        "a text without words is no missing one, and most pieces of an unknown word are known"
    )
    alone = encode.fit(
        np.arange(4.0)[:, None],
        np.zeros((4, 0), np.int32),
        ["x"],
        [],
        {},
        texts={"note": once[[0, 0, 0, 0]], "rare": words.ids(list("abc"))},
    )
    assert alone["dropped"] == ["note", "rare"] and alone["texts"] == []
    assert encode.transform_texts(alone, {}).shape[1] == 0
