"""The gate on real data: A/A runs, two seeds of one configuration against each other, and mutants of a challenger that must never pass.

`python -m benchmarks.gate_real [--pairs N] [--tables TABLE ...]` writes benchmarks/results/gate_real.json. Costs are those given with each
table; `expost init`'s defaults but for the Optuna study, which is left out for time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.common import machine, make_workspace, run, save
from benchmarks.repeated import edit_params, run_stages
from benchmarks.tasks import given, init_arguments
from pipelines.bundle import write_manifest

TRAINED = ("train", "calibrate", "decide", "package")
JUDGED = ("champion", "evaluate", "gate")
PAIRS = {"telco_churn": 10, "german_credit": 10}
MUTATED = 3  #: splits per table on which the mutants are judged


def changed(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file of a bundle in place."""
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def replaced(folder: Path, output: str, *nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None) -> None:
    """Let `nodes` make `output` of the network from what it was, now called `before`."""
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == output:
                    names[place] = "before"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in (constants or {}).items())
    onnx.save(model, folder / "model.onnx")


def negated(folder: Path) -> None:
    """The logits with the other sign."""
    replaced(folder, "logits", helper.make_node("Neg", ["before"], ["logits"]))


def constant(folder: Path) -> None:
    """The same logits in every row."""
    replaced(
        folder,
        "logits",
        helper.make_node("Mul", ["before", "nothing"], ["logits"]),
        constants={"nothing": np.float32(0) + np.zeros((), np.float32)},
    )


def nan(folder: Path) -> None:
    """NaN for the logits of every row."""
    log = (helper.make_node("Mul", ["before", "nothing"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["logits"]))
    replaced(folder, "logits", *log, constants={"nothing": np.zeros((), np.float32)})


def swapped(folder: Path) -> None:
    """The class names in the other order: what is said of one class is meant of the other."""
    changed(folder, "schema.json", lambda schema: schema.update(classes=schema["classes"][::-1]))
    changed(folder, "policy.json", lambda policy: policy.update(classes=policy["classes"][::-1]))
    if "classes" in json.loads((folder / "calibrator.json").read_text()):
        changed(folder, "calibrator.json", lambda calibrator: calibrator.update(classes=calibrator["classes"][::-1]))


def noise(folder: Path) -> None:
    """An embedding of noise: the sine of a million times its values."""
    nodes = (helper.make_node("Mul", ["before", "million"], ["far"]), helper.make_node("Sin", ["far"], ["embedding"]))
    replaced(folder, "embedding", *nodes, constants={"million": np.array(1e6, np.float32)})


MUTANTS: dict[str, Callable[[Path], None]] = {
    "negated scores": negated,
    "constant score": constant,
    "NaN": nan,
    "swapped classes": swapped,
    "embedding replaced by noise": noise,
}


def begin(name: str, folder: Path) -> None:
    """A workspace on a real table with its official or customary costs."""
    run("expost", "init", *init_arguments(given(name), folder.parent), cwd=folder)
    edit_params(folder, lambda params: params["decide"].update(policies=["analytic", "exact"]))


def train(folder: Path, seed: int) -> None:
    """Train and package with a seed, on the split as it stands."""
    edit_params(folder, lambda params: params["train"].update(seed=seed))
    run_stages(folder, TRAINED)


def crown(folder: Path) -> None:
    """Let the packaged bundle reign."""
    mirror = folder / "mlflow/champion"
    shutil.rmtree(mirror, ignore_errors=True)
    shutil.copytree(folder / "data/package/bundle", mirror / "bundle")
    manifest = json.loads((mirror / "bundle/manifest.json").read_text())
    digests = {name: manifest[name] for name in ("bundle_sha256", "weights_sha256", "policy_sha256")}
    (mirror / "status.json").write_text(json.dumps({"state": "champion", "version": 1, "epoch": 1, **digests}))


def judged(folder: Path) -> dict[str, Any]:
    """The verdict, and what blamed the challenger."""
    run_stages(folder, JUDGED)
    verdict = json.loads((folder / "data/gate/verdict.json").read_text())
    shutil.rmtree(folder / "mlflow/looks", ignore_errors=True)  # each judgement here is a first look
    utility = next((item for item in verdict["criteria"] if item["criterion"] == "utility"), {})
    return {
        "verdict": verdict["verdict"],
        "blamed": sorted({item["criterion"] for item in verdict["criteria"] if item["verdict"] not in ("PASS", "INSUFFICIENT_DATA")}),
        "utility": {name: utility.get(name) for name in ("estimate", "low", "high", "margin", "rows", "rows_needed")},
        "negative_flips": next((item["estimate"] for item in verdict["criteria"] if item["criterion"] == "negative_flips"), None),
    }


def mutants(folder: Path) -> dict[str, dict[str, Any]]:
    """Each mutant of the challenger in the workspace, judged against the champion there."""
    bundle, found = folder / "data/package/bundle", {}
    shutil.copytree(bundle, folder / "honest")
    for name, change in MUTANTS.items():
        change(bundle)
        write_manifest(bundle)
        found[name] = judged(folder)
        shutil.rmtree(bundle)
        shutil.copytree(folder / "honest", bundle)
    labels = folder / "data/split/labels.npy"
    true = np.load(labels)
    np.save(labels, np.random.default_rng(0).permutation(true))
    run_stages(folder, TRAINED)
    np.save(labels, true)
    found["shuffled labels"] = judged(folder)
    shutil.rmtree(folder / "honest")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the pairs and the mutants of each table and write what the gate said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="*", default=list(PAIRS))
    parser.add_argument("--pairs", type=int, help="pairs per table, default 10")
    chosen = parser.parse_args(arguments)
    results: dict[str, Any] = {"machine": machine(), "tables": {}}
    for name in chosen.tables:
        pairs, mutated = [], []
        with tempfile.TemporaryDirectory() as temporary:
            folder = make_workspace(Path(temporary) / "workspace")
            begin(name, folder)
            run_stages(folder, ("ingest",))
            for salt in range(1, (chosen.pairs or PAIRS[name]) + 1):
                edit_params(folder, lambda params, salt=salt: params["split"].update(salt=str(salt)))
                run_stages(folder, ("split",))
                train(folder, 0)
                crown(folder)
                train(folder, 1)
                pairs.append({"salt": salt, **judged(folder)})
                print(name, pairs[-1], flush=True)
                if salt <= MUTATED:
                    mutated.append({"salt": salt, **mutants(folder)})
                    print(name, {key: value["verdict"] for key, value in mutated[-1].items() if key != "salt"}, flush=True)
                results["tables"][name] = {"pairs": pairs, "mutants": mutated}
                save("gate_real", results)


if __name__ == "__main__":
    main()
