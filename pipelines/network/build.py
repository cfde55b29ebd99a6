"""Which network `train.network` asks for, and what builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pipelines.core.knots import knots
from pipelines.errors import must
from pipelines.network import own
from pipelines.network.data import Plan, Rows
from pipelines.network.export import export
from pipelines.network.residual import ResidualNetwork, Standardised
from pipelines.network.stack import Inputs
from pipelines.network.tabm import TabularNetwork
from pipelines.networkfile import IMAGE
from pipelines.params.train import Networks, Own, Residual

ALONE = "Give the other columns another role than feature, or let a network of yours (train.network.class) read all of them."
#: Finer bins than of so many rows follow the noise; of a handful of rows so many bins nevertheless.
ROWS_PER_BIN, FEWEST_BINS = 25, 16
#: Bins of all numbers together, beyond which a batch's encoding takes gigabytes: of more than 256 numbers each gets fewer.
MOST_BINS = 1 << 15
Make = Callable[[int], nn.Module]


def builder(settings: Networks, given: Mapping[str, Any], rows: Rows, plan: Plan, scale: Mapping[str, Any] | None = None) -> Make:
    """What builds a network, by its number in the plan, with fresh weights; `given` are `number_count`, `cardinalities`, `texts`, `classes`, `image_shape`.

    `scale` has `mean` and `deviation` of the images' channels, where there are images. Raises ExpostError, before anything is trained, where a
    network of the user's is none that can be trained and shipped.
    """
    sample = dict(rows.take(plan.held[0][:256]).inputs)
    if scale is None:
        return _plain(settings, given, rows, plan, sample)
    pixels = sample[IMAGE]
    sample[IMAGE] = Standardised(nn.Identity(), scale["mean"], scale["deviation"], 1).scaled(pixels)
    make = _plain(settings, given, rows, plan, sample)
    with torch.random.fork_rng(devices=[]):
        count = own.multiply_adds(make(0), {name: value[:2] for name, value in sample.items()})

        def build(number: int) -> nn.Module:
            return Standardised(make(number), scale["mean"], scale["deviation"], count)

        if isinstance(settings, Residual):  # what is too large for its file to be read is refused before the training
            export([build(number).eval() for number in range(len(plan))], {IMAGE: pixels[:2]})
    return build


def _plain(settings: Networks, given: Mapping[str, Any], rows: Rows, plan: Plan, sample: Inputs) -> Make:
    """What builds a network that takes inputs as those of `sample`."""
    if isinstance(settings, Own):
        build = own.maker(settings, given, sample)
        return lambda number: build()
    if isinstance(settings, Residual):
        if set(sample) != {IMAGE}:
            raise must("train.network: residual must see images and nothing else", f"there are {', '.join(sample)}", ALONE)
        return lambda number: ResidualNetwork(given["image_shape"][0], given["classes"], settings)
    if IMAGE in sample:
        raise must("train.network must be one for images", "it is TabM, which reads tables", "Write network: {kind: residual} under train.")

    bends = _knots(rows, plan, settings.bins)

    def make(number: int) -> TabularNetwork:
        network = TabularNetwork(bends, given["cardinalities"], given["classes"], settings, given["texts"])
        network.forget(rows.take(plan.learn[number]).inputs)
        return network

    return make


def _knots(rows: Rows, plan: Plan, most: int) -> list[list[float]]:
    """Where the embedding of each number may bend, for all networks alike: no label is looked at.

    On few rows, or of very many numbers, the bins are fewer than `most`.
    """
    if "numbers" not in rows.inputs:
        return []
    learnt = rows.inputs["numbers"][torch.unique(torch.cat(plan.learn))].numpy()
    bins = min(most, max(FEWEST_BINS, min(len(learnt) // ROWS_PER_BIN, MOST_BINS // learnt.shape[1])))
    return [knots(column, bins + 1).tolist() for column in learnt.T]
