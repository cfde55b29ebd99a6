"""The form of images that `init` proposes: the commonest size, brought down to what a small network learns in reasonable time, and the colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines import pictures
from pipelines.errors import must
from pipelines.params.ingest import LEAST_SIDE

if TYPE_CHECKING:
    import polars as pl

#: The longer side of what is proposed, at most: a batch of 64 then takes about 2 GB in training; with 224 pixels three times as much, in memory and time.
PROPOSED_SIDE = 128


def image_form(column: pl.Series) -> tuple[dict[str, Any], str, str]:
    """`ingest.image` for a column of images, what they are, and what will become of those of another size.

    Raises ExpostError where they are too small to be read.
    """
    looks = pictures.looks_of(column)
    height, width = looks.size
    most = "" if looks.same else ", most"
    if min(looks.size) < LEAST_SIDE:
        remedy = f"Enlarge them, or leave the column out with --ignore {column.name}."
        rule = f"images must have sides of at least {LEAST_SIDE} pixels"
        raise must(rule, f"{'those' if looks.same else 'most'} of column {column.name!r} have {height} x {width}", remedy)
    colours = "grey" if not looks.coloured else "coloured" if looks.coloured == looks.images else "grey and coloured"
    size = _reduced(height, width)
    form = {"size": list(size), "channels": 3 if looks.coloured else 1, "resize": "refuse" if looks.same and size == looks.size else "area"}
    said = f"{len(column)} {colours} images{most} of {height} x {width} pixels"
    if size != looks.size:
        to = f"{size[0]} x {size[1]}, since training on larger ones takes long"
        return form, said, f"; they will be resized to {to}, or set ingest.image.size in params.yaml"
    others = "; the others will be resized to that, or set ingest.image.resize to refuse in params.yaml"
    return form, said, "" if looks.same else others


def _reduced(height: int, width: int) -> tuple[int, int]:
    """A size in the same ratio whose longer side is at most `PROPOSED_SIDE`; the shorter one of a long strip is the least that is allowed."""
    scale = min(1.0, PROPOSED_SIDE / max(height, width))
    return max(LEAST_SIDE, round(height * scale)), max(LEAST_SIDE, round(width * scale))
