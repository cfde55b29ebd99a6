"""Section `evaluate`: how the holdout is scored."""

from pydantic import Field, field_validator

from pipelines.params import Section


class Evaluate(Section):
    """Confidence of the intervals shown, bootstrap resamples for metrics that are not means, neighbours of the kNN probe, declared slices.

    `slices` maps a name to an SQL predicate over the table's columns but the target; a row where it is missing is not in the slice.
    """

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, ge=0)
    neighbours: int = Field(default=15, ge=1)
    slices: dict[str, str] = Field(default={})

    @field_validator("slices")
    @classmethod
    def _named(cls, slices: dict[str, str]) -> dict[str, str]:
        if any(not name.strip() for name in slices):
            raise ValueError("a slice must have a name, however: one is blank. Write it before the predicate.")
        return slices
