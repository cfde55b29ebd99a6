"""The utility that `init` writes: from a file, or from what right and wrong decisions cost, each a number or an expression over columns."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import utilities
from pipelines.commands.costs import ERRORS, cost_of, negative, utility_from
from pipelines.errors import ExpostError, must
from pipelines.params import parse, short
from pipelines.params.utility import Utility
from pipelines.utilities import SHOWN

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

#: The default workspace: a missed malignancy costs ten needless biopsies, and the actions are what a doctor does.
_BIOPSY = {
    "unit": "points",
    "matrix": {"benign": {"no biopsy": 0, "biopsy": -1}, "malignant": {"no biopsy": -10, "biopsy": 0}},
}


@dataclass(frozen=True)
class Costs:
    """What the user said of the costs: the positive class, what a decision costs that is right (tp, tn) or wrong, or a file with the matrix."""

    positive: str | None = None
    fn: float | str | None = None
    fp: float | str | None = None
    tp: float | str | None = None
    tn: float | str | None = None
    file: Path | None = None

    @property
    def given(self) -> dict[str, float | str]:
        """The costs that were given, by option."""
        named = {"--cost-fn": self.fn, "--cost-fp": self.fp, "--cost-tp": self.tp, "--cost-tn": self.tn}
        return {option: value for option, value in named.items() if value is not None}


def first_utility(source: str, labels: pl.Series, costs: Costs, columns: Sequence[str]) -> tuple[list[str], Utility, list[str]]:
    """Class order, utility and what was assumed about them, for the target's `labels` and the `columns` of the table."""
    from pipelines.tables import BUILT_IN, class_names

    names, target = class_names(labels), labels.name
    last = None if costs.positive is None else _class_named(costs.positive, names)
    if costs.file is not None:
        if costs.given:
            raise must(
                "costs must come from one place", f"both --utility and {next(iter(costs.given))} are given", "Leave one of them out."
            )
        utility = utility_from(costs.file, names, otherwise=", or leave rows of the table out with --where")
        classes = list(utility.matrix) if last is None else [*(name for name in utility.matrix if name != last), last]
        return classes, utility, [f"The utility matrix is that of {costs.file.name}: actions {', '.join(utility.actions)}."]
    if len(names) > 2:
        remedy = f"Write, for example to utility.yaml, with your own numbers, and give --utility utility.yaml:\n{_example(names)}"
        raise must(f"more than two classes must come with --utility FILE.yaml, and {target!r} has {names}", "it is not given", remedy)
    if source == BUILT_IN and target == "diagnosis" and last in (None, "malignant") and not costs.given:
        return ["benign", "malignant"], parse(Utility, _BIOPSY, "utility"), ["A missed malignancy costs 10 points, a needless biopsy 1."]
    return _binary(labels, names, last, costs, columns)


def _binary(
    labels: pl.Series, names: list[str], last: str | None, costs: Costs, columns: Sequence[str]
) -> tuple[list[str], Utility, list[str]]:
    said = []
    if last is None:
        last = min(reversed(names), key=lambda name: int((labels == name).sum()))
        said.append(f"{last!r}, the rarer class, is taken for the positive one, whose miss costs --cost-fn: name it with --positive.")
    first = next(name for name in names if name != last)
    known = {option: cost_of(option, value, columns) for option, value in costs.given.items()}
    cells = {option: negative(known.get(option, 1.0 if option in ERRORS else 0.0)) for option in _OPTIONS}
    matrix = {first: {first: cells["--cost-tn"], last: cells["--cost-fp"]}, last: {first: cells["--cost-fn"], last: cells["--cost-tp"]}}
    shown = {option: f"{value:g}" if isinstance(value, float) else value for option, value in {**_OPTIONS, **known}.items()}
    origin = "" if {"--cost-fn", "--cost-fp"} <= set(known) else " (1 where no cost was given: change utility.matrix)"
    right = "".join(
        f", a right {name!r} {shown[option]}" for option, name in (("--cost-tp", last), ("--cost-tn", first)) if option in known
    )
    wrong = f"A missed {last!r} costs {shown['--cost-fn']}, a false alarm {shown['--cost-fp']}{right}{origin}"
    said.append(f"{wrong}; the actions are named like the classes.")
    return [first, last], parse(Utility, {"unit": "points", "matrix": matrix}, "utility"), said


