"""A network of the user's: through the stages to a prediction, and one error before training for each thing it can do wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from pipelines import store, train, usercode
from pipelines.bundle import Bundle
from pipelines.commands.check import check_params
from pipelines.commands.paramsfile import render
from pipelines.commands.predict import predict
from pipelines.errors import ExpostError
from pipelines.network import own
from pipelines.network.stack import Stack
from pipelines.network.task import Task
from pipelines.params import load, parse
from pipelines.params.train import Own, Train
from tests.stages.shipped import mixed_table, run_stages, write_world

HEAD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, number_count, cardinalities, classes, width=8, fails=None):
        super().__init__()
        if fails:
            raise OSError(f"no {fails}")
        self.tables = nn.ModuleList(nn.Embedding(count, 3) for count in cardinalities)
        self.body = nn.Sequential(nn.Linear(number_count + 3 * len(cardinalities), width), nn.BatchNorm1d(width), nn.GELU(), nn.Dropout(0.1))
        self.output = nn.Linear(width, classes)

    def body_of(self, inputs):
        codes = inputs["categories"].unbind(dim=1)
        return self.body(torch.cat([inputs["numbers"], *[table(code) for table, code in zip(self.tables, codes)]], dim=1))
"""
GOOD = "h = self.body_of(inputs); return self.output(h), h"
SAMPLE = {"numbers": torch.randn(9, 5), "categories": torch.randint(0, 3, (9, 2))}
GIVEN = {"number_count": 5, "cardinalities": [3, 4], "classes": 2, "image_shape": None}


def write(folder: Path, module: str, body: str) -> None:
    """A module with the class Net, whose `forward` is `body`."""
    text = HEAD + "\n    def forward(self, inputs):\n" + "".join(f"        {line}\n" for line in body.split("; "))
    (folder / f"{module}.py").write_text(text)


def settings(path: str, **arguments: Any) -> Own:
    return Own.model_validate({"class": path, "arguments": arguments})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_a_network_of_the_users_goes_from_ingest_to_a_prediction_and_scoring_needs_no_class(place: Path) -> None:
    write(place, "whole", GOOD)
    write_world(place, network={"class": "whole.Net", "arguments": {"width": 6}})
    run_stages("ingest", "split", "train", "calibrate", "decide", "package")
    (place / "whole.py").unlink()
    assert np.load("data/train/embeddings.npy").shape[1] == 6
    mixed_table(50, seed=1).drop("outcome").write_csv("new.csv")
    assert predict("new.csv", "scored.csv", "data/package/bundle").rows == 50
    scored = pl.read_csv("scored.csv")
    np.testing.assert_allclose(scored["probability_good"] + scored["probability_bad"], 1, atol=1e-9)
    assert Bundle.load("data/package/bundle").network.widths["embedding"] == 6


