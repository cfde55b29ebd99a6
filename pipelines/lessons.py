"""Lessons of the policy chosen: where it fails on calib rows that it has not seen, with typical failures and the nearest successes."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import store
from pipelines.candidates import Calib, utility_of
from pipelines.core import cases
from pipelines.core import lessons as core
from pipelines.core.conditions import Condition, Inputs, name_of
from pipelines.core.crossfit import out_of_fold
from pipelines.core.excess import Judged
from pipelines.core.utility import difference_range, regret_of
from pipelines.params.decide import Decide

if TYPE_CHECKING:
    import polars as pl

Float = NDArray[np.float64]
Int = NDArray[np.int64]

FAILURES, SUCCESSES = 3, 2  #: typical failures of a lesson, and the cases decided right that are shown beside each of them
TIE = 1e-9  #: share of the largest regret below which a row was decided right
FEATURES = ("feature", "feature+cost")


@dataclass(frozen=True)
class Shown:
    """What a case shows: its row number in the table, key, inputs, label, action, probabilities and regret, all per calib row."""

    rows: Int
    frame: pl.DataFrame
    kinds: dict[str, str]
    key: str | None
    labels: Int
    actions: Int
    probability: Float
    regret: Float
    classes: Sequence[str]
    names: Sequence[str]

    def case(self, i: int) -> dict[str, Any]:
        """One row as plain types."""
        values = self.frame.row(i, named=True)
        return {
            "row": int(self.rows[i]) + 1,
            "key": None if self.key is None else _plain(values[self.key], self.kinds[self.key]),
            "inputs": {name: _plain(values[name], kind) for name, kind in self.kinds.items() if name != self.key},
            "label": self.classes[self.labels[i]],
            "action": self.names[self.actions[i]],
            "probability": {name: float(p) for name, p in zip(self.classes, self.probability[i], strict=True)},
            "regret": float(self.regret[i]),
        }


def _plain(value: Any, kind: str) -> Any:
    if kind == "date" and value is not None:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=int(value))).isoformat()
    return value


def summary(calib: Calib, rows: Int, taken: Int, actions: Sequence[str], options: Decide) -> dict[str, Any]:
    """The content of lessons.json: `rows` (n,) are those of the table, `taken` `(repeats, n)` the cross-fitted actions of the policy chosen."""
    frame, kinds, key = _columns(rows)
    regret = np.maximum(regret_of(utility_of(taken, calib), calib.labels, calib.U), 0.0)
    judged = Judged(regret, calib.weights, calib.groups, calib.labels, difference_range(calib.U))
    inputs = _inputs(frame, {name: kind for name, kind in kinds.items() if name != key})
    told = inputs.numbers or inputs.categories  # images alone tell no conditions
    found = core.find(inputs, judged, confidence=options.confidence, seed=options.seed) if told else ()
    probability = out_of_fold(calib.crossfitted, calib.masks).mean(axis=0)
    usual = np.stack([(taken == action).sum(axis=0) for action in range(len(actions))]).argmax(axis=0)
    shown = Shown(rows, frame, kinds, key, calib.labels, usual, probability, regret, calib.classes, actions)
    place = cases.coordinates(inputs) if found else None
    dates = {name for name, kind in kinds.items() if kind == "date"}
    return {
        "rows": len(rows),
        "regret": float(np.average(regret, weights=calib.weights)),
        "lessons": [_lesson(lesson, judged, shown, place, dates) for lesson in found if place is not None],
    }


def _lesson(lesson: core.Lesson, judged: Judged, shown: Shown, place: tuple[Float, Int], dates: set[str]) -> dict[str, Any]:
    right = judged.regret <= TIE * judged.reach
    failed = np.flatnonzero(lesson.rows & ~right)
    lost = judged.regret[failed] * judged.weights[failed]
    order = np.argsort(-lost, kind="stable")
    chosen = cases.typical(place, failed[order], lost[order], FAILURES).tolist()
    near = [cases.most_alike(place, i, np.flatnonzero(right), SUCCESSES).tolist() for i in chosen]
    beside = [(i, several[j]) for j in range(SUCCESSES) for i, several in zip(chosen, near, strict=True) if j < len(several)]
    return {
        "name": name_of(lesson.conditions, dates),
        "conditions": [_written(condition) for condition in lesson.conditions],
        "support": int(lesson.rows.sum()),
        "share": float(judged.weights[lesson.rows].sum() / judged.weights.sum()),
        "regret": {"mean": lesson.regret.mean, "low": lesson.regret.low, "high": lesson.regret.high},
        "tested": lesson.regret.rows,
        "p_value": lesson.p_value,
        "failures": [shown.case(i) for i in chosen],
        "successes": [{**shown.case(j), "beside": int(shown.rows[i]) + 1} for i, j in beside],
    }


def _written(condition: Condition) -> dict[str, Any]:
    value = list(condition.value) if isinstance(condition.value, tuple) else condition.value
    return {"column": condition.column, "op": condition.op, "value": value}


def _columns(rows: Int) -> tuple[pl.DataFrame, dict[str, str], str | None]:
    """The features of these rows of the table and, where there is one, the key; their kinds; the key's name."""
    import polars as pl

    columns = store.read_json(store.stage_path("ingest", "schema.json"))["columns"]
    key = next((column["name"] for column in columns if column["role"] == "key"), None)
    kinds = {
        column["name"]: column["kind"]
        for column in columns
        if column["name"] == key or (column["role"] in FEATURES and column["kind"] != "image")
    }
    frame = pl.scan_parquet(store.need(store.stage_path("ingest", "table.parquet"))).select(list(kinds)).collect()
    return frame[rows] if kinds else frame, kinds, key


def _inputs(frame: pl.DataFrame, kinds: dict[str, str]) -> Inputs:
    numbers = {name: frame[name].cast(float).fill_null(np.nan).to_numpy() for name, kind in kinds.items() if kind in ("number", "date")}
    categories = {name: _codes(frame[name]) for name, kind in kinds.items() if kind not in ("number", "date", "text")}
    return Inputs(numbers, categories)


def _codes(series: pl.Series) -> tuple[Int, list[str]]:
    """Codes into the sorted values, -1 where missing."""
    values = sorted(series.drop_nulls().unique().to_list())
    return series.replace_strict(values, range(len(values)), default=-1).fill_null(-1).to_numpy().astype(np.int64), values
