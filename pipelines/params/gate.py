"""Section `gate`: criteria and margins. There are no thresholds here: a threshold is a cut-off on a probability."""

from typing import Literal

from pydantic import Field, field_validator

from pipelines.params import Section


class Material(Section):
    """How much worse a guarded criterion may be before it matters, in its own unit (nats, Brier points, probability, bits)."""

    log_loss: float = Field(default=0.01, gt=0)
    brier: float = Field(default=0.005, gt=0)
    calibration_error: float = Field(default=0.02, gt=0)
    v_information: float = Field(default=0.02, gt=0)


class Calibration(Section):
    """Ranges in which the challenger's slope and intercept on the holdout may lie; they block where the interval lies outside."""

    slope: list[float] = Field(default=[0.8, 1.25], min_length=2, max_length=2)
    intercept: list[float] = Field(default=[-0.25, 0.25], min_length=2, max_length=2)

    @field_validator("slope", "intercept")
    @classmethod
    def _ordered(cls, values: list[float]) -> list[float]:
        if not values[0] < values[1]:
            raise ValueError(f"a range must be [low, high], however: got {values}. Write the lower end first.")
        return values


class Bootstrap(Section):
    """Absolute criteria for a first champion."""

    beats_trivial: bool = True
    max_log_loss_ratio: float = Field(default=1.0, gt=0)


class Gate(Section):
    """The test of utility decides; the other criteria block only when significantly and materially worse."""

    objective: Literal["non-inferiority", "superiority"] = "non-inferiority"
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    margin: float = Field(default=0.10, gt=0, le=1)
    material: Material = Material()
    calibration: Calibration = Calibration()
    min_support: int = Field(default=50, ge=2)
    negative_flips: float = Field(default=0.2, gt=0, le=1)
    least_rank: float | None = Field(default=None, gt=0, le=1)
    max_looks: int = Field(default=50, ge=1)
    bootstrap: Bootstrap = Bootstrap()
