"""Savings where errors cost each row something else: the whole pipeline, as users run it, beside peers with all rows outside the holdout.

`python -m benchmarks.savings [TABLE ...] [--salts N]`; init defaults and the costs as published with each table, no tuning per table.
Savings are 1 - cost / min(cost of acting on nobody, cost of acting on everybody), over the holdout's rows: Correa Bahnsen, Aouada and
Ottersten, "Example-Dependent Cost-Sensitive Decision Trees" (2015).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.common import REAL_DATA, RESULTS, machine, make_workspace, run, save
from benchmarks.repeated import edit_params, feature_frame, paired, run_stages

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """A table with costs per row: what `init` is told, and its cells, rows (negative, positive) by actions (leave, act)."""

    target: str
    positive: str
    cells: tuple[tuple[float | str, float | str], tuple[float | str, float | str]]
    where: str | None = None
    ignore: tuple[str, ...] = ()


#: costs as each table's README says; leaving a true negative alone costs nothing in both
TABLES = {
    "tv_churn_costs": Table("target", "1.0", (("-C_TN", "-C_FP"), ("-C_FN", "-C_TP"))),
    "bank_full_costs": Table("y", "yes", ((0, "-C_FP"), ("-C_FN", -1)), where="C_FN IS NOT NULL", ignore=("duration",)),
}
NOBODY, EVERYBODY = "act on nobody", "act on everybody"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", default=list(TABLES), help="tables of the real data, default all")
    parser.add_argument("--salts", type=int, default=10, help="repetitions, default 10")
    parser.add_argument("--try-salt", type=int, help="one repetition with this salt, printed and not kept")
    arguments = parser.parse_args()
    if arguments.try_salt is not None:
        for name in arguments.tables:
            print(json.dumps(repetition(name, arguments.try_salt), indent=1))
        return
    path = RESULTS / "savings.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"tables": {}}
    results["machine"] = machine()
    for name in arguments.tables:
        repetitions = [repetition(name, salt) for salt in range(1, arguments.salts + 1)]
        results["tables"][name] = summarise(repetitions)
        save("savings", results)
        print(json.dumps(results["tables"][name]["summary"], indent=1))


def repetition(name: str, salt: int) -> dict[str, Any]:
    """Run the pipeline and every peer on one split; mean cost per row and savings of each, on the same holdout rows."""
    given = TABLES[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_workspace(Path(temporary) / "workspace")
        options = ["--target", given.target, "--positive", given.positive, "--cost-fn", "1", "--cost-fp", "1"]
        options += [text for column in given.ignore for text in ("--ignore", column)]
        options += ["--where", given.where] if given.where else []
        run("expost", "init", str(REAL_DATA / name / f"{name}.parquet"), *options, cwd=folder)
        params = edit_params(folder, lambda params: configure(params, given, salt))
        seconds = run_stages(folder)
        rows = pd.read_parquet(folder / "data/evaluate/rows.parquet")
        decided = json.loads((folder / "data/decide/summary.json").read_text())
        table = pd.read_parquet(folder / "data/ingest/table.parquet")
        parts = np.load(folder / "data/split/parts.npy")
    fit, held = np.isin(parts, (0, 1, 2)), parts == 3
    y = (table[given.target] == given.positive).to_numpy().astype(np.int64)
    cost = costs_of(given, table)
    own = paid(y[held], (rows["challenger_action"] == "act").to_numpy().astype(np.int64), cost[held])
    assert np.isclose(own, -rows["challenger_utility"].mean()), "expost's expressions and the columns must give the same cost"
    found = {"expost": (own, seconds)}
    X = feature_frame(table, params["ingest"]["columns"])
    found |= {peer: (paid(y[held], act, cost[held]), took) for peer, (act, took) in peers(X, y, cost, fit, held).items()}
    least = min(found[NOBODY][0], found[EVERYBODY][0])
    result = {
        "salt": salt,
        "holdout_rows": int(held.sum()),
        "holdout_positives": int(y[held].sum()),
        "rows_outside": int(fit.sum()),
        "policy": decided["chosen"],
        "cost": {peer: value for peer, (value, _) in found.items()},
        "savings": {peer: 1 - value / least for peer, (value, _) in found.items()},
        "seconds": {peer: took for peer, (_, took) in found.items()},
    }
    print(name, salt, json.dumps(result["savings"]), flush=True)
    return result


def configure(params: dict[str, Any], given: Table, salt: int) -> None:
    """The costs as expressions over the row's columns, and the salt; everything else stays as `init` wrote it."""
    negative, positive = params["ingest"]["classes"]
    params["split"]["salt"] = str(salt)
    params["utility"] = {
        "unit": "cost units",
        "matrix": {
            label: dict(zip(("leave", "act"), row, strict=True)) for label, row in zip((negative, positive), given.cells, strict=True)
        },
    }


