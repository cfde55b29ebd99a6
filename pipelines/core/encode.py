"""From typed columns to the network's inputs: fitted on train rows, stored as JSON numbers, the same code in training and in scoring.

Numbers: a stored grid of train values maps onto the scores of a normal distribution (`np.interp`, no noise), so heavy tails
and outliers stay near the others; a missing value becomes the train median, with an indicator
column where train rows miss it too. Categories: values seen in train have codes 1, 2, ...; a missing value has its own code when
train rows miss it too; everything else has code 0, whose embedding is zero. Of many values those of few train rows share one code, the last,
which values never seen get too. Text: the hashed words of `core/words.py` that occur in several train rows have codes 1, 2, ...; others are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from pipelines.core.knots import knots
from pipelines.core.words import BUCKETS, FILL, LENGTH, LENGTH_BEFORE_PIECES, MISSING, PIECES
from pipelines.errors import must

FORMAT = 1
GRID = 256
UNSEEN = 0
#: With more values than this a category's values of fewer train rows than this are taken together: one or two rows teach nothing of a value.
MANY_VALUES, VALUE_ROWS = 100, 3
#: Words, pairs and pieces of a text column that are kept, the most frequent ones, and train rows that each must occur in.
MOST_WORDS, WORD_ROWS = 8192, 2
#: Texts that are encoded at once.
AT_ONCE = 4096
Floats = NDArray[np.float64]
Codes = NDArray[np.integer[Any]]
Pixels = NDArray[np.uint8]


def fit(
    numbers: Floats,
    categories: Codes,
    number_names: Sequence[str],
    category_names: Sequence[str],
    vocabularies: Mapping[str, Sequence[str]],
    *,
    texts: Mapping[str, Codes] | None = None,
    images: Mapping[str, Pixels] | None = None,
) -> dict[str, Any]:
    """Fit the preprocessing on train rows: `numbers` (n, F), NaN missing; `categories` (n, C) codes into `vocabularies`, -1 missing;
    `images` (n, C, H, W) uint8 by name.

    `texts` are columns by name, (n, L) as `core/words.py` numbers them. Returns plain JSON types. Columns that are constant in these rows are listed under `dropped` and reach no network.
    Raises ExpostError when nothing varies.
    """
    fitted_numbers = [_fit_number(name, column) for name, column in zip(number_names, numbers.T, strict=True)]
    fitted_categories = [_fit_category(name, column, vocabularies[name]) for name, column in zip(category_names, categories.T, strict=True)]
    kept_numbers = [column for column in fitted_numbers if column["grid"] or column["indicator"]]
    kept_categories = [column for column in fitted_categories if len(column["values"]) + column["missing"] + bool(column["rare"]) > 1]
    kept_texts = [_fit_text(name, found) for name, found in (texts or {}).items() if (found != found[:1]).any()]
    kept_texts = [column for column in kept_texts if column["words"]]
    kept_images = [_fit_image(name, found) for name, found in (images or {}).items()]
    names = [*number_names, *category_names, *(texts or {}), *(images or {})]
    kept = {column["name"] for column in (*kept_numbers, *kept_categories, *kept_texts, *kept_images)}
    if not kept:
        raise must(
            "at least one feature must vary in the train rows",
            f"all {len(names)} are constant",
            "Give more columns the role feature, or add rows.",
        )
    return {
        "format": FORMAT,
        "numbers": kept_numbers,
        "categories": kept_categories,
        "texts": kept_texts,
        "dropped": [name for name in names if name not in kept],
        **({"images": kept_images} if kept_images else {}),
    }


def _fit_image(name: str, images: Pixels) -> dict[str, Any]:
    """Shape (C, H, W), and mean and deviation of each channel over all places of all images, exactly."""
    counts = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in images.swapaxes(0, 1)])
    values, total = np.arange(256.0), counts.sum(axis=1)
    mean = counts @ values / total
    deviation = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0))
    return {
        "name": name,
        "shape": list(images.shape[1:]),
        "mean": mean.tolist(),
        "deviation": np.where(deviation > 0, deviation, 1.0).tolist(),
    }


def _fit_number(name: str, column: Floats) -> dict[str, Any]:
    present = np.sort(column[np.isfinite(column)])
    if not len(present):
        return {"name": name, "median": 0.0, "indicator": False, "grid": [], "scores": []}
    grid, scores = _quantile_scores(present)
    return {
        "name": name,
        "median": float(np.median(present)),
        "indicator": len(present) < len(column),
        "grid": grid.tolist() if len(grid) > 1 else [],
        "scores": scores.tolist() if len(grid) > 1 else [],
    }


def _quantile_scores(ordered: Floats) -> tuple[Floats, Floats]:
    """Distinct grid values and the normal score of the middle of each value's rank range; `ordered` (n,) ascending, finite."""
    values = knots(ordered, GRID)
    below, upto = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    middle = np.clip((below + upto) / (2 * len(ordered)), 0.5 / len(ordered), 1 - 0.5 / len(ordered))
    return values, ndtri(middle)


