"""`data/expectations.json`: the suite's file and its form; standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Collection
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


def without_ignored(suite: dict[str, Any], columns: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """The suite without what `init` generated for columns that have the role ignored by now, and their names.

    A declared column that is absent stops `ingest`, so a generated expectation without its column means that the role was changed.
    Expectations written by hand stay as they are.
    """
    kept, ignored = [], set[str]()
    for item in suite["expectations"]:
        kwargs = item.get("kwargs", {})
        if (item.get("meta") or {}).get("generated"):
            if kwargs.get("column") is not None and kwargs["column"] not in columns:
                ignored.add(kwargs["column"])
                continue
            if "column_set" in kwargs:
                kwargs = {**kwargs, "column_set": [name for name in kwargs["column_set"] if name in columns]}
        kept.append({**item, "kwargs": kwargs})
    return {**suite, "expectations": kept}, sorted(ignored)


def nearest(name: str, known: Any) -> str:
    """`; did you mean X?`, or empty where nothing known is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def short(value: Any) -> str:
    """Form of a value for a message, at most 160 characters."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 160 else text[:157] + "..."
