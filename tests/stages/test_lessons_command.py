"""`expost lessons`: listing and retiring what champions taught."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from pipelines.commands import lessons
from pipelines.errors import ExpostError
from pipelines.ledger import Ledger
from tests.ledgering import MODEL, promoted

AGE = {"name": "age > 50", "conditions": [{"column": "age", "op": ">", "value": 50}], "share": 0.25, "support": 40}
PLAN = {"name": "plan is [basic]", "conditions": [{"column": "plan", "op": "is", "value": "[basic]"}], "share": 0.1, "support": 20}


@pytest.fixture
def mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often the mirror was refreshed, in a workspace whose champions taught three lessons, one of them twice."""
    done: list[str] = []
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/ledger.db"
    Path("params.yaml").write_text(yaml.safe_dump({"registry": {"model": MODEL, "ledger_uri": uri}}))
    for version, taught in ((1, [AGE, PLAN]), (2, []), (3, [AGE])):
        promoted(Ledger(uri), version, lessons=taught)
    monkeypatch.setattr(lessons, "refresh_mirror", lambda report: done.append("refreshed"))
    return done


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["lessons", *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_lessons_are_listed_with_ids_and_retired_by_id(mirrored: list[str]) -> None:
    assert [(one["id"], one["name"]) for one in json.loads(said("--json"))] == [
        ("1.1", "age > 50"),
        ("1.2", "plan is [basic]"),
        ("3.1", "age > 50"),
    ]
    assert said("retire", "1.1", "--by", "Ana", "--why", "mended") == "lesson 1.1 (age > 50) is retired\n"
    assert mirrored == ["refreshed"]
    listed = said()
    assert "by Ana: mended" in " ".join(listed.split()) and "plan is [basic]" in listed
    assert [one["retired"] is None for one in json.loads(said("--json"))] == [False, True, True]


def test_by_name_a_lesson_is_retired_for_all_versions_that_taught_it_and_only_once(mirrored: list[str]) -> None:
    done = json.loads(said("retire", "age > 50", "--by", "Ana", "--why", "mended", "--json"))
    assert [(one["id"], one["retired_by"], one["why"]) for one in done] == [("1.1", "Ana", "mended"), ("3.1", "Ana", "mended")]
    assert said("retire", "age > 50", "--by", "Ben", "--why", "again") == "it was retired already\n"


def test_an_unknown_lesson_is_one_message_that_lists_the_active_ones(mirrored: list[str]) -> None:
    done = CliRunner().invoke(app, ["lessons", "retire", "age > 60", "--by", "Ana", "--why", "so"])
    assert isinstance(done.exception, ExpostError)
    assert "however: got 'age > 60'. Active lessons: 1.1 (age > 50), 1.2 (plan is [basic]), 3.1 (age > 50);" in str(done.exception)
    assert not mirrored