def _fit_category(name: str, column: Codes, vocabulary: Sequence[str]) -> dict[str, Any]:
    rows = np.bincount(column[column >= 0], minlength=len(vocabulary))
    seen = np.flatnonzero(rows)
    few = rows[seen] < VALUE_ROWS if len(seen) > MANY_VALUES else np.zeros(len(seen), dtype=bool)
    return {
        "name": name,
        "values": [vocabulary[code] for code in seen[~few]],
        "missing": bool((column < 0).any()),
        "rare": [vocabulary[code] for code in seen[few]],
    }


def _fit_text(name: str, found: Codes) -> dict[str, Any]:
    rows = np.bincount(found.ravel())  # a row holds each of its words once
    rows[FILL] = 0
    order = np.argsort(-rows, kind="stable")[:MOST_WORDS]
    words = np.sort(order[rows[order] >= WORD_ROWS])
    return {"name": name, "words": words.tolist(), "length": int(np.isin(found, words).sum(axis=1).max()), "read": LENGTH}


def transform(
    preprocessing: Mapping[str, Any],
    numbers: Mapping[str, Floats],
    categories: Mapping[str, Codes],
    vocabularies: Mapping[str, Sequence[str]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Apply a fitted preprocessing to columns given by name: numbers (n,) with NaN for missing, codes (n,) into `vocabularies`, -1 missing.

    Returns (n, F') float32, always finite, and (n, C') int64. Columns that the preprocessing does not use are not looked at.
    """
    columns = [part for fitted in preprocessing["numbers"] for part in _transform_number(fitted, numbers[fitted["name"]])]
    codes = [
        _transform_category(fitted, categories[fitted["name"]], vocabularies[fitted["name"]]) for fitted in preprocessing["categories"]
    ]
    rows = len(next(iter((*numbers.values(), *categories.values())), ()))
    return (
        np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((rows, 0), np.float32),
        np.stack(codes, axis=1) if codes else np.zeros((rows, 0), np.int64),
    )


def _transform_number(fitted: Mapping[str, Any], column: Floats) -> list[Floats]:
    missing = np.isnan(column)
    parts = []
    if fitted["grid"]:
        parts.append(np.interp(np.where(missing, fitted["median"], column), fitted["grid"], fitted["scores"]))
    if fitted["indicator"]:
        parts.append(missing.astype(np.float64))
    return parts


def _transform_category(fitted: Mapping[str, Any], column: Codes, vocabulary: Sequence[str]) -> NDArray[np.int64]:
    known = {value: code for code, value in enumerate(fitted["values"], start=1)}
    # The last entry serves the code -1: a missing value.
    missing = len(known) + 1 if fitted["missing"] else UNSEEN
    rare = len(known) + bool(fitted["missing"]) + 1 if fitted.get("rare") else UNSEEN
    table = np.array([*(known.get(value, rare) for value in vocabulary), missing], dtype=np.int64)
    return table[column]


def transform_texts(preprocessing: Mapping[str, Any], texts: Mapping[str, Codes]) -> NDArray[np.int64]:
    """Codes (n, L') of the words of text columns given by name, (n, L) as `core/words.py` numbers them: one column after the other, 0 fills up.

    Words that the preprocessing does not know are left out, so that what follows them counts; of a text with more known words than any in
    train the first are taken.
    """
    parts = [_transform_text(fitted, texts[fitted["name"]]) for fitted in preprocessing.get("texts", ())]
    return np.concatenate(parts, axis=1) if parts else np.zeros((0, 0), np.int64)


def _transform_text(fitted: Mapping[str, Any], found: Codes) -> NDArray[np.int64]:
    words, length = fitted["words"], fitted["length"]
    table = np.full(BUCKETS, UNSEEN, dtype=np.uint16)
    table[words] = np.arange(1, len(words) + 1)
    made = np.full((len(found), length), UNSEEN, dtype=np.int64)
    for start in range(0, len(found), AT_ONCE):
        codes = table[looked_at(fitted, found[start : start + AT_ONCE])]
        first = np.argsort(codes == UNSEEN, axis=1, kind="stable")[:, :length]
        made[start : start + AT_ONCE, : first.shape[1]] = np.take_along_axis(codes, first, axis=1)
    return made


def looked_at(fitted: Mapping[str, Any], found: Codes) -> Codes:
    """Of a text's numbers (n, L) those that this model looks at."""
    return found[:, : fitted.get("read", LENGTH_BEFORE_PIECES)]


def named(names: Sequence[str], columns: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Columns (n, len(names)) as a mapping from name to (n,)."""
    return dict(zip(names, columns.T, strict=True))


def image_shape(preprocessing: Mapping[str, Any]) -> tuple[int, ...] | None:
    """(C, H, W) of the network's images, None where it sees none."""
    return next((tuple(fitted["shape"]) for fitted in preprocessing.get("images", ())), None)


def cardinalities(preprocessing: Mapping[str, Any]) -> list[int]:
    """Number of codes of each category column of the network, the unseen code included."""
    return [1 + len(fitted["values"]) + bool(fitted["missing"]) + bool(fitted.get("rare")) for fitted in preprocessing["categories"]]


def text_sizes(preprocessing: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Number of codes of each text column of the network, 0 included, and of codes that a row holds."""
    return [(1 + len(fitted["words"]), fitted["length"]) for fitted in preprocessing.get("texts", ())]


def first_pieces(preprocessing: Mapping[str, Any]) -> list[int]:
    """Of each text column of the network the code from which on codes are pieces of words, not words or pairs."""
    return [1 + int(np.searchsorted(fitted["words"], PIECES)) for fitted in preprocessing.get("texts", ())]


def number_count(preprocessing: Mapping[str, Any]) -> int:
    """Number of float columns of the network, indicators included."""
    return sum(bool(fitted["grid"]) + bool(fitted["indicator"]) for fitted in preprocessing["numbers"])


def unseen_counts(
    preprocessing: Mapping[str, Any], categories: Mapping[str, Codes], vocabularies: Mapping[str, Sequence[str]], texts: Mapping[str, Codes]
) -> dict[str, int]:
    """Rows of each category column that hold a value never seen in train, and of each text column that hold nothing
    known from train: no word, and at most half of all, since hashing takes some of those for others.

    The columns are those that `transform` and `transform_texts` take.
    """
    counts = {}
    for fitted in preprocessing["categories"]:
        name = fitted["name"]
        known = {*fitted["values"], *fitted.get("rare", ())}
        counts[name] = int(np.array([*(value not in known for value in vocabularies[name]), False])[categories[name]].sum())
    for fitted in preprocessing.get("texts", ()):
        found = texts[fitted["name"]]
        counts[fitted["name"]] = int(_unheard(fitted, found).sum())
    return {name: count for name, count in counts.items() if count}


def _unheard(fitted: Mapping[str, Any], found: Codes) -> NDArray[np.bool_]:
    """Rows (n,) of a text column whose text holds nothing known from train; a missing one is known to be missing."""
    numbers = looked_at(fitted, found)
    known = np.isin(numbers, fitted["words"])
    word = (known & (numbers < PIECES)).any(axis=1)
    few = 2 * known.sum(axis=1) <= (numbers != FILL).sum(axis=1)
    return np.asarray((found[:, 0] != MISSING) & ~word & few)
