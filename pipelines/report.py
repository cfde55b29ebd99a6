"""Plots, the model card and the panel's figures, from what the stages wrote; nothing is computed here that another stage could use."""

from __future__ import annotations

import csv
import math
import platform
import subprocess
from importlib.metadata import version
from typing import Any

from pipelines import card, facts, plots, store
from pipelines.plots import Plot
from pipelines.review import page
from pipelines.review.brief import brief

LIBRARIES = (
    "torch",
    "lightning",
    "onnxruntime",
    "numpy",
    "polars",
    "scikit-learn",
    "scipy",
    "optuna",
    "great_expectations",
    "mlflow",
    "dvc",
    "prefect",
)


def read_all() -> dict[str, Any]:
    """Everything that the report shows, by the stage that wrote it."""
    files = {
        "schema": ("ingest", "schema.json"),
        "validation": ("validate", "result.json"),
        "split": ("split", "meta.json"),
        "training": ("train", "metrics.json"),
        "calibration": ("calibrate", "summary.json"),
        "decision": ("decide", "summary.json"),
        "policy": ("decide", "policy.json"),
        "study": ("decide", "study.json"),
        "manifest": ("package", "bundle", "manifest.json"),
        "champion": ("champion", "status.json"),
        "evaluation": ("evaluate", "evaluation.json"),
        "curves": ("evaluate", "curves.json"),
        "verdict": ("gate", "verdict.json"),
    }
    read = {name: store.read_json(store.stage_path(*parts)) for name, parts in files.items()}
    optional = {"lessons": store.stage_path("decide", "lessons.json"), "changes": store.stage_path("evaluate", "changes.json")}
    return read | {name: store.read_json(path) if path.exists() else None for name, path in optional.items()}


def provenance() -> dict[str, str]:
    """Versions of what computes, and the commit that the code stands at, where git knows one."""
    said = {name: version(name) for name in LIBRARIES} | {"Python": platform.python_version()}
    commit = _git("rev-parse", "HEAD")
    if commit:
        changed = _git("status", "--porcelain", "--", "pipelines", "flows")
        said = {"git commit": commit + (", with changes that are not committed" if changed else "")} | said
    return said


def _git(*arguments: str) -> str:
    """What git says, "" where there is no git or no repository."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def read_history() -> list[dict[str, float]]:
    """Rows of train's history.csv as numbers, NaN where a field is empty."""
    with store.need(store.stage_path("train", "history.csv")).open(encoding="utf-8", newline="") as stream:
        return [{name: float(value) if value else math.nan for name, value in row.items()} for row in csv.DictReader(stream)]


def figures(read: dict[str, Any], history: list[dict[str, float]]) -> dict[str, Plot]:
    """The plots by file name; those that need two classes or two actions are left out where there are more."""
    curves, evaluation, verdict = read["curves"], read["evaluation"], read["verdict"]
    binary = len(evaluation["classes"]) == 2
    what = evaluation["classes"][-1] if binary else "the most probable class"
    made = {
        "reliability.png": plots.reliability(curves, what),
        "utility_histogram.png": plots.utility_histogram(curves, evaluation["unit"]),
        "training.png": plots.training(history, read["training"].get("best_epoch")),
        "gate.png": plots.forest(verdict["criteria"], verdict["verdict"], identical=verdict["identical"]),
    }
    if read["decision"].get("thresholds"):
        made["policy.png"] = plots.policy(read["decision"]["thresholds"], evaluation["unit"], what)
    if read["study"].get("values"):
        made["study.png"] = plots.study(read["study"], evaluation["unit"])
    shown = [curves[name] for name in plots.models_in(curves)]
    if all(curve["utility_curve"] for curve in shown):
        trivial = {name: interval["mean"] for name, interval in evaluation["trivial"].items()}
        made["utility_curve.png"] = plots.utility_curve(
            curves, threshold=read["policy"].get("threshold"), trivial=trivial, unit=evaluation["unit"], what=what
        )
    if all(curve["cost_curve"] for curve in shown):
        made["cost_curve.png"] = plots.cost_curve(curves, what)
    return made


def main() -> None:
    """Write data/report: the PNG files, card.md, panel.json, review.html."""
    read, history = read_all(), read_history()
    made = figures(read, history)
    with store.stage_folder("report") as out:
        for name, plot in made.items():
            (out / name).write_bytes(plot.png())
        (out / "card.md").write_text(card.markdown(read, sorted(made)), encoding="utf-8")
        store.write_json(out / "panel.json", {**facts.panel(read), "brief": brief(read)})
        (out / "review.html").write_text(page.html(read | {"provenance": provenance()}, history), encoding="utf-8")


if __name__ == "__main__":
    store.run_stage(main)
