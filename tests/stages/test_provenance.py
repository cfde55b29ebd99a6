"""What a result was made of: nothing after the stage package counts, everything before it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import provenance
from pipelines.errors import ExpostError
from tests.conftest import ROOT
from tests.stages.shipped import write_lock


def changed(lock: Path, change: Callable[[dict[str, Any]], Any]) -> set[str]:
    """Names of the digests that a change of the lock's stages changes."""
    write_lock(lock.parent)
    before, value = provenance.digests(lock), yaml.safe_load(lock.read_text())
    change(value["stages"])
    lock.write_text(yaml.safe_dump(value))
    after = provenance.digests(lock)
    return {name for name in after if after[name] != before[name]}


def params(stage: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda stages: stages[stage]["params"]["params.yaml"][stage].update(values)


@pytest.mark.parametrize(
    "change, names",
    [
        (params("train", seed=7), {"seed"}),
        (params("train", max_epochs=5), {"configuration_digest"}),
        (params("ingest", target="other"), {"configuration_digest"}),
        (params("gate", alpha=0.1), set()),
        (lambda stages: stages["train"]["deps"][0].update(md5="f"), {"code_digest"}),
        (lambda stages: stages["package"].update(cmd="python -m other"), {"code_digest"}),
        (lambda stages: stages["gate"]["deps"][0].update(md5="f"), set()),
        (lambda stages: stages.pop("gate"), set()),
        (lambda stages: stages["ingest"]["deps"].append({"path": "data/expectations.json", "md5": "f"}), {"configuration_digest"}),
        (lambda stages: [dep.update(md5="f") for stage in stages.values() for dep in stage["deps"][1:]], set()),  # data has its own digest
    ],
)
def test_a_digest_follows_what_it_names_and_nothing_else(tmp_path: Path, change: Callable[[dict[str, Any]], Any], names: set[str]) -> None:
    assert changed(tmp_path / "dvc.lock", change) == names


def test_a_seed_that_is_not_written_is_the_default(tmp_path: Path) -> None:
    write_lock(tmp_path)
    assert provenance.digests(tmp_path / "dvc.lock")["seed"] == "0"


@pytest.mark.parametrize("text", [None, "", "schema: '2.0'\nstages: {train: {cmd: a}}\n"])
def test_a_lock_that_does_not_record_the_package_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(ExpostError, match=r"must record how the result was made, however: it (is missing|has no entry for package)"):
        provenance.digests(tmp_path / "dvc.lock")


def test_of_the_real_stages_all_up_to_package_count(tmp_path: Path) -> None:
    defined = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    stages = {
        name: {"cmd": entry["cmd"], "deps": [{"path": path, "md5": "0"} for path in entry["deps"]], "outs": [{"path": entry["outs"][0]}]}
        for name, entry in defined.items()
    }
    counted = set()
    for name, entry in stages.items():
        other = {**stages, name: {**entry, "cmd": "other"}}
        digests = []
        for value in (stages, other):
            (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": value}))
            digests.append(provenance.digests(tmp_path / "dvc.lock"))
        counted |= {name} if digests[0] != digests[1] else set()
    assert counted == {"ingest", "validate", "split", "train", "calibrate", "decide", "package"}
