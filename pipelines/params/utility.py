"""Section `utility`: what each action is worth for each true class. Read by decide, evaluate and gate, by nothing upstream."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from pipelines.errors import must
from pipelines.params import Section, short

Cells = list[list[float | str]]


class Limit(Section):
    """The largest share of rows for which an action may be taken."""

    at_most: float = Field(gt=0, lt=1)


class Recall(Section):
    """A share of the rows of `class` that must get their best action, with this confidence, on unseen rows too."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, serialize_by_alias=True)

    name: str = Field(alias="class")
    at_least: float = Field(gt=0, lt=1)
    confidence: float = Field(default=0.9, gt=0.5, lt=1)


class Require(Section):
    """What a policy must reach, whatever it costs in utility."""

    recall: tuple[Recall, ...] = ()

    @field_validator("recall", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value


class Utility(Section):
    """`matrix[true class][action]`, K >= 2 classes by A >= 2 actions, higher is better, in `unit`.

    A cell is a number, or an expression over columns with a cost role as text. `limits` bound actions' shares, `require` what must be
    reached, and `prior` declares class shares where deployment differs from the data.
    """

    unit: str = "points"
    matrix: dict[str, dict[str, float | str]] = Field(min_length=2)
    limits: dict[str, Limit] = Field(default_factory=dict)
    require: Require = Require()
    prior: dict[str, float] = Field(default_factory=dict)

    @field_validator("matrix", mode="before")
    @classmethod
    def _numbers_or_text(cls, value: Any) -> Any:
        for name, row in value.items() if isinstance(value, dict) else ():
            for action, cell in row.items() if isinstance(row, dict) else ():
                if isinstance(cell, bool) or not isinstance(cell, int | float | str) or cell == "" or str(cell).isspace():
                    got = "empty" if cell is None or isinstance(cell, str) else short(repr(cell))
                    rule = "a cell must be a number, or an expression over columns as text"
                    raise ValueError(f"{rule}, however: {short(f'{name}/{action}')} is {got}. Write one in params.yaml.")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        actions = self.actions
        for name, row in self.matrix.items():
            if set(row) != set(actions):
                missing, extra = sorted(set(actions) - set(row)), sorted(set(row) - set(actions))
                what = (
                    f"row {short(name)!r} lacks {short(missing)}"
                    if missing
                    else f"row {short(name)!r} has {short(extra)}, which the first row lacks"
                )
                raise ValueError(f"every row of utility.matrix must have the same actions, however: {what}. Complete it in params.yaml.")
            for action, value in row.items():
                if not isinstance(value, str) and not math.isfinite(value):
                    raise ValueError(f"utilities must be finite numbers, however: {short(f'{name}/{action}')} is {value}. Write a number.")
        if len(actions) < 2:
            raise ValueError(f"utility.matrix must have at least two actions, however: got {short(list(actions))}. Add one to every row.")
        if not self.by_row:
            self._check_that_there_is_a_choice()
        self._check_constraints()
        return self

    def _check_that_there_is_a_choice(self) -> None:
        best = [max(map(float, row.values())) for row in self.matrix.values()]
        for action in self.actions:
            if all(float(row[action]) >= most for row, most in zip(self.matrix.values(), best, strict=True)):
                raise ValueError(
                    f"no action may be best whatever happens, however: {short(action)!r} is best for every true class, so there is nothing to decide. "
                    "Check the signs: utilities are higher when better, a cost is a negative utility."
                )

    def _check_constraints(self) -> None:
        unknown = [action for action in self.limits if action not in self.actions]
        if unknown:
            raise ValueError(
                f"utility.limits must name actions of {short(list(self.actions))}, however: {short(unknown[0])!r} is none. Mend the name."
            )
        total = sum(limit.at_most for limit in self.limits.values())
        if len(self.limits) == len(self.actions) and total < 1:
            raise ValueError(
                f"utility.limits must leave an action for every row, however: all actions are limited, to {total:g} of the rows together. "
                "Raise one of them, or leave one action without a limit."
            )
        classes, required = [*self.matrix], [item.name for item in self.require.recall]
        stray = [name for name in (*required, *self.prior) if name not in self.matrix]
        if stray:
            raise ValueError(
                f"utility.require and utility.prior must name classes of {short(classes)}, however: {short(stray[0])!r} is none. Mend it."
            )
        if twice := next((name for name in required if required.count(name) > 1), None):
            raise ValueError(
                f"utility.require.recall must name each class once, however: {short(twice)!r} stands twice. Keep the higher share."
            )
        for name, share in self.prior.items():
            if not 0 < share < 1:
                raise ValueError(
                    f"a class's share under utility.prior must lie between 0 and 1, however: {short(name)!r} has {share}. Mend it."
                )
        shares = sum(self.prior.values())
        whole = len(self.prior) == len(classes)
        if (whole and abs(shares - 1) > 1e-6) or (not whole and shares >= 1):
            goal = "sum to 1" if whole else "sum to less than 1, which leaves a share for the other classes"
            raise ValueError(f"the shares under utility.prior must {goal}, however: they sum to {shares:g}. Mend them.")

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions, in the order of the first row."""
        return tuple(next(iter(self.matrix.values())))

    @property
    def by_row(self) -> bool:
        """Whether a cell is an expression, so that utilities differ by row."""
        return any(isinstance(value, str) for row in self.matrix.values() for value in row.values())

    def cells(self, classes: tuple[str, ...]) -> Cells:
        """Cells `K x A`, numbers or expressions, rows in the order of `classes`; raises ExpostError where the classes differ."""
        missing, extra = [c for c in classes if c not in self.matrix], [c for c in self.matrix if c not in classes]
        if missing or extra:
            got = f"row {missing[0]!r} is missing" if missing else f"row {short(extra[0])!r} is no class"
            raise must(f"utility must have one row per class {list(classes)}", got, "Mend it under utility.matrix in params.yaml.")
        return [[self.matrix[c][a] for a in self.actions] for c in classes]

    def class_prior(self, classes: tuple[str, ...], data: Any) -> list[float] | None:
        """Class shares `(K,)` under the declared prior, None where none is; classes not named share the rest as in `data` `(K,)`."""
        if not self.prior:
            return None
        rest = 1 - sum(self.prior.values())
        others = sum(float(share) for name, share in zip(classes, data, strict=True) if name not in self.prior)
        return [self.prior[name] if name in self.prior else rest * float(share) / others for name, share in zip(classes, data, strict=True)]
