"""A small residual network for images (He et al., CVPR 2016): basic blocks, half the size at each stage, the mean over places at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.params.train import Residual


def _norm(channels: int) -> nn.Module:
    """Groups of about 8 channels: unlike batch normalisation the same in training and in scoring, and for batches of any size."""
    return nn.GroupNorm(next(groups for groups in range(max(1, channels // 8), 0, -1) if channels % groups == 0), channels)


class Block(nn.Module):
    """Two convolutions beside a way around them; (B, C, H, W) to (B, C', H / stride, W / stride)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(before, after, 3, stride, 1, bias=False), _norm(after)
        self.two, self.norm_two = nn.Conv2d(after, after, 3, 1, 1, bias=False), _norm(after)
        same = before == after and stride == 1
        self.around = nn.Identity() if same else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), _norm(after))

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output."""
        inner = functional.relu(self.norm_one(self.one(images)))
        return functional.relu(self.norm_two(self.two(inner)) + self.around(images))


class ResidualNetwork(nn.Module):
    """Input `image` (B, C, H, W) float32, scaled, to logits (B, 1, K) and embedding (B, 1, D): a single member."""

    def __init__(self, channels: int, classes: int, params: Residual) -> None:
        super().__init__()
        widths = params.channels
        self.stem = nn.Sequential(nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), _norm(widths[0]), nn.ReLU())
        blocks: list[nn.Module] = []
        for stage, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            blocks += [
                Block(before if first else after, after, 2 if first and stage else 1) for first in (True, *[False] * (params.blocks - 1))
            ]
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(params.dropout)
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (member logits, embedding)."""
        embedding = self.blocks(self.stem(inputs["image"])).mean(dim=(2, 3))
        return self.output(self.dropout(embedding))[:, None], embedding[:, None]


class Standardised(nn.Module):
    """A network around which images come as uint8 (B, C, H, W): each channel is scaled by its mean and deviation (C,) over the train part."""

    def __init__(self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float], multiply_adds: int) -> None:
        super().__init__()
        self.network, self.multiply_adds = network, multiply_adds
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def scaled(self, images: Tensor) -> Tensor:
        """Images as the network sees them, float32."""
        return (images.float() - self.mean) / self.deviation

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (member logits, embedding)."""
        outputs: tuple[Tensor, Tensor] = self.network({**inputs, "image": self.scaled(inputs["image"])})
        return outputs