def test_on_folds_too_whatever_one_network_holds(place: Path) -> None:
    write(place, "folded", GOOD)
    write_world(place, network="folded.Net")
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["split"] |= {"folds": 3, "repeats": 1}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    run_stages("ingest", "split", "train")
    assert store.read_json(store.stage_path("train", "metrics.json"))["networks"] == 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return self.output(self.body_of(inputs))", r"however: it returned a tensor \(2, 2\) of float32\. Mend forward of wrong"),
        ("h = self.body_of(inputs); return h, h", r"however: logits are a tensor \(2, 8\) of float32, where the last size must be the 2 classes"),
        ("h = self.body_of(inputs); return self.output(h)[0], h", r"however: logits are a tensor \(2,\) of float32"),
        ("h = self.body_of(inputs); return self.output(h), h[:1]", r"embedding are a tensor \(1, 8\)"),
        ("h = self.body_of(inputs); return self.output(h), h[:, None]", r"logits are a tensor \(2, 2\) of float32 and embedding is a tensor \(2, 1, 8\)"),
        ("h = self.body_of(inputs); return self.output(h).tolist(), h", r"however: logits are a list of 2: a list of 2: a float"),
        ("h = self.body_of(inputs); return self.output(h).double(), h", r"logits are a tensor \(2, 2\) of float64"),
        ("return self.output(inputs['numbers']), 0", r"however: RuntimeError: mat1 and mat2 .* \(wrong\d+\.py, line 19\)\. Mend forward"),
        ("h = self.body_of(inputs).detach(); return h[:, :2], h", r"however: no weight of it can be trained"),
        ("h = self.body_of(inputs); return self.output(h - h.mean(0)), h", r"must score each row by itself, in any batch, however: logits of a row"),
        ("h = self.body_of(inputs); return self.output(h) / 0, h", r"must return .*finite.*, however: logits have values that are NaN or infinite\. Mend"),
        ("h = self.body_of(inputs); return self.output(h), h if self.training else h * float('nan')", r"embedding have values that are NaN"),
        ("h = self.body_of(inputs); return (self.output(h), h) if self.training else None", r"must score each row by itself.*or have another shape"),
        ("h = self.body_of(inputs).sort(dim=1).values; return self.output(h), h", r"exportable to ONNX, .* however: it uses operators .*\[':TopK'\]\. Write it"),
        ("h = torch.special.bessel_j0(self.body_of(inputs)); return self.output(h), h", r"however: the operator prims.bessel_j0 has no ONNX form\. Write"),
        ("h = self.body_of(inputs); h = h * 2 if h.sum() > -1e9 else h; return self.output(h), h", r"exportable to ONNX, .*chosen by values of the rows \(\w+\.py, line \d+\); torch\.where .*no branch on values"),
        ("h = self.body_of(inputs); return self.output(h.view(len(h), 8)), h", r"must take any number of rows, however: what was exported takes two alone"),
    ],
)  # fmt: skip
def test_each_wrong_answer_is_one_error_before_training(place: Path, body: str, said: str, request: pytest.FixtureRequest) -> None:
    module = f"wrong{request.node.callspec.indices['body']}"
    write(place, module, body)
    with pytest.raises(ExpostError, match=said):
        own.maker(settings(f"{module}.Net"), GIVEN, SAMPLE)


def test_nothing_learns_beside_a_network_that_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, "refused", "return self.output(self.body_of(inputs))")
    write_world(place, network="refused.Net", trees={}, logistic={})
    run_stages("ingest", "split")
    monkeypatch.setattr(Task, "partners", lambda *_: pytest.fail("trees and regression were fitted first"))
    with pytest.raises(ExpostError, match="Mend forward of refused"):
        train.main()


def test_a_class_that_cannot_be_had_names_the_path_and_the_remedy(place: Path) -> None:
    write(place, "had", GOOD)
    (place / "broken.py").write_text("import torch\nx = 1 / 0\n")
    for path, arguments, said in (
        ("absent.Net", {}, r"such as absent\.Net, however: ModuleNotFoundError: No module named 'absent'\. Put its file in the workspace"),
        ("broken.Net", {}, r"ZeroDivisionError: division by zero \(broken\.py, line 2\)"),
        ("had.Nett", {}, r"must name a torch\.nn\.Module, however: had has no Nett"),
        ("had.HEAD", {}, r"had has no HEAD"),
        ("had.torch", {}, r"had\.torch is <module 'torch'"),
        ("had.Net", {"depth": 3}, r"had\.Net must be built from train\.network\.arguments, however: TypeError: .*'depth'"),
        ("had.Net", {"fails": "weights"}, r"however: OSError: no weights \(had\.py, line 9\)\. It got"),
    ):
        with pytest.raises(ExpostError, match=said):
            own.maker(settings(path, **arguments), GIVEN, SAMPLE)


def test_a_constructor_that_names_nothing_is_told_that_it_gets_nothing(place: Path) -> None:
    write(place, "unnamed", GOOD)
    text = (place / "unnamed.py").read_text().replace("self, number_count, cardinalities, ", "self, *rest, ", 1)
    (place / "unnamed.py").write_text(text.replace("        super", "        number_count, cardinalities = rest\n        super", 1))
    said = r"ValueError: .*\. It got .*'classes'.*\. Let its constructor name what else it needs of number_count, cardinalities, image_shape: \*args and"
    with pytest.raises(ExpostError, match=said):
        own.maker(settings("unnamed.Net"), GIVEN, SAMPLE)
    write(place, "named", GOOD)
    with pytest.raises(ExpostError, match=r"OSError") as error:
        own.maker(settings("named.Net", fails="weights"), GIVEN, SAMPLE)
    assert "kwargs" not in str(error.value)


