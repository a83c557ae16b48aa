"""What a person watches while a network trains: ``GradNormQuantiles`` and ``UnitMonitor``."""

from collections.abc import Sequence
from typing import Any

import torch

from twolayer.arguments import positive_int
from twolayer.extras import missing

try:
    import lightning as L
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    raise missing(error) from None

from twolayer.training.module import LitTwoLayer
from twolayer.training.unit_monitor import UnitMonitor as UnitMonitor


class GradNormQuantiles(Callback):
    """Logs how the norms of the single examples' gradients are spread, every some steps of :class:`LitTwoLayer`.

    A long tail says that few examples decide where a step goes: outliers, wrong labels, or what is yet to be learnt.
    The norms are those of the batch that is about to be stepped on, each example's own and without weights, by
    :meth:`twolayer.TwoLayerNet.per_sample_grad_norms`, which costs about as much as the batch's gradient. On several
    processes, each has those of its own share, and the loggers get the first one's.

    The callback sees every batch, so steps are taken one in each call.

    Args:
        every_n_steps: optimiser steps from one log to the next.
        quantiles: which; 1 is the largest norm.

    Logs ``grad_norm_q50`` and so on, by percent.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.

    >>> trainer = L.Trainer(callbacks=GradNormQuantiles(every_n_steps=10), accelerator="cpu", logger=False)
    """

    def __init__(self, every_n_steps: int = 50, quantiles: Sequence[float] = (0.5, 0.9, 0.99, 1.0)) -> None:
        self.every_n_steps = positive_int("every_n_steps", every_n_steps)
        if not quantiles or not all(0 <= q <= 1 for q in quantiles):
            raise ValueError(f"quantiles must be numbers in [0, 1], got {quantiles}")
        self.quantiles = tuple(quantiles)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, LitTwoLayer):
            raise TypeError(f"GradNormQuantiles must watch a LitTwoLayer, got {type(pl_module).__name__}")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LitTwoLayer)
        if trainer.global_step % self.every_n_steps:
            return
        X, T, _ = pl_module.prepared(*batch)
        norms = pl_module.net.per_sample_grad_norms(X, T)
        found = torch.quantile(norms, norms.new_tensor(self.quantiles)).tolist()
        values = {f"grad_norm_q{100 * q:g}": value for q, value in zip(self.quantiles, found, strict=True)}
        for logger in trainer.loggers:  # not pl_module.log, by which Lightning would repeat them in the steps between
            logger.log_metrics(values, step=trainer.global_step)
