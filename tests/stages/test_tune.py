"""`expost tune`: a study that goes on, is shared, is confirmed by other seeds, and changes nothing but the values that it found."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from pipelines.commands import tune
from pipelines.errors import ExpostError
from pipelines.network import tune as studies
from pipelines.params.train import Train
from tests.stages.judging import params
from tests.stages.shipped import TINY


@pytest.fixture
def split(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the split of the small world and nothing after it, as the current directory."""
    folder = tmp_path / "workspace"
    for name in ("data/ingest", "data/split"):
        shutil.copytree(world / name, folder / name)
    shutil.copy(world / "params.yaml", folder)
    monkeypatch.chdir(folder)
    params(folder, lambda values: values["train"].update(max_epochs=2))
    monkeypatch.setattr(tune, "SEEDS", 2)
    return folder


def written_out(split: Path) -> None:
    """All that is varied stands in params.yaml, as `init` writes it."""
    params(
        split,
        lambda values: values["train"].update(learning_rate=0.0003, weight_decay=0.003) or values["train"]["network"].update(dropout=0.1),
    )


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom permissions hold back; the current directory stays within reach."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def run(**options: Any) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    return tune.tune(**{"trials": 4, "storage": None, "write": False, **options}, told=said.append), said


def test_a_study_begins_with_what_stands_goes_on_and_is_confirmed_by_other_seeds(split: Path) -> None:
    found, said = run()
    assert found["trials"] == 4
    assert said[0].startswith("trial 0: held-out log loss ")
    assert f"learning_rate {Train().learning_rate:.3g}" in said[0]
    assert set(found["best"]) == set(studies.SPACE)
    assert found["best"] != found["present"], "the tiny network's two epochs want a larger step"
    assert len(found["confirmed"]["present"]) == found["confirmed"]["seeds"] == 2
    assert found["confirmed"]["low"] <= found["confirmed"]["saved"] <= found["confirmed"]["high"]
    again, more = run(trials=5)
    assert (again["study"], again["trials"]) == (found["study"], 5)
    assert next(line for line in more if line.startswith("trial")).startswith("trial 4: ")
    assert json.loads(json.dumps(again)) == again


def test_another_configuration_is_another_study_and_what_is_varied_is_not(split: Path) -> None:
    now = tune.study_name(Train.model_validate(TINY))
    varied = {**TINY, "learning_rate": 0.01, "weight_decay": 0.1}
    assert tune.study_name(Train.model_validate(varied)) == now
    assert tune.study_name(Train.model_validate({**TINY, "loss": "brier"})) != now


def test_two_processes_share_the_trials(split: Path) -> None:
    code = "from pipelines.commands import tune; tune.SEEDS = 2; print(tune.tune(trials=6, storage=None, write=False, told=lambda _: None)['trials'])"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [int(process.communicate(timeout=300)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(6 <= count <= 7 for count in counts)  # a trial that the other had begun ends too


def test_a_difference_that_other_seeds_do_not_show_changes_nothing(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_out(split)
    before = Path("params.yaml").read_bytes()
    level = {"seeds": 2, "present": [0.5, 0.5], "best": [0.4, 0.6], "saved": 0.0, "low": -1.0, "high": 1.0}
    monkeypatch.setattr(tune, "_confirmed", lambda *_: level)
    found, _ = run(write=True)
    assert not found["written"]
    assert Path("params.yaml").read_bytes() == before


def test_the_best_is_written_where_it_is_surely_better_and_all_else_stays(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_out(split)
    before = yaml.safe_load(Path("params.yaml").read_text())
    monkeypatch.setattr(tune, "_confirmed", lambda *_: {"seeds": 2, "present": [], "best": [], "saved": 0.1, "low": 0.05, "high": 0.2})
    found, _ = run(write=True, trials=6)
    after = yaml.safe_load(Path("params.yaml").read_text())
    assert found["written"]
    assert after["train"]["learning_rate"] == pytest.approx(found["best"]["learning_rate"], abs=1e-6)
    assert after["train"]["network"]["width"] == found["best"]["network.width"]
    for section in before:
        assert section == "train" or after[section] == before[section]


def test_a_file_that_cannot_be_written_is_refused_before_a_trial(split: Path) -> None:
    """By the command itself: one message, exit code 1, and all files as they were."""
    written_out(split)
    (split / "params.yaml").chmod(0o444)
    before = contents()
    code = "import sys; sys.argv = ['expost', 'tune', '--write']; from flows.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"error: params\.yaml must be a file that --write can replace, however: [^\n]+\. Let yourself write [^\n]+\n", done.stderr
    )
    assert contents() == before


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda: Path().chmod(0o555), "params.yaml must be a file that --write can replace, however: Permission denied"),
        (lambda: Path("params.yaml").chmod(0o444), "params.yaml must be a file that --write can replace, however: Permission denied"),
        (lambda: Path("params.yaml").unlink(), "params.yaml must exist"),
    ],
)
def test_no_trial_is_spent_where_its_outcome_could_not_be_written(split: Path, fault: Callable[[], None], said: str) -> None:
    written_out(split)
    split.chmod(0o777)
    (split / "params.yaml").chmod(0o666)
    fault()
    before = contents()
    with unprivileged(), pytest.raises(ExpostError, match=re.escape(said)):
        run(write=True)
    split.chmod(0o777)
    assert contents() == before


def test_a_value_that_does_not_stand_in_the_file_is_asked_for_before_a_trial(split: Path) -> None:
    with pytest.raises(
        ExpostError, match=r"must hold train\.learning_rate as a plain value.*Write train\.learning_rate: 0\.00\d+ yourself"
    ):
        run(write=True)
    assert not Path(".checkpoints").exists()


def test_a_file_that_became_unwritable_during_the_study_loses_no_trial(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_out(split)

    def confirmed(*_: Any) -> dict[str, Any]:
        Path(".params.yaml.writing").mkdir()
        return {"seeds": 2, "present": [], "best": [], "saved": 0.1, "low": 0.05, "high": 0.2}

    monkeypatch.setattr(tune, "_confirmed", confirmed)
    before = Path("params.yaml").read_bytes()
    with pytest.raises(ExpostError, match=r"that --write can replace, however: Is a directory.*The study is kept"):
        run(write=True)
    assert Path("params.yaml").read_bytes() == before


def test_values_are_replaced_in_place_with_their_comments() -> None:
    text = "a: 1\ntrain:  # learns\n  learning_rate: 0.002  # step\r\n  network:\n    width: 64  # units\nb: {c: 1}\n"
    made = tune.replaced(text, {"train.learning_rate": 0.01, "train.network.width": 128})
    assert made == text.replace("0.002", "0.01").replace("64", "128")
    with pytest.raises(ExpostError, match=r"params\.yaml must hold train\.network\.dropout as a plain value"):
        tune.replaced(text, {"train.network.dropout": 0.2})


def test_a_study_in_postgresql(split: Path, postgres_server: sa.URL) -> None:
    address = postgres_server.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    found, _ = run(trials=2, storage=address)
    again, said = run(trials=2, storage=address)
    assert again["best"] == found["best"]
    assert not [line for line in said if line.startswith("trial")]


def test_a_storage_out_of_reach_is_one_message(split: Path) -> None:
    with pytest.raises(ExpostError, match="--storage must be a database within reach"):
        run(storage="sqlite:////nowhere/at/all/study.db")
