"""The review page in short, as tables of texts: what the model card and the artifact of the run say of criteria, slices, lessons and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.review import criteria, sections

Brief = dict[str, Any]


def brief(read: Mapping[str, Any]) -> list[Brief]:
    """Tables as `title`, `lines`, `head` and `rows`; what there is nothing to say of is left out."""
    made = [_criteria(read), _slices(read), _lessons(read), _changes(read)]
    return [part for part in made if part["rows"] or part["lines"]]


def _criteria(read: Mapping[str, Any]) -> Brief:
    listed = [row for row in criteria.rows(read["verdict"], read["evaluation"]) if row.challenger or row.difference]
    rows = [
        (f"{row.title} {row.subject}".strip(), row.challenger, row.other, row.difference, row.margin, f"{row.sign} {row.word}")
        for row in listed
    ]
    looks = read["verdict"].get("looks")
    said = [f"These holdout rows were looked at {looks['before']} times before; the limit is {looks['limit']}."] if looks and rows else []
    head = ("criterion", "challenger", "compared with", "difference", "allowed", "verdict")
    return {"title": "Criteria of the gate", "lines": said, "head": head, "rows": rows}


def _slices(read: Mapping[str, Any]) -> Brief:
    names = ("support", "challenger", "champion", "difference")
    rows = [(f"{item['name']} ({item['kind']})", *(item[name] for name in names)) for item in sections.slices(read["evaluation"])]
    return {"title": "Utility by slice, holdout", "lines": [], "head": ("slice", "rows", *names[1:]), "rows": rows}


def _lessons(read: Mapping[str, Any]) -> Brief:
    rows = [(item["name"], item["support"], item["share"], item["regret"]) for item in sections.lessons(read.get("lessons"))]
    head = ("where it fails, calib", "rows", "share", "regret per case")
    return {"title": "Lessons", "lines": [], "head": head, "rows": rows}


def _changes(read: Mapping[str, Any]) -> Brief:
    found = sections.changes(read.get("changes"))
    made: Brief = {"title": "Data since the champion", "lines": [], "head": (), "rows": []}
    if found is None:
        return made
    moved = [item for item in found["features"] if item["moved"]]
    lines = [f"Rows: {found['rows']}."] if found["rows"] else []
    lines += [f"{found['moved']} of {found['compared']} features moved more than sampling explains."]
    lines += [f"Columns {word}: {', '.join(names)}." for word, names in found["schema"] if names]
    head = ("feature", "stability index", "distance", "missing", "in a word")
    return {
        **made,
        "lines": lines,
        "head": head,
        "rows": [tuple(item[key] for key in ("name", "psi", "distance", "missing", "word")) for item in moved],
    }
