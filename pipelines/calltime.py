"""A utility that comes with a call instead of from params.yaml: YAML or JSON text, checked as the section `utility` is."""

from __future__ import annotations

import json
from typing import Any

from pipelines.errors import ExpostError, must
from pipelines.params import parse, short, yaml_of
from pipelines.params.utility import Utility

LONGEST = 65536  #: characters of a text, bytes of a file, either of which may come from anyone


def utility_of(text: str, name: object) -> Utility:
    """The utility in `text`, under the key `utility` or alone; raises ExpostError that calls its source `name`."""
    check_length(len(text), name)
    values = _plain(text, name)
    if isinstance(values, dict) and set(values) == {"utility"}:
        values = values["utility"]
    if not isinstance(values, dict) or "matrix" not in values:
        got = f"it holds {_kind(values)}"
        raise must(
            f"{name} must hold a utility with a matrix", got, "Write `matrix: {class: {action: value}}`, one row per class, and a unit."
        )
    try:
        return parse(Utility, values, "utility")
    except ExpostError as error:
        raise ExpostError(f"{name}: {error}".replace("in params.yaml", "there").replace("to params.yaml", "there")) from None


def check_length(length: int, name: object) -> None:
    """Raise ExpostError where a text, called `name`, is longer than a utility may be."""
    if length > LONGEST:
        got = f"it has {'more' if length == LONGEST + 1 else f'{length:,}'}"
        raise must(f"{name} must be a text of at most {LONGEST:,} characters", got, "Shorten it.")


def _plain(text: str, name: object) -> Any:
    """Plain types from JSON, or else from YAML, whose 1.1 form reads 1e-3 as text."""
    if not text.lstrip().startswith("{"):
        return yaml_of(text, name, aliases=False)

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in pairs:
            if key in made:
                raise must(f"{name} must have each key once", f"{short(key)!r} stands twice in one object", "Leave one of them out.")
            made[key] = value
        return made

    try:
        return json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError):
        return yaml_of(text, name, aliases=False)


def _kind(values: Any) -> str:
    if isinstance(values, dict):
        return f"the keys {short(', '.join(sorted(map(short, values))[:8]))}" if values else "nothing"
    return "nothing" if values is None else f"a {type(values).__name__}"
