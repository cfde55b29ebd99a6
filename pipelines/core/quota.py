"""Hard counts: at most so many rows get an action, those where it is worth most against the next best.

Each limited action gets a price, so that no more rows want it than may have it, and a row takes what is worth most to it after prices. Where
several actions are limited, exchanges along cycles of actions then lead to the largest sum within the counts (Klein 1967).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]

BLOCK = 65_536
ROUNDS = 100
TIE = 1e-12  #: values closer than this share of the largest difference are equal


@dataclass(frozen=True)
class Allotted:
    """Actions `(n,)`, how many rows `wanted` each limited action, and its `price`: what it was worth to the last row that got it."""

    actions: Int
    wanted: dict[int, int]
    price: dict[int, float]


def allot(value: Any, wants: Any, limits: Mapping[int, int]) -> Allotted:
    """Actions within `limits` (action -> rows, at least 0), from what each is worth to each row and what each row `wants` `(n,)` without them.

    `value` `(n, A)` may be a memory map. Where a limit binds, the rows go to whom it is worth most against the next best action after prices,
    ties to the first rows; its price is the last one's advantage (the first refused one's where nobody may have it), else 0. The limits must
    leave room for all rows.
    """
    before = np.asarray(wants, dtype=np.int64)
    count = np.bincount(before, minlength=value.shape[1])
    wanted = {action: int(count[action]) for action in limits}
    if all(count[action] <= most for action, most in limits.items()):
        return Allotted(before.copy(), wanted, dict.fromkeys(limits, 0.0))
    prices = _prices(value, limits)
    worth = {action: _advantage(value, prices, action) for action in limits}
    tie = TIE * max(float(np.ptp(np.asarray(value[start : start + BLOCK]), axis=1).max()) for start in range(0, len(value), BLOCK))
    actions = _strict(before, prices, worth, tie)
    _edges(actions, before, limits, {action: (worth[action] >= prices[action] - tie, prices[action]) for action in limits})
    _rest(actions, (value, before, prices), limits, tie)
    if len(limits) > 1:
        while _exchange(value, actions, limits, tie):
            pass
    return Allotted(
        actions,
        wanted,
        {action: _price(value, actions, action, limits) if wanted[action] > most else 0.0 for action, most in limits.items()},
    )


def _price(value: Any, actions: Int, action: int, limits: Mapping[int, int]) -> float:
    """The least that `action` is worth to a row that got it, beyond the best action that has room; the most to any row where none got it."""
    open_ = np.array([a != action and (actions == a).sum() < limits.get(a, len(actions) + 1) for a in range(value.shape[1])])
    if not open_.any():
        return 0.0
    worth = _advantage(value, np.where(open_, 0.0, np.inf), action)
    taken = actions == action
    return float(worth[taken].min() if taken.any() else worth.max())


def _advantage(value: Any, prices: Float, action: int) -> Float:
    """What `action`, without its price, is worth to each row beyond the best other action after prices, `(n,)`."""
    found = np.empty(len(value))
    others = np.delete(np.arange(value.shape[1]), action)
    for start in range(0, len(value), BLOCK):
        block = np.asarray(value[start : start + BLOCK], dtype=np.float64)
        found[start : start + BLOCK] = block[:, action] - (block[:, others] - prices[others]).max(axis=1)
    return found


def _prices(value: Any, limits: Mapping[int, int]) -> Float:
    """The lowest prices `(A,)` at which no limited action is wanted by more rows than may have it, raised in turns from 0."""
    prices = np.zeros(value.shape[1])
    for _ in range(ROUNDS):
        before = prices.copy()
        for action, most in limits.items():
            if most < len(value):
                place = len(value) - 1 - most  # the first row that goes without
                refused = float(np.partition(_advantage(value, prices, action), place)[place])
                prices[action] = max(prices[action], refused)
        if len(limits) == 1 or np.allclose(prices, before, rtol=TIE, atol=0):
            break
    return prices


def _strict(wants: Int, prices: Float, worth: Mapping[int, Float], tie: float) -> Int:
    """Actions of the rows to whom one is worth more than its price, or that want one without a price; -1 for the others."""
    actions = np.full(len(wants), -1, dtype=np.int64)
    for action, advantage in worth.items():
        actions[advantage > prices[action] + tie] = action
    return actions


def _edges(actions: Int, wants: Int, limits: Mapping[int, int], edges: Mapping[int, tuple[Any, float]]) -> None:
    """Give what is left of each limited action to the first rows to whom it is worth just its price."""
    for action, (at_least, price) in edges.items():
        left = limits[action] - int((actions == action).sum())
        rows = np.flatnonzero((actions < 0) & at_least & ((price > 0) | (wants == action)))
        actions[rows[: max(left, 0)]] = action


def _rest(actions: Int, known: tuple[Any, Int, Float], limits: Mapping[int, int], tie: float) -> None:
    """Give the rows without an action the best one after prices that still has room; of equally good ones the one wanted."""
    value, wants, prices = known
    room = np.full(value.shape[1], len(actions), dtype=np.int64)
    for action, most in limits.items():
        room[action] = most - int((actions == action).sum())
    while len(rows := np.flatnonzero(actions < 0)):
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            net = np.where(room > 0, np.asarray(value[some], dtype=np.float64) - prices, -np.inf)
            best, top = net.argmax(axis=1), net.max(axis=1)
            kept = net[np.arange(len(some)), wants[some]] >= top - tie
            best[kept] = wants[some][kept]
            for action in np.unique(best):
                chosen = some[best == action][: room[action]]
                actions[chosen] = action
                room[action] -= len(chosen)


def _exchange(value: Any, actions: Int, limits: Mapping[int, int], tie: float) -> bool:
    """Move rows along the cycle of actions that gains most, or that takes up room, and say whether there was one."""
    size = value.shape[1]
    count = np.bincount(actions, minlength=size)
    room = np.array([limits.get(action, len(actions)) - count[action] for action in range(size)])
    loss = np.full((size + 1, size + 1), np.inf)  # of the row that loses least by going from one action to another; the last node is room
    rows: dict[tuple[int, int], Int] = {}
    for a in map(int, np.flatnonzero(count)):
        inside = np.flatnonzero(actions == a)
        own = np.asarray(value[inside], dtype=np.float64)
        for b in (other for other in range(size) if other != a):
            lost = own[:, a] - own[:, b]
            loss[a, b] = lost.min()
            rows[a, b] = inside[lost <= loss[a, b] + tie][::-1]
    loss[:size, size][room > 0] = 0.0
    loss[size, :size][count > 0] = 0.0
    cycle = _negative_cycle(loss, 2 * tie * (size + 1))
    if not cycle:
        return False
    steps = list(zip(cycle, cycle[1:] + cycle[:1], strict=True))
    many = min(len(rows[a, b]) if b < size else int(room[a]) for a, b in steps if a < size)
    for a, b in steps:
        if a < size and b < size:
            actions[rows[a, b][:many]] = b
    return True


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
            return path[path.index(step) :]
    return []
