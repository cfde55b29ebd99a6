"""`params.yaml`, one frozen model per section; a stage loads its own section and no other."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.errors import ExpostError, must

PARAMS = Path("params.yaml")

#: Keys that would let the utility into training. They are refused with the reason instead of "unknown key".
ASYMMETRIC = {
    "class_weight",
    "class_weights",
    "cost",
    "costs",
    "focal_loss",
    "pos_weight",
    "sample_weight",
    "scale_pos_weight",
    "utility",
    "weight",
    "weights",
}


class Section(BaseModel):
    """A section of `params.yaml`: frozen, strict about types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


S = TypeVar("S", bound=Section)


def read_params(path: Path = PARAMS) -> dict[str, Any]:
    """Read the whole file as plain types; raises ExpostError where it is missing or is not a YAML mapping of sections."""
    if not path.exists():
        raise must(
            f"{path} must exist",
            "it is missing",
            "Run expost in the root of a workspace (a clone of the project, where dvc.yaml is); there, `expost init TABLE --target COLUMN` makes it.",
        )
    values = read_yaml(path)
    if not isinstance(values, dict):
        got = "it is empty" if values is None else f"it holds a {type(values).__name__}"
        raise must(f"{path} must map section names to sections", got, "Make one with `expost init`.")
    return values


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, of which PyYAML would keep the last in silence."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in seen:
                raise yaml.YAMLError(f"key {key.value!r} stands twice in one mapping, on lines {seen[name]} and {line}")
            seen[name] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain types; raises ExpostError where it is not UTF-8, not YAML, or has a key twice in one mapping."""
    try:
        return yaml_of(path.read_bytes().decode("utf-8"), path)
    except UnicodeDecodeError as error:
        raise must(f"{path} must be UTF-8 text", str(error), "Save it as UTF-8.") from error
    except OSError as error:
        raise must(f"{path} must be a readable file", str(error), "Check the path and its permissions.") from error


def yaml_of(text: str, name: object) -> Any:
    """Plain types from YAML text; raises ExpostError that calls it `name` where it is not YAML, or has a key twice in one mapping."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a subclass of SafeLoader
    except yaml.YAMLError as error:
        raise must(f"{name} must be valid YAML", " ".join(str(error).split()), "Mend the line named.") from error


def load(model: type[S], path: Path = PARAMS) -> S:
    """Load the section named like `model` in lower case (class `Train`: section `train`); raises ExpostError where it breaks a rule."""
    section = model.__name__.lower()
    values = read_params(path).get(section)
    return parse(model, {} if values is None else values, section)


def parse(model: type[S], values: Any, section: str) -> S:
    """Check plain `values` against `model`; raises ExpostError that names the key, the value and the remedy."""
    try:
        # YAML has lists where the frozen models have tuples: JSON mode accepts a list for a tuple and stays strict otherwise.
        return model.model_validate_json(_as_json(values, section))
    except ValidationError as error:
        details = error.errors()
        places = [detail["loc"] for detail in details]
        # Where items of a list are wrong, pydantic adds that the list has too few of them.
        own = [d for d in details if not any(len(place) > len(d["loc"]) and place[: len(d["loc"])] == d["loc"] for place in places)]
        raise ExpostError("\n".join(_sentence(model, section, detail) for detail in own)) from None


def _as_json(values: Any, section: str) -> str:
    def refuse(value: Any) -> Any:
        raise must(f"values under {section} must be text, numbers, booleans, lists or mappings", str(value), "Quote it in params.yaml.")

    def quoted(value: Any, where: str) -> Any:
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise must(f"names under {where} must be strings", f"got {key!r}{_read_as(key)}", f"{_quote_it(key)}.")
            return {key: quoted(item, f"{where}.{key}") for key, item in value.items()}
        return [quoted(item, where) for item in value] if isinstance(value, list) else value

    return json.dumps(quoted(values, section), default=refuse)


def _read_as(value: Any) -> str:
    return ", as YAML reads an unquoted yes, no, on or off" if isinstance(value, bool) else ", which is no text without quotes"


def _quote_it(value: Any) -> str:
    example = ' "yes" or "no"' if isinstance(value, bool) else f' "{value}"'
    return f"Quote it in params.yaml:{example}"


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that are allowed where the last part of `location` stands."""
    current: Any = model
    for part in location[:-1]:
        field = current.model_fields.get(str(part)) if isinstance(current, type) and issubclass(current, BaseModel) else None
        current = _model_in(field.annotation) if field else current
    known = isinstance(current, type) and issubclass(current, BaseModel)
    return [field.alias or name for name, field in current.model_fields.items()] if known else []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_model_in, getattr(annotation, "__args__", ())) if found is not None), None)


def _sentence(model: type[BaseModel], section: str, detail: Any) -> str:
    location = tuple(detail["loc"])
    where = ".".join([section, *map(str, location)])
    if detail["type"] == "extra_forbidden":
        name = str(location[-1])
        if name in ASYMMETRIC and section not in ("utility", "evaluate", "gate", "decide"):
            return (
                f"{where} is refused: training must be symmetric, however: {name} would let the costs of errors into the loss, which can "
                "starve what the network learns. Put the costs under utility.matrix; the decision uses them after training (docs/why.md)."
            )
        known = _fields_at(model, location)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where} must be a known key, however: {name} is unknown; {hint}Known keys: {', '.join(known)}."
    if detail["type"] == "missing":
        return f"{where} must be given, however: it is missing. Add it to params.yaml."
    message = detail["msg"].removeprefix("Value error, ")
    if "however:" in message:
        return f"{where}: {message}"
    received = repr(detail["input"])
    received = received if len(received) <= 120 else received[:117] + "..."
    if detail["type"] == "string_type" and isinstance(detail["input"], bool | int | float):
        return str(must(f"{where} must be a string", f"got {received}{_read_as(detail['input'])}", f"{_quote_it(detail['input'])}."))
    message = message.removeprefix("Input should ").replace("valid array", "list").replace("valid dictionary", "mapping")
    rule = re.sub(r"^(\w+ )?should ", "must ", message) if " should " in message[:20] else f"must {message}"
    return str(must(f"{where} {rule}", f"got {received}", "Change it in params.yaml."))
