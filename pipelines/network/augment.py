"""Augmentation of a training batch of images: shifts of a few pixels and, where it changes no class, mirror images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipelines.network.data import Augmentation
from pipelines.networkfile import IMAGE
from pipelines.params.train import Augment


def augmentation(params: Augment | None, inputs: Mapping[str, Tensor]) -> Augmentation | None:
    """How batches of such inputs are changed in training: their images as `params` say; None where nothing is."""
    if params is None or IMAGE not in inputs:
        return None
    return lambda batch, generator: {**batch, IMAGE: augmented(batch[IMAGE], params, generator)}


def augmented(images: Tensor, params: Augment, generator: torch.Generator) -> Tensor:
    """Images (..., C, H, W), each moved by up to `shift` pixels, its edge repeated, and mirrored left to right half of the time where `flip`.

    What is drawn, by a generator on the CPU, does not depend on the device of the images.
    """
    flat = images.flatten(0, -4)
    n, channels, height, width = flat.shape

    def moved(size: int) -> Tensor:
        offset = torch.randint(-params.shift, params.shift + 1, (n, 1), generator=generator)
        return (torch.arange(size) + offset).clamp(0, size - 1)

    down, across = moved(height), moved(width)
    if params.flip:
        turned = torch.rand((n, 1), generator=generator) < 0.5
        across = torch.where(turned, across.flip(1), across)
    rows, planes = torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    places = rows, planes, down[:, None, :, None], across[:, None, None, :]
    return flat[tuple(place.to(images.device) for place in places)].view(images.shape)
