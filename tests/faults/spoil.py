"""What makes a challenger's bundle worse, one thing at a time; each takes the folder `data/package/bundle` and leaves its manifest stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipelines.core import policy


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def cutoff(decided: dict[str, Any]) -> float:
    """Log-odds above which a policy of two classes and two actions takes the second action."""
    return policy.offset_of_cutoff(0.0, decided["matrix"]) - (decided["offsets"][1] - decided["offsets"][0])


def move_cutoff(folder: Path, cut: float) -> None:
    """Let the bundle's policy take the second action above the log-odds `cut`."""
    old = read(folder / "policy.json")
    given = {name: old[name] for name in ("kind", "classes", "actions", "unit")}
    given["prior"] = old.get("prior")
    new = policy.make(given.pop("kind"), cells=old["matrix"], offsets=[0.0, policy.offset_of_cutoff(cut, old["matrix"])], **given)
    (folder / "policy.json").write_text(json.dumps(new))


def a_shifted_threshold(folder: Path) -> None:
    move_cutoff(folder, cutoff(read(folder / "policy.json")) + 2.0)


def overconfidence_with_the_same_actions(folder: Path, times: float = 4.0) -> None:
    """All log-odds times `times`, the policy's cut-off too."""
    calibrator = read(folder / "calibrator.json")
    scaled = {"slope": times * calibrator["slope"], "bias": [times * value for value in calibrator["bias"]]}
    (folder / "calibrator.json").write_text(json.dumps({**calibrator, **scaled}))
    move_cutoff(folder, times * cutoff(read(folder / "policy.json")))


def a_hair_of_calibration(folder: Path) -> None:
    """Another calibrator, for its bytes and digest, that behaves as before."""
    overconfidence_with_the_same_actions(folder, 1.0 + 1e-9)


def _replaced(folder: Path, output: str, *nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None) -> None:
    """Let `nodes` make `output` of the model from what it was, now called `OUTPUT_before`."""
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == output:
                    names[place] = f"{output}_before"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in (constants or {}).items())
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")


def noise_for_an_embedding(folder: Path) -> None:
    """The sine of a million times its values: noise that is the same each time, as a network must be."""
    stretched = helper.make_node("Mul", ["embedding_before", "a_million"], ["embedding_stretched"])
    noise = helper.make_node("Sin", ["embedding_stretched"], ["embedding"])
    _replaced(folder, "embedding", stretched, noise, constants={"a_million": np.array(1e6, dtype=np.float32)})


def nan_for_one_input(folder: Path, output: str, first_number: np.float32) -> None:
    """`output` is NaN for the rows whose first encoded number is exactly `first_number`."""
    _replaced(
        folder,
        output,
        helper.make_node("Gather", ["numbers", "spoilt_column"], ["spoilt_values"], axis=1),
        helper.make_node("Equal", ["spoilt_values", "spoilt_value"], ["spoilt_rows"]),
        helper.make_node("Where", ["spoilt_rows", "spoilt_nan", f"{output}_before"], [output]),
        constants={
            "spoilt_column": np.array([0], dtype=np.int64),
            "spoilt_value": np.array(first_number, dtype=np.float32),
            "spoilt_nan": np.array(np.nan, dtype=np.float32),
        },
    )
