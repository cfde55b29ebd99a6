"""Boosted trees as tensors: the splits that LightGBM grew, in operations that torch exports and that compare the very same numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]
#: Values of a category that get a feature of their own: the most frequent ones.
OWN_FEATURE = 16
#: A tree without a split that changes no logit.
NOTHING: Mapping[str, Any] = {"leaf_value": 0.0}


def _at(table: Tensor, places: Tensor) -> Tensor:
    """Entries of a table (N,) at places of any shape; `table[places]` would be exported as an operator that reads at any depth."""
    return table.index_select(0, places.flatten()).view_as(places)


class Features(nn.Module):
    """What trees split by, (B, P): numbers, codes of categories in their order, each frequent code alone, and how rank codes by frequency.

    `inputs` are those of the rows learnt from; `cardinalities` the numbers of codes of the categories. No label is looked at.
    """

    own_column: Tensor
    own_code: Tensor
    many: Tensor
    start: Tensor
    rank: Tensor

    def __init__(self, inputs: Mapping[str, Tensor], cardinalities: Sequence[int]) -> None:
        super().__init__()
        codes = list(inputs["categories"].T) if cardinalities else []
        counts = [torch.bincount(column, minlength=size) for column, size in zip(codes, cardinalities, strict=True)]
        orders = [torch.argsort(count, descending=True, stable=True) for count in counts]
        present = [int((count > 0).sum()) for count in counts]
        # Of a column whose codes all have a feature one needs none.
        own = [
            (column, int(code))
            for column, order in enumerate(orders)
            for code in (order[1 : present[column]] if present[column] <= OWN_FEATURE else order[:OWN_FEATURE])
        ]
        many = [column for column, number in enumerate(present) if number > OWN_FEATURE]
        sizes = [cardinalities[column] for column in many]
        self.register_buffer("own_column", torch.tensor([column for column, _ in own], dtype=torch.int64))
        self.register_buffer("own_code", torch.tensor([code for _, code in own], dtype=torch.int64))
        self.register_buffer("many", torch.tensor(many, dtype=torch.int64))
        self.register_buffer("start", torch.tensor(np.cumsum([0, *sizes])[:-1], dtype=torch.int64))
        ranks = [torch.argsort(orders[column]).float() for column in many]
        self.register_buffer("rank", torch.cat(ranks) if ranks else torch.zeros(0))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the features."""
        parts = [inputs["numbers"]] if "numbers" in inputs else []
        if "categories" in inputs:
            codes = inputs["categories"]
            parts.append(codes.float())
            if len(self.own_code):
                parts.append((codes.index_select(1, self.own_column) == self.own_code).float())
            if len(self.many):
                parts.append(_at(self.rank, codes.index_select(1, self.many) + self.start))
        return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Heap:
    """A tree as a complete one of some depth: `feature` and `threshold` of its (2^depth - 1) nodes from the root on, `value` of its 2^depth leaves.

    A row goes right where its feature is above the threshold. Where the tree ends early it goes left down to the first leaf.
    """

    feature: NDArray[np.int64]
    threshold: Floats
    value: Floats


def depth_of(tree: Mapping[str, Any]) -> int:
    """Number of splits on the longest way through a tree of LightGBM's `dump_model`."""
    return 1 + max(depth_of(tree["left_child"]), depth_of(tree["right_child"])) if "split_feature" in tree else 0


def bytes_of(depth: int) -> int:
    """Bytes of the tensors that hold a tree of some depth."""
    leaves = 1 << depth
    return (leaves - 1) * (8 + 4) + leaves * 4 + 2 * 8


def heap_of(tree: Mapping[str, Any], depth: int) -> Heap:
    """A tree of LightGBM's `dump_model`, whose splits are all "at most": thresholds are rounded down to float32, which moves no float32 number."""
    heap = Heap(np.zeros(2**depth - 1, np.int64), np.full(2**depth - 1, np.inf, np.float32), np.zeros(2**depth, np.float32))
    waiting = [(tree, 0)]
    while waiting:
        node, place = waiting.pop()
        if "split_feature" in node:
            exact = float(node["threshold"])
            near = np.float32(exact)
            heap.feature[place] = node["split_feature"]
            heap.threshold[place] = near if float(near) <= exact else np.nextafter(near, np.float32(-np.inf))
            waiting += [(node["left_child"], 2 * place + 1), (node["right_child"], 2 * place + 2)]
            continue
        while place < 2**depth - 1:
            place = 2 * place + 1
        heap.value[place - (2**depth - 1)] = node["leaf_value"]
    return heap


class Trees(nn.Module):
    """Boosted trees of M networks' folds: inputs to logits (B, M, K).

    `grown` are the trees, as `dump_model` gives them, of each network, one after the other; in each round one for each of `outputs`, which is
    1 for two classes: the log odds of the second. A network of fewer trees than another gets some that say nothing.
    """

    feature: Tensor
    threshold: Tensor
    value: Tensor
    root: Tensor
    leaf: Tensor

    def __init__(self, features: Features, grown: Sequence[Iterable[Mapping[str, Any]]], outputs: int) -> None:
        super().__init__()
        lists = [list(one) for one in grown]
        most = max(map(len, lists))
        trees = [tree for one in lists for tree in (*one, *[NOTHING] * (most - len(one)))]
        self.features, self.networks, self.outputs = features, len(grown), outputs
        self.depth = max(1, *map(depth_of, trees))
        heaps = [heap_of(tree, self.depth) for tree in trees]
        self.register_buffer("feature", torch.from_numpy(np.concatenate([heap.feature for heap in heaps])))
        self.register_buffer("threshold", torch.from_numpy(np.concatenate([heap.threshold for heap in heaps])))
        self.register_buffer("value", torch.from_numpy(np.concatenate([heap.value for heap in heaps])))
        self.register_buffer("root", torch.arange(len(trees)) * (2**self.depth - 1))
        #: From the number of a tree's last node, counted on below its leaves, to that of the leaf among all leaves.
        self.register_buffer("leaf", torch.arange(len(trees)) * 2**self.depth - (2**self.depth - 1) - self.root)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits."""
        features = self.features(inputs)
        # All rows of a tree start at its root; from a node the left child is the (2 * node + left)th of all nodes, the right one the next.
        right = features.index_select(1, self.feature.index_select(0, self.root)) > self.threshold.index_select(0, self.root)
        node, left = self.root + 1 + right.long(), 1 - self.root
        for _ in range(self.depth - 1):
            right = features.gather(1, _at(self.feature, node)) > _at(self.threshold, node)
            node = 2 * node + left + right.long()
        values = _at(self.value, node + self.leaf)
        found = values.view(-1, self.networks, len(self.root) // (self.networks * self.outputs), self.outputs).sum(dim=2)
        return torch.cat([torch.zeros_like(found), found], dim=2) if self.outputs == 1 else found
