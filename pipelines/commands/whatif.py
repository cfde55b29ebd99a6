"""`expost whatif`: what other costs would mean, along a range of them, from the stored cross-fitted probabilities of calib."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import store, utilities
from pipelines.commands.costs import Matrix, cost, error_cells, with_cell, with_cost
from pipelines.core import crossfit, whatif
from pipelines.core.whatif import Cases
from pipelines.errors import must
from pipelines.params import load
from pipelines.params.decide import Decide
from pipelines.params.ingest import Ingest
from pipelines.params.utility import Utility

STEPS = 21
SMALLEST, LARGEST = 1e-12, 1e12  #: beyond them lie costs of nothing, and steps that floating-point numbers cannot tell apart
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Setting:
    """One option: its name for people, what it stands for, its range, its value in params.yaml, and how a value changes the matrix."""

    option: str
    meaning: str
    low: float
    high: float
    now: float | None
    change: Callable[[float, Matrix], Matrix]

    @property
    def is_range(self) -> bool:
        """Whether it stands for more than one value."""
        return self.low < self.high


def parse_range(option: str, text: str) -> tuple[float, float]:
    """The ends of `A..B`, equal for a single number; raises ExpostError unless both are finite, of a usual size, and A is below B."""
    first, dots, last = text.partition("..")
    try:
        low, high = float(first), float(last if dots else first)
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high)) or (dots and low >= high):
        raise must(f"{option} must be a number, or a range upwards such as 1..50", f"got {text!r}", "Mend it.")
    if wild := next((value for value in (low, high) if value and not SMALLEST <= abs(value) <= LARGEST), None):
        rule = f"{option} must be 0 or, without its sign, between {SMALLEST:g} and {LARGEST:g}"
        raise must(rule, f"got {wild:g}", "Choose another unit for the utility, so that its numbers are neither so small nor so large.")
    return low, high


def what_if(*, cost_fn: str | None = None, cost_fp: str | None = None, cells: Sequence[str] = (), steps: int = STEPS) -> dict[str, Any]:
    """The analytic policy's threshold, action shares and utility along a range of costs, as plain types for JSON.

    `cost_fn` and `cost_fp` are a number or a range `A..B`; `cells` set single cells, as "true class/action=A..B". One of them is a
    range, the rest of the utility is that of params.yaml. Raises ExpostError where that is not so, or where calibrate has not run.
    """
    utility, classes = load(Utility), tuple(store.read_json(store.stage_path("split", "meta.json"))["classes"])
    utility.cells(classes)  # the same classes
    settings = _costs(utility, classes, {"--cost-fn": cost_fn, "--cost-fp": cost_fp}) + [_cell(text, utility) for text in cells]
    axis, fixed = _axis(settings)
    matrix = utility.matrix
    for setting in fixed:
        matrix = setting.change(setting.low, matrix)
    others = [setting for setting in fixed if setting.now != setting.low]
    now = axis.now if axis.now is not None and axis.low <= axis.now <= axis.high and not others else None
    values = {*whatif.steps_of(axis.low, axis.high, steps).tolist(), *([] if now is None else [now])}
    cases, utilities_of, confidence = _cases(utility, classes), _utilities(utility, classes), load(Decide).confidence
    points = []
    for value in sorted(values):
        found = whatif.at(cases, utilities_of(axis.change(value, matrix)), confidence=confidence)
        always = {**found["trivial"], "action": utility.actions[found["trivial"]["action"]]}
        points.append({"value": value, "now": value == now, **found, "trivial": always})
    shown = {"option": axis.option, "meaning": axis.meaning, "low": axis.low, "high": axis.high, "now": axis.now}
    return {
        "axis": {**shown, "logarithmic": whatif.is_logarithmic(axis.low, axis.high)},
        "fixed": [{"option": setting.option, "meaning": setting.meaning, "value": setting.low, "now": setting.now} for setting in fixed],
        "classes": list(classes),
        "actions": list(utility.actions),
        "unit": utility.unit,
        "confidence": confidence,
        "rows": len(cases.labels),
        "effective_rows": cases.effective_rows,
        "points": points,
        "notes": _notes(utility, axis, others),
    }


def _axis(settings: Sequence[Setting]) -> tuple[Setting, list[Setting]]:
    """The one range among the settings, and the others."""
    ranges = [setting for setting in settings if setting.is_range]
    if len(ranges) != 1:
        got = f"there are {len(ranges)}: {', '.join(setting.option for setting in ranges)}" if ranges else "there is none"
        raise must("one option must be a range such as 1..50", got, "Give the others as single numbers.")
    return ranges[0], [setting for setting in settings if not setting.is_range]


def _costs(utility: Utility, classes: Sequence[str], given: dict[str, str | None]) -> list[Setting]:
    settings = []
    for number, (option, text) in enumerate(given.items()):
        if text is None:
            continue
        low, high = (cost(option, value) for value in parse_range(option, text))
        remedy = 'Give a cell its range, as in --cell "true class/action=-50..-1".'
        cell = error_cells(utility.matrix, classes, option, remedy)[number]
        row = [float(value) for value in utility.matrix[cell[0]].values()]
        now = max(row) - float(utility.matrix[cell[0]][cell[1]])
        what = f"cost of {cell[1]!r} where the truth is {cell[0]!r}"
        settings.append(Setting(option, what, low, high, now, partial(with_cost, cell)))
    return settings


def _cell(text: str, utility: Utility) -> Setting:
    name, equals, numbers = text.rpartition("=")
    known = {f"{true}/{action}": (true, action) for true in utility.matrix for action in utility.actions}
    if not equals or name.strip() not in known:
        remedy = f"Cells: {', '.join(known)}."
        raise must('--cell must be "true class/action=A..B" with a cell of utility.matrix', f"got {text!r}", remedy)
    cell = known[name.strip()]
    low, high = parse_range(f'--cell "{name.strip()}"', numbers)
    now = utility.matrix[cell[0]][cell[1]]
    what = f"utility of {cell[1]!r} where the truth is {cell[0]!r}"
    value = None if isinstance(now, str) else float(now)
    return Setting(name.strip(), what, low, high, value, partial(with_cell, cell))


def _cases(utility: Utility, classes: tuple[str, ...]) -> Cases:
    """Calib rows with the probabilities of who has not seen them, under the declared class prior."""
    rows, folds = _array("calibrate", "rows"), _array("calibrate", "folds")
    found = crossfit.out_of_fold(_array("calibrate", "crossfit"), folds)
    labels, groups, weights = (_array("split", name)[rows] for name in ("labels", "groups", "weights"))
    codes = np.unique(groups, return_inverse=True)[1]
    alone = len(codes) == codes.max(initial=-1) + 1
    cases = Cases(found, labels.astype(np.int64), None if alone else codes, weights.astype(np.float64))
    data = np.bincount(cases.labels, weights=cases.weights, minlength=len(classes)) / cases.weights.sum()
    deployment = utility.class_prior(classes, data)
    return cases if deployment is None else whatif.deployed(cases, data, deployment)


def _array(stage: str, name: str) -> Any:
    return np.load(store.need(store.stage_path(stage, f"{name}.npy")), allow_pickle=False)


def _utilities(utility: Utility, classes: tuple[str, ...]) -> Callable[[Matrix], Any]:
    """From a matrix of cells to utilities of the calib rows, whose cost columns are read once."""
    needed = utilities.columns(utility.cells(classes))
    frame = None
    if needed:
        import polars as pl

        utilities.check_columns(utility.cells(classes), {name: column.role for name, column in load(Ingest).columns.items()})
        table = pl.read_parquet(store.need(store.stage_path("ingest", "table.parquet")), columns=needed)
        frame = table[_array("calibrate", "rows")]
    return lambda matrix: utilities.values([[matrix[name][action] for action in utility.actions] for name in classes], frame)


def _notes(utility: Utility, axis: Setting, others: Sequence[Setting]) -> list[str]:
    notes = []
    if others:
        notes.append(f"params.yaml has another {others[0].meaning}, {_shown(others[0].now)}, so no line here is the utility now.")
    elif axis.now is None:
        notes.append("The cell is an expression in params.yaml: in its place stands one number for all rows.")
    elif not axis.low <= axis.now <= axis.high:
        notes.append(f"In params.yaml it is {axis.now:g}, outside of this range.")
    if utility.limits or utility.require.recall:
        notes.append("Limits and requirements are left out: decide fits them, so `expost retune` shows what they come to.")
    if utility.prior:
        notes.append("Probabilities, shares and utilities are those under the class prior in params.yaml.")
    return notes


def _shown(value: float | None) -> str:
    return "an expression" if value is None else f"{value:g}"


def check_plot(path: Path) -> None:
    """Raise ExpostError unless `path` is free, or holds a PNG, which may be replaced."""
    if path.suffix.lower() != ".png":
        raise must("--plot must name a PNG", f"got {str(path)!r}", "Let the name end in .png.")
    if not path.parent.is_dir():
        raise must("--plot must lie in a folder that is there", f"{path.parent} is none", "Make it, or choose another.")
    if path.exists() and not _is_png(path):
        raise must("--plot must not overwrite what is no PNG", f"{path} is there and is none", "Choose another name.")


def _is_png(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[: len(PNG)] == PNG


def save_plot(found: Mapping[str, Any], path: Path) -> None:
    """Write the plot of what `what_if` found; a PNG that is there is replaced."""
    from pipelines.commands.whatifplot import plot

    content = plot(found)
    with store.atomic_file(path) as temporary:
        temporary.write_bytes(content)
