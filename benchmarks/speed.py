"""Wall time and memory of the whole pipeline on the default data: `python -m benchmarks.speed`.

Every figure is one run in a fresh temporary workspace; Prefect's server start is shown apart, by running the same retraining
against a server that already runs.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import largest_child_mb, machine, make_workspace, run, save

#: bounds that the project promises on two cores, in seconds or MB
BOUNDS = {
    "dvc repro from nothing": 60,
    "dvc repro unchanged": 6,
    "expost retrain from nothing": 90,
    "expost retrain unchanged": 20,
    "stages after a change of utility": 20,
    "largest process": 1500,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["PREFECT_HOME"] = f"{temporary}/prefect"
        figures = local(Path(temporary) / "dvc") | flow(Path(temporary) / "flow")
        figures["largest process"] = largest_child_mb()
    save("speed", {"machine": machine(), "figures": figures, "bounds": BOUNDS})
    for name, value in figures.items():
        print(f"{name:48s} {value:8.1f}  bound {BOUNDS.get(name, '-')}")


def local(folder: Path) -> dict[str, float]:
    """`dvc repro` as the scientist runs it."""
    make_workspace(folder)
    run("expost", "sync", "--data-only", cwd=folder)
    first = run("dvc", "repro", cwd=folder).seconds
    weights = weights_digest(folder)
    unchanged = run("dvc", "repro", cwd=folder).seconds
    params = (folder / "params.yaml").read_text()
    changed = params.replace('"no biopsy": -10', '"no biopsy": -20')
    assert changed != params, "the default utility matrix is not where it was"
    (folder / "params.yaml").write_text(changed)
    after = run("dvc", "repro", cwd=folder)
    assert "Running stage 'train'" not in after.output and weights_digest(folder) == weights, "a change of utility retrained the network"
    return {"dvc repro from nothing": first, "dvc repro unchanged": unchanged, "stages after a change of utility": after.seconds}


def flow(folder: Path) -> dict[str, float]:
    """`expost retrain` against a running server, then with the ephemeral one, whose start is the difference."""
    make_workspace(folder)
    with prefect_server() as url:
        first = run("expost", "retrain", cwd=folder, PREFECT_API_URL=url).seconds
        settle = run("expost", "retrain", cwd=folder, PREFECT_API_URL=url).seconds
        unchanged = run("expost", "retrain", cwd=folder, PREFECT_API_URL=url).seconds
    ephemeral = run("expost", "retrain", cwd=folder).seconds
    return {
        "expost retrain from nothing": first,
        "expost retrain right after a promotion": settle,
        "expost retrain unchanged": unchanged,
        "Prefect's ephemeral server start": ephemeral - unchanged,
    }


def weights_digest(folder: Path) -> str:
    """Digest of the weights in the bundle that stands."""
    manifest: dict[str, Any] = json.loads((folder / "data/package/bundle/manifest.json").read_text())
    return str(manifest["weights_sha256"])


@contextmanager
def prefect_server() -> Iterator[str]:
    """A Prefect server on a free loopback port; yields its API URL when it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [str(Path(sys.executable).parent / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise RuntimeError("the Prefect server did not answer within two minutes")
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


if __name__ == "__main__":
    main()
