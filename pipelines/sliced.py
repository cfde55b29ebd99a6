"""How the models fare on slices of the holdout: those declared, the challenger's own lessons, and lessons of earlier champions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import slices, store
from pipelines.core import evaluation
from pipelines.core import utility as worth
from pipelines.core.evaluation import Cases, Display
from pipelines.holdout import Judged
from pipelines.params.evaluate import Evaluate
from pipelines.slices import Kind, Slice

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Sliced:
    """Slices with their masks `(s, n)` over the holdout rows, and the lessons that have no place in the table of now, with the reason."""

    slices: tuple[Slice, ...]
    masks: Bools
    left_out: tuple[tuple[Slice, str], ...]

    def columns(self) -> list[pl.Series]:
        """The masks as columns slice_0, slice_1, ..."""
        import polars as pl

        return [pl.Series(f"slice_{i}", mask, dtype=pl.Boolean) for i, mask in enumerate(self.masks)]


def sliced(frame: pl.DataFrame, target: str, settings: Evaluate) -> Sliced:
    """The slices of the holdout rows in `frame`, a typed table: a predicate never reads its column `target`."""
    inputs = frame.drop(target, strict=False)
    given, left_out = list(slices.declared(settings)), list[tuple[Slice, str]]()
    sources: tuple[tuple[str, Kind], ...] = (("decide", "lesson"), ("champion", "earlier lesson"))
    for stage, kind in sources:
        path = store.stage_path(stage, "lessons.json")
        kept, others = slices.applicable(inputs, slices.of_lessons(store.read_json(path), kind) if path.exists() else ())
        given += kept
        left_out += others
    first: dict[Any, Slice] = {}  # what was learned before may be learned again, and is one criterion
    for one in given:
        first.setdefault(one.rule, one)
    found = tuple(first.values())
    return Sliced(found, slices.masks(inputs, found), tuple(left_out))


def figures(found: Sliced, judged: Judged, display: Display) -> dict[str, Any]:
    """What evaluation.json says: utility and regret on each slice with intervals, and which lessons do not apply and why."""
    return {
        "slices": [
            {"name": one.name, "kind": one.kind, "version": one.version, **_fared(mask, judged, display)}
            for one, mask in zip(found.slices, found.masks, strict=True)
        ],
        "not_applicable": [
            {"name": one.name, "kind": one.kind, "version": one.version, "reason": reason} for one, reason in found.left_out
        ],
    }


def _fared(mask: Bools, judged: Judged, display: Display) -> dict[str, Any]:
    """Support, rows compared, and each model's figures on one slice; null where there is no row."""
    cases, ours = judged.cases, judged.models["challenger"][1].utility
    regret = worth.regret_of(ours, cases.labels, cases.U)
    made: dict[str, Any] = {
        "support": int(mask.sum()),
        "compared": 0,
        "challenger": _interval(evaluation.utility_interval, ours, mask, cases, display),
        "champion": None,
        "difference": None,
        "regret": _interval(evaluation.regret_interval, regret, mask, cases, display),
    }
    if "champion" in judged.models:
        _, rows, shared = judged.models["champion"]
        both = mask & shared
        made["compared"] = int(both.sum())
        made["champion"] = _interval(evaluation.utility_interval, rows.utility, both, cases, display)
        made["difference"] = _interval(evaluation.difference_interval, ours - rows.utility, both, cases, display)
    return made


def _interval(measure: Any, values: Floats, mask: Bools, cases: Cases, display: Display) -> dict[str, Any] | None:
    return asdict(measure(values[mask], cases.take(mask), display)) if mask.any() else None
