"""Which network `train.network` asks for, and what builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from pipelines.network import own
from pipelines.network.data import Plan, Rows
from pipelines.network.tabm import TabularNetwork
from pipelines.params.train import Networks, Own

Make = Callable[[int], nn.Module]


def builder(settings: Networks, given: Mapping[str, Any], rows: Rows, plan: Plan) -> Make:
    """What builds a network, by its number in the plan, with fresh weights; `given` are `number_count`, `cardinalities`, `texts`, `classes`.

    Raises ExpostError, before anything is trained, where a network of the user's is none that can be trained and shipped.
    """
    if isinstance(settings, Own):
        build = own.maker(settings, given, rows.take(plan.held[0][:256]).inputs)
        return lambda number: build()

    def make(number: int) -> TabularNetwork:
        network = TabularNetwork(given["number_count"], given["cardinalities"], given["classes"], settings, given["texts"])
        network.forget(rows.take(plan.learn[number]).inputs)
        return network

    return make