def test_members_are_taken_as_they_are_and_the_random_state_is_left_alone(place: Path) -> None:
    write(place, "members", "h = self.body_of(inputs)[:, None].expand(-1, 3, -1); return self.output(h), h")
    torch.manual_seed(5)
    build = own.maker(settings("members.Net"), GIVEN, SAMPLE)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(5))
    logits, embedding = build()(SAMPLE)
    assert (logits.shape, embedding.shape) == ((9, 3, 2), (9, 3, 8))


def test_frozen_and_shared_weights_stay_so_side_by_side() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
            self.two.weight = self.one.weight

        def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.two(self.one(inputs["x"]))[:, None]
            return h, h

    tied, frozen = [Tied() for _ in range(2)], [torch.nn.Linear(3, 3).requires_grad_(False) for _ in range(2)]
    stack = Stack(tied, {"x": torch.randn(2, 3)})
    assert not stack.vectorised
    Tied().load_state_dict(stack.state(1))
    assert not any(weight.requires_grad for weight in Stack(frozen, {}).parameters())


def test_an_edit_of_the_class_is_another_training(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine/__init__.py").write_text("from mine.nets import Net\n")
    (place / "mine/nets.py").write_text("from . import layers\nimport helper, torch\nimport pipelines.store\n")
    (place / "mine/layers.py").write_text("")
    (place / "helper.py").write_text("import nothing.of.ours\n")
    assert usercode.files("mine.Net") == ["helper.py", "mine/__init__.py", "mine/layers.py", "mine/nets.py"]
    assert usercode.files("torch.nn.Linear") == []
    write_world(place, network="mine.Net")
    run_stages("ingest", "split")
    before = train.checkpoint_path(load(Train))
    (place / "mine/layers.py").write_text("x = 1\n")
    assert train.checkpoint_path(load(Train)) != before


def test_dvc_must_watch_the_files_of_the_class(place: Path) -> None:
    write(place, "watched", GOOD)
    write_world(place, network="watched.Net")
    check_params()
    (place / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": {"deps": ["data/split", {"pipelines/train.py": {}}]}}}))
    with pytest.raises(
        ExpostError, match=r"must stand under deps of the stage train in dvc\.yaml.*however: watched\.py does not\. Add `- watched\.py`"
    ):
        check_params()
    (place / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": {"deps": ["data/split", "watched.py"]}}}))
    check_params()


def test_the_stage_itself_ends_with_one_message(place: Path) -> None:
    write_world(place, network="nowhere.Net")
    run_stages("ingest", "split")
    environment = {**os.environ, "EXPOST_PARAMS_CHECKED": "1"}
    done = subprocess.run([sys.executable, "-m", "pipelines.train"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: train.network must name a class") and done.stderr.count("\n") == 1


def test_the_section_takes_a_path_a_mapping_or_tabm_and_refuses_the_rest() -> None:
    assert parse(Train, {"network": "a.Net"}, "train").network == settings("a.Net")
    assert parse(Train, {"network": {"class": "a.Net", "arguments": {"x": [1]}}}, "train").network == settings("a.Net", x=[1])
    for value, said in (
        ("tabm", r"train\.network: a network's class must be a module and a class with dots between, however: got 'tabm'"),
        (
            {"class": "a.Net", "argument": {}},
            r"train\.network\.argument must be a known key, however: .* did you mean arguments\? Known keys: class, arg",
        ),
        ({"kk": 3}, r"train\.network\.kk must be a known key, however: kk is unknown; did you mean k\? Known keys: k, blocks"),
        ({"k": 0}, r"train\.network\.k must be greater"),
        ({"arguments": {}}, r"train\.network\.class must be given"),
    ):
        with pytest.raises(ExpostError, match=said):
            parse(Train, {"network": value}, "train")


def test_params_yaml_is_written_with_it() -> None:
    section = parse(Train, {"network": {"class": "a.Net", "arguments": {"x": [1, "two"]}}}, "train")
    text = render({"train": section}, {})
    assert 'class: "a.Net"  # dotted path' in text
    assert parse(Train, yaml.safe_load(text)["train"], "train") == section


def test_a_study_varies_what_any_network_has() -> None:
    from pipelines.network import tune

    given = parse(Train, {"network": "a.Net"}, "train")
    assert {*tune.SPACE} & {*tune.dotted(given)} == {"learning_rate", "weight_decay"}
    assert tune.with_values(given, {"learning_rate": 0.01}).network == given.network
