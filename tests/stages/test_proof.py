"""The shipped model proves itself in a fresh process, or says in one message why it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import registry
from tests.registering import MODEL, register, uri


@pytest.fixture
def registered(ready: Path) -> Path:
    """A workspace with version 1 registered; returns the folder of its run's golden rows."""
    register("PASS")
    return next(Path("mlflow/artifacts").rglob("golden/golden.json")).parent


def test_a_version_that_is_what_was_made_proves_itself(registered: Path) -> None:
    registry.prove(MODEL, uri(), 1)
