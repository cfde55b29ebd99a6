"""Section `decide`: the decision policies that compete and how long Optuna searches."""

from typing import Literal

from pydantic import Field

from pipelines.params import Section

PolicyName = Literal["analytic", "exact", "optuna"]


class Decide(Section):
    """Candidate policies; a tuned one replaces the analytic one only when its cross-fitted gain is surely above zero."""

    policies: tuple[PolicyName, ...] = Field(default=("analytic", "exact", "optuna"), min_length=1)
    trials: int = Field(default=200, ge=1)
    seed: int = Field(default=0, ge=0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
