"""The Lightning module: a proper loss per member, AdamW, and the log loss of the members' mean probability on valid."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional

from pipelines.errors import must
from pipelines.network.data import Rows, mix
from pipelines.network.losses import LOSSES
from pipelines.network.tabm import TabularNetwork, log_mean_probability
from pipelines.params.train import Train

REMEDY = "Lower train.learning_rate or train.gradient_clip, or look at these rows of data/ingest/table.parquet."


class Learner(pl.LightningModule):  # type: ignore[misc]
    """Trains a network; `train_loss` and `valid_log_loss` of the last epoch are in nats per row."""

    def __init__(self, network: TabularNetwork, params: Train) -> None:
        super().__init__()
        self.network, self.params = network, params
        self.loss = LOSSES[params.loss]
        self.valid_log_loss = float("nan")
        self._sums: list[tuple[Tensor, int]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all weights, in one fused call per step where precision is full: Lightning clips no gradients for a fused one under AMP."""
        fused = self.trainer.precision == "32-true"
        return torch.optim.AdamW(
            self.network.parameters(), lr=self.params.learning_rate, weight_decay=self.params.weight_decay, fused=fused
        )

    def on_train_epoch_start(self) -> None:
        """Seed dropout by the epoch: a run resumed between epochs goes on bit for bit as it would have."""
        torch.manual_seed(mix(self.params.seed, self.current_epoch))
        self._sums = []

    def training_step(self, batch: Rows) -> Tensor:
        """Mean of the members' own losses; raises ExpostError on one that is not finite."""
        logits, _ = self.network(batch.numbers, batch.categories)
        counted = () if batch.weights is None else (batch.weights,)
        loss = self.loss(logits.float(), batch.labels, *counted)
        if not torch.isfinite(loss):
            raise self._not_finite("the training loss", loss, batch)
        self._sums.append((loss.detach(), len(batch)))
        return loss

    @property
    def train_loss(self) -> float:
        """Mean loss over the rows of the epoch so far; a property, since callbacks are told of an epoch's end before the module is."""
        return sum(float(loss) * rows for loss, rows in self._sums) / sum(rows for _, rows in self._sums)

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's rows."""
        self._valid: list[Tensor] = []
        self._occurred: list[Tensor] = []

    def validation_step(self, batch: Rows) -> None:
        """Log loss per row of the members' mean probability."""
        logits, _ = self.network(batch.numbers, batch.categories)
        losses = functional.nll_loss(log_mean_probability(logits.float()), batch.labels, reduction="none")
        if not torch.isfinite(losses).all():
            raise self._not_finite("the valid log loss", losses.mean(), batch.take(~torch.isfinite(losses)))
        self._valid.append(losses)
        if batch.weights is not None:
            self._occurred.append(batch.weights)

    def on_validation_epoch_end(self) -> None:
        """Publish the mean over all occurrences for early stopping."""
        losses = torch.cat(self._valid).double()
        if self._occurred:
            weights = torch.cat(self._occurred).double()
            losses = losses * (weights / weights.mean())
        self.valid_log_loss = float(losses.mean())
        self.log("valid_log_loss", self.valid_log_loss, logger=False)

    def transfer_batch_to_device(self, batch: Rows, device: torch.device, dataloader_idx: int) -> Rows:
        """Move a batch."""
        return batch.to(device)

    def _not_finite(self, what: str, value: Tensor, batch: Rows) -> Exception:
        rows = ", ".join(map(str, batch.index[:10].tolist())) + (", ..." if len(batch) > 10 else "")
        where = f"epoch {self.current_epoch}, step {self.global_step}, table rows {rows}"
        return must(f"{what} must be finite", f"it is {float(value):g} in {where}", REMEDY)
