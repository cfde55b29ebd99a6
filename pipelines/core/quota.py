"""Hard counts: at most so many rows get an action, those where it is worth most against the next best.

Prices on the limited actions, which minimise the dual, give a first division of the rows. It is then mended one path of actions at a time: from
an action with too many rows, along the cheapest path of exchanges, to one with room (successive shortest paths), and along cycles that
gain (Klein 1967). So the counts and the optimum do not rest on the prices, which only save steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import must

Float = NDArray[np.float64]
Int = NDArray[np.int64]

BLOCK = 65_536
SWEEPS = 30
LAST = 3  #: sweeps over all rows
FIRST = 16_384  #: rows on which prices are sought before all rows are looked at
SETS = 5  #: limited actions up to which all sets of them are moved together
NEAR = 1_000  #: rows looked at per pair of actions, those that lose least by the exchange
TIE = 1e-12  #: values closer than this share of the largest difference are equal


@dataclass(frozen=True)
class Allotted:
    """Actions `(n,)`, how many rows `wanted` each limited action, and its `price`: what it was worth to the last row that got it."""

    actions: Int
    wanted: dict[int, int]
    price: dict[int, float]


def allot(value: Any, wants: Any, limits: Mapping[int, int]) -> Allotted:
    """Actions within `limits` (action -> rows, at least 0), from what each is worth to each row and what each row `wants` `(n,)` without them.

    `value` `(n, A)` may be a memory map. Where a limit binds, the sum of what the rows get is the largest within the limits, ties to the
    first rows; its price is the least advantage, over the best action with room, of a row that got it (the largest of any row where nobody
    may have it), 0 where it does not bind, NaN where no action has room. Raises ExpostError where the limits leave too little room.
    """
    before = np.asarray(wants, dtype=np.int64)
    count = np.bincount(before, minlength=value.shape[1])
    wanted = {action: int(count[action]) for action in limits}
    if all(count[action] <= most for action, most in limits.items()):
        return Allotted(before.copy(), wanted, dict.fromkeys(limits, 0.0))
    if len(limits) == value.shape[1] and sum(limits.values()) < len(before):
        raise must(
            "limits must leave an action for every row", f"they leave {sum(limits.values())} for {len(before)}", "Raise one of them."
        )
    tie = TIE * max(float(np.ptp(block, axis=1).max()) for _, block in _blocks(value))
    actions = _divided(value, before, _prices(value, limits, tie), limits, tie)
    while not _mended(value, actions, limits, tie):
        pass
    _check(actions, limits)
    price = {action: _price(value, actions, action, limits) if wanted[action] > most else 0.0 for action, most in limits.items()}
    return Allotted(actions, wanted, price)


def _check(actions: Int, limits: Mapping[int, int]) -> None:
    for action, most in limits.items():
        if (got := int((actions == action).sum())) > most:
            raise must(f"action {action} must be taken for at most {most} rows", f"got {got} rows", "Raise a limit, or leave one out.")


def _blocks(value: Any) -> Any:
    """Place and values `(b, A)` of successive rows."""
    for start in range(0, len(value), BLOCK):
        place = slice(start, min(start + BLOCK, len(value)))
        yield place, np.asarray(value[place], dtype=np.float64)


def _price(value: Any, actions: Int, action: int, limits: Mapping[int, int]) -> float:
    """The least that `action` is worth to a row that got it, beyond the best action that has room; the most to any row where none got it."""
    open_ = np.array([a != action and (actions == a).sum() < limits.get(a, len(actions) + 1) for a in range(value.shape[1])])
    if not open_.any():
        return math.nan
    worth = _margin(value, np.where(open_, 0.0, np.inf), [action], own=False)
    taken = actions == action
    return float(worth[taken].min() if taken.any() else worth.max())


def _margin(value: Any, prices: Float, chosen: list[int], *, own: bool = True) -> Float:
    """By how much the best of `chosen` is worth more to each row `(n,)` than the best of the others, after prices, those of `chosen` if `own`."""
    found, others = np.empty(len(value)), np.delete(np.arange(value.shape[1]), chosen)
    mine = prices[chosen] if own else 0.0
    for place, block in _blocks(value):
        found[place] = (block[:, chosen] - mine).max(axis=1) - (block[:, others] - prices[others]).max(axis=1)
    return found


def _prices(value: Any, limits: Mapping[int, int], tie: float) -> Float:
    """Prices `(A,)` near the minimum of the dual, sum of max(value - prices) plus limits times prices: first of some rows, then of all.

    The dual is L-natural: it is least where no change of a set of prices by one amount lessens it (Murota 2003, theorem 7.14), and the
    best amount is a quantile of the margins.
    """
    size, step = value.shape[1], -(-len(value) // FIRST)
    some = [action for action, most in limits.items() if most]
    several = range(1, len(some) + 1) if len(some) <= SETS else (1, 2, len(some))
    sets = [list(chosen) for many in several if many < size for chosen in combinations(some, many)]
    prices = np.array([np.inf if limits.get(action) == 0 else 0.0 for action in range(size)])
    parts = [(np.asarray(value[::step]), 1 / step, SWEEPS), (value, 1.0, LAST)]
    for part, share, sweeps in parts if step > 1 and len(sets) > 1 else [(value, 1.0, SWEEPS if len(sets) > 1 else 1)]:
        for _ in range(sweeps):
            largest = 0.0
            for chosen in sets:
                room = math.ceil(share * sum(limits[a] for a in chosen))
                change = _change(_margin(part, prices, chosen), room, -float(prices[chosen].min()))
                prices[chosen] += change
                largest = max(largest, abs(change))
            prices -= prices.min()  # where all actions are limited only differences count
            if largest <= tie:
                break
    return prices


def _change(margin: Float, room: int, least: float) -> float:
    """The smallest change of price, at least `least`, that leaves no more than `room` rows with a margin above it."""
    place = len(margin) - 1 - room
    return max(float(np.partition(margin, place)[place]), least) if place >= 0 else least


def _divided(value: Any, wants: Int, prices: Float, limits: Mapping[int, int], tie: float) -> Int:
    """The best action of each row after prices; where several are, limited ones to the first rows while there is room."""
    actions = np.empty(len(wants), dtype=np.int64)
    rows, even = [], []
    for place, block in _blocks(value):
        net = block - prices
        good = net >= net.max(axis=1, keepdims=True) - tie
        actions[place] = good.argmax(axis=1)
        several = np.flatnonzero(good.sum(axis=1) > 1)
        rows.append(several + place.start)
        even.append(good[several])
    tied, good = np.concatenate(rows), np.concatenate(even)
    free = [a for a in range(value.shape[1]) if a not in limits]
    rank = np.where(good, -prices, -np.inf)  # of equally good ones the one wanted, else the one with the lowest price
    rank[:, free] = np.where(good[:, free], 1.0, -np.inf)
    own = good[np.arange(len(tied)), wants[tied]] & np.isin(wants[tied], free)
    best = np.where(own, wants[tied], rank.argmax(axis=1))
    count = np.bincount(np.delete(actions, tied), minlength=value.shape[1])
    left = np.ones(len(tied), dtype=bool)
    for action in sorted(limits, key=lambda a: -prices[a]):
        fit = np.flatnonzero(left & good[:, action] & ((prices[action] > 0) | (wants[tied] == action)))
        fit = fit[: max(limits[action] - int(count[action]), 0)]
        best[fit], left[fit] = action, False
    actions[tied] = best
    return actions


def _mended(value: Any, actions: Int, limits: Mapping[int, int], tie: float) -> bool:
    """Move rows along paths and cycles, and say whether that is done; else rows that were not looked at may now be the cheapest to move."""
    size = value.shape[1]
    near, known = _near(value, actions, tie)
    own, at = np.asarray(value[near], dtype=np.float64), actions[near]
    room = np.array([limits.get(action, len(actions)) for action in range(size)]) - np.bincount(actions, minlength=size)
    done = False
    while not done:
        loss, rows = _losses(own, at, limits, tie)
        if (loss > known).any():
            break
        nodes = _next(loss, room, tie)
        steps = list(zip(nodes, nodes[1:] + nodes[:1], strict=True))
        many = min(
            [len(rows[a, b]) if b < size else int(room[a]) for a, b in steps if a < size]
            + [-int(room[b]) for a, b in steps if a == size and room[b] < 0],
            default=0,
        )
        for a, b in steps:
            if a < size and b < size:
                at[rows[a, b][:many]] = b
            elif many:
                room[min(a, b)] += many if a == size else -many
        done = not many
    actions[near] = at
    return done


def _near(value: Any, actions: Int, tie: float) -> tuple[Int, Float]:
    """The rows that lose least by going from one action to another, and up to which loss `(A, A)` they are all such rows."""
    size = value.shape[1]
    known, chosen = np.full((size, size), np.inf), np.zeros(len(actions), dtype=bool)
    for a in range(size):
        inside = np.flatnonzero(actions == a)
        for b in (other for other in range(size) if other != a and len(inside)):
            lost = np.concatenate([value[some][:, a] - value[some][:, b] for some in np.array_split(inside, -(-len(inside) // BLOCK))])
            if len(inside) > NEAR:
                known[a, b] = np.partition(lost, NEAR)[NEAR]
            chosen[inside[lost <= known[a, b] + tie]] = True
    return np.flatnonzero(chosen), known


def _losses(own: Float, at: Int, limits: Mapping[int, int], tie: float) -> tuple[Float, dict[tuple[int, int], Int]]:
    """What the row loses that loses least by going from one action to another, `(A, A)`, and the rows that lose just that, in order."""
    size = own.shape[1]
    loss, rows = np.full((size, size), np.inf), {}
    for a in range(size):
        inside = np.flatnonzero(at == a)
        for b in (other for other in range(size) if other != a and len(inside)):
            lost = own[inside, a] - own[inside, b]
            loss[a, b] = lost.min()
            least = inside[lost <= loss[a, b] + tie]
            rows[a, b] = least if b in limits and a not in limits else least[::-1]
    return loss, rows


def _next(loss: Float, room: Int, tie: float) -> list[int]:
    """A cycle of nodes along which to move rows, empty where there is none to gain by; the last node, A, stands for room.

    A cycle that gains; where an action has too many rows and nothing gains, the cheapest path from such an action to one with room.
    """
    size, over = len(room), room < 0
    graph = np.full((size + 1, size + 1), np.inf)
    graph[:size, :size] = loss
    if not over.any():
        graph[:size, size][room > 0] = 0.0
        graph[size, :size][np.isfinite(loss).any(axis=1)] = 0.0
    cycle = _negative_cycle(graph, 4 * tie * (size + 1))
    return cycle if cycle or not over.any() else _shortest(loss, over, room > 0, tie)


def _shortest(loss: Float, sources: Any, sinks: Any, tie: float) -> list[int]:
    """The cheapest path without a node twice from a source to a sink, behind node A; empty where there is none. Bellman (1958)."""
    size = len(loss)
    length, path = np.where(sources, 0.0, np.inf), {int(a): [int(a)] for a in np.flatnonzero(sources)}
    for _ in range(size):
        for a in list(path):
            for b in np.flatnonzero(length[a] + loss[a] < length - tie).tolist():
                if b not in path[a]:
                    length[b], path[b] = length[a] + loss[a, b], [*path[a], b]
    ends = [a for a in path if sinks[a]]
    return [size, *path[min(ends, key=lambda a: length[a])]] if ends else []


def _negative_cycle(loss: Float, tie: float) -> list[int]:
    """The nodes of a simple cycle whose losses sum to less than `-tie`, in order; empty where there is none. Floyd (1962)."""
    size = len(loss)
    length, following = loss.copy(), np.where(np.isfinite(loss), np.arange(size), -1)
    for middle in range(size):
        through = length[:, [middle]] + length[[middle], :]
        shorter = through < length - tie / size
        length[shorter] = through[shorter]
        following[shorter] = np.broadcast_to(following[:, [middle]], length.shape)[shorter]
        start = int(np.diag(length).argmin())
        if length[start, start] < -tie:
            path = [start]
            while (step := int(following[path[-1], start])) not in path:
                path.append(step)
            cycle = path[path.index(step) :]
            return cycle if sum(loss[a, b] for a, b in zip(cycle, cycle[1:] + cycle[:1], strict=True)) < 0 else []
    return []
