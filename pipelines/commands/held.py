"""A batch held between two passes over its file: probabilities and values in temporary files, mapped into memory, never the rows."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines import tables
from pipelines.bundle import Bundle
from pipelines.core import priorshift, quota
from pipelines.errors import must
from pipelines.scoring import cores

if TYPE_CHECKING:
    import polars as pl

Float = NDArray[np.float64]
T = TypeVar("T")
R = TypeVar("R")
SHOWN = 12  #: classes of whose share something is said


@dataclass
class Held:
    """Calibrated probabilities (n, K) of all rows, their weights (n,) where a column has that role, and counts of unseen values."""

    probability: Any
    weights: Float | None
    unseen: Counter[str] = field(default_factory=Counter)


def numbered(frames: Iterator[pl.DataFrame]) -> Iterator[tuple[slice, pl.DataFrame, pl.Series]]:
    """Each frame with its place among the rows and the rows' numbers from 1."""
    import polars as pl

    start = 0
    for frame in frames:
        stop = start + len(frame)
        yield slice(start, stop), frame, pl.Series(range(start + 1, stop + 1), dtype=pl.Int64)
        start = stop


def side_by_side(made: Callable[[T], R], items: Iterator[T]) -> Iterator[R]:
    """What `made` makes of each item, in order, on as many threads as there are cores, no further ahead than that."""
    ahead, waiting = cores(), deque[Future[R]]()
    with ThreadPoolExecutor(ahead) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(made, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def hold(bundle: Bundle, frames: Iterator[pl.DataFrame], folder: Path, seen: Callable[[int], None]) -> Held:
    """Score all rows once; `seen` is told how many there were in each batch."""
    weight = next((column["name"] for column in bundle.schema["others"] if column["role"] == "weight"), None)
    weights: list[Float] = []
    unseen = Counter[str]()
    path, rows = folder / "probability", 0

    def scored(part: tuple[slice, pl.DataFrame, pl.Series]) -> tuple[Float, dict[str, int], Float | None]:
        _, frame, numbers = part
        probability, batch = bundle.calibrated(frame, numbers, threads=1)
        return probability, batch, _weights(frame, weight, numbers) if weight in frame.columns else None

    with path.open("wb") as stream:
        for probability, batch, weighted in side_by_side(scored, numbered(frames)):
            probability.tofile(stream)
            unseen.update(batch)
            weights += [] if weighted is None else [weighted]
            rows += len(probability)
            seen(len(probability))
    shape = (rows, len(bundle.classes))
    held = np.memmap(path, dtype=np.float64, mode="r", shape=shape) if rows else np.zeros(shape)
    return Held(held, np.concatenate(weights) if weights else None, unseen)


def _weights(frame: pl.DataFrame, name: str, numbers: pl.Series) -> Float:
    found = tables.typed(frame, {name: "number"}, numbers)[name].fill_null(float("nan")).to_numpy()
    wrong = np.flatnonzero(~(np.isfinite(found) & (found > 0)))
    if len(wrong):
        got = f"row {numbers[int(wrong[0])]} holds {frame[name][int(wrong[0])]!r}"
        raise must(f"column {name!r} counts identical rows and must hold numbers above 0", got, "Mend it, or leave the column out.")
    return np.asarray(found, dtype=np.float64)


def under_estimated_prior(bundle: Bundle, held: Held) -> tuple[Bundle, list[str]]:
    """The bundle under the batch's own class shares where their estimate is believable, and what there is to say of it."""
    found = priorshift.estimate(held.probability, bundle.reference, weights=held.weights)
    doubts = priorshift.doubts(found, bundle.classes)
    declared = bundle.policy.get("prior") is not None
    own = "the class shares declared for the policy are" if declared else "the model's own are"
    moved = ", ".join(
        f"{name} {found.data[k]:.3g} -> {found.shares[k]:.3g} [{found.low[k]:.3g}, {found.high[k]:.3g}]"
        for k, name in [*enumerate(bundle.classes)][-1 if len(bundle.classes) == 2 else 0 :][:SHOWN]
    )
    rows = f"{found.rows:,.0f} {'' if held.weights is None else 'effective '}{'row' if round(found.rows) == 1 else 'rows'}"
    lines = [
        f"class shares, calib -> this batch ({rows}, {found.confidence:.0%} intervals, of whose variance calib's sampling is "
        f"{np.max(found.from_calib):.0%}): {moved}"
    ]
    if doubts:
        return bundle, [*lines, f"this estimate is not to be believed, and {own} kept: {'; '.join(doubts)}"]
    if not found.has_moved and not declared:
        return bundle, [*lines, f"that is no more than chance (p = {found.moved:.2g}), and {own} kept"]
    lines.append("probabilities and decisions use this batch's shares; no check sees a change of the classes that looks like other shares")
    if any(bundle.policy.get("offsets") or []) or any(bundle.policy.get("prices") or []):
        lines.append(
            "the policy's limits, requirements and tuned cut-offs were fitted under other class shares and are not warranted under these"
        )
    return bundle.with_prior(found.smoothed.tolist(), bundle.reference.get("implied")), lines


def limits_of(at_most: dict[str, int], bundle: Bundle) -> dict[int, int]:
    """Limits by action number; raises ExpostError for an unknown action and for a count below 0."""
    names = bundle.actions_named
    for name, most in at_most.items():
        if name not in names:
            raise must(f"--at-most must name an action of {names}", f"got {name!r}", "Mend the name.")
        if most < 0:
            raise must(f"--at-most {name}=ROWS must be a whole number, at least 0", f"got {most}", "Mend the count.")
    return {names.index(name): most for name, most in at_most.items()}


def allotted(
    bundle: Bundle, held: Held, limits: dict[int, int], costs: Callable[[], Iterator[pl.DataFrame]], folder: Path
) -> tuple[NDArray[np.int64], list[str]]:
    """Actions (n,) of all rows within `limits`, and what there is to say; `costs` gives the rows' cost columns, in batches, once more."""
    rows, names = len(held.probability), bundle.actions_named
    if len(limits) == len(names) and sum(limits.values()) < rows:
        got = f"the limits of all {len(names)} actions leave {sum(limits.values())} for {rows} rows"
        raise must("--at-most must leave an action for every row", got, "Raise one of them, or leave one action without a limit.")
    path, wants = folder / "value", np.empty(rows, dtype=np.int64)
    with path.open("wb") as stream:
        for place, frame, numbers in _places(bundle, rows, costs):
            value, wants[place] = bundle.worth(np.asarray(held.probability[place]), frame, numbers)
            value.tofile(stream)
    found = quota.allot(np.memmap(path, dtype=np.float64, mode="r", shape=(rows, len(names))), wants, limits)
    lines = []
    for action, most in limits.items():
        wanted, price, unit = found.wanted[action], found.price[action], bundle.policy.get("unit", "")
        said = (
            f"{names[action]}: {wanted:,} of {rows:,} rows wanted it, {int((found.actions == action).sum()):,} have it (at most {most:,})"
        )
        if wanted > most and not np.isnan(price):  # else no action has room that it could be compared with
            who = "the last of them" if most else "the first one refused"
            said += f"; to {who} it is worth {price:.4g} {unit} more than the next best action".replace("  ", " ")
        lines.append(said)
    return found.actions, lines


def _places(bundle: Bundle, rows: int, costs: Callable[[], Iterator[pl.DataFrame]]) -> Iterator[tuple[slice, Any, Any]]:
    """Successive rows, with their cost columns where the utility reads them."""
    if bundle.cost_columns:
        yield from numbered(costs())
        return
    for start in range(0, rows, quota.BLOCK):
        yield slice(start, min(start + quota.BLOCK, rows)), None, None