#: The options, and what a decision costs where its option is not given.
_OPTIONS: dict[str, float | str] = {"--cost-fn": 1.0, "--cost-fp": 1.0, "--cost-tp": 0.0, "--cost-tn": 0.0}


def cost_columns(utility: Utility, classes: Sequence[str], table: pl.DataFrame, target: str) -> list[str]:
    """The columns that the utility reads, to which `init` gives a cost role; raises ExpostError where the table lacks one, or it is the target."""
    cells = utility.cells(tuple(classes))
    named = utilities.columns(cells)
    if target in named:
        raise must("a cost must not be read from the target", f"an expression names {target!r}", "Name columns that are known beforehand.")
    for name in named:
        if name not in table.columns:
            close = difflib.get_close_matches(name.casefold(), [other.casefold() for other in table.columns], n=1)
            near = next((f"; did you mean {other}?" for other in table.columns if close and other.casefold() == close[0]), "")
            numbers = [other for other in table.columns if other != target and table[other].dtype.is_numeric()]
            remedy = f"Mend the name; columns of numbers: {short(', '.join(numbers), 300) or 'none'}."
            raise must("a cost must be a number or name columns of the table", f"there is no column {name!r}{near}", remedy)
    return named


def check_costs(
    utility: Utility, classes: Sequence[str], table: pl.DataFrame, kinds: Mapping[str, str], rows: pl.Series, *, costs: Costs
) -> None:
    """Raise ExpostError where a cost is no number, is missing or not finite in a row, has the wrong sign, or leaves nothing to decide.

    `table` is typed, `rows` are its rows' numbers.
    """
    cells = utility.cells(tuple(classes))
    try:
        utilities.check_kinds(cells, kinds)
        U = utilities.values(cells, table, rows)
        if costs.file is None:
            for option, cell in (("--cost-fn", (1, 0)), ("--cost-fp", (0, 1))):
                _check_sign(option, costs.given.get(option), -U[..., cell[0], cell[1]], rows)
        utilities.check_choice(U, utility.actions)
    except ExpostError as error:
        said = str(error).replace("ingest.where", "--where").replace("under utility.matrix", "given").replace("the kinds of its", "the")
        raise ExpostError(said) from None


def _check_sign(option: str, given: float | str | None, losses: NDArray[np.float64], rows: pl.Series) -> None:
    if losses.ndim == 0 or (losses > 0).any():
        return
    shown = "; ".join(f"row {rows[i]}: {losses[i]:g}" for i in range(min(SHOWN, len(losses))))
    remedy = f"A cost is what an error loses, without its sign: turn it round, as in {option} '-1.0 * ({given})', or mend the columns."
    raise must(f"{option} must be above 0 in some row", f"{given!r} is so in none of {len(losses)} rows ({shown})", remedy)


def _class_named(positive: str, names: list[str]) -> str:
    """The class that the user means: by its text, or by its number (1 for the class "1.0")."""
    if positive in names:
        return positive
    for name in names:
        try:
            if float(name) == float(positive):
                return name
        except ValueError:
            continue
    raise must(f"--positive must be one of the classes {names}", f"got {positive!r}", "Name one of them.")


def _example(names: list[str]) -> str:
    rows = [f'  "{true}": {{{", ".join(f"{json.dumps(action)}: {0 if action == true else -1}" for action in names)}}}' for true in names]
    return "\n".join(["unit: points", "matrix:", *rows])
