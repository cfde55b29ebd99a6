"""Two retrainings at once, for real: one promotes while the other is about to, which then judges anew against the new champion."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from prefect import flow

from flows import retrain
from flows.workspace import exclusive
from pipelines import registry, store
from pipelines.admission import DIGESTS, Claim
from pipelines.bundle import Bundle, write_manifest
from pipelines.commands.publish import Outcome
from pipelines.ledger import Ledger, Reign
from pipelines.params import load
from pipelines.params.registry import Registry
from tests.stages.judging import other_policy
from tests.stages.shipped import renew_golden


def rival(folder: Path) -> Path:
    """What the other retraining made: the same network with another policy."""
    shutil.copytree("data/package", folder)
    other_policy(folder / "bundle")
    write_manifest(folder / "bundle")
    renew_golden(folder)
    return folder / "bundle"


def promoted(ledger: Ledger, params: Registry, bundle: Path) -> Reign:
    """The other retraining registers and promotes its result, from its own workspace, of which this one knows nothing."""
    manifest, reign = Bundle.load(bundle).manifest, ledger.reign(params.model)
    digests = {name: str(manifest[name]) for name in DIGESTS}
    champion = {"state": "champion", "version": reign.version, "epoch": reign.epoch, **reign.digests}
    verdict = {"verdict": "PASS", "challenger": digests, "champion": champion, "data_sha256": "d" * 64, "gate_sha256": "a" * 64}
    made = registry.register(params.model, params.tracking_uri, data_digest="of the other", verdict=verdict, folder=bundle)
    return ledger.promote(
        params.model, made.version, claim=Claim(digests, verdict, "b" * 64, "d" * 64, "a" * 64), why="it was faster", who="other"
    )


def test_the_loser_judges_anew_against_the_new_champion(workspace_copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = load(Registry)
    ledger = Ledger(params.ledger_uri)
    stale = store.read_json(Path("data/gate/verdict.json"))  # PASS, given when no champion reigned
    assert (stale["verdict"], stale["champion"]["state"], ledger.reign(params.model).epoch) == ("PASS", "none", 1)
    new = promoted(ledger, params, rival(tmp_path / "rival"))

    @flow(name="publish-only")
    def publishing() -> dict[str, object]:
        with exclusive():
            return retrain._published("this one").as_json()

    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(caplog.handler)
    try:
        outcome = Outcome.from_json(publishing())
    finally:
        logger.removeHandler(caplog.handler)
    (said,) = {message for message in caplog.messages if "Another run was faster" in message}  # a logger may have more than one handler
    assert "epoch 2 reigns, epoch 0 was judged" in said
    verdict = json.loads(Path("data/gate/verdict.json").read_text())
    assert (verdict["champion"]["version"], verdict["champion"]["epoch"]) == (new.version, new.epoch)
    assert outcome.verdict == verdict["verdict"]
    history = ledger.history(params.model)
    assert [row["to_version"] for row in history] == [1, new.version, *([outcome.version] if outcome.promoted else [])]
    assert ledger.reign(params.model).epoch == len(history)
