"""Section `ingest`: the source, the target and a role for each column."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.params import Section

Role = Literal["feature", "key", "group", "time", "weight", "cost", "feature+cost", "ignored"]
Kind = Literal["number", "category", "boolean", "date", "text"]


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

    `where` is an SQL condition over the table as it was read, ignored columns too. A column with the role weight counts identical rows
    that stand in the table once; costs are no weights, and have no place before `decide`.
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
        texts = [
            name for name, column in self.columns.items() if column.kind == "text" and column.role not in ("feature", "key", "ignored")
        ]
        if texts:
            role = self.columns[texts[0]].role
            raise ValueError(
                f"a column of kind text must have the role feature, however: {texts[0]!r} is {role}. Make it a category, or change its role."
            )
        weights = [name for name, column in self.columns.items() if column.role == "weight"]
        if len(weights) > 1:
            raise ValueError(
                f"at most one column may have the role weight, however: {weights} do. Keep the one that counts identical rows."
            )
        if weights and self.columns[weights[0]].kind != "number":
            kind = self.columns[weights[0]].kind
            raise ValueError(f"a column with the role weight must be of kind number, however: {weights[0]!r} is {kind}. Change its kind.")
        return self

    @property
    def weight(self) -> str | None:
        """Name of the column that counts identical rows, or None."""
        return next((name for name, column in self.columns.items() if column.role == "weight"), None)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the feature columns, in the order declared."""
        return tuple(name for name, column in self.columns.items() if column.is_feature)
