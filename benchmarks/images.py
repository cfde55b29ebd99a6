"""Images on their official test part: the whole pipeline, as users run it, beside published figures of small networks.

`expost init` with its defaults. The official test part is the holdout, and the other rows are drawn into train, valid and calib. Each
seed trains anew on the same parts. What is done stands in benchmarks/results/images.json and is not done again as long as the code, the
packages, the parameters and the data that it belongs to are the same.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from benchmarks.common import REAL_DATA, RESULTS, Ran, machine, make_workspace, run, write_json
from benchmarks.peers import AFTER_SPLIT, PIPELINE_PACKAGES, commit, digest_of, fingerprint, pipeline_files
from benchmarks.repeated import edit_params, measure_stages
from benchmarks.tasks import Given, Task, init_arguments
from pipelines.core import metrics
from pipelines.core.bounds import Interval, bootstrap_mean
from pipelines.errors import ExpostError, must

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
HOLDOUT = 3
PARTS = ("train", "valid", "calib", "holdout")
PACKAGES = (*PIPELINE_PACKAGES, "pillow", "polars")
#: Ways to act on the same probabilities.
SHIPPED, LEAST, LIKELIEST, TRIVIAL = "expost's policy", "least expected cost", "the likeliest class's action", "always the same action"
EMPTY: dict[str, Any] = {"seeds": {}}


@dataclass(frozen=True)
class Published:
    """A published network with its figures on the same test part, from memory."""

    name: str
    accuracy: float
    auc: float | None
    parameters: int
    training: str


@dataclass(frozen=True)
class Images:
    """Images with official parts: the table's file, the test part's where it is one of its own, the task, seeds by default, what is published."""

    table: str
    holdout: str | None
    task: Task
    seeds: int
    published: Published


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_RIGHT = {true: {action: float(true != action) for action in _CIFAR10} for true in _CIFAR10}
DATA: dict[str, Images] = {
    "pneumoniamnist": Images(
        "pneumoniamnist.npz",
        None,
        Task(target="label", positive="1", fn=5, fp=1),
        3,
        Published("ResNet-18 at 28 pixels (MedMNIST v2, Yang et al. 2023)", 0.854, 0.944, 11_200_000, "100 epochs"),
    ),
    "cifar10": Images(
        "train.parquet",
        "test.parquet",
        Task(target="label", cost=_RIGHT),
        1,
        Published("ResNet-20 (He et al. 2016)", 0.9125, None, 270_000, "64,000 steps of 128, about 164 epochs"),
    ),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.images", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(DATA), metavar="NAME", help=f"{', '.join(DATA)}; default both")
    parser.add_argument("--seeds", type=int, help="trainings; default 3 for pneumoniamnist, 1 for cifar10")
    parser.add_argument("--minutes", type=float, help="train.max_minutes: each training ends at the end of an epoch after so many")
    parser.add_argument("--results", type=Path, default=RESULTS / "images.json", help="the file to go on with")
    arguments = parser.parse_args(argv)
    if wrong := set(arguments.names) - set(DATA):
        parser.error(f"names must be of {', '.join(DATA)}, however: got {', '.join(sorted(wrong))}")
    path: Path = arguments.results
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"data": {}}
    results["machine"] = machine()
    for name in arguments.names:
        seeds = range(arguments.seeds or DATA[name].seeds)
        try:
            for entry in measure(name, results["data"].get(name, EMPTY), seeds, arguments.minutes):
                results["data"][name] = entry
                write_json(path, results)
        except ExpostError as error:
            raise SystemExit(str(error)) from None
        print(name, json.dumps(results["data"][name]["summary"], indent=1), flush=True)


def measure(name: str, before: Mapping[str, Any], seeds: range, minutes: float | None) -> Iterator[dict[str, Any]]:
    """Bring an entry up to date, seed by seed; yields it whenever there is more to keep, with the summary of the seeds asked for."""
    one, entry = DATA[name], {**before, "seeds": dict(before["seeds"])}
    entry |= {"published": asdict(one.published), "minutes": minutes, "costs": one.task.fn is not None}
    with tempfile.TemporaryDirectory() as temporary:
        folder, once = prepare(name, Path(temporary))
        rows = [folder / "data/split" / f"{array}.npy" for array in ("labels", "parts", "row_hash")]
        done = list[str]()
        for seed in map(str, seeds):
            params = edit_params(folder, lambda params, seed=seed: params["train"].update(seed=int(seed), max_minutes=minutes))
            key = fingerprint([name, digest_of(*rows)], pipeline_files(), PACKAGES, params)
            if entry["seeds"].get(seed, {}).get("key") != key:
                ran = {**once, **measure_stages(folder, AFTER_SPLIT)}
                entry["seeds"][seed] = {**figures(folder), **spent(folder, ran), "key": key, "commit": commit()}
            done.append(seed)
            yield entry | {"summary": summarise({seed: entry["seeds"][seed] for seed in done})}


def prepare(name: str, temporary: Path) -> tuple[Path, dict[str, Ran]]:
    """A workspace with the data split by `expost init`'s proposal, its second file as the holdout where it has one; and what that took."""
    one, folder = DATA[name], make_workspace(temporary / "workspace")
    files = [REAL_DATA / name / file for file in (one.table, one.holdout) if file]
    if absent := [file for file in files if not file.is_file()]:
        raise must(f"{absent[0]} must exist", "it is missing", "Set EXPOST_DATA to the folder that holds the data sets.")
    run("expost", "init", *init_arguments(Given(name, one.task, files[0]), temporary), cwd=folder)
    if one.holdout:
        edit_params(folder, lambda params: params["ingest"].update(holdout_source=str(files[1])))
        run("expost", "sync", "--data-only", cwd=folder)
    return folder, measure_stages(folder, ("ingest", "validate", "split"))


