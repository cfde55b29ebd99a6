"""Helpers of the ledger's tests: claims that hold, and the two databases that a ledger may live in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipelines.admission import DIGESTS, Claim
from pipelines.ledger import Ledger, Reign
from tests.postgres import new_database

MODEL = "m"
DATABASES = ("sqlite", "postgresql")


def address(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """Address of an empty database of this kind."""
    return f"sqlite:///{folder}/ledger.db" if kind == "sqlite" else new_database(request.getfixturevalue("postgres_server"))


def digests(of: str) -> dict[str, str]:
    """The three digests of a bundle called `of`."""
    return {name: hashlib.sha256(f"{name} {of}".encode()).hexdigest() for name in DIGESTS}


def judged(of: str, reign: Reign, word: str = "PASS", **changed: Any) -> Claim:
    """What is known of the bundle `of`, judged against the one that reigns."""
    champion = {"state": "none" if reign.version is None else "champion", "version": reign.version, "epoch": reign.epoch, **reign.digests}
    verdict = {"verdict": word, "challenger": digests(of), "champion": champion, "data_sha256": "d" * 64, "gate_sha256": "a" * 64}
    sha256 = hashlib.sha256(f"{of} {word} {reign.epoch}".encode()).hexdigest()
    return Claim(
        **{"digests": digests(of), "verdict": verdict, "verdict_sha256": sha256, "data_sha256": "d" * 64, "gate_sha256": "a" * 64} | changed
    )


def promoted(ledger: Ledger, version: int, **options: Any) -> Reign:
    """Promote `version` on a verdict given now."""
    return ledger.promote(
        MODEL, version, claim=judged(str(version), ledger.reign(MODEL)), **{"why": "it passed", "who": "tester", **options}
    )
