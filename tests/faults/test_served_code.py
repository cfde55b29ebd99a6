"""A registered version whose MLflow files were changed to run code of their own: none of our commands ever runs it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.commands import mirror, publish
from pipelines.registry import prove
from tests.conftest import run
from tests.registering import DATA, MODEL, judge, silent, uri
from tests.stages.shipped import mixed_table

PAYLOAD = "from pathlib import Path\nPath({marker!r}).touch()\ndef _load_pyfunc(path):\n    return None\n"


@pytest.fixture
def marker(ready: Path) -> Path:
    """A version that reigns, whose MLmodel names a loader in its own code/; returns the file that this code makes when it runs."""
    judge("PASS")
    assert publish.publish(DATA, silent).promoted
    found = ready / "payload-has-run"
    stored = next(Path("mlflow/artifacts").rglob("MLmodel"))
    (stored.parent / "code").mkdir()
    for name in ("payload", "sitecustomize", "pipelines"):
        (stored.parent / f"code/{name}.py").write_text(PAYLOAD.format(marker=str(found)))
    model = yaml.safe_load(stored.read_text())
    model["flavors"]["python_function"] = {"loader_module": "payload", "code": "code", "env": {}}
    stored.write_text(yaml.safe_dump(model))
    (stored.parent / "python_env.yaml").write_text("dependencies: [evil]\n")
    return found


def test_code_in_a_version_is_never_run_by_our_commands(ready: Path, marker: Path) -> None:
    prove(MODEL, uri(), 1)
    shutil.rmtree(mirror.MIRROR)
    assert mirror.refresh_mirror(silent)["version"] == 1
    mixed_table(20, seed=9).drop("outcome").write_csv("new.csv")
    done = run("expost", "predict", "new.csv", "scored.csv", "--version", "1", cwd=ready)
    assert done.returncode == 0, done.stderr
    assert Path("scored.csv").exists()
    assert not marker.exists()

    # the trap is one: MLflow's own loader runs it
    run(sys.executable, "-c", f"import mlflow; mlflow.pyfunc.load_model('models:/{MODEL}/1')", cwd=ready, MLFLOW_TRACKING_URI=uri())
    assert marker.exists()
