"""The exact cut-off beside scikit-learn's TunedThresholdClassifierCV on the same probabilities: `python -m benchmarks.threshold`.

Each measurement is a process of its own that reads the arrays from files; seconds are the fastest of the repeats of the call alone. The
scorers of scikit-learn's side are the one of its own example of cost-sensitive learning, by the confusion matrix, and the leanest one can write.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, machine, save

U = np.array([[0.0, -1.0], [-10.0, 0.0]])
ROWS = (100_000, 1_000_000, 10_000_000)
REPEATS = {100_000: 7, 1_000_000: 3, 10_000_000: 3}
REPEATS_OF_PEERS = {100_000: 3, 1_000_000: 1}
METHODS = ("expost", "scikit-learn, lean scorer", "scikit-learn, confusion matrix")
LARGEST_FOR_PEERS = 1_000_000  # at ten million rows scikit-learn takes minutes
BOUNDS = {"times faster at 1e5": 100, "seconds at 1e7": 4.0, "MB at 1e7": 1000}


def main() -> None:
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for rows in ROWS:
            write_rows(folder, rows)
            for method in METHODS:
                if method == "expost" or rows <= LARGEST_FOR_PEERS:
                    results.append(in_its_own_process(folder, rows, method))
                    print(json.dumps(results[-1]), flush=True)
    figures = summary(results)
    save("threshold", {"machine": machine(), "results": results, "figures": figures, "bounds": BOUNDS, "utility": U.tolist()})
    print(json.dumps(figures, indent=2))


def write_rows(folder: Path, rows: int) -> None:
    """Probabilities that are over-confident and shifted, so that the analytic cut-off is not the best one, and labels."""
    rng = np.random.default_rng(rows)
    odds = rng.normal(size=rows) * 2 - 2
    labels = rng.random(rows) < 1 / (1 + np.exp(-odds))
    positive = 1 / (1 + np.exp(-(1.5 * odds + 0.8)))
    np.save(folder / "probability.npy", np.stack([1 - positive, positive], axis=1))
    np.save(folder / "labels.npy", labels.astype(np.int64))


def in_its_own_process(folder: Path, rows: int, method: str) -> dict[str, Any]:
    """Seconds, peak memory and the utility found."""
    command = [sys.executable, "-m", "benchmarks.threshold", str(folder), str(rows), method]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"rows": rows, "method": method, **found}


def measure(folder: Path, rows: int, method: str) -> dict[str, float]:
    probability, labels = np.load(folder / "probability.npy"), np.load(folder / "labels.npy")
    before = _peak_mb()
    find = expost(probability, labels) if method == "expost" else scikit_learn(probability, labels, method)
    seconds, utility = np.inf, np.nan
    for _ in range(REPEATS[rows] if method == "expost" else REPEATS_OF_PEERS[rows]):
        started = time.perf_counter()
        utility = find()
        seconds = min(seconds, time.perf_counter() - started)
    return {"seconds": seconds, "utility": utility, "peak_mb": _peak_mb(), "peak_mb_before": before}


def expost(probability: Any, labels: Any) -> Any:
    from pipelines.core import threshold

    never = float(U[:, 0][labels].mean())
    return lambda: never + threshold.exact(probability, labels, U)[2].gain


def scikit_learn(probability: Any, labels: Any, method: str) -> Any:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.metrics import confusion_matrix, make_scorer
    from sklearn.model_selection import TunedThresholdClassifierCV

    class Given(ClassifierMixin, BaseEstimator):
        """A fitted classifier whose probabilities are given."""

        classes_ = np.array([0, 1])

        def fit(self, X: Any, y: Any) -> Given:
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict_proba(self, X: Any) -> Any:
            return X

    def by_confusion(y: Any, predicted: Any) -> float:
        return float((confusion_matrix(y, predicted, labels=[0, 1]) * U).sum() / len(y))

    def lean(y: Any, predicted: Any) -> float:
        return float(U[y, predicted].mean())

    scorer = make_scorer(by_confusion if "confusion" in method else lean)
    tuner = TunedThresholdClassifierCV(Given(), scoring=scorer, cv="prefit", refit=False, thresholds=100)
    return lambda: float(tuner.fit(probability, labels).best_score_)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What the bounds speak of, and by how much the exact utility is above the best of scikit-learn's."""
    by = {(entry["rows"], entry["method"]): entry for entry in results}
    ours, largest = by[ROWS[0], "expost"], by[ROWS[-1], "expost"]
    peers = {method: by[ROWS[0], method] for method in METHODS[1:]}
    return {
        "times faster at 1e5": {method: entry["seconds"] / ours["seconds"] for method, entry in peers.items()},
        "utility above scikit-learn": {
            f"{rows:g}": by[rows, "expost"]["utility"] - by[rows, METHODS[1]]["utility"] for rows in ROWS if rows <= LARGEST_FOR_PEERS
        },
        "seconds at 1e7": largest["seconds"],
        "MB at 1e7": largest["peak_mb"],
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
    else:
        main()
