"""One network on the part train beside networks of folds: holdout log loss and cost, and whether what was calibrated resembles what ships.

`python -m benchmarks.folds [TABLE ...] [--salts N]` writes benchmarks/results/folds.json. Its salts (101 and up) are others than those of
`benchmarks.peers`: the defaults of `split.folds` are chosen here, and judged there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import REAL_DATA, RESULTS, machine, make_workspace, run, save
from benchmarks.repeated import edit_params, paired, run_stages
from pipelines.bundle import Bundle
from pipelines.core import calibration, metrics, reliability

TABLES: dict[str, tuple[str, str, float, float]] = {"german_credit": ("credit_risk", "2", 5, 1), "telco_churn": ("Churn", "Yes", 5, 1)}
ARMS: dict[str, dict[str, Any]] = {
    "one network": {"folds": None},
    "5 folds": {"folds": 5, "repeats": 1},
    "5 folds, twice": {"folds": 5, "repeats": 2},
    "10 folds": {"folds": 10, "repeats": 1},
}
AFTER = ("calibrate", "decide", "package", "champion", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", default=list(TABLES))
    parser.add_argument("--salts", type=int, default=6)
    arguments = parser.parse_args()
    path = RESULTS / "folds.json"
    before = json.loads(path.read_text())["tables"] if path.exists() else {}
    results: dict[str, Any] = {"machine": machine(), "tables": before}
    for name in arguments.tables:
        repetitions = [repetition(name, salt) for salt in range(101, 101 + arguments.salts)]
        results["tables"][name] = {"repetitions": repetitions, "summary": summarise(repetitions)}
        save("folds", results)
        print(json.dumps(results["tables"][name]["summary"], indent=1))


def repetition(name: str, salt: int) -> dict[str, Any]:
    """Every arm on one split, the same holdout rows for all."""
    target, positive, miss, alarm = TABLES[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_workspace(Path(temporary) / "workspace")
        costs = ("--positive", positive, "--cost-fn", str(miss), "--cost-fp", str(alarm))
        run("expost", "init", str(REAL_DATA / name / f"{name}.parquet"), "--target", target, *costs, cwd=folder)
        run_stages(folder, ("ingest", "validate"))
        found: dict[str, Any] = {"salt": salt, "arms": {}}
        for arm, asked in ARMS.items():
            edit_params(folder, lambda params, asked=asked: params["split"].update(salt=str(salt), **asked))
            run_stages(folder, ("split",))
            started = time.perf_counter()
            run_stages(folder, ("train",))
            seconds = time.perf_counter() - started
            run_stages(folder, AFTER)
            found["arms"][arm] = {"seconds": seconds, **figures(folder)}
            parts = np.load(folder / "data/split/parts.npy")
            found |= {"holdout_rows": int((parts == 3).sum()), "rows_outside": int((parts >= 0).sum() - (parts == 3).sum())}
        print(name, json.dumps(found), flush=True)
        return found


def figures(folder: Path) -> dict[str, Any]:
    """Cost and log loss on the holdout as shipped; there too the log loss uncalibrated and by a temperature fitted on what was held out of the
    training, and the slope that each leaves: 1 is right, above it is under-confident.
    """
    rows = pd.read_parquet(folder / "data/evaluate/rows.parquet")
    table, parts = pd.read_parquet(folder / "data/ingest/table.parquet"), np.load(folder / "data/split/parts.npy")
    import polars as pl

    bundle = Bundle.load(folder / "data/package/bundle")
    logits = bundle.score(bundle.encode(pl.from_pandas(table[parts == 3])).inputs).logits.astype(np.float64)
    labels = np.load(folder / "data/split/labels.npy")
    held, calib = labels[parts == 3], np.load(folder / "data/calibrate/rows.npy")
    honest = np.load(folder / "data/train/logits.npy")[np.searchsorted(np.load(folder / "data/train/rows.npy"), calib)].astype(np.float64)
    tempered = calibration.apply(calibration.fit("temperature", honest, labels[calib]), logits)
    plain = calibration.softmax(logits)
    return {
        "cost": -float(rows["challenger_utility"].mean()),
        "log_loss": float(rows["challenger_log_loss"].mean()),
        "method": json.loads((folder / "data/calibrate/summary.json").read_text())["method"],
        "log_loss_identity": float(metrics.log_loss_rows(plain, held).mean()),
        "log_loss_temperature": float(metrics.log_loss_rows(tempered, held).mean()),
        "slope_identity": slope(plain, held),
        "slope_temperature": slope(tempered, held),
        "slope_held_out": slope(calibration.softmax(honest), labels[calib]),
    }


def slope(probability: np.ndarray, labels: np.ndarray) -> float:
    """Calibration slope of these rows."""
    return float(reliability.summary(probability, labels, groups=np.arange(len(labels)), seed=0)["slope"]["mean"])


def summarise(repetitions: list[dict[str, Any]]) -> dict[str, Any]:
    """Means per arm, and the paired difference to one network with its corrected 95 % interval."""
    share = float(np.mean([found["holdout_rows"] / found["rows_outside"] for found in repetitions]))
    first = next(iter(ARMS))
    summary: dict[str, Any] = {}
    for arm in ARMS:
        columns = {
            key: np.array([found["arms"][arm][key] for found in repetitions]) for key in repetitions[0]["arms"][arm] if key != "method"
        }
        base = {key: np.array([found["arms"][first][key] for found in repetitions]) for key in ("cost", "log_loss")}
        summary[arm] = {key: float(values.mean()) for key, values in columns.items()}
        summary[arm] |= {f"{key}_difference": paired(columns[key] - base[key], share) for key in base}
        summary[arm]["methods"] = sorted(found["arms"][arm]["method"] for found in repetitions)
    return summary


if __name__ == "__main__":
    main()
