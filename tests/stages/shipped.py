"""A small world for tests of train, package, bundle and predict: a mixed table taken through the real stages with a tiny network."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from pipelines import golden
from pipelines.bundle import Bundle

TINY = {"network": {"k": 4, "width": 16, "number_embedding": 4, "bins": 4}, "max_epochs": 4, "accelerator": "cpu"}


def mixed_table(rows: int = 700, seed: int = 0) -> pl.DataFrame:
    """Numbers (one with gaps, one heavy-tailed), a category with a rare value and gaps, a boolean, a date, a text, and the target."""
    rng = np.random.default_rng(seed)
    number, heavy, colour = rng.normal(size=rows), rng.lognormal(0, 2, rows), rng.choice(["red", "green", "blue"], rows)
    flag, day = rng.random(rows) < 0.4, rng.integers(0, 1000, rows)
    risk = number + (colour == "red") + flag - np.log(heavy) / 2 + rng.logistic(size=rows)
    return pl.DataFrame(
        {
            "key": [f"row {row}" for row in range(rows)],
            "number": [None if row % 9 == 0 else float(value) for row, value in enumerate(number)],
            "heavy": heavy,
            "colour": [None if row % 11 == 0 else str(value) for row, value in enumerate(colour)],
            "flag": flag,
            "day": [datetime.date(2020, 1, 1) + datetime.timedelta(days=int(value)) for value in day],
            "note": [None if row % 13 == 0 else note(float(value)) for row, value in enumerate(risk)],
            "outcome": ["bad" if value > 0.5 else "good" for value in risk],
        }
    )


def note(risk: float) -> str:
    """A sentence that tells a little of the risk, with a number of its own."""
    return f"Paid {'late' if round(10 * abs(risk)) % 3 == 0 or risk > 2 else 'in time'}, case {round(1000 * abs(risk)) % 97}!"


def params(**train: Any) -> dict[str, Any]:
    """Parameters for `mixed_table`."""
    kinds = {"number": "number", "heavy": "number", "colour": "category", "flag": "boolean", "day": "date", "note": "text"}
    columns = {"key": {"role": "key", "kind": "category"}} | {name: {"role": "feature", "kind": kind} for name, kind in kinds.items()}
    return {
        "ingest": {"source": "mixed.csv", "target": "outcome", "classes": ["good", "bad"], "columns": columns},
        "split": {"columns": [name for name in kinds if name != "note"]},
        "train": {**TINY, **train},
        "calibrate": {"repeats": 1},
        "decide": {"policies": ["analytic"]},
        "utility": {"unit": "euro", "matrix": {"good": {"pass": 0, "stop": -1}, "bad": {"pass": -5, "stop": 0}}},
    }


def write_world(folder: Path, **train: Any) -> None:
    """Write the raw table and params.yaml into the workspace `folder`."""
    (folder / "data/raw/table").mkdir(parents=True)
    mixed_table().write_csv(folder / "data/raw/table/mixed.csv")
    (folder / "params.yaml").write_text(yaml.safe_dump(params(**train), sort_keys=False))


def write_lock(folder: Path, **seed: Any) -> None:
    """Write the dvc.lock that DVC would have written over stages run by `run_stages`, as far as registering reads it."""
    code = {name: [{"path": f"pipelines/{name}.py", "md5": name}] for name in ("ingest", "train", "package", "gate")}
    data = {"ingest": "data/raw", "train": "data/ingest", "package": "data/train", "gate": "data/package"}
    values = {**params(**seed), "gate": {"alpha": 0.05}}
    stages = {
        name: {
            "cmd": f"python -m pipelines.{name}",
            "deps": [*code[name], {"path": data[name], "md5": "0" * 32 + ".dir"}],
            "params": {"params.yaml": {name: values[name]} if name in values else {}},
            "outs": [{"path": f"data/{name}", "md5": "1" * 32 + ".dir"}],
        }
        for name in code
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def renew_golden(folder: Path) -> None:
    """Make the golden rows in the folder `folder` of a package anew, after its bundle was changed."""
    bundle = Bundle.load(folder / "bundle")
    frame = pl.read_parquet(folder / golden.INPUTS)
    golden.write(folder, bundle, frame, bundle.calibrated(frame)[0])


def run_stages(*names: str) -> None:
    """Run stages in this process, in the current directory."""
    import importlib

    for name in names:
        importlib.import_module(f"pipelines.{name}").main()
