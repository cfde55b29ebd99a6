"""Section `utility`: what each action is worth for each true class. Read by decide, evaluate and gate, by nothing upstream."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import Field, model_validator

from pipelines.errors import must
from pipelines.params import Section


class Utility(Section):
    """`matrix[true class][action]`, K >= 2 classes by A >= 2 actions, higher is better, in `unit`."""

    unit: str = "points"
    matrix: dict[str, dict[str, float]] = Field(min_length=2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        actions = self.actions
        for name, row in self.matrix.items():
            if set(row) != set(actions):
                missing, extra = sorted(set(actions) - set(row)), sorted(set(row) - set(actions))
                what = f"row {name!r} lacks {missing}" if missing else f"row {name!r} has {extra}, which the first row lacks"
                raise ValueError(f"every row of utility.matrix must have the same actions, however: {what}. Complete it in params.yaml.")
            for action, value in row.items():
                if not math.isfinite(value):
                    raise ValueError(f"utilities must be finite numbers, however: {name}/{action} is {value}. Write a number.")
        if len(actions) < 2:
            raise ValueError(f"utility.matrix must have at least two actions, however: got {list(actions)}. Add one to every row.")
        for action in actions:
            if all(row[action] >= max(row.values()) for row in self.matrix.values()):
                raise ValueError(
                    f"no action may be best whatever happens, however: {action!r} is best for every true class, so there is nothing to decide. "
                    "Check the signs: utilities are higher when better, a cost is a negative utility."
                )
        return self

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions, in the order of the first row."""
        return tuple(next(iter(self.matrix.values())))

    def array(self, classes: tuple[str, ...]) -> Any:
        """Utility matrix as float64 `(K, A)`, rows in the order of `classes`; raises ExpostError where the classes differ."""
        import numpy as np

        missing, extra = [c for c in classes if c not in self.matrix], [c for c in self.matrix if c not in classes]
        if missing or extra:
            got = f"row {missing[0]!r} is missing" if missing else f"row {extra[0]!r} is no class"
            raise must(f"utility must have one row per class {list(classes)}", got, "Mend it under utility.matrix in params.yaml.")
        return np.array([[self.matrix[c][a] for a in self.actions] for c in classes], dtype=np.float64)
