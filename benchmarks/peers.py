"""The whole pipeline, as users run it, beside peers that get all rows outside the holdout: cost per case, probabilities, time and memory.

`expost init` with its defaults, nothing tuned per table. The salts name the repetitions, that is the splits. The best peer of a table is
chosen on other salts (101 onwards) than those that are reported (1 onwards). What is done stands in benchmarks/results/peers.json and is
not done again as long as the code, the packages and the rows that it belongs to are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.common import RESULTS, ROOT, Ran, machine, make_workspace, measured, run, write_json
from benchmarks.comparison import EXPOST, HALVED, SEEDS, TRIVIAL, overall, summarise
from benchmarks.peer import figures
from benchmarks.repeated import STAGES, edit_params, feature_frame, measure_stages
from benchmarks.tasks import ELSEWHERE, TASKS, Given, Task, given, init_arguments
from benchmarks.textpeer import EVERY, NEEDED, TEXT, reading
from pipelines.errors import ExpostError

PIPELINE_PACKAGES = ("lightgbm", "lightning", "numpy", "onnxruntime", "optuna", "scikit-learn", "scipy", "tabm", "torch")
ONCE = ("ingest", "validate")  #: stages that do not depend on the salt
AFTER_SPLIT = STAGES[STAGES.index("split") + 1 :]
FIRST_SELECTION_SALT = 101
SMALL, SALTS_SMALL, SALTS_LARGE = 10_000, 10, 3  #: rows up to which a table gets the larger number of salts

FORMAT = f"""
A directory in the same form holds one table (Parquet, CSV or TSV) and a task.json such as
  {{"target": "outcome", "positive": "yes", "fn": 5, "fp": 1, "ignore": ["id"], "group": "patient"}}
  {{"target": "grade", "cost": {{"good": {{"sell": 0, "bin": 1}}, "bad": {{"sell": 9, "bin": 0}}}}}}
{Task.__doc__}"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.peers", description=__doc__, epilog=FORMAT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", default=list(TASKS), metavar="TABLE", help=f"{', '.join(TASKS)}, or a directory; default all")
    parser.add_argument("--salts", type=int, help=f"repetitions; {SALTS_SMALL} up to {SMALL:,} rows, {SALTS_LARGE} above")
    parser.add_argument("--halved", type=int, default=3, help="of them with the training run again in half the epochs; default 3")
    parser.add_argument("--seeded", type=int, default=1, help="of them with the training run again with two other seeds; default 1")
    parser.add_argument("--results", type=Path, default=RESULTS / "peers.json", help="the file to go on with")
    arguments = parser.parse_args(argv)
    try:
        chosen = [given(name) for name in arguments.tables]
    except ExpostError as error:
        raise SystemExit(str(error)) from None
    path: Path = arguments.results
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"tables": {}}
    left_out = {name: task.left_out for name, task in TASKS.items() if task.left_out} | ELSEWHERE
    results |= {"machine": machine(), "left_out": left_out}
    for one in chosen:
        if one.task.left_out:
            left_out[one.name] = one.task.left_out
            continue
        for entry in compare(one, results["tables"].get(one.name, {}), arguments.salts, arguments.halved, arguments.seeded):
            results["tables"][one.name] = entry
            results["overall"] = overall(results["tables"])
            write_json(path, results)
        print(one.name, json.dumps(results["tables"][one.name]["summary"]["ratio"], indent=1), flush=True)
    write_json(path, results)


