"""The shipped model proves itself: this process fetches a version from the registry and scores the golden rows logged with it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pipelines import golden, registry, store
from pipelines.bundle import Bundle
from pipelines.errors import ExpostError


def prove(model: str, tracking_uri: str, version: int) -> None:
    """Fetch `version`, verify it and score its golden rows with the bundle alone; raises ExpostError where anything is not as it was."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        digest = registry.fetch_golden(model, tracking_uri, version, folder)
        registry.fetch_bundle(model, tracking_uri, version, folder / "bundle")
        golden.check(Bundle.load(folder / "bundle"), folder, digest)


def main(arguments: list[str]) -> None:
    """`python -m pipelines.proof MODEL VERSION`, the store's address in MLFLOW_TRACKING_URI: silent where all is well, else one message."""
    if len(arguments) != 2:
        raise ExpostError("usage: python -m pipelines.proof MODEL VERSION")
    prove(arguments[0], "", int(arguments[1]))


if __name__ == "__main__":
    store.run_stage(lambda: main(sys.argv[1:]), checks=False)
