"""The costs that a user gives on the command line: a file with a utility, or the costs of the two errors; and a matrix with such costs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.calltime import LONGEST, check_length, utility_of
from pipelines.errors import must
from pipelines.params import parse, short
from pipelines.params.utility import Utility

Matrix = dict[str, dict[str, float | str]]

#: What the two errors cost; what right decisions cost may have any sign.
ERRORS = ("--cost-fn", "--cost-fp")


def utility_from(path: Path, names: Sequence[str], *, otherwise: str = "") -> Utility:
    """The utility in a YAML or JSON file; raises ExpostError that names the file where it breaks a rule or has other classes than `names`.

    `otherwise` is what else may be done where a class has no row.
    """
    if not path.is_file():
        raise must("--utility must name a YAML or JSON file with unit and matrix", f"{path} is missing or no file", "Check the path.")
    try:
        with path.open("rb") as stream:
            content = stream.read(LONGEST + 1)
        check_length(len(content), path)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise must(f"{path} must be a readable file of UTF-8 text", str(error), "Check it.") from error
    utility = utility_of(text, path)
    missing, extra = [name for name in names if name not in utility.matrix], [name for name in utility.matrix if name not in names]
    if missing or extra:
        got = f"row {missing[0]!r} is missing" if missing else f"row {short(extra[0])!r} is no class"
        raise must(f"utility must have one row per class {list(names)}", got, f"Mend {path}{otherwise if missing else ''}.")
    return utility


def cost(option: str, value: float) -> float:
    """What an error loses; raises ExpostError unless it is finite and above zero."""
    if not (math.isfinite(value) and value > 0):
        raise must(f"{option} must be a positive number", f"got {value:g}", "A cost is what an error loses, without its sign.")
    return float(value)


def cost_of(option: str, value: float | str, columns: Sequence[str]) -> float | str:
    """A number, or an expression as text: the name of one of `columns` is one, whatever characters it has.

    Raises ExpostError where a number is not finite, or what an error costs is not above zero.
    """
    if isinstance(value, str) and value in columns:
        return value if re.fullmatch(r"[A-Za-z_]\w*", value) else f'"{value}"'
    try:
        number = float(value)
    except ValueError:
        return str(value)
    if option in ERRORS:
        return cost(option, number)
    if not math.isfinite(number):
        raise must(f"{option} must be a finite number", f"got {number:g}", "Write a number, or an expression over columns.")
    return number


def negative(value: float | str) -> float | str:
    """What a cost is as a utility: with the other sign."""
    if isinstance(value, float):
        return -value if value else 0.0
    return f"-{value}" if re.fullmatch(r'\w+|"[^"]*"', value) else f"-({value})"


def error_cells(matrix: Matrix, classes: Sequence[str], option: str, remedy: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """The cells (true class, action) of a missed positive, the last class, and of a false alarm: the other class's best action.

    Raises ExpostError unless there are two classes, their cells are numbers, and each has a best action of its own.
    """
    if len(classes) != 2:
        raise must(f"{option} must be for two classes", f"the model has {len(classes)}: {list(classes)}", remedy)
    best = []
    for name in classes:
        row = {action: value for action, value in matrix[name].items() if not isinstance(value, str)}
        if len(row) < len(matrix[name]):
            text = next(value for value in matrix[name].values() if isinstance(value, str))
            raise must(f"{option} must be for a matrix of numbers", f"a cell is the expression {text!r}", remedy)
        best.append(max(row, key=lambda action: row[action]))
    if best[0] == best[1]:
        raise must(f"{option} must be for classes with different best actions", f"{best[0]!r} is best for both", remedy)
    return (classes[1], best[0]), (classes[0], best[1])


def with_cost(cell: tuple[str, str], loss: float | str, matrix: Matrix) -> Matrix:
    """The matrix with `loss` as what the cell's action loses against the best one for its class; all other cells stay."""
    top = max(float(value) for value in matrix[cell[0]].values())
    if isinstance(loss, str):
        return with_cell(cell, f"{top!r} - ({loss})" if top else negative(loss), matrix)
    return with_cell(cell, top - loss, matrix)


def with_cell(cell: tuple[str, str], value: float | str, matrix: Matrix) -> Matrix:
    """The matrix with one cell (true class, action) set."""
    name, action = cell
    return {other: {**row, action: value} if other == name else dict(row) for other, row in matrix.items()}


def with_costs(
    utility: Utility, classes: Sequence[str], fn: float | str | None, fp: float | str | None, columns: Sequence[str] = ()
) -> Utility:
    """The utility with other costs of a missed positive and of a false alarm, each kept where it is None; all else stays.

    A cost is a number, or an expression over columns, of which `columns` may be named as they are.
    """
    values: dict[str, Any] = utility.model_dump()
    remedy = "Give the new utility whole, with --utility FILE, or change utility.matrix in params.yaml."
    missed, alarm = error_cells(utility.matrix, classes, "--cost-fn" if fn is not None else "--cost-fp", remedy)
    for option, cell, loss in (("--cost-fn", missed, fn), ("--cost-fp", alarm, fp)):
        if loss is not None:
            values["matrix"] = with_cost(cell, cost_of(option, loss, columns), values["matrix"])
    return parse(Utility, values, "utility")


def about(utility: Utility) -> dict[str, str]:
    """Comments for the rows of the matrix in params.yaml, by dotted key."""
    said = {}
    for name, row in utility.matrix.items():
        known = {action: value for action, value in row.items() if not isinstance(value, str)}
        best = f"; best: {max(known, key=lambda action: known[action])}" if len(known) == len(row) else ""
        said[f"utility.matrix.{name}"] = f"where the truth is {json.dumps(name, ensure_ascii=False)}{best}"
    return said
