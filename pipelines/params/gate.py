"""Section `gate`: criteria and margins. There are no thresholds here: a threshold is a cut-off on a probability."""

from pydantic import Field

from pipelines.params import Section


class Material(Section):
    """How much worse a guarded criterion may be before it matters, in its own unit (nats, Brier points, bits)."""

    log_loss: float = Field(default=0.01, gt=0)
    brier: float = Field(default=0.005, gt=0)
    v_information: float = Field(default=0.02, gt=0)


class Bootstrap(Section):
    """Absolute criteria for a first champion."""

    beats_trivial: bool = True
    max_log_loss_ratio: float = Field(default=1.0, gt=0)


class Gate(Section):
    """Non-inferiority of utility decides; the other criteria block only when significantly and materially worse."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    margin: float = Field(default=0.10, gt=0, le=1)
    material: Material = Material()
    bootstrap: Bootstrap = Bootstrap()
