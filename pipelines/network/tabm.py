"""TabM for tables (Gorishniy et al., ICLR 2025): k members that share one backbone, built from the package's parts.

`TabM.make` one-hot encodes categories, which does not run in ONNX Runtime; learned embeddings do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from rtdl_num_embeddings import PiecewiseLinearEmbeddings
from tabm import EnsembleView, LinearEnsemble, MLPBackboneBatchEnsemble
from torch import Tensor, nn

from pipelines.params.train import Network as NetworkParams


def embedding_size(cardinality: int, largest: int) -> int:
    """Size of the embedding of a category column: two for a yes/no column, growing with the root of the number of values."""
    return min(largest, 1 + math.ceil(math.sqrt(cardinality)))


#: Standard deviation of the words' embeddings at the start. With 1, as categories have it, words of few rows stay noise.
TEXT_SCALE = 0.01


def _bag(table: nn.Module, codes: Tensor) -> Tensor:
    """Sum of the embeddings of a row's codes (B, L) over the root of their number, (B, d): what `nn.EmbeddingBag` does, which neither vmap nor ONNX takes.

    Code 0 fills up and counts for nothing: under vmap it would learn, whatever `padding_idx` says.
    """
    real = (codes != 0).to(torch.float32)
    found: Tensor = (table(codes) * real[:, :, None]).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
    return found


#: Least width of a bin, in normal scores: what lies within a narrower one is lost to the rounding of float32.
NARROWEST = 1e-3


def _edges(knots: Sequence[float]) -> Tensor:
    """Edges of bins at knots that are far enough apart; of one or two knots two bins, since a single one has a rule of its own in the package."""
    kept = [*knots[:1]]
    for knot in knots[1:]:
        if knot - kept[-1] >= NARROWEST:
            kept.append(knot)
    if len(kept) > 2:
        return torch.tensor(kept, dtype=torch.float32)
    return torch.linspace(kept[0], kept[-1] if len(kept) > 1 else kept[0] + 1, 3)


class _Pieces(nn.Module):
    """Encoding (B, F, bins) of numbers (B, F), what share of each bin lies below: in the layout of the package's, whose last bin stands at the end.

    The package computes `weight * x + bias`, whose terms are thousands of times larger than their sum where a bin is narrow: torch and ONNX Runtime
    round them differently. Here the left edge is taken off first, which is exact next to it.
    """

    left: Tensor
    scale: Tensor

    def __init__(self, bins: Sequence[Tensor]) -> None:
        super().__init__()
        most = max(len(edges) for edges in bins) - 1
        left, scale = torch.zeros(len(bins), most), torch.zeros(len(bins), most)
        for column, edges in enumerate(bins):
            count = len(edges) - 1
            places = torch.tensor([*range(count - 1), most - 1])
            left[column, places], scale[column, places] = edges[:-1], 1 / edges.diff()
        self.register_buffer("left", left)
        self.register_buffer("scale", scale)

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the encoding; the first bin goes on below its edge and the last one above, as straight lines."""
        shares = (numbers[:, :, None] - self.left) * self.scale
        return torch.cat([shares[..., :1].clamp(max=1), shares[..., 1:-1].clamp(0, 1), shares[..., -1:].clamp(min=0)], dim=-1)


class TabularNetwork(nn.Module):
    """Inputs `numbers` (B, F) float32, `categories` (B, C) and `text` (B, L) int64, those that exist, to member logits (B, k, K) and embedding (B, k, D).

    `knots` are for each number the values at which its embedding may bend, float32 and ascending; `texts` has for each text column its number of codes and how many of them a row holds; the columns stand side by side in `text`.
    """

    constant_buffers = True  #: the edges of the bins

    def __init__(
        self,
        knots: Sequence[Sequence[float]],
        cardinalities: Sequence[int],
        classes: int,
        params: NetworkParams,
        texts: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        # Version B starts as a linear embedding, to which the pieces are learnt (Gorishniy et al. 2025, appendix).
        bins = [_edges(found) for found in knots]
        self.numbers = PiecewiseLinearEmbeddings(bins, params.number_embedding, activation=False, version="B") if bins else None
        if self.numbers is not None:
            self.numbers.impl = _Pieces(bins)
        # Code 0 stands for a value unseen in train: its row is zero, which is the mean of the other rows at the start, and stays zero.
        category_sizes = [embedding_size(cardinality, params.number_embedding) for cardinality in cardinalities]
        self.categories = nn.ModuleList(
            nn.Embedding(cardinality, size, padding_idx=0) for cardinality, size in zip(cardinalities, category_sizes, strict=True)
        )
        self.texts = nn.ModuleList(nn.Embedding(words, params.text_embedding, padding_idx=0) for words, _ in texts)
        self.text_lengths = [length for _, length in texts]
        for table in self.texts:
            assert isinstance(table, nn.Embedding)
            with torch.no_grad():
                table.weight.mul_(TEXT_SCALE)
        sizes = [params.number_embedding] * len(bins) + category_sizes + [params.text_embedding] * len(texts)
        self.width_in = sum(sizes)
        self.view = EnsembleView(k=params.k)
        self.backbone = MLPBackboneBatchEnsemble(
            d_in=self.width_in,
            n_blocks=params.blocks,
            d_block=params.width,
            dropout=params.dropout,
            k=params.k,
            tabm_init=True,
            scaling_init="normal",
            start_scaling_init_chunks=sizes,
        )
        self.output = LinearEnsemble(params.width, classes, k=params.k)
        #: Per row, in a forward step; what a number of threads is chosen by.
        self.multiply_adds = params.k * params.width * (self.width_in + params.width * (params.blocks - 1))

    def forget(self, inputs: Mapping[str, Tensor]) -> None:
        """Zero the embeddings of the codes that do not occur in `inputs` of n rows: a network meets a value that it never saw as the mean of others.

        Nothing moves them afterwards: they get no gradient, and decay leaves zero where it is.
        """
        found = [*zip(self.categories, inputs["categories"].unbind(1), strict=True)] if len(self.categories) else []
        for table, codes in [*found, *zip(self.texts, self._split(inputs), strict=True)]:
            assert isinstance(table, nn.Embedding)
            absent = torch.bincount(codes.flatten(), minlength=table.num_embeddings) == 0
            with torch.no_grad():
                table.weight[absent] = 0

    def _split(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Codes (B, L) of each text column."""
        return list(torch.split(inputs["text"], self.text_lengths, dim=1)) if self.text_lengths else []

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (member logits, embedding)."""
        parts = [table(inputs["categories"][:, column]) for column, table in enumerate(self.categories)]
        if self.numbers is not None:
            parts.insert(0, self.numbers(inputs["numbers"]).flatten(1))
        parts += [_bag(table, codes) for table, codes in zip(self.texts, self._split(inputs), strict=True)]
        embedding = self.backbone(self.view(torch.cat(parts, dim=1)))
        return self.output(embedding), embedding
