"""What a retraining publishes: parameters, metrics, curves, files and facts, read from the files that the stages wrote."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines import golden, store
from pipelines.bundle import Bundle
from pipelines.params import PARAMS, read_params

CURVES = Path("data/train/history.csv")
METRICS = ("train", "calibrate", "decide")
LOGGED = ("dvc.yaml", "dvc.lock", "params.yaml", "data/expectations.json")
LONGEST = 6000  # MLflow's limit for the value of a parameter
EXAMPLES = 3
VERDICT = store.stage_path("gate", "verdict.json")
GOLDEN = "golden"  #: folder of the golden rows among the artifacts


def params() -> list[tuple[str, str]]:
    """Parameters as (dotted key, value), the roles of the columns left to the file `params.yaml` that is logged beside."""
    values = read_params(PARAMS)
    ingest = {key: value for key, value in (values.get("ingest") or {}).items() if key != "columns"}
    return [(key, str(value)[:LONGEST]) for key, value in _flat({**values, "ingest": ingest})]


def metrics() -> list[tuple[str, float, int]]:
    """Numbers as (name, value, step): figures on calib, figures on the holdout under `holdout.`, and the training's curves per epoch."""
    found = [(f"{stage}.{key}", value, 0) for stage in METRICS for key, value in _numbers(store.stage_path(stage, "metrics.json"))]
    found += [(f"holdout.{key}", value, 0) for key, value in _numbers(store.stage_path("evaluate", "evaluation.json"))]
    if CURVES.exists():
        with CURVES.open(encoding="utf-8", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream)):
                step = int(float(row.pop("epoch", number) or number))
                found += [(name, float(value), step) for name, value in row.items() if value not in ("", None)]
    return found


def _numbers(path: Path) -> Iterator[tuple[str, float]]:
    if path.exists():
        for key, value in _flat(store.read_json(path)):
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield _allowed(key), float(value)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield _allowed(prefix), value


def _allowed(key: str) -> str:
    """`key` with the characters that MLflow refuses in names replaced."""
    return "".join(character if character.isalnum() or character in "_-. /:" else "_" for character in key)[:250]


def files() -> list[tuple[Path, str | None]]:
    """Files to log as (path, folder among the run's artifacts)."""
    found: list[tuple[Path, str | None]] = [(Path(name), "provenance") for name in LOGGED]
    found += [(path, "provenance") for path in sorted(Path("data").glob("*.dvc"))]
    found += [(path, "report") for path in sorted(store.stage_path("report").glob("*")) if path.is_file()]
    found += [
        (store.stage_path(stage, name), stage)
        for stage, name in (
            ("gate", "verdict.json"),
            ("evaluate", "evaluation.json"),
            ("evaluate", "curves.json"),
            ("evaluate", "profile.json"),
            ("evaluate", "changes.json"),
            ("decide", "lessons.json"),
        )
    ]
    found += [(store.stage_path("package", name), GOLDEN) for name in golden.FILES]
    found += [
        (store.stage_path("validate", "result.json"), "validate"),
        (store.stage_path("validate", "data_docs", "index.html"), "validate"),
    ]
    found += [(path, "decide") for path in sorted(store.stage_path("decide").glob("*.csv"))]
    found += [(store.stage_path(stage, "summary.json"), stage) for stage in ("calibrate", "decide")]
    if VERDICT.exists():
        found.append((VERDICT, verdict_place(store.sha256(VERDICT))))
    return [(path, place) for path, place in found if path.exists()]


def listing() -> str:
    """The files to log and their SHA-256 as JSON text, but for the golden rows, which stay as they were when a verdict changes."""
    digests = {f"{place}/{path.name}": store.sha256(path) for path, place in files() if place != GOLDEN}
    return json.dumps(dict(sorted(digests.items())), indent=2)


def listing_place(sha256: str) -> str:
    """Path of the listing with this digest among the artifacts."""
    return f"files/{sha256[:12]}.json"


def verdict_place(sha256: str) -> str:
    """Folder of the verdict with this digest among the artifacts: a later verdict on the same version does not overwrite it."""
    return f"gate/{sha256[:12]}"


def dataset(digest: str) -> dict[str, Any]:
    """The fields of MLflow's dataset for this version of the data."""
    values = read_params(PARAMS).get("ingest") or {}
    schema = store.read_json(store.stage_path("ingest", "schema.json")) if store.stage_path("ingest", "schema.json").exists() else {}
    return {
        "name": Path(str(values.get("source", "data"))).name or "data",
        "digest": digest[:36],
        "source_type": "dvc",
        "source": json.dumps({"path": "data/raw", "md5": digest, "source": values.get("source")}),
        "profile": json.dumps({"rows": schema.get("rows"), "target": schema.get("target")}),
    }


def verdict_tags(verdict: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a version that say how it was judged, by which verdict, on which data and under which configuration of the gate."""
    named = {name: str(verdict[name]) for name in ("data_sha256", "gate_sha256") if verdict.get(name)}
    return {**named, "verdict": str(verdict.get("verdict")), "verdict_sha256": store.sha256(store.need(VERDICT))}


def card() -> str:
    """The model card, markdown, without its plots: they are among the run's artifacts, where a description cannot show them."""
    path = store.stage_path("report", "card.md")
    return path.read_text(encoding="utf-8").split("\n## Plots\n")[0] if path.exists() else ""


def example(folder: Path) -> Any:
    """A few rows of the table as a pandas frame of the model's input columns, its costs among them; None where there is no table."""
    path = store.stage_path("ingest", "table.parquet")
    if not path.exists():
        return None
    import pandas as pd
    import polars as pl

    bundle = Bundle.load(folder)
    listed, read = (*bundle.schema["columns"], *bundle.schema["others"]), {column["name"] for column in bundle.schema["columns"]}
    columns = {column["name"]: column["kind"] for column in listed if column["name"] in {*read, *bundle.cost_columns}}
    if "image" in columns.values():
        return None  # their pixels stand in another file
    table = pl.read_parquet(path, columns=list(columns), n_rows=EXAMPLES)
    days = [pl.from_epoch(pl.col(name).cast(pl.Int64), time_unit="d").cast(pl.String) for name, kind in columns.items() if kind == "date"]
    return pd.DataFrame(table.with_columns(days).to_dict(as_series=False))


def requirements() -> list[str]:
    """Exact versions of what scoring imports; the project itself is installed where the model is served."""
    return [
        f"{name}=={version(name)}"
        for name in ("mlflow", "numpy", "onnxruntime", "pandas", "pillow", "polars", "pydantic", "scipy", "scikit-learn")
    ]


def moment(milliseconds: int) -> str:
    """Milliseconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
