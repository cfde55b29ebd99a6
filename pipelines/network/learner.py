"""The Lightning module: a proper loss per member, AdamW, and the log loss of the members' mean probability on held-out rows."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional

from pipelines.errors import NotFiniteError, must
from pipelines.network.data import Rows, mix
from pipelines.network.losses import loss_of
from pipelines.network.stack import Stack, log_mean_probability
from pipelines.params.train import Train

REMEDY = "Lower train.learning_rate or train.gradient_clip, or look at these rows of data/ingest/table.parquet."


class Learner(pl.LightningModule):  # type: ignore[misc]
    """Trains a stack of M networks; the losses of the last epoch are in nats per row, `held_log_loss` one for each network."""

    def __init__(self, stack: Stack, params: Train) -> None:
        super().__init__()
        self.stack, self.params = stack, params
        self.loss = loss_of(params.loss, params.brier_weight)
        self.held_log_loss: list[float] = []
        self._sums: list[tuple[Tensor, int]] = []
        self._last: tuple[int, Tensor, Tensor, Tensor] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all weights, in one fused call per step."""
        return torch.optim.AdamW(self.stack.parameters(), lr=self.params.learning_rate, weight_decay=self.params.weight_decay, fused=True)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip each network's gradient by its own norm."""
        if gradient_clip_val:
            self.stack.clip(gradient_clip_val)

    def on_train_epoch_start(self) -> None:
        """Seed dropout by the epoch: a run resumed between epochs goes on bit for bit as it would have."""
        torch.manual_seed(mix(self.params.seed, self.current_epoch))
        self._sums = []

    def training_step(self, batch: Rows) -> Tensor:
        """Sum over the networks of the mean of their members' losses; raises NotFiniteError on one that is not finite.

        On a GPU only at the next step: asking for a loss waits for it, and it would idle until it is given that step.
        """
        try:
            logits, _ = self.stack(batch.inputs)
        except Exception:
            self._refuse_last()  # what a network says of broken weights is not the cause
            raise
        counted = () if batch.weights is None else (batch.weights.flatten(),)
        loss = self.loss(logits.float().flatten(0, 1), batch.labels.flatten(), *counted)
        self._refuse_last()
        self._last = self.global_step, batch.index, logits.detach(), loss.detach()
        if loss.device.type == "cpu":
            self._refuse_last()
        self._sums.append((loss.detach(), batch.labels.numel()))
        return loss * self.stack.count

    @property
    def train_loss(self) -> float:
        """Mean loss over the rows of the epoch so far; a property, since callbacks are told of an epoch's end before the module is."""
        losses, rows = zip(*self._sums, strict=True)
        total = sum(loss * counted for loss, counted in zip(torch.stack(losses).tolist(), rows, strict=True))
        return float(total / sum(rows))

    @property
    def valid_log_loss(self) -> float:
        """Mean of the networks' log losses on the rows held out for each."""
        return sum(self.held_log_loss) / max(1, len(self.held_log_loss))

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's rows, once its last step was looked at."""
        self._refuse_last()
        self._held: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: Rows) -> None:
        """Log loss per row of the members' mean probability."""
        logits, _ = self.stack(batch.inputs)
        found = log_mean_probability(logits.float(), dim=2)
        losses = functional.nll_loss(found.flatten(0, 1), batch.labels.flatten(), reduction="none").view(batch.labels.shape)
        if not torch.isfinite(losses).all():
            raise self._not_finite("the valid log loss", losses.mean(), batch.index[~torch.isfinite(losses)], self.global_step)
        assert batch.weights is not None
        self._held.append((losses.double(), batch.weights.double()))

    def on_validation_epoch_end(self) -> None:
        """Publish the mean over all occurrences for early stopping."""
        losses, weights = (torch.cat(parts, dim=1) for parts in zip(*self._held, strict=True))
        self.held_log_loss = ((losses * weights).sum(dim=1) / weights.sum(dim=1)).tolist()
        self.log("valid_log_loss", self.valid_log_loss, logger=False)

    def transfer_batch_to_device(self, batch: Rows, device: torch.device, dataloader_idx: int) -> Rows:
        """Leave a batch where it is, which is where it is needed: see `Training`."""
        return batch

    def _refuse_last(self) -> None:
        last, self._last = self._last, None
        if last is None or torch.isfinite(last[3]):
            return
        step, index, logits, loss = last
        odd = ~torch.isfinite(logits).flatten(2).all(dim=2)
        raise self._not_finite("the training loss", loss, index[odd] if odd.any() else index.flatten(), step)

    def _not_finite(self, what: str, value: Tensor, index: Tensor, step: int) -> NotFiniteError:
        rows = ", ".join(map(str, index[:10].tolist())) + (", ..." if len(index) > 10 else "")
        where = f"epoch {self.current_epoch}, step {step}, table rows {rows}"
        return NotFiniteError(str(must(f"{what} must be finite", f"it is {float(value):g} in {where}", REMEDY)))
