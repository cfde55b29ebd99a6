"""What comparisons with peers over several splits share: the pipeline with one split's salt, the peers' features, paired intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from scipy import stats

from benchmarks.common import Ran, measured, run

#: what `dvc repro` runs up to the holdout's scores, in its order
STAGES = ("ingest", "validate", "split", "train", "calibrate", "decide", "package", "champion", "evaluate")


def edit_params(folder: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Apply `change` to the workspace's params.yaml as plain types; returns them."""
    path = folder / "params.yaml"
    params: dict[str, Any] = yaml.safe_load(path.read_text())
    change(params)
    path.write_text(yaml.safe_dump(params, sort_keys=False, allow_unicode=True))
    return params


def run_stages(folder: Path, stages: tuple[str, ...] = STAGES) -> float:
    """Run stages one by one in a workspace; returns seconds of wall time."""
    return sum(run("python", "-m", f"pipelines.{stage}", cwd=folder).seconds for stage in stages)


def measure_stages(folder: Path, stages: tuple[str, ...] = STAGES) -> dict[str, Ran]:
    """Run stages one by one in a workspace; returns what each took, of time and of memory."""
    return {stage: measured("python", "-m", f"pipelines.{stage}", cwd=folder) for stage in stages}


def feature_frame(table: pd.DataFrame, columns: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """The columns of `ingest.columns` that training sees, categories as such, free text as strings and dates as days, as the peers take them."""
    X = table[[name for name, column in columns.items() if column["role"].startswith("feature")]].copy()
    for name in X.columns:
        if pd.api.types.is_datetime64_any_dtype(X[name]):
            X[name] = (X[name] - X[name].min()).dt.total_seconds() / 86400
        elif columns[name]["kind"] == "text":
            X[name] = X[name].astype("string")
        elif not pd.api.types.is_numeric_dtype(X[name]):
            X[name] = X[name].astype("category")
    return X


def paired(differences: NDArray[np.float64], share: float) -> dict[str, float]:
    """Mean of paired differences over J splits with a 95 % interval: corrected resampled t (Nadeau and Bengio 2003, section 3).

    `share` is holdout rows over rows outside; the splits overlap, so their variance is multiplied by 1/J + share, not by 1/J. NaN for J = 1.
    """
    J = len(differences)
    half = float(stats.t.ppf(0.975, J - 1) * np.sqrt(differences.var(ddof=1) * (1 / J + share))) if J > 1 else float("nan")
    mean = float(differences.mean())
    return {"mean": mean, "low": mean - half, "high": mean + half}


def ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64], share: float) -> dict[str, float]:
    """Ratio of two positive means over J splits, ours over theirs, with a 95 % interval.

    Delta method: the logarithm of the ratio is linear in each split's deviations from the two means, and those are paired; the interval of
    their mean is that of `paired`. NaN where a mean is not positive; its ends are NaN for J = 1.
    """
    if min(ours.mean(), theirs.mean()) <= 0:
        return {"ratio": float("nan"), "low": float("nan"), "high": float("nan")}
    around = paired(ours / ours.mean() - theirs / theirs.mean(), share)
    centre = float(np.log(ours.mean() / theirs.mean()))
    return {"ratio": float(np.exp(centre)), "low": float(np.exp(centre + around["low"])), "high": float(np.exp(centre + around["high"]))}
