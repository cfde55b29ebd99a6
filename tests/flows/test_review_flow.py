"""How a run ends that did not promote: waiting for a person, blocked, or overtaken by another run and judged once more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import graph, panel, retrain
from pipelines.admission import overtaken
from pipelines.commands.publish import Outcome
from pipelines.errors import ExpostError

PROMOTED = Outcome("PASS", False, ("It passed.",), 1, 2, True, True)
WAITS = Outcome("PASS", False, ("It passed.", "Version 2 waits for review."), 1, 2, True, waiting=True)


@pytest.fixture
def steps(fake: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A flow of which only the order of its steps is left."""
    done: list[str] = []
    for name in ("check_params", "check_workspace", "_pull_missing", "_mirror", "_run_and_tell"):
        monkeypatch.setattr(retrain, name, lambda name=name: done.append(name))
    monkeypatch.setattr(retrain, "_sync", lambda: done.append("_sync") or "data")
    monkeypatch.setattr(graph, "has_remote", lambda: False)
    monkeypatch.setattr(graph, "refuse_stale_before", lambda first, but=(): done.append(f"fresh before {first} but {', '.join(but)}"))
    monkeypatch.setattr(graph, "data_digest", lambda: "data")
    monkeypatch.setattr(panel, "markdown", lambda outcome, digest: "")
    return done


def publishing(monkeypatch: pytest.MonkeyPatch, steps: list[str], *answers: Outcome | ExpostError) -> None:
    left = list(answers)

    def publish(digest: str, report: Callable[[str], None]) -> Outcome:
        steps.append("publish")
        answer = left.pop(0)
        if isinstance(answer, ExpostError):
            raise answer
        return answer

    monkeypatch.setattr(retrain, "publish", publish)


def test_the_loser_of_a_race_judges_once_more_against_the_new_champion(steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    publishing(monkeypatch, steps, overtaken(2, 1), PROMOTED)
    state = retrain.retrain(return_state=True)
    assert (state.name, state.message) == ("Completed", "Version 2.")
    assert steps[2:] == ["_pull_missing", "_sync", "_run_and_tell", "publish", "_mirror", "_run_and_tell", "publish"]


def test_who_loses_twice_is_told(steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    publishing(monkeypatch, steps, overtaken(2, 1), overtaken(3, 2))
    state = retrain.retrain(return_state=True)
    assert state.is_failed()
    assert "epoch 3 reigns, epoch 2 was judged. Run `expost retrain` again" in str(state.message)
    assert steps.count("publish") == 2


def test_a_pass_that_a_person_decides_on_waits_for_review(steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    publishing(monkeypatch, steps, WAITS)
    state = retrain.retrain(return_state=True)
    assert (state.name, state.message) == ("Waiting for review", "Version 2 waits for review.")
    assert retrain.outcome_of(state) == WAITS
    assert not WAITS.blocked  # exit code 0: the run did all that a run can do


def test_judging_alone_computes_nothing_before_the_evaluation(steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    publishing(monkeypatch, steps, PROMOTED)
    assert retrain.judge(return_state=True).is_completed()
    assert steps[2:] == ["_pull_missing", "fresh before evaluate but champion", "_mirror", "_run_and_tell", "publish"]


def test_a_dry_run_publishes_nothing(steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = Outcome("FAIL", False, ("Worse.",), 3)
    monkeypatch.setattr(retrain, "look", lambda report: blocked)
    publishing(monkeypatch, steps)
    state = retrain.judge(dry_run=True, return_state=True)
    assert (state.name, retrain.outcome_of(state)) == ("Blocked", blocked)
    assert "publish" not in steps


READ: dict[str, Any] = {"champion": {"version": 1}}


@pytest.mark.parametrize(
    ("outcome", "lines"),
    [
        (WAITS, ["expost review 2", "expost promote 2 --by NAME --why TEXT", "expost reject 2 --by NAME --why TEXT"]),
        (PROMOTED, ["expost predict new.csv scored.csv"]),
    ],
)
def test_the_panel_says_what_to_do_next(outcome: Outcome, lines: list[str]) -> None:
    shown = panel._next(outcome).lines
    assert [line.split("   ")[0] for line in shown[: len(lines)]] == lines


def test_the_panel_of_a_dry_run_says_that_nothing_was_registered() -> None:
    (line,) = panel._version(Outcome("FAIL", False, ("Worse.",), 3), READ).lines
    assert line == "Nothing was registered or promoted: this was a dry run."
