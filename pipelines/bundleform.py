"""The form of a bundle's JSON files: types, lengths and names that fit each other; what a later step would trip over is refused here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from pipelines.core import calibration, policy, words
from pipelines.core.words import LENGTH_BEFORE_PIECES
from pipelines.errors import ExpostError

Names = Annotated[list[str], Field(min_length=1)]
Floats = list[FiniteFloat]
#: Numbers that a calibrator or policy of another form than its method's trips over.
TRIPPED = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)


#: Where the preprocessing names columns of a kind; all others stand under "categories".
_READ_AS = {"number": "numbers", "date": "numbers", "text": "texts", "image": "images"}


class _Form(BaseModel):
    """Fields that are not named here are left alone: a later version may have written them."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Number(_Form):
    name: str
    median: FiniteFloat
    indicator: bool
    grid: Floats
    scores: Floats


class _Category(_Form):
    name: str
    values: list[str]
    missing: bool
    rare: list[str] = []


class _Text(_Form):
    name: str
    words: Annotated[list[Annotated[int, Field(ge=1, lt=words.BUCKETS)]], Field(min_length=1)]
    length: Annotated[int, Field(ge=1, le=words.LENGTH)]
    read: Annotated[int, Field(ge=1, le=words.LENGTH)] = LENGTH_BEFORE_PIECES


class _Image(_Form):
    name: str
    shape: Annotated[list[Annotated[int, Field(ge=1, le=1024)]], Field(min_length=3, max_length=3)]
    mean: Floats
    deviation: Floats


class _Rule(_Form):
    size: Annotated[list[Annotated[int, Field(ge=1, le=1024)]], Field(min_length=2, max_length=2)]
    channels: Literal[1, 3]
    resize: Literal["refuse", "area", "bilinear"]


class _Preprocessing(_Form):
    format: Literal[1]
    numbers: list[_Number]
    categories: list[_Category]
    texts: list[_Text] = []
    images: Annotated[list[_Image], Field(max_length=1)] = []


class _Column(_Form):
    name: str
    kind: Literal["number", "category", "boolean", "date", "text", "image"]
    role: str = "feature"


class _Schema(_Form):
    classes: Annotated[list[str], Field(min_length=2)]
    columns: Annotated[list[_Column], Field(min_length=1)]
    others: list[_Column]
    split: dict[str, Any]
    image: _Rule | None = None


class _Prior(_Form):
    data: Floats
    deployment: Floats


class _Policy(_Form):
    classes: list[str]
    actions: Names
    matrix: list[list[FiniteFloat | str]]
    unit: str
    offsets: Floats | None = None
    prices: Floats | None = None
    prior: _Prior | None = None


class _Reference(_Form):
    prior: Floats
    edges: list[Floats | None]
    counts: list[Floats]


class _Calibrator(_Form):
    method: str
    reference: _Reference | None = None


FORMS: dict[str, type[_Form]] = {
    "preprocessing.json": _Preprocessing,
    "calibrator.json": _Calibrator,
    "policy.json": _Policy,
    "schema.json": _Schema,
}


def trouble(parts: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """File and reason of the first part, by file name, that has not the form it must have or does not fit the others; None for none."""
    for name, form in FORMS.items():
        try:
            form.model_validate(parts[name])
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            return name, f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg'][:200]}"
    preprocessing, calibrator, made, schema = (parts[name] for name in FORMS)
    return (
        _first("schema.json", _schema_trouble(schema))
        or _first("preprocessing.json", _preprocessing_trouble(preprocessing, schema))
        or _first("policy.json", _policy_trouble(made, schema["classes"]))
        or _first("calibrator.json", _calibrator_trouble(calibrator, len(schema["classes"])))
    )


def _first(name: str, reason: str | None) -> tuple[str, str] | None:
    return None if reason is None else (name, reason)


def _twice(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)


def _schema_trouble(schema: Mapping[str, Any]) -> str | None:
    names = [column["name"] for column in (*schema["columns"], *schema["others"])]
    return "a class or a column is named twice" if _twice(schema["classes"]) or _twice(names) else None


def _preprocessing_trouble(preprocessing: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    kinds = {column["name"]: _READ_AS.get(column["kind"], "categories") for column in schema["columns"]}
    places = ("numbers", "categories", "texts", "images")
    fitted = [(item, place) for place in places for item in preprocessing.get(place, ())]
    if not fitted or _twice([item["name"] for item, _ in fitted]):
        return "it names no column, or one twice"
    if any(kinds.get(item["name"]) != place for item, place in fitted):
        return "it reads a column that schema.json does not declare, or another kind of it"
    if _shape_trouble(preprocessing, schema):
        return "the images are not those of schema.json"
    if any(len(item["grid"]) != len(item["scores"]) or (np.diff(item["grid"]) <= 0).any() for item in preprocessing["numbers"]):
        return "a grid is not ascending, or has not one score per value"
    if any((np.diff(item["words"]) <= 0).any() for item in preprocessing.get("texts", ())):
        return "the words of a text are not ascending"
    values = [[*item["values"], *item.get("rare", ())] for item in preprocessing["categories"]]
    return "a value of a category is listed twice" if any(map(_twice, values)) else None


def _shape_trouble(preprocessing: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether images are fitted where none are declared, or of another shape, or the other way round."""
    rule, fitted = schema.get("image"), preprocessing.get("images", [])
    declared = [column["name"] for column in schema["columns"] if column["kind"] == "image"]
    if not rule or not fitted:
        return bool(rule) or bool(fitted) or bool(declared)
    return bool(declared != [fitted[0]["name"]] or fitted[0]["shape"] != [rule["channels"], *rule["size"]])


def _policy_trouble(made: Mapping[str, Any], classes: Sequence[str]) -> str | None:
    K, A = len(classes), len(made["actions"])
    if made["classes"] != classes or _twice(made["actions"]):
        return "its classes are not those of schema.json, or an action is named twice"
    prior = made.get("prior")
    shares = [prior["data"], prior["deployment"]] if prior else []
    lengths = [
        (len(made["matrix"]), K),
        *((len(row), A) for row in made["matrix"]),
        *((len(made[name]), size) for name, size in (("offsets", K), ("prices", A)) if made.get(name)),
        *((len(part), K) for part in shares),
    ]
    if any(found != wanted for found, wanted in lengths):
        return f"it must have {K} classes by {A} actions throughout"
    if any(share <= 0 for part in shares for share in part):
        return "a class share is not above 0"
    return None if policy.by_row(made["matrix"]) else _tried(lambda: policy.apply(dict(made), np.full((1, K), 1 / K)))


def _calibrator_trouble(calibrator: Mapping[str, Any], K: int) -> str | None:
    reference = calibrator.get("reference")
    if reference is not None and (len(reference["prior"]) != K or any(share <= 0 for share in reference["prior"])):
        return f"the class shares of calib must be {K} numbers above 0"
    return _tried(lambda: calibration.apply(dict(calibrator), np.zeros((1, K))))


def _tried(use: Any) -> str | None:
    """Why a part cannot be used, found by using it once."""
    try:
        with np.errstate(all="ignore"):
            result = use()
    except (ExpostError, *TRIPPED) as error:
        return f"it cannot be used: {type(error).__name__}: {str(error)[:200]}"
    return None if np.isfinite(result).all() else "what it gives is no number"