def costs_of(given: Table, table: pd.DataFrame) -> Floats:
    """Costs (n, true class, action), read from the columns and not through the pipeline's own expressions."""
    columns = [[-float(cell) if not isinstance(cell, str) else table[cell.removeprefix("-")] for cell in row] for row in given.cells]
    return np.stack([np.stack([np.broadcast_to(cell, len(table)) for cell in row], axis=1) for row in columns], axis=1).astype(np.float64)


def paid(labels: Ints, actions: Ints, cost: Floats) -> float:
    """Mean cost per row."""
    return float(cost[np.arange(len(labels)), labels, actions].mean())


def peers(X: pd.DataFrame, y: Ints, cost: Floats, fit: NDArray[np.bool_], held: NDArray[np.bool_]) -> dict[str, tuple[Ints, float]]:
    """Actions on the holdout and seconds of each peer; each is fitted on every row outside the holdout."""
    from lightgbm import LGBMClassifier

    n = int(held.sum())
    found: dict[str, tuple[Ints, float]] = {NOBODY: (np.zeros(n, dtype=np.int64), 0.0), EVERYBODY: (np.ones(n, dtype=np.int64), 0.0)}
    started = time.perf_counter()
    p = LGBMClassifier(random_state=0, verbose=-1, n_jobs=2).fit(X[fit], y[fit]).predict_proba(X[held])[:, 1]
    took = time.perf_counter() - started
    alarm, missed = cost[:, 0, 1] - cost[:, 0, 0], cost[:, 1, 0] - cost[:, 1, 1]
    average = alarm[fit].mean() / (alarm[fit].mean() + missed[fit].mean())
    found["LightGBM, threshold 0.5"] = ((p >= 0.5).astype(np.int64), took)
    found["LightGBM, Elkan's threshold at average costs"] = ((p >= average).astype(np.int64), took)
    expected = np.einsum("nk,nka->na", np.column_stack([1 - p, p]), cost[held])
    found["LightGBM, least expected cost per row"] = (expected.argmin(axis=1), took)

    started = time.perf_counter()
    weights = np.where(y == 1, missed, alarm)[fit]  # cost-proportionate weighting: Zadrozny, Langford and Abe (2003)
    weighted = LGBMClassifier(random_state=0, verbose=-1, n_jobs=2).fit(X[fit], y[fit], sample_weight=weights / weights.mean())
    found["LightGBM weighted by each row's cost, cut 0.5"] = (weighted.predict(X[held]).astype(np.int64), time.perf_counter() - started)
    return found


def summarise(repetitions: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean cost and savings per peer, and the paired difference of savings, expost - peer, with its 95 % interval."""
    names = list(repetitions[0]["savings"])
    savings = {name: np.array([repetition["savings"][name] for repetition in repetitions]) for name in names}
    share = float(np.mean([repetition["holdout_rows"] / repetition["rows_outside"] for repetition in repetitions]))
    summary = {}
    for name in names:
        difference, own = paired(savings["expost"] - savings[name], share), paired(savings[name], share)
        summary[name] = {
            "cost": float(np.mean([repetition["cost"][name] for repetition in repetitions])),
            "savings": own["mean"],
            "savings_low": own["low"],
            "savings_high": own["high"],
            "seconds": float(np.mean([repetition["seconds"][name] for repetition in repetitions])),
            "expost_minus_peer": difference["mean"],
            "low": difference["low"],
            "high": difference["high"],
        }
    return {"summary": summary, "salts": len(repetitions), "repetitions": repetitions}


if __name__ == "__main__":
    main()
