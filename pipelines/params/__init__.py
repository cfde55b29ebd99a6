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

DEEPEST = 32  #: levels of lists and mappings; the recursion of parsers and of checks ends well above it
SHOWN = 120  #: characters of what was received that a message repeats
LARGEST = 10**300  #: a whole number, in magnitude; above it lies the end of floating-point numbers
FAULTS = 20  #: faults of one section that a message lists

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


def short(text: object, longest: int = SHOWN) -> str:
    """The text on one line, at most `longest` characters of it, in characters that can be printed."""
    line = " ".join(str(text).encode("utf-8", "backslashreplace").decode("utf-8").split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, of which PyYAML would keep the last in silence, and what is nested too deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node with all that it holds."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; PyYAML lets errors of int(), of date() and of its own tables through: 2026-13-45, 5,000 digits, `!!int ""`."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            kind = {"int": "whole number", "float": "number", "timestamp": "date"}.get(name := str(node.tag).rpartition(":")[2], name)
            held = short(repr(node.value)) if isinstance(node, yaml.ScalarNode) else "what it holds"
            raise yaml.YAMLError(f"line {node.start_mark.line + 1} needs a {short(kind)} that can be read, and {held} is none") from error


class _TreeLoader(_Loader):
    """YAML without aliases: a few characters of them stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node that is no alias and has no anchor."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1} has an anchor or an alias (& or *), which are not read here")
        return super().compose_node(parent, index)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in seen:
                raise yaml.YAMLError(f"key {short(key.value)!r} stands twice in one mapping, on lines {seen[name]} and {line}")
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


def yaml_of(text: str, name: object, *, aliases: bool = True) -> Any:
    """Plain types from YAML text; raises ExpostError that calls it `name` where it is not YAML, has a key twice in one mapping, or is nested
    too deep; where `aliases` is false, also where it has any.
    """
    try:
        return yaml.load(text, _Loader if aliases else _TreeLoader)  # noqa: S506  subclasses of SafeLoader
    except yaml.YAMLError as error:
        raise must(f"{name} must be valid YAML", short(error, 300), "Mend the line named, or put in quotes what is text.") from error
    except RecursionError as error:
        raise must(f"{name} must be valid YAML", "it is nested too deep", "Check its brackets.") from error


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
        holders = {place[:depth] for place in places for depth in range(len(place))}
        own = [detail for detail in details if detail["loc"] not in holders]
        more = [f"And {len(own) - FAULTS} more under {section}."] if len(own) > FAULTS else []
        raise ExpostError("\n".join([*(_sentence(model, section, detail) for detail in own[:FAULTS]), *more])) from None


def _as_json(values: Any, section: str) -> str:
    def refuse(value: Any) -> Any:
        raise must(f"values under {section} must be text, numbers, booleans, lists or mappings", short(value), "Quote it in params.yaml.")

    def checked(value: Any, where: str, depth: int) -> Any:
        if depth > DEEPEST:
            raise must(f"{section} must be nested at most {DEEPEST} levels deep", f"{where} lies deeper", "Check its brackets.")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise must(f"names under {where} must be strings", f"got {short(repr(key))}{_read_as(key)}", f"{_quote_it(key)}.")
                _check_text(key, f"names under {where}")
            return {key: checked(item, short(f"{where}.{key}"), depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [checked(item, where, depth + 1) for item in value]
        if isinstance(value, str):
            _check_text(value, where)
        elif isinstance(value, int) and value.bit_length() > LARGEST.bit_length():
            got = f"{where} has more than {len(str(LARGEST)) - 1} digits"
            raise must(f"whole numbers under {section} must be at most {LARGEST:.0e}", got, "Write a smaller number.")
        return value

    return json.dumps(checked(values, section, 0), default=refuse)


def _check_text(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        got = f"{short(repr(text))} has half a surrogate pair, {error.object[error.start]!r}"
        raise must(f"{where} must be text of whole characters", got, "Write the character itself, or both halves.") from None


def _read_as(value: Any) -> str:
    return ", as YAML reads an unquoted yes, no, on or off" if isinstance(value, bool) else ", which is no text without quotes"


def _quote_it(value: Any) -> str:
    example = ' "yes" or "no"' if isinstance(value, bool) else f' "{short(value)}"'
    return f"Quote it in params.yaml:{example}"


def _place(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The parts of `location` that stand in the file, and names of the fields that are allowed where the last one does.

    Where a field takes one of several models, pydantic puts the name of the one that read it into the location: it is left out.
    """
    kept: list[str] = []
    holders = models = [model]
    for part in location:
        named = [found for found in models if len(models) > 1 and found.__name__ == part]
        if named:
            models = named
            continue
        kept.append(str(part))
        holders = models
        fields = {field.alias or name: field for found in models for name, field in found.model_fields.items()}
        if part in fields:
            models = _models_in(fields[str(part)].annotation)
    return kept, [field.alias or name for found in holders for name, field in found.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for item in getattr(annotation, "__args__", ()) for found in _models_in(item)]


def _sentence(model: type[BaseModel], section: str, detail: Any) -> str:
    location, known = _place(model, tuple(detail["loc"]))
    where = short(".".join([section, *location]))
    if detail["type"] == "extra_forbidden":
        name = location[-1]
        if name in ASYMMETRIC and section not in ("utility", "evaluate", "gate", "decide"):
            return (
                f"{where} is refused: training must be symmetric, however: {name} would let the costs of errors into the loss, which can "
                "starve what the network learns. Put the costs under utility.matrix; the decision uses them after training (docs/why.md)."
            )
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where} must be a known key, however: {short(name)} is unknown; {hint}Known keys: {', '.join(known)}."
    if detail["type"] == "missing":
        return f"{where} must be given, however: it is missing. Add it to params.yaml."
    message = detail["msg"].removeprefix("Value error, ")
    if "however:" in message:
        return f"{where}: {message}"
    received = short(repr(detail["input"]))
    if detail["type"] == "string_type" and isinstance(detail["input"], bool | int | float):
        return str(must(f"{where} must be a string", f"got {received}{_read_as(detail['input'])}", f"{_quote_it(detail['input'])}."))
    message = message.removeprefix("Input should ").replace("valid array", "list").replace("valid dictionary", "mapping")
    rule = re.sub(r"^(\w+ )?should ", "must ", message) if " should " in message[:20] else f"must {message}"
    return str(must(f"{where} {rule}", f"got {received}", "Change it in params.yaml."))
