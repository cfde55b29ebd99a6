"""Conditions on single columns, of which lessons consist: structured, never text to be parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operation = Literal["<=", ">", "is", "is not", "in", "missing", "present"]


@dataclass(frozen=True)
class Condition:
    """One condition: `value` is a number for <= and >, text for is and is not, a tuple of texts for in, else None.

    A missing value meets "missing" alone, so "is not" leaves it out.
    """

    column: str
    op: Operation
    value: float | str | tuple[str, ...] | None = None
