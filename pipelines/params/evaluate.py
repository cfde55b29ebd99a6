"""Section `evaluate`: how the holdout is scored."""

from pydantic import Field

from pipelines.params import Section


class Evaluate(Section):
    """Confidence of the intervals shown, bootstrap resamples for metrics that are not means, neighbours of the kNN probe."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, ge=0)
    neighbours: int = Field(default=15, ge=1)
