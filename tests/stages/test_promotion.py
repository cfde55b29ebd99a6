"""From a verdict to a champion: prove, ledger, alias, mirror; killed in between, raced, approved, rejected and rolled back by people."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from flows.cli import app
from pipelines import champion, failpoints, publication, registry, store
from pipelines.bundle import Bundle
from pipelines.commands import explain, mirror, promotion, publish, reigning, status
from pipelines.errors import ExpostError
from pipelines.ledger import Ledger, OvertakenError
from pipelines.params import load
from pipelines.params.registry import Registry
from tests.conftest import edit_params
from tests.registering import DATA, MODEL, another_result, client, judge, made, register, silent, versions


def ledger_uri() -> str:
    return f"sqlite:///{Path.cwd()}/mlflow/ledger.db"


def ledger() -> Ledger:
    return Ledger(ledger_uri())


def pointed() -> int | None:
    """Where the alias points."""
    return registry.crowned(MODEL, client().tracking_uri)


def mirrored() -> int | None:
    version: int | None = json.loads(mirror.STATUS.read_text())["version"]
    return version


def second_result(word: str = "PASS") -> None:
    """Another result, judged against the champion that reigns."""
    another_result()
    judge(word)


def manual(folder: Path) -> None:
    edit_params(folder, lambda values: values["registry"].update(approval="manual"))


WHOLE = {
    "promote.prove": (0, None, None),
    "promote.ledger": (0, None, None),
    "promote.alias": (1, None, None),
    "promote.mirror": (1, 1, None),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_failure_at_any_step_is_made_good_by_publishing_again(
    ready: Path, monkeypatch: pytest.MonkeyPatch, proven: list[int], name: str
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, f"{name}:raise")
    with pytest.raises(OSError, match=re.escape(name)):
        publish.publish(DATA, silent)
    assert (ledger().reign(MODEL).epoch, pointed(), mirrored()) == WHOLE[name]
    monkeypatch.delenv(failpoints.VARIABLE)
    assert publish.publish(DATA, silent).promoted
    assert (ledger().reign(MODEL).epoch, pointed(), mirrored()) == (1, 1, 1)
    assert len(versions()) == len(ledger().history(MODEL)) == 1
    assert proven[-1] == 1


PUBLISH = "from pipelines.commands.publish import publish; publish('{}', print)"


def test_a_run_killed_between_ledger_and_alias_is_mended_at_the_next_start(ready: Path) -> None:
    """The whole of it in a process of its own, with the real proof."""
    killed = subprocess.run(
        [sys.executable, "-c", f"import os; os.environ['EXPOST_FAILPOINT'] = 'promote.alias:kill'; {PUBLISH.format(DATA)}"],
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (ledger().reign(MODEL).version, pointed(), mirrored()) == (1, None, None)
    said: list[str] = []
    for _ in range(2):
        assert mirror.refresh_mirror(said.append)["version"] == 1
        assert (ledger().reign(MODEL).epoch, pointed(), mirrored()) == (1, 1, 1)
    assert len(said) == 1
    assert "The alias champion is not set, but the ledger says that version 1 reigns" in said[0]


def test_an_alias_moved_by_hand_is_reported_and_set_back_and_never_served(ready: Path, proven: list[int]) -> None:
    publish.publish(DATA, silent)
    before = Bundle.load(mirror.BUNDLE).manifest
    second_result("FAIL")
    publish.publish(DATA, silent)
    client().set_registered_model_alias(MODEL, "champion", "2")
    drift = status.status()["drift"]
    assert drift.startswith("The alias champion points to version 2, but the ledger says that version 1 reigns: someone moved it")
    assert Bundle.load(mirror.BUNDLE).manifest == before
    said: list[str] = []
    for _ in range(2):
        mirror.refresh_mirror(said.append)
    assert said == [f"{drift} It was set back."]
    assert (pointed(), status.status()["drift"]) == (1, None)
    client().delete_registered_model_alias(MODEL, "champion")
    mirror.refresh_mirror(said.append)
    assert (pointed(), len(said)) == (1, 2)


def test_an_alias_set_late_gives_way_to_who_came_to_reign_meanwhile(
    ready: Path, proven: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process stands between reading the ledger and setting the alias while another promotes the next version."""
    publish.publish(DATA, silent)
    second_result()
    real = registry.crown

    def late(model: str, uri: str, version: int) -> None:
        monkeypatch.setattr(registry, "crown", real)
        publish.publish(DATA, silent)
        real(model, uri, version)

    monkeypatch.setattr(registry, "crown", late)
    assert mirror.set_alias(load(Registry), ledger()) == 2
    assert (pointed(), ledger().reign(MODEL).version) == (2, 2)


