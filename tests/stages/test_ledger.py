"""The ledger: one winner per epoch whoever races, refusals, and looks that are counted on rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipelines.admission import Claim
from pipelines.errors import ExpostError
from pipelines.ledger import Ledger, UnreachableError

MODEL = "m"
V = "f" * 64


def digests(of: str) -> dict[str, str]:
    return {name: f"{name}-{of}" for name in ("bundle_sha256", "weights_sha256", "policy_sha256")}


def verdict(challenger: str, champion: str | None = None, *, epoch: int = 0, **changed: Any) -> dict[str, Any]:
    reigning = {"state": "champion", "version": 1, **digests(champion)} if champion else {"state": "none", "version": None}
    return {"verdict": "PASS", "challenger": digests(challenger), "champion": {**reigning, "epoch": epoch}, **changed}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def promote(ledger: Ledger, version: int, given: dict[str, Any], of: str) -> Any:
    return ledger.promote(MODEL, version, claim=Claim(digests(of), given, V), why="it passed", who="tester")


def test_a_first_champion_and_its_successor(ledger: Ledger) -> None:
    assert (ledger.reign(MODEL).version, ledger.reign(MODEL).epoch) == (None, 0)
    promote(ledger, 1, verdict("a"), "a")
    promote(ledger, 4, verdict("b", "a", epoch=1), "b")
    reign = ledger.reign(MODEL)
    assert (reign.version, reign.epoch, reign.digests) == (4, 2, digests("b"))
    history = ledger.history(MODEL)
    assert [(row["from_version"], row["to_version"], row["epoch"], row["who"], row["why"]) for row in history] == [
        (None, 1, 1, "tester", "it passed"),
        (1, 4, 2, "tester", "it passed"),
    ]
    assert ledger.reign("another model").version is None


@pytest.mark.parametrize("word", ["FAIL", "INSUFFICIENT_DATA", "ERROR", None])
def test_only_pass_promotes(ledger: Ledger, word: str | None) -> None:
    with pytest.raises(ExpostError, match="must have the verdict PASS"):
        promote(ledger, 1, verdict("a", verdict=word), "a")
    assert ledger.history(MODEL) == []


@pytest.mark.parametrize("state", ["unsynced", None])
def test_a_verdict_without_the_champion_in_view_is_refused(ledger: Ledger, state: str | None) -> None:
    given = verdict("a")
    given["champion"]["state"] = state
    with pytest.raises(ExpostError, match="judged against the champion that reigns"):
        promote(ledger, 1, given, "a")


def test_a_verdict_on_another_bundle_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ExpostError, match="the very bundle that was judged"):
        promote(ledger, 1, verdict("a"), "b")


def test_a_verdict_of_an_earlier_epoch_is_refused(ledger: Ledger) -> None:
    promote(ledger, 1, verdict("a"), "a")
    for stale in (verdict("b"), verdict("b", "a", epoch=2), verdict("b", "x", epoch=1)):
        with pytest.raises(ExpostError, match="must follow the champion that it was judged against"):
            promote(ledger, 2, stale, "b")
    assert ledger.reign(MODEL).version == 1
    assert len(ledger.history(MODEL)) == 1


RACE = """
import json, sys
from pipelines.errors import ExpostError
from pipelines.admission import Claim
from pipelines.ledger import Ledger
sys.path.insert(0, sys.argv[3])
from tests.stages.test_ledger import MODEL, V, digests
uri, me, wins = sys.argv[1], int(sys.argv[2]), 0
ledger = Ledger(uri)
for attempt in range(15):
    reign = ledger.reign(MODEL)
    state = {"state": "champion" if reign.version else "none", "epoch": reign.epoch, **reign.digests}
    try:
        given = {"verdict": "PASS", "challenger": digests(f"{me}-{attempt}"), "champion": state}
        ledger.promote(MODEL, me * 100 + attempt + 1, claim=Claim(digests(f"{me}-{attempt}"), given, V), why="race")
        wins += 1
    except ExpostError as error:
        assert "must follow the champion" in str(error), error
print(wins)
"""


def test_racing_processes_win_each_epoch_once(tmp_path: Path) -> None:
    uri, root = f"sqlite:///{tmp_path}/ledger.db", str(Path(__file__).parents[2])
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, uri, str(me), root], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for me in range(4)
    ]
    finished = [racer.communicate(timeout=120) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4, finished
    wins = sum(int(out) for out, _ in finished)
    ledger = Ledger(uri)
    history = ledger.history(MODEL)
    assert ledger.reign(MODEL).epoch == wins == len(history) > 0
    assert [row["epoch"] for row in history] == list(range(1, wins + 1))
    # a chain: each winner replaced the one before it
    assert [row["from_version"] for row in history[1:]] == [row["to_version"] for row in history[:-1]]


def test_looks_are_counted_on_rows_and_each_evaluation_once(ledger: Ledger) -> None:
    rows = [1, 2, 2**64 - 1]
    assert ledger.looks(MODEL, rows) == 0
    assert ledger.count_look(MODEL, "evaluation 1", rows) == 1
    assert ledger.count_look(MODEL, "evaluation 1", rows) == 1
    assert ledger.count_look(MODEL, "evaluation 2", [*rows, 7]) == 2  # an appended row resets nothing
    assert ledger.looks(MODEL, [7]) == 1
    assert ledger.looks(MODEL, [8]) == 0
    assert ledger.count_look("another model", "evaluation 1", rows) == 1


def test_many_rows_are_counted(ledger: Ledger) -> None:
    ledger.count_look(MODEL, "a", range(40_000))
    assert ledger.looks(MODEL, range(39_999, 60_000)) == 1


def test_history_cannot_hold_two_winners_of_one_epoch(ledger: Ledger, tmp_path: Path) -> None:
    promote(ledger, 1, verdict("a"), "a")
    with sa.create_engine(f"sqlite:///{tmp_path}/ledger.db").begin() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(
            sa.text("INSERT INTO history SELECT 99, model, epoch, who, at, NULL, 2, verdict_sha256, why, kind, digests FROM history")
        )


def test_a_ledger_out_of_reach_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(UnreachableError, match="the ledger must be within reach"):
        Ledger(f"sqlite:///{tmp_path}/folder.db")


@pytest.mark.parametrize("uri", ["ledger.db", "nothing://me:secret@host/x", "postgresql+nodriver://me:secret@host/x"])
def test_a_uri_that_names_no_database_is_one_message_without_its_password(uri: str) -> None:
    with pytest.raises(ExpostError, match=r"registry\.ledger_uri must name a database") as caught:
        Ledger(uri)
    assert "secret" not in str(caught.value)


def test_digests_survive_as_json(ledger: Ledger) -> None:
    promote(ledger, 1, verdict("é"), "é")
    assert json.loads(json.dumps(ledger.reign(MODEL).digests)) == digests("é")
