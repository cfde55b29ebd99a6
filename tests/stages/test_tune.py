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
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from flows.cli.tune import _show
from pipelines.commands import tune
from pipelines.errors import ExpostError, NotFiniteError
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
    varied = {**TINY, "learning_rate": 0.01, "weight_decay": 0.1, "network": {**TINY["network"], "width": 128, "dropout": 0.3}}
    assert tune.study_name(Train.model_validate(varied)) == now
    assert tune.study_name(Train.model_validate({**TINY, "loss": "brier"})) != now
    for name, value in {"k": 8, "blocks": 3, "number_embedding": 8, "text_embedding": 8, "bins": 8}.items():
        assert tune.study_name(Train.model_validate({**TINY, "network": {**TINY["network"], name: value}})) != now, name
    residual = [Train.model_validate({"network": {"kind": "residual", **given}}) for given in ({}, {"dropout": 0.3}, {"blocks": 2})]
    names = [tune.study_name(given) for given in residual]
    assert names[0] == names[1] != names[2]


def test_two_processes_share_the_trials(split: Path) -> None:
    code = "from pipelines.commands import tune; tune.SEEDS = 2; print(tune.tune(trials=6, storage=None, write=False, told=lambda _: None)['trials'])"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [int(process.communicate(timeout=300)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(6 <= count <= 7 for count in counts)  # a trial that the other had begun ends too
    [journal] = Path(".checkpoints/tune").glob("*.journal")
    tried = [trial.params for trial in studies.done(studies.open_study(journal.stem, None, journal))]
    assert all(tried.count(values) == 1 for values in tried)


class Instant:
    """A task whose training takes no time; `during` is called in the first one."""

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self.during: list[Callable[[], None]] = [during]

    def fit(self, given: Train, *_: Any) -> Any:
        while self.during:
            self.during.pop()()
        return SimpleNamespace(history=[0.5], valid_log_loss=abs(given.learning_rate - 0.004) + given.weight_decay)


def search(trials: int, name: str = "study", task: Any = None) -> list[dict[str, Any]]:
    """What one call after another tried, by number: each opens the study anew, as a process does."""
    study = studies.open_study(name, None, Path(f"{name}.journal"))
    studies.run(study, task or Instant(), Train(), trials=trials, told=lambda _: None)
    return [trial.params for trial in study.trials]


def test_later_and_simultaneous_calls_repeat_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for trials in (3, 5, 12, 14):
        later = search(trials)
    assert all(later.count(values) == 1 for values in later)
    assert later == search(14, "at_once"), "how a study is divided into calls changes nothing"
    both = search(16, "both", Instant(during=lambda: search(8, "both") and None))
    assert len(both) == 16
    assert all(both.count(values) == 1 for values in both)
    assert both[0] == later[0] == {name: studies.dotted(Train())[name] for name in studies.SPACE}


FRAGILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, number_count, cardinalities, classes, most):
        super().__init__()
        self.body, self.output = nn.Linear(number_count, 4), nn.Linear(4, classes)
        self.moved, self.most = nn.Parameter(torch.zeros(1)), most

    def forward(self, inputs):
        hidden = torch.tanh(self.body(inputs["numbers"]))
        shift = torch.where(self.moved.abs() > self.most, torch.nan, self.moved)  # AdamW moves it by the learning rate
        return self.output(hidden) + torch.cat([shift + 5, -shift]), hidden  # far from the classes' shares: all steps lead one way
"""


def fragile(split: Path, monkeypatch: pytest.MonkeyPatch, *, most: float, learning_rate: float) -> None:
    """A network whose loss is no number as soon as its steps led further than `most`; ten steps are taken at most."""
    (split / "fragile.py").write_text(FRAGILE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    network = {"class": "fragile.Net", "arguments": {"most": most}}
    params(split, lambda values: values["train"].update(network=network, learning_rate=learning_rate, max_epochs=1, batch_size=4096))


def test_a_trial_that_diverges_ends_no_study(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fragile(split, monkeypatch, most=0.03, learning_rate=0.0005)
    found, said = run()
    diverged = [line for line in said if re.match(r"trial \d: held-out log loss not finite with learning_rate 0\.0", line)]
    assert (found["trials"], found["pruned"]) == (4, len(diverged))
    assert 1 <= len(diverged) <= 2
    assert found["best"] != found["present"]
    assert None not in found["confirmed"]["best"]


def test_parameters_that_diverge_as_they_stand_are_one_message(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fragile(split, monkeypatch, most=0.0001, learning_rate=0.002)
    with pytest.raises(ExpostError, match=r"must be finite, however: .*Lower train\.learning_rate"):
        run()


def test_a_study_whose_trials_all_diverge_is_one_message(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fragile(split, monkeypatch, most=0.00001, learning_rate=0.5)
    with pytest.raises(ExpostError, match="a study must have a trial that ends with a finite loss, however: the losses of all 2 became"):
        run(trials=2)


def test_a_best_that_diverges_with_another_seed_is_not_better(
    split: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written_out(split)
    before = Path("params.yaml").read_bytes()

    def fitted(_: Any, given: Train, watchers: tuple[Any, ...] = ()) -> Any:
        if given.learning_rate > 0.001 and given.seed == 2:
            raise NotFiniteError("the training loss must be finite, however: it is nan. Lower train.learning_rate.")
        return SimpleNamespace(history=[0.5], valid_log_loss=1 - given.learning_rate)

    monkeypatch.setattr(studies, "fitted", fitted)
    found, said = run(write=True)
    assert found["confirmed"]["best"] == [1 - found["best"]["learning_rate"], None]
    assert said[-1].endswith("as it stands, not finite with the study's best")
    assert (found["better"], found["written"]) == (False, False)
    assert Path("params.yaml").read_bytes() == before
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    _show(found, write=True)
    assert "With 1 of 2 other seeds its loss is not finite.\nThat is not surely better" in capsys.readouterr().out


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