def test_a_mirror_that_another_process_writes_is_waited_for_and_then_kept(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PATIENCE", 0.2)
    said: list[str] = []
    with FileLock(mirror.LOCK):
        assert mirror.refresh_mirror(said.append)["state"] == "none"
    assert "kept as it is (none): one process at a time may write the mirror" in said[0]


def test_a_version_without_a_readable_verdict_is_explained_by_its_tag(ready: Path) -> None:
    register("FAIL")
    for logged in Path("mlflow/artifacts").rglob("verdict.json"):
        logged.write_text("{}")
    told = explain.explain(1)
    assert told["state"] == "blocked"
    assert any("Its reasons cannot be read" in sentence for sentence in told["sentences"])


def test_an_alias_without_a_champion_in_the_ledger_is_only_reported(ready: Path) -> None:
    judge("FAIL")
    publish.publish(DATA, silent)
    client().set_registered_model_alias(MODEL, "champion", "1")
    said: list[str] = []
    assert mirror.refresh_mirror(said.append)["state"] == "none"
    assert "points to version 1, but the ledger says that no version reigns" in said[0]


def test_a_version_that_fails_its_proof_is_not_promoted(ready: Path) -> None:
    """Its bundle changed in the store after it had been registered."""
    manual(ready)
    publish.publish(DATA, silent)
    policy = next(Path("mlflow/artifacts").rglob("bundle/policy.json"))
    policy.write_text(policy.read_text().replace("0", "1", 1))
    with pytest.raises(ExpostError, match="version 1 of model tested must prove itself in a fresh process"):
        reigning.promote(1, by="Ana", why="so", override=False, report=silent)
    assert (ledger().reign(MODEL).version, pointed()) == (None, None)


def test_the_mirror_carries_what_the_stages_need(ready: Path, proven: list[int]) -> None:
    lesson = {"name": "number <= 1", "conditions": [{"column": "number", "op": "<=", "value": 1}], "support": 9, "failures": [{"row": 3}]}
    store.write_json(made("decide/lessons.json"), {"rows": 9, "regret": 0.1, "lessons": [lesson]})
    store.write_json(made("evaluate/profile.json"), {"format": 1})
    publish.publish(DATA, silent)
    store.write_json(made("decide/lessons.json"), {"rows": 9, "regret": 0.1, "lessons": [lesson, {**lesson, "name": "colour is red"}]})
    second_result()
    publish.publish(DATA, silent)
    champion.main()
    out = Path("data/champion")
    found = json.loads((out / "status.json").read_text())
    assert (found["state"], found["version"], found["epoch"], found["first"]["version"]) == ("champion", 2, 2, 1)
    assert Bundle.load(out / "bundle").manifest["bundle_sha256"] == found["bundle_sha256"]
    assert Bundle.load(out / "first").manifest["bundle_sha256"] == found["first"]["bundle_sha256"] != found["bundle_sha256"]
    looks = np.load(out / "looks.npy", allow_pickle=False)
    assert looks.tolist() == [(1, 1), (2, 1), (2**64 - 1, 1)]
    assert looks.dtype.names == ("row_hash", "count")
    assert len(json.loads((out / "evaluations.json").read_text())) == 1
    kept = json.loads((out / "lessons.json").read_text())
    assert [(one["version"], one["name"], "failures" in one) for one in kept] == [(2, "number <= 1", False), (2, "colour is red", False)]
    for version in (1, 2):
        ledger().retire_lesson(MODEL, version, "number <= 1", why="gone")
    mirror.refresh_mirror(silent)
    assert [one["name"] for one in json.loads((mirror.MIRROR / "lessons.json").read_text())] == ["colour is red"]


def test_two_workspaces_race_and_the_loser_is_told(ready: Path, proven: list[int]) -> None:
    """Both judged against no champion; the second verdict is of no worth once the first was promoted."""
    stale = judge("PASS")["champion"]
    publish.publish(DATA, silent)
    another_result()
    store.write_json(promotion.VERDICT, {**judge("PASS"), "champion": stale})
    with pytest.raises(
        OvertakenError, match=r"must follow the champion that it was judged against, however: epoch 1 reigns, epoch 0 was judged"
    ):
        publish.publish(DATA, silent)
    assert mirrored() == 1


def test_with_manual_approval_a_pass_waits_and_a_person_promotes_it(ready: Path, proven: list[int]) -> None:
    manual(ready)
    outcome = publish.publish(DATA, silent)
    assert (outcome.waiting, outcome.promoted, outcome.blocked, outcome.version) == (True, False, False, 1)
    assert outcome.reasons[-1] == "Version 1 waits for review, as registry.approval: manual asks."
    assert publish.Outcome.from_json(outcome.as_json()) == outcome
    assert (status.status()["waiting"], [row["version"] for row in explain.waiting_now()]) == ([1], [1])
    assert (ledger().reign(MODEL).version, pointed(), proven) == (None, None, [])
    done = reigning.promote(1, by="Ana", why="reviewed", override=False, report=silent)
    assert (done["version"], done["epoch"], done["changed"], proven) == (1, 1, True, [1])
    assert (pointed(), mirrored(), explain.waiting_now()) == (1, 1, [])
    assert not reigning.promote(1, by="Ana", why="again", override=False, report=silent)["changed"]
    assert [(row["who"], row["why"]) for row in ledger().history(MODEL)] == [("Ana", "reviewed")]


def test_a_verdict_that_waited_too_long_is_refused_until_it_is_given_anew(ready: Path, proven: list[int]) -> None:
    manual(ready)
    version = register("PASS").version
    a_month_ago = Ledger(ledger_uri(), clock=lambda: datetime.now(UTC) - timedelta(days=31))
    a_month_ago.note_registration(MODEL, version, judge("PASS"), store.sha256(promotion.VERDICT))
    assert explain.explain(version)["state"] == "expired"
    with pytest.raises(ExpostError, match=r"at most 30 days old to promote .*registered with it 31\.0 days ago\. Run `expost retrain`"):
        reigning.promote(version, by="Ana", why="late", override=True, report=silent)
    assert proven == []
    assert publish.publish(DATA, silent).version == version
    assert reigning.promote(version, by="Ana", why="judged anew", override=False, report=silent)["changed"]


def test_a_verdict_by_other_criteria_promotes_nothing(ready: Path, proven: list[int]) -> None:
    manual(ready)
    publish.publish(DATA, silent)
    edit_params(ready, lambda values: values.setdefault("gate", {}).update(margin=0.2))
    for override in (False, True):
        with pytest.raises(ExpostError, match=r"judged by the section gate of params\.yaml as it is now, however: its gate_sha256 is"):
            reigning.promote(1, by="Ana", why="so", override=override, report=silent)
    assert (ledger().reign(MODEL).version, proven) == (None, [])


def test_a_verdict_by_other_costs_promotes_nothing(ready: Path, proven: list[int]) -> None:
    """The costs changed while the version waited for a person."""
    manual(ready)
    publish.publish(DATA, silent)
    edit_params(ready, lambda values: values["utility"]["matrix"]["bad"].update({"pass": -50}))
    for override in (False, True):
        with pytest.raises(
            ExpostError, match=r"section utility of params\.yaml as it is now, however: its utility_sha256 .* Run `expost gate`"
        ):
            reigning.promote(1, by="Ana", why="so", override=override, report=silent)
    assert (ledger().reign(MODEL).version, proven) == (None, [])
    edit_params(ready, lambda values: values["utility"]["matrix"]["bad"].update({"pass": -5}))
    assert reigning.promote(1, by="Ana", why="the costs are as they were", override=False, report=silent)["changed"]


def test_a_verdict_on_other_data_promotes_nothing(ready: Path, proven: list[int]) -> None:
    """The table was replaced between the verdict and the promotion."""
    table = Path("data/ingest/table.parquet")
    pl.read_parquet(table).head(-1).write_parquet(table)
    with pytest.raises(ExpostError, match=r"judged on the data of its version, however: its data_sha256 is"):
        publish.publish(DATA, silent)
    assert (ledger().reign(MODEL).version, proven) == (None, [])


def test_a_verdict_of_another_version_promotes_nothing(ready: Path, proven: list[int]) -> None:
    manual(ready)
    publish.publish(DATA, silent)
    verdict = promotion.VERDICT.read_bytes()
    second_result()
    promotion.VERDICT.write_bytes(verdict)
    edit_params(ready, lambda values: values["registry"].update(approval="auto"))
    with pytest.raises(ExpostError, match="a promotion must be of the very bundle that was judged, however: bundle_sha256 is"):
        publish.publish(DATA, silent)
    assert ledger().reign(MODEL).version is None


def test_a_verdict_forged_in_the_registry_promotes_nothing(ready: Path, proven: list[int]) -> None:
    """File and tags agree with each other, as whoever may write to the registry can make them, and not with the ledger."""
    judge("FAIL")
    assert publish.publish(DATA, silent).blocked
    forged = {**publish.read_verdict(), "verdict": "PASS"}
    store.write_json(Path("forged.json"), forged)
    sha256 = store.sha256(Path("forged.json"))
    logged = next(Path("mlflow/artifacts").rglob("gate/*/verdict.json"))
    place = logged.parents[2] / publication.verdict_place(sha256) / "verdict.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(Path("forged.json").read_bytes())
    for name, value in (("verdict", "PASS"), ("verdict_sha256", sha256)):
        client().set_model_version_tag(MODEL, "1", name, value)
    assert registry.verdict(MODEL, client().tracking_uri, 1)["verdict"] == "PASS"
    for override in (False, True):
        with pytest.raises(ExpostError, match="must carry a verdict that the ledger noted when its version was registered"):
            reigning.promote(1, by="Eve", why="it passed", override=override, report=silent)
    assert (ledger().reign(MODEL).version, proven) == (None, [])


def test_a_version_rejected_or_rolled_back_from_waits_for_a_person(ready: Path, proven: list[int]) -> None:
    publish.publish(DATA, silent)
    second_result()
    publish.publish(DATA, silent)
    reigning.rollback(to=None, by="Ana", why="complaints", report=silent)
    judge("PASS")  # what the next retraining on the same data finds
    outcome = publish.publish(DATA, silent)
    assert (outcome.version, outcome.waiting, outcome.promoted) == (2, True, False)
    assert re.match(r"Version 2 waits, since Ana rolled back from it on \d{4}-\d\d-\d\d: complaints", outcome.reasons[-1])
    with pytest.raises(ExpostError, match=r"Ana rolled back from it on .*`expost promote N --override`"):
        reigning.promote(2, by="Ben", why="I like it", override=False, report=silent)
    assert reigning.promote(2, by="Ben", why="it was the feed", override=True, report=silent)["changed"]
    assert [row["kind"] for row in ledger().history(MODEL)] == ["promote", "promote", "rollback", "override"]


@pytest.mark.parametrize("deed", ["rollback", "reject"])
def test_a_refused_bundle_does_not_come_back_under_another_number(ready: Path, proven: list[int], deed: str) -> None:
    """The same bundle from data of another digest is another version."""
    publish.publish(DATA, silent)
    second_result()
    if deed == "rollback":
        publish.publish(DATA, silent)
        reigning.rollback(to=None, by="Ana", why="complaints", report=silent)
    else:
        manual(ready)
        publish.publish(DATA, silent)
        reigning.reject(2, by="Ana", why="complaints")
        edit_params(ready, lambda values: values["registry"].update(approval="auto"))
    judge("PASS")
    outcome = publish.publish("f" * 32 + ".dir", silent)
    assert (outcome.version, outcome.waiting, outcome.promoted) == (3, True, False)
    done = "rolled back from" if deed == "rollback" else "rejected"
    assert re.match(rf"Version 3 waits, since Ana {done} version 2, which is the same bundle, on .*: complaints", outcome.reasons[-1])
    told = explain.explain(3)
    assert (told["state"], explain.waiting_now()) == ("rejected", [])
    assert any(f"{done} version 2, which is the same bundle" in sentence for sentence in told["sentences"])
    with pytest.raises(ExpostError, match="neither rejected nor rolled back from"):
        reigning.promote(3, by="Ben", why="I like it", override=False, report=silent)
    assert reigning.promote(3, by="Ben", why="it was the feed", override=True, report=silent)["version"] == 3
    assert reigning.rollback(to=None, by="Ben", why="it was not", report=silent)["version"] == 1


def test_a_rollback_serves_the_earlier_version_again_and_happens_once(ready: Path) -> None:
    """With the real proof: what reigns again scores its golden rows."""
    publish.publish(DATA, silent)
    first = Bundle.load(mirror.BUNDLE).manifest
    second_result()
    publish.publish(DATA, silent)
    assert (pointed(), mirrored()) == (2, 2)
    for changed in (True, False):
        done = reigning.rollback(to=None, by="Ana", why="complaints", report=silent)
        assert (done["version"], done["epoch"], done["changed"]) == (1, 3, changed)
        assert Bundle.load(mirror.BUNDLE).manifest == first
        assert (pointed(), mirrored()) == (1, 1)
        client().delete_registered_model_alias(MODEL, "champion")  # the second call mends the alias too
    mirror.refresh_mirror(silent)
    assert pointed() == 1


def said(*arguments: str, code: int = 0) -> str:
    """What a command of `expost` printed on stdout."""
    done = CliRunner().invoke(app, list(arguments))
    if code == 1:
        assert isinstance(done.exception, ExpostError), done.output
        return str(done.exception)
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout


def test_the_commands_of_a_reviewer(ready: Path, proven: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    manual(ready)
    made("report/review.html").write_text("<!doctype html><title>page of version 1</title>")
    assert said("review") == "nothing waits for review\n"
    assert said("history") == "no version has reigned yet\n"
    publish.publish(DATA, silent)
    assert said("review").startswith("version 1  PASS  registered ")
    shown = said("review", "1")
    assert "version 1: PASS\n  It was judged PASS.\nIt passed and waits for a person" in shown
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or True)
    told = json.loads(said("review", "1", "--json"))
    assert (told["state"], told["verdict"], told["page"]) == ("waiting", "PASS", str(ready / "mlflow/review/version-1.html"))
    said("review", "1", "--open")
    assert opened == [f"file://{ready}/mlflow/review/version-1.html"]
    assert "page of version 1" in Path(told["page"]).read_text()

    assert said("promote", "1", "--by", "Ana", "--why", "reviewed with Ben") == "version 1 reigns now, in epoch 1\n"
    second_result("FAIL")
    assert publish.publish(DATA, silent).blocked
    assert "must have the verdict PASS, however: it is FAIL" in said("promote", "2", "--by", "Ana", "--why", "so", code=1)
    assert said("reject", "2", "--by", "Ana", "--why", "worse") == "version 2 is rejected; the champion stays as it is\n"
    done = json.loads(said("promote", "2", "--by", "Ben", "--why", "withdrawn", "--override", "--json"))
    assert (done["version"], done["epoch"], done["changed"]) == (2, 2, True)
    assert said("rollback", "--why", "complaints", "--by", "Ana") == "version 1 reigns again, in epoch 3\n"
    assert said("rollback", "--why", "complaints", "--by", "Ana") == "version 1 reigned already, nothing was changed, in epoch 3\n"

    rows = json.loads(said("history", "--json"))
    assert [(row["kind"], row["to_version"], row["who"]) for row in rows] == [
        ("promote", 1, "Ana"),
        ("reject", 2, "Ana"),
        ("override", 2, "Ben"),
        ("rollback", 1, "Ana"),
    ]
    assert "override" in said("history")
    assert said("history", "--at", "2020-01-01") == "no version reigned\n"
    assert said("history", "--at", "2999-01-01").startswith("version 1 reigned, since 20")
    explained = said("explain", "2")
    for part in (
        "judged it FAIL against version 1, epoch 1:",
        "It was judged FAIL.",
        "It was rejected by Ana",
        "(override)",
        "by Ben",
        "withdrawn",
    ):
        assert part in explained
    assert explained.splitlines()[-1].startswith("It does not reign, and only `expost promote 2 --override` would let it")
    assert json.loads(said("explain", "1", "--json"))["state"] == "reigns"
    assert json.loads(said("status", "--json"))["epoch"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("promote", "9", "--by", "Ana", "--why", "so"), r"the version must be one of model tested, however: 9\. Versions: 1;"),
        (("explain", "9"), r"however: 9\. Versions: 1;"),
        (("reject", "1", "--by", "Ana", "--why", " "), "a rejection must say why"),
        (("promote", "1", "--by", "", "--why", "so"), "a promotion must say who decides"),
        (("promote", "1", "--by", "Ana", "--why", ""), "a promotion must say why"),
        (("reject", "1", "--by", " ", "--why", "so"), "a rejection must say who decides"),
        (("rollback", "--by", "\t", "--why", "so"), "a rollback must say who decides"),
        (("rollback", "--why", ""), "a rollback must say why"),
        (("rollback", "--why", "so"), "there must be an earlier champion to roll back to"),
        (("rollback", "--to", "4", "--why", "so"), "version 4 never did"),
        (("reject", "1", "--by", "Ana", "--why", "so"), r"version 1 does\. Use `expost rollback"),
        (("history", "--at", "soon"), "a time must be written like"),
        (("review", "1", "--open"), "must have a review page"),
    ],
)
def test_what_a_reviewer_cannot_do_is_one_message(ready: Path, proven: list[int], arguments: tuple[str, ...], message: str) -> None:
    publish.publish(DATA, silent)
    assert re.search(message, said(*arguments, code=1))
