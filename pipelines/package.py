"""Assemble the bundle that ships; a fresh process proves that it scores raw rows as the pipeline did."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import golden, pictures, store
from pipelines.bundle import Bundle, write_manifest
from pipelines.errors import must

if TYPE_CHECKING:
    import polars as pl

TOLERANCE = golden.TOLERANCE
SOURCES = {
    "model.onnx": "train",
    "preprocessing.json": "train",
    "calibrator.json": "calibrate",
    "policy.json": "decide",
}
FEATURES = ("feature", "feature+cost")


def bundle_schema(ingested: dict[str, Any], split: dict[str, Any]) -> dict[str, Any]:
    """What a scorer must know about the table: target, classes, columns with kinds and roles, the split's rule."""
    columns = ingested["columns"]
    return {
        "target": ingested["target"],
        "classes": ingested["classes"],
        "columns": [column for column in columns if column["role"] in FEATURES],
        "others": [column for column in columns if column["role"] not in FEATURES],
        "split": split["rule"],
        **({"image": ingested["image"]} if "image" in ingested else {}),
    }


def assemble(folder: Path) -> None:
    """Copy the upstream files into `folder`, and write schema and manifest over them."""
    folder.mkdir()
    for name, stage in SOURCES.items():
        shutil.copyfile(store.need(store.stage_path(stage, name)), folder / name)
    schema = bundle_schema(
        store.read_json(store.stage_path("ingest", "schema.json")), store.read_json(store.stage_path("split", "meta.json"))
    )
    store.write_json(folder / "schema.json", schema)
    write_manifest(folder)


def score_in_fresh_process(folder: Path, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Logits, probabilities and actions of table rows, as a new process gets them out of the bundle; raises ExpostError where it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        chosen = Path(scratch) / "rows.npy"
        np.save(chosen, rows)
        table = store.need(store.stage_path("ingest", "table.parquet"))
        command = [sys.executable, "-m", "pipelines.bundle", str(folder), str(table), str(chosen), scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            raise must(
                "the bundle must load and score in a fresh process", said[-1].removeprefix("error: ").rstrip("."), "Run `dvc repro` again."
            )
        return {name: np.load(Path(scratch) / f"{name}.npy", allow_pickle=False) for name in ("logits", "probabilities", "actions")}


def difference(scored: dict[str, NDArray[Any]], bundle: Bundle) -> float:
    """Largest difference of probabilities between a fresh process and the pipeline's own files, over every row outside the holdout."""
    logits, unseen = (np.load(store.need(store.stage_path("train", f"{name}.npy")), allow_pickle=False) for name in ("shipped", "logits"))
    rows = np.load(store.need(store.stage_path("train", "rows.npy")), allow_pickle=False)
    calib = np.load(store.need(store.stage_path("calibrate", "rows.npy")), allow_pickle=False)
    probability = np.load(store.need(store.stage_path("calibrate", "probabilities.npy")), allow_pickle=False)
    shipped = bundle.probabilities(logits)
    where = np.searchsorted(rows, calib)
    differences = [
        scored["probabilities"] - shipped,
        np.exp(scored["logits"]) - np.exp(logits),
        bundle.probabilities(unseen[where]) - probability,
    ]
    worst = max(float(np.max(np.abs(part), initial=0.0)) for part in differences)
    if not worst <= TOLERANCE:
        raise must(
            f"the bundle must reproduce the pipeline's probabilities to {TOLERANCE}",
            f"they differ by {worst:.2g}",
            "Run `dvc repro` again.",
        )
    # A row on the policy's edge may fall either way by a rounding; any other disagreement is an error.
    frame = _cost_columns(bundle, rows)
    changed = np.flatnonzero(scored["actions"] != bundle.decide(shipped, frame).actions)
    sure = changed[golden.certain(bundle, shipped[changed], None if frame is None else frame[changed])]
    if len(sure):
        raise must(
            "the bundle must reproduce the pipeline's actions",
            f"{len(sure)} rows differ, the first is table row {rows[sure[0]]}",
            "Run `dvc repro` again.",
        )
    return worst


def _cost_columns(bundle: Bundle, rows: NDArray[np.int64]) -> pl.DataFrame | None:
    """The columns of these table rows that the policy's utility reads; None where it reads none."""
    import polars as pl

    names = bundle.cost_columns
    return pl.read_parquet(store.need(store.stage_path("ingest", "table.parquet")), columns=names)[rows] if names else None


def write_golden(out: Path) -> None:
    """Write golden rows of the bundle in `out`: rows that it was calibrated on, with the probabilities of the network that ships."""
    import polars as pl

    rows = np.load(store.need(store.stage_path("calibrate", "rows.npy")), allow_pickle=False)
    scored = np.load(store.need(store.stage_path("train", "rows.npy")), allow_pickle=False)
    logits = np.load(store.need(store.stage_path("train", "shipped.npy")), allow_pickle=False)[np.searchsorted(scored, rows)]
    table, bundle = pl.read_parquet(store.need(store.stage_path("ingest", "table.parquet"))), Bundle.load(out / "bundle")
    frame = pictures.attached(table, rows, bundle.schema, store.stage_path("ingest", "images.npy"))
    golden.write(out, bundle, frame, bundle.probabilities(logits))


def main() -> None:
    """Run the stage."""
    rows = np.load(store.need(store.stage_path("train", "rows.npy")), allow_pickle=False)
    with store.stage_folder("package") as out:
        assemble(out / "bundle")
        worst = difference(score_in_fresh_process(out / "bundle", rows), Bundle.load(out / "bundle"))
        write_golden(out)
        store.write_json(out / "proof.json", {"rows": len(rows), "max_difference": worst, "tolerance": TOLERANCE})
    print(f"a fresh process scored {len(rows)} rows to within {worst:.1g}", file=sys.stderr)


if __name__ == "__main__":
    store.run_stage(main)
