"""Holdout cost per case of the whole pipeline, as users run it, beside peers that get all rows outside the holdout.

`python -m benchmarks.peers [TABLE ...] [--salts N]`; init defaults, no tuning per table. The salts name the repetitions.
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
from benchmarks.repeated import edit_params, feature_frame, paired, run_stages

#: target, positive class, cost of a miss, cost of a false alarm, salts; costs as given with each table
TABLES: dict[str, tuple[str, str, float, float, int]] = {
    "german_credit": ("credit_risk", "2", 5, 1, 10),
    "telco_churn": ("Churn", "Yes", 5, 1, 10),
    "uci_default_credit": ("default payment", "1", 5, 1, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", default=list(TABLES), help="tables of the real data, default all")
    parser.add_argument("--salts", type=int, help="repetitions, default 10, and 3 for the largest table")
    arguments = parser.parse_args()
    path = RESULTS / "peers.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"tables": {}}
    results["machine"] = machine()
    for name in arguments.tables:
        salts = arguments.salts or TABLES[name][4]
        repetitions = [repetition(name, salt) for salt in range(1, salts + 1)]
        results["tables"][name] = summarise(repetitions)
        save("peers", results)
        print(json.dumps(results["tables"][name]["summary"], indent=1))


def repetition(name: str, salt: int) -> dict[str, Any]:
    """Run the pipeline and every peer on one split; mean cost per case each, on the same holdout rows."""
    target, positive, miss, alarm, _ = TABLES[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_workspace(Path(temporary) / "workspace")
        source = REAL_DATA / name / f"{name}.parquet"
        costs_given = ("--positive", positive, "--cost-fn", str(miss), "--cost-fp", str(alarm))
        run("expost", "init", str(source), "--target", target, *costs_given, cwd=folder)
        params = edit_params(folder, lambda params: params["split"].update(salt=str(salt)))
        seconds = run_stages(folder)
        rows = pd.read_parquet(folder / "data/evaluate/rows.parquet")
        evaluation = json.loads((folder / "data/decide/summary.json").read_text())
        table = pd.read_parquet(folder / "data/ingest/table.parquet")
        parts = np.load(folder / "data/split/parts.npy")
        result = {"salt": salt, "holdout_rows": int((parts == 3).sum()), "rows_outside": int(np.isin(parts, (0, 1, 2)).sum())}
        costs = {"expost": (-float(rows["challenger_utility"].mean()), seconds)}
        costs |= peers(table, parts, params["ingest"], positive, miss, alarm)
        result["policy"] = evaluation.get("chosen")
        result["cost"] = {peer: cost for peer, (cost, _) in costs.items()}
        result["seconds"] = {peer: second for peer, (_, second) in costs.items()}
        print(name, json.dumps(result["cost"]), flush=True)
        return result


def peers(
    table: pd.DataFrame, parts: np.ndarray, ingest: dict[str, Any], positive: str, miss: float, alarm: float
) -> dict[str, tuple[float, float]]:
    """Mean cost per case and seconds of each peer; each is fitted on every row outside the holdout."""
    from lightgbm import LGBMClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import TunedThresholdClassifierCV

    X = feature_frame(table, ingest["columns"])
    y = (table[ingest["target"]] == positive).to_numpy().astype(int)
    fit, held = np.isin(parts, (0, 1, 2)), parts == 3

    def cost(truth: np.ndarray, act: np.ndarray) -> float:
        return float(np.mean(np.where(truth == 1, miss * (act == 0), alarm * (act == 1))))

    found: dict[str, tuple[float, float]] = {
        "always or never act": (min(cost(y[held], np.full(held.sum(), action)) for action in (0, 1)), 0.0)
    }
    started = time.perf_counter()
    plain = LGBMClassifier(random_state=0, verbose=-1, n_jobs=2).fit(X[fit], y[fit])
    act = plain.predict_proba(X[held])[:, 1] >= alarm / (alarm + miss)
    found["LightGBM, Elkan's threshold"] = (cost(y[held], act.astype(int)), time.perf_counter() - started)

    started = time.perf_counter()
    weighted = LGBMClassifier(random_state=0, verbose=-1, n_jobs=2).fit(X[fit], y[fit], sample_weight=np.where(y[fit] == 1, miss, alarm))
    found["LightGBM weighted, cut 0.5"] = (cost(y[held], weighted.predict(X[held])), time.perf_counter() - started)

    started = time.perf_counter()
    scorer = make_scorer(lambda truth, act: -cost(np.asarray(truth), np.asarray(act)))
    boosted = HistGradientBoostingClassifier(random_state=0, categorical_features="from_dtype")
    tuned = TunedThresholdClassifierCV(boosted, scoring=scorer, cv=5, random_state=0).fit(X[fit], y[fit])
    found["HistGradientBoosting, TunedThresholdClassifierCV"] = (cost(y[held], tuned.predict(X[held])), time.perf_counter() - started)
    return found


def summarise(repetitions: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean cost per peer, and the paired difference expost - peer with a 95 % interval (corrected resampled t, Nadeau and Bengio 2003)."""
    names = list(repetitions[0]["cost"])
    costs = {name: np.array([repetition["cost"][name] for repetition in repetitions]) for name in names}
    share = np.mean([repetition["holdout_rows"] / repetition["rows_outside"] for repetition in repetitions])
    summary = {}
    for name in names:
        difference = paired(costs["expost"] - costs[name], float(share))
        summary[name] = {
            "cost": float(costs[name].mean()),
            "seconds": float(np.mean([repetition["seconds"][name] for repetition in repetitions])),
            "expost_minus_peer": difference["mean"],
            "low": difference["low"],
            "high": difference["high"],
        }
    return {"summary": summary, "salts": len(repetitions), "repetitions": repetitions}


if __name__ == "__main__":
    main()