def compare(one: Given, before: dict[str, Any], salts: int | None, halved: int, seeded: int) -> Any:
    """Bring a table's entry up to date, salt by salt; yields it whenever there is more to keep, at last with its summary."""
    entry: dict[str, Any] = {"reported": {}, "selection": {}, **before}
    with tempfile.TemporaryDirectory() as temporary:
        table = prepare(one, Path(temporary))
        entry |= {"rows": table.rows, "classes": len(table.U), "task": one.task.model_dump(exclude_defaults=True)}
        readers, left_out = reading(pd.read_parquet(table.inputs / "features.parquet"))
        entry["left_out"] = left_out | {name: f"{package} is not installed" for name in readers if (package := missing(name))}
        repetitions = salts or (SALTS_SMALL if table.rows <= SMALL else SALTS_LARGE)
        chosen = {
            "selection": range(FIRST_SELECTION_SALT, FIRST_SELECTION_SALT + repetitions),
            "reported": range(1, repetitions + 1),
        }
        for purpose, numbers in chosen.items():
            for salt in numbers:
                kept = entry[purpose].setdefault(str(salt), {})
                wanted = [name for name in readers if name not in entry["left_out"]]
                if purpose == "reported":
                    wanted = [EXPOST, *([HALVED] if salt <= halved else []), *(SEEDS if salt <= seeded else []), *wanted]
                for name, found in repetition(table, salt, wanted, kept):
                    if name == EXPOST:  # half the epochs and other seeds of an older one are nothing to compare it with
                        for other in (HALVED, *SEEDS):
                            kept.pop(other, None)
                    kept[name] = found
                    print(one.name, salt, name, f"{found['cost']:.4f}", flush=True)
                    yield entry
        use = {purpose: {str(salt): entry[purpose][str(salt)] for salt in numbers} for purpose, numbers in chosen.items()}
        yield entry | {"summary": summarise(use["reported"], use["selection"])}


@dataclass(frozen=True)
class Table:
    """A table in a workspace of its own, ingested: its features as the peers take them, utility matrix `(K, A)`, seconds of what ran once."""

    folder: Path
    inputs: Path
    rows: int
    U: np.ndarray
    once: Mapping[str, Ran]
    actions: tuple[str, ...]
    digest: str


def prepare(one: Given, temporary: Path) -> Table:
    """`expost init` and the stages that do not depend on the salt; writes the peers' features and utility."""
    folder, inputs = make_workspace(temporary / "workspace"), temporary / "inputs"
    inputs.mkdir()
    run("expost", "init", *init_arguments(one, temporary), cwd=folder)
    once = measure_stages(folder, ONCE)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    table = pd.read_parquet(folder / "data/ingest/table.parquet")
    X = feature_frame(table, params["ingest"]["columns"])
    X.columns = pd.Index([f"column {place}" for place in range(X.shape[1])])  # LightGBM refuses some characters in names
    X.to_parquet(inputs / "features.parquet")
    matrix = params["utility"]["matrix"]
    actions = tuple(next(iter(matrix.values())))
    U = np.array([[float(matrix[name][action]) for action in actions] for name in params["ingest"]["classes"]])
    np.save(inputs / "utility.npy", U)
    digest = digest_of(*(inputs / name for name in ("features.parquet", "utility.npy")))
    return Table(folder, inputs, len(X), U, once, actions, digest)


