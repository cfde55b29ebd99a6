"""The ledger's rules: what a promotion must carry, what a person may pass over, and looks that are counted on rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines import reigns
from pipelines.admission import DIGESTS, Claim, OvertakenError
from pipelines.commands.explain import moment
from pipelines.errors import ExpostError
from pipelines.ledger import Ledger, UnreachableError
from tests.ledgering import MODEL, digests, judged, promoted


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def given(ledger: Ledger, word: str = "PASS", **changed: Any) -> Claim:
    """A claim on the bundle "b", whose verdict was changed as told."""
    claim = judged("b", ledger.reign(MODEL), word)
    return replace(claim, verdict={**claim.verdict, **changed})


def promote(ledger: Ledger, version: int, claim: Claim, **options: Any) -> Any:
    return ledger.promote(MODEL, version, claim=claim, **{"why": "it passed", "who": "tester", **options})


def test_a_first_champion_and_its_successor(ledger: Ledger) -> None:
    assert (ledger.reign(MODEL).version, ledger.reign(MODEL).epoch) == (None, 0)
    promoted(ledger, 1)
    promoted(ledger, 4)
    reign = ledger.reign(MODEL)
    assert (reign.version, reign.epoch, reign.digests) == (4, 2, digests("4"))
    told = ("kind", "from_version", "to_version", "epoch", "who", "why", "digests")
    assert [[row[name] for name in told] for row in ledger.history(MODEL)] == [
        ["promote", None, 1, 1, "tester", "it passed", digests("1")],
        ["promote", 1, 4, 2, "tester", "it passed", digests("4")],
    ]
    assert ledger.reign("another model").version is None


@pytest.mark.parametrize("word", ["FAIL", "INSUFFICIENT_DATA", "ERROR", None, "pass"])
def test_only_pass_promotes(ledger: Ledger, word: Any) -> None:
    with pytest.raises(ExpostError, match="must have the verdict PASS, however: it is"):
        promote(ledger, 1, given(ledger, verdict=word))
    assert ledger.history(MODEL) == []


@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize("state", ["unsynced", None])
def test_a_verdict_without_the_champion_in_view_is_refused(ledger: Ledger, state: str | None, override: bool) -> None:
    with pytest.raises(ExpostError, match="judged against the champion that reigns, however: the verdict's champion is"):
        promote(ledger, 1, given(ledger, champion={"state": state}), override=override)


@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize("name", DIGESTS)
def test_a_verdict_on_another_bundle_is_refused(ledger: Ledger, name: str, override: bool) -> None:
    with pytest.raises(ExpostError, match=f"the very bundle that was judged, however: {name} is"):
        promote(ledger, 1, given(ledger, challenger={**digests("b"), name: "0" * 64}), override=override)


@pytest.mark.parametrize(
    ("name", "message"),
    [("data_sha256", "judged on the data of its version"), ("gate_sha256", r"by the section gate of params\.yaml as it is")],
)
def test_a_verdict_on_other_data_or_by_another_gate_is_refused(ledger: Ledger, name: str, message: str) -> None:
    for changed in ({name: "0" * 64}, {name: None}):
        for override in (False, True):
            with pytest.raises(ExpostError, match=message):
                promote(ledger, 1, given(ledger, **changed), override=override)
    assert ledger.reign(MODEL).epoch == 0


def test_a_verdict_that_names_no_utility_is_held_to_none(ledger: Ledger) -> None:
    with pytest.raises(ExpostError, match=r"by the section utility of params\.yaml as it is now, however: .* should be unknown"):
        promote(ledger, 1, given(ledger, utility_sha256="e" * 64))
    assert promote(ledger, 1, replace(given(ledger), utility_sha256="e" * 64)).version == 1


def test_a_verdict_whose_champion_moved_on_is_refused(ledger: Ledger) -> None:
    early = judged("b", ledger.reign(MODEL))
    promoted(ledger, 1)
    champion = {"state": "champion", "version": 1, "epoch": 1, **digests("x")}
    for stale in (early, given(ledger, champion={**champion, **digests("1"), "epoch": 2}), given(ledger, champion=champion)):
        for override in (False, True):
            with pytest.raises(OvertakenError, match="must follow the champion that it was judged against"):
                promote(ledger, 2, stale, override=override)
    assert (ledger.reign(MODEL).version, len(ledger.history(MODEL))) == (1, 1)


def test_a_verdict_serves_once(ledger: Ledger) -> None:
    """A lost answer may be asked for again; after a rollback the same verdict promotes no more."""
    promoted(ledger, 1)
    claim = given(ledger)
    first = promote(ledger, 2, claim)
    assert promote(ledger, 2, claim) == first
    assert len(ledger.history(MODEL)) == 2
    ledger.rollback(MODEL, why="complaints")
    with pytest.raises(OvertakenError):
        promote(ledger, 2, claim)


def test_an_expired_verdict_is_refused_and_one_given_anew_is_not(tmp_path: Path) -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", clock=lambda: now)
    claim = replace(given(ledger), expires_after=30.0)
    with pytest.raises(ExpostError, match="nobody knows when its version was registered"):
        promote(ledger, 1, claim)
    with pytest.raises(ExpostError, match=r"registered with it 31\.0 days ago"):
        promote(ledger, 1, replace(claim, registered_at=now - timedelta(days=31)))
    ledger.note_registration(MODEL, 1, claim.verdict, claim.verdict_sha256)
    now += timedelta(days=30, seconds=1)
    with pytest.raises(
        ExpostError, match=r"at most 30 days old to promote \(registry\.expires_after\), however: its version .* 30\.0 days ago"
    ):
        promote(ledger, 1, claim, override=True)
    ledger.note_registration(MODEL, 1, claim.verdict, claim.verdict_sha256)
    assert promote(ledger, 1, claim).epoch == 1


def test_a_verdict_that_the_ledger_did_not_note_is_refused(ledger: Ledger) -> None:
    """Who may write to the registry could put another verdict in the place of the one that was given."""
    promote(ledger, 7, replace(given(ledger), verdict_sha256="0" * 64))  # of version 7 the ledger knows nothing
    given_then, forged = given(ledger, "FAIL"), given(ledger)
    ledger.note_registration(MODEL, 1, given_then.verdict, given_then.verdict_sha256)
    for override in (False, True):
        with pytest.raises(ExpostError, match=r"the ledger noted when its version was registered, however: .* \(FAIL\) of version 1"):
            promote(ledger, 1, forged, override=override)
    with pytest.raises(ExpostError, match="must have the verdict PASS, however: it is FAIL"):
        promote(ledger, 1, replace(forged, verdict_sha256=given_then.verdict_sha256))
    ledger.note_registration(MODEL, 1, forged.verdict, forged.verdict_sha256)  # judged anew
    assert promote(ledger, 1, forged).version == 1


def test_an_override_is_recorded_as_such_and_needs_a_reason(ledger: Ledger) -> None:
    claim = given(ledger, "FAIL")
    with pytest.raises(ExpostError, match="an override must say why"):
        promote(ledger, 1, claim, override=True, why=" ")
    promote(ledger, 1, claim, override=True, why="the old one is withdrawn")
    promote(ledger, 2, given(ledger), override=True)  # needless: the verdict is PASS
    assert [(row["kind"], row["why"]) for row in ledger.history(MODEL)] == [
        ("override", "the old one is withdrawn"),
        ("promote", "it passed"),
    ]


def test_a_rejected_version_takes_an_override(ledger: Ledger) -> None:
    promoted(ledger, 1)
    ledger.reject(MODEL, 2, why="unfair to the young", who="Ana")
    ledger.reject(MODEL, 2, why="unfair to the young", who="Ana")
    with pytest.raises(ExpostError, match=r"neither rejected nor rolled back from, however: Ana rejected it on 20.*: unfair to the young"):
        promoted(ledger, 2)
    promoted(ledger, 2, override=True, why="it is not")
    assert [row["kind"] for row in ledger.history(MODEL)] == ["promote", "reject", "override"]
    with pytest.raises(ExpostError, match="a version that is rejected must not reign"):
        ledger.reject(MODEL, 2, why="still unfair")


def test_a_rollback_happens_once_and_what_it_left_is_not_promoted_by_itself(ledger: Ledger) -> None:
    for version in (1, 2, 3):
        promoted(ledger, version)
    for _ in range(2):
        back = ledger.rollback(MODEL, why="complaints", who="Ana")
        assert (back.version, back.epoch, back.digests) == (2, 4, digests("2"))
    assert ledger.rollback(MODEL, why="complaints", to=2).epoch == 4
    with pytest.raises(ExpostError, match=r"Ana rolled back from it on 20.*: complaints"):
        promoted(ledger, 3)
    assert ledger.rollback(MODEL, why="further", to=1).epoch == 5
    assert ledger.rollback(MODEL, why="it was not the model", to=3).epoch == 6
    assert [row["to_version"] for row in ledger.history(MODEL)] == [1, 2, 3, 2, 1, 3]


def test_where_a_rollback_cannot_go(ledger: Ledger) -> None:
    with pytest.raises(ExpostError, match="model m never had one"):
        ledger.rollback(MODEL, why="so")
    promoted(ledger, 1)
    with pytest.raises(ExpostError, match="must be an earlier champion to roll back to"):
        ledger.rollback(MODEL, why="so")
    promoted(ledger, 2)
    with pytest.raises(ExpostError, match=r"version 7 never did\. These did: 1, 2\."):
        ledger.rollback(MODEL, why="so", to=7)
    with pytest.raises(OvertakenError):
        ledger.rollback(MODEL, why="so", epoch=1)
    with pytest.raises(ExpostError, match="a rollback must say why"):
        ledger.rollback(MODEL, why="")
    ledger.reject(MODEL, 1, why="bad", who="Ana")
    for to in (None, 1):
        with pytest.raises(ExpostError, match=r"Ana rejected it on .*: bad|no other version reigned"):
            ledger.rollback(MODEL, why="so", to=to)
    assert ledger.reign(MODEL).version == 2


def test_the_floor_follows_an_override_and_comes_back_with_a_rollback(ledger: Ledger) -> None:
    def floor() -> Any:
        row = reigns.anchor(ledger.history(MODEL))
        return row and row["to_version"]

    assert floor() is None
    promoted(ledger, 1)
    promoted(ledger, 2)
    assert floor() == 1
    promote(ledger, 3, replace(judged("3", ledger.reign(MODEL), "FAIL")), override=True)
    assert floor() == 3
    promoted(ledger, 4)
    assert floor() == 3
    ledger.rollback(MODEL, why="a mistake", to=2)
    assert floor() == 1


def test_which_version_reigned_when(tmp_path: Path) -> None:
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", clock=lambda: now)
    for version, days in ((1, 0), (2, 2), (3, -1)):  # the last one's clock is behind
        now += timedelta(days=days)
        promoted(ledger, version)
    rows = ledger.history(MODEL)
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    when = {"2026-10-31": None, "2026-11-01T11:59": None, "2026-11-01": 1, "2026-11-02": 1, "2026-11-30T01:00+02:00": 3}
    assert {text: (row := reigns.at(rows, moment(text))) and row["to_version"] for text in when} == when
    with pytest.raises(ExpostError, match="a time must be written like"):
        moment("last monday")


def test_lessons_of_champions_stay_until_someone_retires_them(ledger: Ledger) -> None:
    lessons = [{"name": "age <= 30", "conditions": [{"column": "age", "op": "<=", "value": 30}], "failures": [{"row": 7}], "successes": []}]
    promoted(ledger, 1, lessons=lessons)
    promoted(ledger, 2)
    (known,) = ledger.lessons(MODEL)
    assert (known["name"], known["version"], known["conditions"], known["retired"]) == ("age <= 30", 1, lessons[0]["conditions"], None)
    assert "failures" not in known  # rows of the data have no place where nothing is ever deleted
    for _ in range(2):
        ledger.retire_lesson(MODEL, 1, "age <= 30", why="the product is gone", who="Ben")
    retired = ledger.lessons(MODEL)[0]["retired"]
    assert (retired["who"], retired["why"]) == ("Ben", "the product is gone")
    with pytest.raises(ExpostError, match=r"must have the lesson that is retired, however: 'other'\. It has: age <= 30"):
        ledger.retire_lesson(MODEL, 1, "other", why="so")


def test_looks_are_counted_on_rows_and_each_evaluation_once(ledger: Ledger) -> None:
    rows = [1, 2, 2**64 - 1]
    assert ledger.looks(MODEL, rows) == 0
    assert ledger.count_look(MODEL, "evaluation 1", rows) == 1
    assert ledger.count_look(MODEL, "evaluation 1", rows) == 1
    assert ledger.count_look(MODEL, "evaluation 2", [*rows, 7]) == 2  # an appended row resets nothing
    assert ledger.looks(MODEL, [7]) == 1
    assert ledger.looks(MODEL, [8]) == 0
    assert ledger.count_look("another model", "evaluation 1", rows) == 1
    hashes, counts = ledger.look_counts(MODEL)
    assert (hashes.tolist(), counts.tolist()) == ([1, 2, 7, 2**64 - 1], [2, 2, 1, 2])
    assert (hashes.dtype.name, counts.dtype.name) == ("uint64", "int32")
    assert ledger.evaluations(MODEL) == ["evaluation 1", "evaluation 2"]


def test_no_rows_at_all_are_a_look_too(ledger: Ledger) -> None:
    assert ledger.count_look(MODEL, "a", []) == 0
    assert [len(part) for part in ledger.look_counts(MODEL)] == [0, 0]
    assert ledger.evaluations(MODEL) == ["a"]


def test_a_ledger_out_of_reach_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "text.db").write_text("this is no database, " * 100)
    for name in ("folder.db", "text.db"):
        with pytest.raises(UnreachableError, match="the ledger must be within reach"):
            Ledger(f"sqlite:///{tmp_path}/{name}")


@pytest.mark.parametrize(
    "uri", ["ledger.db", "nothing://me:secret@host/x", "postgresql+nodriver://me:secret@host/x", "mysql+pymysql://me:secret@host/x"]
)
def test_a_uri_that_names_no_database_is_one_message_without_its_password(uri: str) -> None:
    with pytest.raises(ExpostError, match=r"registry\.ledger_uri must name a database") as caught:
        Ledger(uri)
    assert "secret" not in str(caught.value)
