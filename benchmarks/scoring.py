"""Scoring a file: rows per second and peak memory of `expost predict` beside a gradient-boosting pipeline in MLflow: `python -m benchmarks.scoring`.

Both get the same Parquet file of 20 columns and write Parquet; every figure is a process of its own, from start to end. The peer is
scikit-learn's HistGradientBoostingClassifier through `mlflow.pyfunc`, which takes a data frame, so the whole file.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.common import ROOT, machine, make_workspace, run, save

TRAIN = 20_000
SIZES = (100_000, 1_000_000)
LARGEST = 4_000_000  #: for expost alone, once: whether memory stays where it was
REPEATS = 3
NAMES = ("expost predict", "HistGradientBoosting, mlflow.pyfunc")
CATEGORIES = {"region": 12, "product": 40, "channel": 4, "segment": 7}

FIT_PEER = """
import mlflow.sklearn, polars as pl
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
table = pl.read_parquet("train.parquet").to_pandas()
names = [name for name in table if table[name].dtype.kind not in "fi" and name != "outcome"]
places = list(range(len(names)))
model = make_pipeline(
    make_column_transformer((OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), names), remainder="passthrough"),
    HistGradientBoostingClassifier(categorical_features=places, random_state=0),
).fit(table.drop(columns="outcome"), table["outcome"])
mlflow.sklearn.save_model(model, "peer", pyfunc_predict_fn="predict_proba", serialization_format="cloudpickle")
"""
PEER = """
import sys, mlflow.pyfunc, pandas as pd
model = mlflow.pyfunc.load_model("peer")
rows = pd.read_parquet(sys.argv[1])
pd.DataFrame(model.predict(rows), columns=["a", "b"]).to_parquet(sys.argv[2])
"""


def table(rows: int, seed: int) -> pl.DataFrame:
    """14 numbers, some skewed or with gaps, 4 categories, 2 booleans: 20 columns; and the outcome, which depends on some of them."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {f"n{i}": rng.normal(size=rows) if i % 2 else rng.lognormal(size=rows) for i in range(14)}
    columns["n2"] = np.where(rng.random(rows) < 0.1, np.nan, columns["n2"])
    for name, size in CATEGORIES.items():
        columns[name] = np.array([f"{name} {i}" for i in range(size)])[rng.integers(0, size, rows)]
    columns |= {name: rng.random(rows) < 0.4 for name in ("flag", "new")}
    risk = columns["n1"] - np.log(columns["n0"]) + columns["flag"] + np.sin(3 * columns["n3"]) + rng.logistic(size=rows)
    columns["outcome"] = np.where(risk > 1.5, "bad", "good")
    return pl.DataFrame(columns).with_columns(pl.col("n2").fill_nan(None))


def main() -> None:
    """Train both, score both sizes with both, write the figures."""
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_workspace(Path(temporary) / "workspace")
        trained(folder)
        run(sys.executable, "-c", FIT_PEER, cwd=folder)
        figures = [figure(folder, name, rows, REPEATS) for rows in SIZES for name in NAMES]
        figures.append(figure(folder, NAMES[0], LARGEST, 1))
    save(
        "scoring",
        {"machine": machine(), "load_at_start": busy, "rows_trained": TRAIN, "columns": 20, "repeats": REPEATS, "figures": figures},
    )
    for entry in figures:
        print(
            f"{entry['name']:40s} {entry['rows']:>9,} rows {entry['seconds']:6.1f} s {entry['rows_per_second']:>9,.0f} rows/s {entry['peak_mb']:6.0f} MB"
        )


def write_tables(folder: Path) -> None:
    """The table to train on, and those to score."""
    table(TRAIN, 0).write_parquet(folder / "train.parquet")
    for rows in (*SIZES, LARGEST):
        table(rows, rows).drop("outcome").write_parquet(folder / f"{rows}.parquet")


def trained(folder: Path) -> None:
    """A small model of the default network's size, trained through the real stages, as the champion of the workspace."""
    # in a process of its own: what this one ever held would count as the peak of every process that it starts
    run(sys.executable, "-m", "benchmarks.scoring", "--tables", str(folder), cwd=ROOT)
    run("expost", "init", "train.parquet", "--target", "outcome", "--force", "--cost-fn", "5", "--cost-fp", "1", cwd=folder)
    params = (folder / "params.yaml").read_text()
    short = params.replace("  max_epochs: ", "  max_epochs: 4  # was ", 1)
    assert short != params, "train.max_epochs is not where it was"
    (folder / "params.yaml").write_text(short)
    for stage in ("ingest", "split", "train", "calibrate", "decide", "package"):
        run(sys.executable, "-m", f"pipelines.{stage}", cwd=folder)
    champion = folder / "mlflow/champion"
    champion.mkdir(parents=True)
    (folder / "data/package/bundle").rename(champion / "bundle")
    digest = json.loads((champion / "bundle/manifest.json").read_text())["bundle_sha256"]
    (champion / "status.json").write_text(json.dumps({"state": "champion", "version": 1, "bundle_sha256": digest}))


def figure(folder: Path, name: str, rows: int, repeats: int) -> dict[str, Any]:
    """Median wall time and largest peak memory of `repeats` processes."""
    command = (
        ["expost", "predict", f"{rows}.parquet", "out.parquet"]
        if name.startswith("expost")
        else [sys.executable, "-c", PEER, f"{rows}.parquet", "out.parquet"]
    )
    measured = [process(command, folder) for _ in range(repeats)]
    assert pl.scan_parquet(folder / "out.parquet").select(pl.len()).collect().item() == rows
    seconds = statistics.median(one[0] for one in measured)
    return {"name": name, "rows": rows, "seconds": seconds, "rows_per_second": rows / seconds, "peak_mb": max(one[1] for one in measured)}


def process(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of wall time and peak resident memory in MB of one process."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, env={**os.environ, "PATH": path}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{said.decode()[-3000:]}")
    return time.perf_counter() - started, peak_mb(used)


def peak_mb(used: resource.struct_rusage) -> float:
    """Peak resident memory, which Linux counts in KB and macOS in bytes."""
    return used.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    write_tables(Path(sys.argv[2])) if sys.argv[1:2] == ["--tables"] else main()