def repetition(table: Table, salt: int, wanted: list[str], kept: Mapping[str, Mapping[str, Any]]) -> Any:
    """Split with the salt, and yield name and result of each learner of `wanted` whose result is not kept, or belongs to something else."""
    params = edit_params(table.folder, lambda params: params["split"].update(salt=str(salt)))
    spent = {**table.once, **measure_stages(table.folder, ("split",))}
    split = table.folder / "data/split"
    parts, labels = np.load(split / "parts.npy"), np.load(split / "labels.npy")
    inside = parts >= 0  # rows left out because their copy stands in a later part
    pd.read_parquet(table.inputs / "features.parquet")[inside].to_parquet(table.inputs / "rows.parquet")
    np.save(table.inputs / "labels.npy", labels[inside])
    np.save(table.inputs / "held.npy", parts[inside] == 3)
    rows = {"holdout_rows": int((parts == 3).sum()), "rows_outside": int(np.isin(parts, (0, 1, 2)).sum())}
    keys = {name: key(name, table, params) for name in wanted}
    for name in wanted:
        if kept.get(name, {}).get("key") == keys[name]:
            continue
        if name == EXPOST:
            found = pipeline(table, spent)
        elif name == HALVED:
            found = pipeline(table, spent, max_epochs=max(1, kept[EXPOST]["epochs"] // 2))
        elif name in SEEDS:
            found = pipeline(table, spent, seed=SEEDS[name])
        else:
            found = peer(name, table)
        yield name, {**found, **rows, "key": keys[name], "commit": commit()}
    if EXPOST in wanted:
        yield TRIVIAL, {**trivial(table.U, labels[inside], parts[inside] == 3), **rows}


def pipeline(table: Table, spent: Mapping[str, Ran], **train: int) -> dict[str, Any]:
    """Train to evaluate on the split as it stands, with changes of the section `train`, and score the holdout's rows that `evaluate` wrote."""
    before = (table.folder / "params.yaml").read_text()
    edit_params(table.folder, lambda params: params["train"].update(train))
    try:
        ran = {**spent, **measure_stages(table.folder, AFTER_SPLIT)}
    finally:
        (table.folder / "params.yaml").write_text(before)
    data = table.folder / "data"
    rows = pd.read_parquet(data / "evaluate/rows.parquet")
    classes = yaml.safe_load((table.folder / "params.yaml").read_text())["ingest"]["classes"]
    probability = rows[[f"challenger_probability_{name}" for name in classes]].to_numpy(np.float64)
    labels, actions = (
        rows[column].map({name: place for place, name in enumerate(names)}).to_numpy(np.int64)
        for column, names in (("label", classes), ("challenger_action", table.actions))
    )
    return {
        **figures(probability, labels, actions, table.U),
        "fit_seconds": ran["train"].seconds,
        "seconds": sum(stage.seconds for stage in ran.values()),
        "stage_seconds": {name: stage.seconds for name, stage in ran.items()},
        "peak_mb": max(stage.peak_mb or 0.0 for stage in ran.values()),
        "epochs": json.loads((data / "train/metrics.json").read_text())["epochs"],
        "policy": json.loads((data / "decide/summary.json").read_text()).get("chosen"),
    }


def peer(name: str, table: Table) -> dict[str, Any]:
    """A peer in a fresh process: its figures, seconds of fitting alone and of the whole process, and the process's peak memory."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file, called in (("rows.parquet", "features.parquet"), ("labels.npy",) * 2, ("held.npy",) * 2, ("utility.npy",) * 2):
            (folder / called).symlink_to(table.inputs / file)
        module = "benchmarks.textpeer" if name in TEXT else "benchmarks.peer"
        ran = measured(sys.executable, "-m", module, name, str(folder), cwd=ROOT, OMP_WAIT_POLICY="PASSIVE")
        return {**json.loads((folder / "result.json").read_text()), "seconds": ran.seconds, "peak_mb": ran.peak_mb}


def trivial(U: np.ndarray, labels: np.ndarray, held: np.ndarray) -> dict[str, float]:
    """The one action that is best outside the holdout, and the class shares there as probabilities."""
    shares = np.bincount(labels[~held], minlength=len(U)) / (~held).sum()
    rows = int(held.sum())
    return figures(np.tile(shares, (rows, 1)), labels[held], np.full(rows, (shares @ U).argmax()), U)


def key(name: str, table: Table, params: Mapping[str, Any]) -> str:
    """What a result belongs to: the rows and the split, and the code, packages and parameters that made it."""
    rows = digest_of(*(table.inputs / file for file in ("labels.npy", "held.npy")))
    if name in EVERY:
        more = ["benchmarks/textpeer.py"] if name in TEXT else ["benchmarks/weighted_tabm.py"] if "TabM" in name else []
        files, packages, told = ["benchmarks/peer.py", *more], NEEDED[name], None
    else:
        files, packages, told = pipeline_files(), PIPELINE_PACKAGES, params
    return fingerprint([name, table.digest, rows], files, packages, told)


def pipeline_files() -> list[str]:
    """The code of the stages up to the holdout's scores."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return sorted({path for stage in STAGES for path in stages[stage]["deps"] if path.endswith(".py")})


def fingerprint(what: list[str], files: list[str], packages: tuple[str, ...], told: Any) -> str:
    """Digest of what a result is of, the code and the packages that made it, and what they were told."""
    versions = {package: version(package) for package in packages}
    text = json.dumps([*what, digest_of(*(ROOT / path for path in files)), versions, told], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of(*paths: Path) -> str:
    """SHA-256 of the files' contents, one after the other."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()


def missing(name: str) -> str | None:
    """A package that the peer needs and that is not installed."""
    for package in NEEDED[name]:
        try:
            version(package)
        except PackageNotFoundError:
            return package
    return None


def commit() -> str:
    """The checkout's commit, with -dirty where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
