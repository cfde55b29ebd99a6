"""A utility given as text: JSON and YAML, under its key or alone; what is wrong is said of its source."""

from __future__ import annotations

import json

import pytest

from pipelines.calltime import utility_of
from pipelines.errors import ExpostError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a utility with a matrix, however: it holds nothing"),
        ("matrix: [", "must be valid YAML"),
        ('{"matrix": {"good": {"a": 0, "b": -1}}, "matrix": 3}', "'matrix' stands twice"),
        ("matrix: {good: {a: 0, b: -1}, bad: {a: -5}}", "lacks \\['b'\\]. Complete it there"),
        ("ingest: {source: x}", "it holds the keys ingest"),
        ("[1, 2]", "it holds a list"),
    ],
)
def test_text_that_is_no_utility_names_its_source(text: str, message: str) -> None:
    with pytest.raises(ExpostError, match=f"the text.*{message}"):
        utility_of(text, "the text")


def test_json_and_yaml_with_and_without_the_key_are_one_utility() -> None:
    matrix = {"good": {"a": 0.0, "b": -1e-7}, "bad": {"a": -5.0, "b": 0.0}}
    whole = {"utility": {"unit": "kr", "matrix": matrix}}
    found = [utility_of(json.dumps(whole), "x"), utility_of(json.dumps(whole["utility"]), "x")]
    text = "unit: kr\nmatrix:\n  good: {a: 0.0, b: -0.0000001}\n  bad: {a: -5.0, b: 0.0}\n"
    found += [utility_of(text, "x"), utility_of("utility:\n" + "".join(f"  {line}\n" for line in text.splitlines()), "x")]
    assert [one.matrix for one in found] == [matrix] * 4
    assert {one.unit for one in found} == {"kr"}
