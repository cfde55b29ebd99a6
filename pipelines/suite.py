"""`data/expectations.json`: the suite's file and its form; standard library only."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pipelines import store
from pipelines.errors import must

SUITE = Path("data/expectations.json")
KEYS = ("type", "kwargs", "description", "meta", "notes", "severity")


def read_suite(path: Path = SUITE, *, empty_is_fine: bool = False) -> dict[str, Any]:
    """Read and check the suite's form: a name and at least one expectation with a type and kwargs."""
    if not path.exists():
        raise must(
            f"{path} must exist", "it is missing", "Restore it, or run `expost expectations accept`, which generates it from the data."
        )
    suite = store.read_json(path)
    if not isinstance(suite, dict) or not isinstance(suite.get("expectations"), list):
        raise must(
            f'{path} must hold {{"name": ..., "expectations": [...]}}', f"it holds {short(suite)}", "Restore it, or run `expost init`."
        )
    if not suite["expectations"] and not empty_is_fine:
        raise must(
            f"{path} must hold at least one expectation",
            "its list is empty, which any data would pass",
            "Run `expost expectations accept` to have them generated from the data.",
        )
    for number, item in enumerate(suite["expectations"], start=1):
        where = f"expectation {number} of {path}"
        if not isinstance(item, dict) or not isinstance(item.get("type"), str) or not isinstance(item.get("kwargs", {}), dict):
            raise must(f"{where} must have a type (text) and kwargs (a mapping)", short(item), "Complete it.")
        for key in set(item) - set(KEYS):
            raise must(f"{where} may have the keys {', '.join(KEYS)}", f"it has {key!r}{nearest(key, KEYS)}", "Mend the key.")
    return suite


def nearest(name: str, known: Any) -> str:
    """`; did you mean X?`, or empty where nothing known is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def short(value: Any) -> str:
    """Form of a value for a message, at most 160 characters."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 160 else text[:157] + "..."
