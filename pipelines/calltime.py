"""A utility that comes with a call instead of from params.yaml: YAML or JSON text, checked as the section `utility` is."""

from __future__ import annotations

import json
from typing import Any

from pipelines.errors import ExpostError, must
from pipelines.params import parse, yaml_of
from pipelines.params.utility import Utility


def utility_of(text: str, name: object) -> Utility:
    """The utility in `text`, under the key `utility` or alone; raises ExpostError that calls its source `name`."""
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


def _plain(text: str, name: object) -> Any:
    """Plain types from JSON, or else from YAML, whose 1.1 form reads 1e-3 as text."""
    if not text.lstrip().startswith("{"):
        return yaml_of(text, name)

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise must(f"{name} must have each key once", f"{twice!r} stands twice in one object", "Leave one of them out.")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError):
        return yaml_of(text, name)


def _kind(values: Any) -> str:
    if isinstance(values, dict):
        return f"the keys {', '.join(sorted(map(str, values))[:8])}" if values else "nothing"
    return "nothing" if values is None else f"a {type(values).__name__}"
