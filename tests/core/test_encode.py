"""Encoding: fitted on train rows, the same code for training and scoring, finite whatever comes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import QuantileTransformer

from pipelines.core import encode
from pipelines.errors import ExpostError

NAMES, CATEGORY = ["x", "y"], ["c"]
VOCABULARY = {"c": ["a", "b", "new"]}


def example() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = np.stack([rng.lognormal(0, 3, 500), rng.normal(size=500)], axis=1)
    numbers[::7, 1] = np.nan
    categories = rng.integers(-1, 2, (500, 1)).astype(np.int32)
    return numbers, categories


def fitted() -> dict:
    numbers, categories = example()
    return encode.fit(numbers, categories, NAMES, CATEGORY, VOCABULARY)


def transform(preprocessing: dict, numbers: np.ndarray, categories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return encode.transform(preprocessing, encode.named(NAMES, numbers), encode.named(CATEGORY, categories), VOCABULARY)


FITTED = fitted()
rows = hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(2)), elements=st.floats(allow_infinity=True, allow_nan=True))


@given(rows, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_any_number_gives_finite_inputs_row_by_row(numbers: np.ndarray, random: object) -> None:
    categories = np.full((len(numbers), 1), -1, dtype=np.int32)
    together, codes = transform(FITTED, numbers, categories)
    assert together.dtype == np.float32
    assert codes.dtype == np.int64
    assert np.isfinite(together).all()
    assert np.abs(together).max() < 4
    order = list(range(len(numbers)))
    random.shuffle(order)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(transform(FITTED, numbers[order], categories)[0], together[order])


@given(rows)
@settings(deadline=None)
def test_json_changes_nothing(numbers: np.ndarray) -> None:
    categories = np.zeros((len(numbers), 1), dtype=np.int32)
    for before, after in zip(
        transform(FITTED, numbers, categories), transform(json.loads(json.dumps(FITTED, allow_nan=False)), numbers, categories), strict=True
    ):
        np.testing.assert_array_equal(before, after)


@given(st.lists(st.sampled_from(["a", "b", "new", "other", None]), min_size=1, max_size=30))
@settings(deadline=None)
def test_codes_do_not_depend_on_the_vocabulary_that_a_batch_happens_to_have(values: list[str | None]) -> None:
    vocabulary = sorted({value for value in values if value is not None})
    own = np.array([-1 if value is None else vocabulary.index(value) for value in values])
    wide = ["other", "new", "b", "a", "never"]
    shared = np.array([-1 if value is None else wide.index(value) for value in values])
    numbers = encode.named(NAMES, np.zeros((len(values), 2)))
    results = [encode.transform(FITTED, numbers, {"c": codes}, {"c": words})[1] for codes, words in ((own, vocabulary), (shared, wide))]
    np.testing.assert_array_equal(*results)
    expected = {"a": 1, "b": 2, None: 3}
    assert results[0][:, 0].tolist() == [expected.get(value, encode.UNSEEN) for value in values]
    unseen = sum(value in ("new", "other") for value in values)
    for codes, words in ((own, vocabulary), (shared, wide)):
        assert encode.unseen_counts(FITTED, {"c": codes}, {"c": words}, {}) == ({"c": unseen} if unseen else {})


def test_numbers_follow_sklearns_quantile_transformer() -> None:
    numbers, categories = example()
    reference = QuantileTransformer(n_quantiles=500, output_distribution="normal").fit_transform(numbers[:, :1])[:, 0]
    ours = transform(FITTED, numbers, categories)[0][:, 0]
    inner = np.abs(reference) < 1.5
    np.testing.assert_allclose(ours[inner], reference[inner], atol=0.03)
    assert np.array_equal(np.argsort(ours, kind="stable"), np.argsort(numbers[:, 0], kind="stable"))


def test_missing_is_the_median_and_an_indicator_only_where_train_has_missing_values() -> None:
    numbers, _ = example()
    out = transform(FITTED, np.full((1, 2), np.nan), np.zeros((1, 1), dtype=np.int32))[0][0]
    middle = transform(FITTED, np.nanmedian(numbers, axis=0)[None], np.zeros((1, 1), dtype=np.int32))[0][0]
    assert encode.number_count(FITTED) == len(out) == 3
    assert out.tolist() == [middle[0], middle[1], 1.0]
    assert middle[2] == 0.0


def test_fit_sees_the_rows_given_and_no_others() -> None:
    numbers, categories = example()
    part = encode.fit(numbers[:100], categories[:100], NAMES, CATEGORY, VOCABULARY)
    assert part["numbers"][0]["grid"][-1] == numbers[:100, 0].max()
    assert part["categories"][0]["values"] == ["a", "b"], "a value of the vocabulary that train lacks is unseen"
    assert encode.cardinalities(part) == [4]


def test_of_many_values_the_rare_ones_share_a_code_which_unseen_ones_get_too() -> None:
    values = [f"v{number:03}" for number in range(150)]
    codes = np.repeat(np.arange(150), np.where(np.arange(150) < 100, 3, 2)).astype(np.int32)[:-1]  # v149 once
    codes = np.append(codes, [-1, -1]).astype(np.int32)
    nothing = np.zeros((len(codes), 0))
    part = json.loads(json.dumps(encode.fit(nothing, codes[:, None], [], CATEGORY, {"c": values})))
    (column,) = part["categories"]
    assert (len(column["values"]), column["rare"], column["missing"]) == (100, values[100:], True)
    assert encode.cardinalities(part) == [103]
    vocabulary = {"c": ["new", "v000", "v100", "v149"]}
    batch = {"c": np.array([0, 1, 2, 3, -1])}
    assert encode.transform(part, {}, batch, vocabulary)[1][:, 0].tolist() == [102, 1, 102, 102, 101]
    assert encode.unseen_counts(part, batch, vocabulary, {}) == {"c": 1}, "rare values were seen"
    few = encode.fit(nothing, np.minimum(codes, 99)[:, None], [], CATEGORY, {"c": values})
    assert few["categories"][0]["rare"] == [], "100 values are no many"


def test_constant_columns_are_dropped_and_all_constant_is_an_error() -> None:
    numbers = np.stack([np.full(50, 3.0), np.full(50, np.nan)], axis=1)
    varying = (np.arange(50) % 2).astype(np.int32)[:, None]
    part = encode.fit(numbers, varying, NAMES, CATEGORY, VOCABULARY)
    assert part["dropped"] == ["x", "y"]
    out, codes = transform(part, numbers, varying)
    assert out.shape == (50, 0)
    assert codes.shape == (50, 1)
    with pytest.raises(ExpostError, match="must vary"):
        encode.fit(numbers, varying * 0, NAMES, CATEGORY, VOCABULARY)


def test_a_constant_with_gaps_keeps_its_indicator() -> None:
    column = np.where(np.arange(50) % 2, 3.0, np.nan)[:, None]
    part = encode.fit(column, np.zeros((50, 0), np.int32), ["x"], [], {})
    np.testing.assert_array_equal(encode.transform(part, {"x": column[:, 0]}, {}, {})[0][:, 0], np.isnan(column[:, 0]))
