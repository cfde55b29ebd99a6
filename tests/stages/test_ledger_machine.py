"""The ledger under any sequence of deeds, against a plain list of what should have happened."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pipelines import reigns
from pipelines.admission import Claim, OvertakenError
from pipelines.errors import ExpostError
from pipelines.ledger import Ledger
from tests.ledgering import DATABASES, address, digests, judged

NUMBERS = count(1)
WORDS = st.sampled_from(["PASS", "PASS", "FAIL", "INSUFFICIENT_DATA", "ERROR"])
ROWS = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=6)


class Deeds(RuleBasedStateMachine):
    """Promotions, overrides, rejections, rollbacks and looks, with stale verdicts and repetitions among them."""

    uri: ClassVar[str]
    verdicts = Bundle("verdicts")

    def __init__(self) -> None:
        super().__init__()
        self.model = f"model {next(NUMBERS)}"
        self.ledger = Ledger(self.uri)
        self.deeds: list[dict[str, Any]] = []
        self.shown: list[dict[str, Any]] = []
        self.refused: set[int] = set()
        self.keys: set[str] = set()
        self.counts: Counter[int] = Counter()
        self.lessons: list[str] = []

    @property
    def changes(self) -> list[dict[str, Any]]:
        return [deed for deed in self.deeds if deed["kind"] != "reject"]

    @property
    def reigning(self) -> int | None:
        return self.changes[-1]["to"] if self.changes else None

    def done(self, kind: str, to: int, verdict: str | None = None) -> None:
        self.deeds.append({"kind": kind, "to": to, "from": None if kind == "reject" else self.reigning, "verdict": verdict})

    @rule(target=verdicts, version=st.integers(1, 4), word=WORDS)
    def judge(self, version: int, word: str) -> tuple[int, Claim]:
        return version, judged(str(version), self.ledger.reign(self.model), word)

    @rule(given=verdicts, override=st.booleans())
    def promote(self, given: tuple[int, Claim], override: bool) -> None:
        version, claim = given
        last, epoch = self.changes[-1:], claim.verdict["champion"]["epoch"]
        repeated = bool(last) and last[0]["verdict"] == claim.verdict_sha256 and last[0]["kind"] != "rollback" and last[0]["to"] == version
        doubtful = claim.verdict["verdict"] != "PASS" or version in self.refused
        lesson = {"name": f"lesson of {version}", "conditions": [], "failures": [{"row": 1}]}

        def attempt() -> int:
            reign = self.ledger.promote(self.model, version, claim=claim, why="so", who="x", override=override, lessons=[lesson])
            return reign.epoch

        if repeated:
            assert attempt() == len(self.changes)
        elif epoch != len(self.changes):
            with pytest.raises(OvertakenError):
                attempt()
        elif doubtful and not override:
            with pytest.raises(ExpostError, match=r"must have the verdict PASS|neither rejected nor rolled back from"):
                attempt()
        else:
            assert attempt() == epoch + 1
            self.done("override" if doubtful else "promote", version, claim.verdict_sha256)
            self.refused.discard(version)
            self.lessons += [lesson["name"]] if lesson["name"] not in self.lessons else []

    @rule(version=st.integers(1, 4), why=st.sampled_from(["bad", "worse"]))
    def reject(self, version: int, why: str) -> None:
        if version == self.reigning:
            with pytest.raises(ExpostError, match="must not reign"):
                self.ledger.reject(self.model, version, who="x", why=why)
            return
        self.ledger.reject(self.model, version, who="x", why=why)
        last = next(
            (deed for deed in reversed(self.deeds) if deed["to"] == version or (deed["kind"] == "rollback" and deed["from"] == version)), {}
        )
        if not (last.get("kind") == "reject" and last["why"] == why):
            self.done("reject", version)
            self.deeds[-1]["why"] = why
        self.refused.add(version)

    @rule(to=st.none() | st.integers(1, 4), times=st.integers(1, 2))
    def rollback(self, to: int | None, times: int) -> None:
        """However often it is asked for, it happens once."""
        target = self.expected_target(to)
        for _ in range(times):
            if target is None:
                with pytest.raises(ExpostError):
                    self.ledger.rollback(self.model, why="complaints", who="x", to=to)
                continue
            assert self.ledger.rollback(self.model, why="complaints", who="x", to=to).version == target
            if target != self.reigning:
                left = self.reigning
                assert left is not None
                self.done("rollback", target)
                self.refused = (self.refused | {left}) - {target}

    def expected_target(self, to: int | None) -> int | None:
        reigned = [deed["to"] for deed in self.changes]
        if to is None:
            if self.changes and self.changes[-1]["kind"] == "rollback":
                return self.reigning
            return next((version for version in reversed(reigned) if version != self.reigning and version not in self.refused), None)
        about = [deed for deed in self.deeds if deed["to"] == to or (deed["kind"] == "rollback" and deed["from"] == to)]
        return to if to in reigned and about[-1]["kind"] != "reject" else None

    @rule(key=st.sampled_from("abcd"), rows=ROWS)
    def look(self, key: str, rows: list[int]) -> None:
        if key not in self.keys:
            self.keys.add(key)
            self.counts.update(set(rows))
        assert self.ledger.count_look(self.model, key, rows) == max((self.counts[row] for row in rows), default=0)

    @rule()
    def start_again(self) -> None:
        self.ledger = Ledger(self.uri)

    @invariant()
    def the_epoch_counts_promotions_and_rollbacks_and_the_last_of_them_reigns(self) -> None:
        reign = self.ledger.reign(self.model)
        assert (reign.epoch, reign.version) == (len(self.changes), self.reigning)
        assert reign.digests == ({} if reign.version is None else digests(str(reign.version)))

    @invariant()
    def history_is_what_was_done_and_only_grows(self) -> None:
        rows = self.ledger.history(self.model)
        assert rows[: len(self.shown)] == self.shown
        self.shown = rows
        assert [(row["kind"], row["to_version"], row["from_version"]) for row in rows] == [
            (deed["kind"], deed["to"], deed["from"]) for deed in self.deeds
        ]
        assert [row["epoch"] for row in reigns.changes(rows)] == list(range(1, len(self.changes) + 1))
        assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
        assert set(reigns.refused(rows)) == self.refused

    @invariant()
    def the_floor_stands_at_the_first_champion_or_where_a_person_put_it(self) -> None:
        floor, floors = None, {}
        for deed in self.changes:
            if deed["kind"] == "rollback":
                floor = floors[deed["to"]]
            elif deed["kind"] == "override" or floor is None:
                floor = deed["to"]
            floors[deed["to"]] = floor
        found = reigns.anchor(self.shown)
        assert (found["to_version"] if found else None) == floor

    @invariant()
    def looks_and_lessons_are_counted(self) -> None:
        hashes, counts = self.ledger.look_counts(self.model)
        assert dict(zip(hashes.tolist(), counts.tolist(), strict=True)) == dict(self.counts)
        assert self.ledger.evaluations(self.model) == sorted(self.keys)
        lessons = self.ledger.lessons(self.model)
        assert [lesson["name"] for lesson in lessons] == self.lessons
        assert not any("failures" in lesson for lesson in lessons)


@pytest.mark.parametrize("kind", DATABASES)
def test_any_sequence_of_deeds(kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
    uri = address(kind, tmp_path_factory.mktemp(kind), request)
    machine = type("Machine", (Deeds,), {"uri": uri})
    examples = 25 if kind == "sqlite" else 4  # there each connection takes its time
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=25, suppress_health_check=list(HealthCheck), deadline=None)
    )