def figures(folder: Path) -> dict[str, Any]:
    """Figures of the test part with 95 % bootstrap intervals, from the rows that `evaluate` wrote."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    classes, matrix = params["ingest"]["classes"], params["utility"]["matrix"]
    actions = tuple(next(iter(matrix.values())))
    U = np.array([[float(matrix[name][action]) for action in actions] for name in classes])
    rows = pd.read_parquet(folder / "data/evaluate/rows.parquet")
    probability = rows[[f"challenger_probability_{name}" for name in classes]].to_numpy(np.float64)
    labels, shipped = (
        rows[column].map({name: place for place, name in enumerate(names)}).to_numpy(np.int64)
        for column, names in (("label", classes), ("challenger_action", actions))
    )
    split = folder / "data/split"
    parts, every = np.load(split / "parts.npy"), np.load(split / "labels.npy")
    shares = np.bincount(every[(parts >= 0) & (parts < HOLDOUT)], minlength=len(classes)).astype(np.float64)
    return {
        "rows": {part: int((parts == place).sum()) for place, part in enumerate(PARTS)} | {"left out, equal": int((parts < 0).sum())},
        "auc": interval(metrics.auc_interval(probability, labels)),
        "accuracy": interval(bootstrap_mean(probability.argmax(axis=1) == labels)),
        "log_loss": interval(bootstrap_mean(metrics.log_loss_rows(probability, labels))),
        "cost": {name: interval(bootstrap_mean(-U[labels, taken])) for name, taken in policies(probability, shipped, shares, U).items()},
    }


def policies(probability: Floats, shipped: Ints, shares: Floats, U: Floats) -> dict[str, Ints]:
    """Action of each test row `(n,)` by each way to act; `shares` are of the classes outside the test part."""
    return {
        SHIPPED: shipped,
        LEAST: (probability @ U).argmax(axis=1),
        LIKELIEST: U.argmax(axis=1)[probability.argmax(axis=1)],
        TRIVIAL: np.full(len(shipped), (shares @ U).argmax()),
    }


def interval(found: Interval) -> dict[str, float]:
    """Mean and ends as JSON."""
    return {"mean": float(found.mean), "low": float(found.low), "high": float(found.high)}


def spent(folder: Path, ran: Mapping[str, Ran]) -> dict[str, Any]:
    """What the training took, and how large the network is."""
    trained = json.loads((folder / "data/train/metrics.json").read_text())
    return {
        **{name: trained[name] for name in ("epochs", "best_epoch", "parameters", "out_of_time")},
        "train_seconds": ran["train"].seconds,
        "seconds": sum(stage.seconds for stage in ran.values()),
        "peak_mb": max(stage.peak_mb or 0.0 for stage in ran.values()),
    }


def summarise(seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over the seeds and their standard deviation (None for one) of each figure; the cost of acting by each policy likewise."""
    found = list(seeds.values())
    plain = {name: [seed[name]["mean"] for seed in found] for name in ("auc", "accuracy", "log_loss")}
    plain["train_seconds"] = [seed["train_seconds"] for seed in found]
    cost = {name: [seed["cost"][name]["mean"] for seed in found] for name in found[0]["cost"]}
    return {
        "seeds": sorted(seeds, key=int),
        **{name: spread(values) for name, values in plain.items()},
        "cost": {name: spread(values) for name, values in cost.items()},
    }


def spread(values: list[float]) -> dict[str, float | None]:
    """Mean and standard deviation of some seeds' figures."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


if __name__ == "__main__":
    main()
