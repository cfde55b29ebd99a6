"""Section `split`: the rule that gives each row its part."""

from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipelines.params import Section, short

Part = Literal["train", "valid", "calib", "holdout"]


class Shares(Section):
    """Share of each part; they sum to one."""

    train: float = Field(default=0.60, gt=0, lt=1)
    valid: float = Field(default=0.10, gt=0, lt=1)
    calib: float = Field(default=0.15, gt=0, lt=1)
    holdout: float = Field(default=0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = self.train + self.valid + self.calib + self.holdout
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares must sum to 1, however: they sum to {total:g}. Change one of them.")
        return self


def _days(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'a date must be ISO 8601, however: got {text!r}. Write it like "2024-01-31".') from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / 86_400


class Dates(Section):
    """First date (ISO 8601) of valid, calib and holdout in the column with the role time; earlier rows train, later ones hold out."""

    valid_from: str
    calib_from: str
    holdout_from: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        days = self.days
        if not days[0] < days[1] < days[2]:
            got = f"{self.valid_from}, {self.calib_from}, {self.holdout_from}"
            raise ValueError(f"valid_from, calib_from, holdout_from must follow each other, however: got {got}. Move them.")
        return self

    @property
    def days(self) -> tuple[float, float, float]:
        """The three moments in days since 1970-01-01, UTC where no zone is given."""
        return _days(self.valid_from), _days(self.calib_from), _days(self.holdout_from)


class Declared(Section):
    """A column that declares parts; the value "rest" spreads rows over train, valid and calib by hash."""

    name: str
    parts: dict[str, Literal["train", "valid", "calib", "holdout", "rest"]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        lacking = [] if "rest" in self.parts.values() else [part for part in ("train", "valid", "calib") if part not in self.parts.values()]
        if lacking:
            raise ValueError(
                f"the declared parts must hold train, valid and calib, however: no value stands for {', '.join(lacking)}. Declare one, or let a "
                'value be "rest", which spreads its rows over the three.'
            )
        return self


_EXAMPLES = {
    "time": 'time: {valid_from: "2024-01-01", calib_from: "2024-03-01", holdout_from: "2024-06-01"}',
    "column": "column: {name: set, parts: {training: rest, test: holdout}}, or use by: hash",
}


class Split(Section):
    """How rows are assigned: by a stable hash, by absolute dates, or by a declared column."""

    by: Literal["hash", "time", "column"] = "hash"
    salt: str = "1"
    columns: tuple[str, ...] = ()
    shares: Shares = Shares()
    time: Dates | None = None
    column: Declared | None = None
    min_rows_per_class: int = Field(default=5, ge=1)
    folds: Literal["auto"] | int | None = None
    repeats: Literal["auto"] | int = "auto"

    @field_validator("folds", "repeats", mode="before")
    @classmethod
    def _count(cls, value: object, info: ValidationInfo) -> object:
        words, low, high = ("auto, null", 2, 20) if info.field_name == "folds" else ("auto", 1, 10)
        whole = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        if whole or value == "auto" or (value is None and info.field_name == "folds"):
            return value
        got = short(repr(value))
        raise ValueError(
            f"split.{info.field_name} must be {words} or a whole number from {low} to {high}, however: got {got}. Change it in params.yaml."
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for rule, needed in (("time", self.time), ("column", self.column)):
            if self.by == rule and needed is None:
                raise ValueError(
                    f"split.by: {rule} must come with split.{rule}, however: it is missing. Add it, such as {_EXAMPLES[rule]}."
                )
        if isinstance(self.folds, int) and not self.may_fold:
            got = f"{self.folds} with by: {self.by}"
            raise ValueError(
                f"split.folds must be null or auto unless all rows before the holdout are drawn by hash, however: it is {got}. Change one of them."
            )
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"split.columns must be distinct, however: got {list(self.columns)}. Remove the repetition.")
        return self

    @property
    def may_fold(self) -> bool:
        """Whether train, valid and calib are drawn by hash: a declared or dated part is one for a reason, and no fold crosses it."""
        if self.by == "column":
            assert self.column is not None
            return set(self.column.parts.values()) <= {"rest", "holdout"}
        return self.by == "hash"
