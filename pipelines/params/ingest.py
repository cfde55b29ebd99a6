"""Section `ingest`: the source, the target and a role for each column."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.params import Section

Role = Literal["feature", "key", "group", "time", "part", "weight", "cost", "feature+cost", "ignored"]
Kind = Literal["number", "category", "boolean", "date", "text", "image"]

#: Fewest and most pixels of a side of an image.
LEAST_SIDE, MOST_SIDE = 8, 1024


class Column(Section):
    """Role of a column in the pipeline, and the type it is read as."""

    role: Role
    kind: Kind = "category"

    @property
    def is_feature(self) -> bool:
        """Whether training sees the column."""
        return self.role in ("feature", "feature+cost")


class Picture(Section):
    """The one form of all images: `size` (height, width), 1 channel (grey) or 3 (colours), and what is done with an image of another size."""

    size: Annotated[tuple[int, ...], Field(min_length=2, max_length=2)]
    channels: Literal[1, 3] = 1
    resize: Literal["refuse", "area", "bilinear"] = "refuse"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(LEAST_SIDE <= side <= MOST_SIDE for side in self.size):
            rule = f"the sides of an image must be {LEAST_SIDE} to {MOST_SIDE} pixels"
            raise ValueError(f"{rule}, however: got {list(self.size)}. Change ingest.image.size.")
        return self


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
    image: Picture | None = None

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
        self._check_images()
        weights = [name for name, column in self.columns.items() if column.role == "weight"]
        if len(weights) > 1:
            raise ValueError(
                f"at most one column may have the role weight, however: {weights} do. Keep the one that counts identical rows."
            )
        if weights and self.columns[weights[0]].kind != "number":
            kind = self.columns[weights[0]].kind
            raise ValueError(f"a column with the role weight must be of kind number, however: {weights[0]!r} is {kind}. Change its kind.")
        return self

    def _check_images(self) -> None:
        images = {name: column.role for name, column in self.columns.items() if column.kind == "image" and column.role != "ignored"}
        if len(images) > 1:
            raise ValueError(f"at most one column may be of kind image, however: {list(images)} are. Ignore the others.")
        for name, role in images.items():
            if role != "feature":
                raise ValueError(f"a column of kind image must have the role feature, however: {name!r} is {role}. Change its role.")
        if images and self.image is None:
            raise ValueError("images must have a declared form, however: ingest.image is missing. Add it, such as image: {size: [28, 28]}.")

    @property
    def picture(self) -> str | None:
        """Name of the column of images, or None."""
        return next((name for name, column in self.columns.items() if column.kind == "image" and column.role != "ignored"), None)

    @property
    def weight(self) -> str | None:
        """Name of the column that counts identical rows, or None."""
        return next((name for name, column in self.columns.items() if column.role == "weight"), None)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the feature columns, in the order declared."""
        return tuple(name for name, column in self.columns.items() if column.is_feature)
