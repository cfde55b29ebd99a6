"""Section `ingest`: the source, the target and a role for each column."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.params import Section

Role = Literal["feature", "key", "group", "time", "cost", "feature+cost", "ignored"]
Kind = Literal["number", "category", "boolean", "date"]


class Column(Section):
    """Role of a column in the pipeline, and the type it is read as."""

    role: Role
    kind: Kind = "category"

    @property
    def is_feature(self) -> bool:
        """Whether training sees the column."""
        return self.role in ("feature", "feature+cost")


class Ingest(Section):
    """Where the table comes from and what its columns are.

    `where` is an SQL condition over the table as it was read, ignored columns too.
    """

    source: str = Field(min_length=1)
    target: str = Field(min_length=1)
    classes: tuple[str, ...] = Field(min_length=2)
    columns: dict[str, Column] = Field(min_length=1)
    where: str | None = None
    holdout_source: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"ingest.classes must be distinct, however: got {list(self.classes)}. Remove the repetition.")
        if self.target in self.columns:
            raise ValueError(f"the target must not have a role, however: {self.target} stands under ingest.columns too. Remove it there.")
        if not self.features:
            raise ValueError("ingest.columns must name at least one feature, however: none has the role feature. Give one that role.")
        if sum(column.role == "group" for column in self.columns.values()) > 1:
            raise ValueError("at most one column may have the role group, however: several do. Keep the coarsest.")
        return self

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the feature columns, in the order declared."""
        return tuple(name for name, column in self.columns.items() if column.is_feature)
