"""Training with Lightning: ``LitTwoLayer``."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MetricCollection

from twolayer.network import TwoLayerNet, gradients_by_autograd
from twolayer.training.metrics import as_metrics_take_them, metrics_for
from twolayer.training.standardization import Standardize
from twolayer.training.steps import StepsInBlocks

Batch = tuple[Tensor, Tensor]


class LitTwoLayer(StepsInBlocks):
    """A :class:`~twolayer.TwoLayerNet` with its training loop, metrics and standardisation, for Lightning's Trainer.

    A batch is ``(X, Y)``, in raw units. Inputs, and the targets of a regression, are standardised with the statistics
    of the DataModule's training split (its ``train_inputs`` and ``train_targets``; a DataModule without them, or a
    plain DataLoader, means none); they travel in the checkpoint, so that a loaded model takes raw rows and
    predicts in raw units. The cost of a regression is that of standardised targets; RMSE is in the targets' units.

    Args:
        in_features, hidden_features, out_features, task, activation, init, backward, class_weight, label_smoothing:
            as for :class:`~twolayer.TwoLayerNet`.
        standardize: whether to.
        optimizer: called with the parameters: a class of :mod:`torch.optim`, a ``functools.partial`` of one, or, in a
            YAML file, its ``class_path`` and ``init_args``. The fused form, where there is one, unless it is told how.
        lr_scheduler: called with the optimizer, likewise; stepped after every epoch. ``ReduceLROnPlateau`` watches
            ``val_loss``.
        steps_per_call: optimiser steps in one call of ``training_step``, for which the loader of a
            :class:`~twolayer.data.TabularDataModule` then brings a :class:`~twolayer.loading.Block` of batches, see
            :class:`~twolayer.training.StepsInBlocks`. None for Lightning's own step, a batch at a time.
        train_metrics: whether to compute the metrics of the task on the training batches as well, each before its step,
            which costs about as much as the step itself.

    Logs ``train_loss``, the mean over the epoch's examples, ``val_loss``, ``test_loss`` and the metrics of the task
    with the same prefixes. Of an epoch within which a run was resumed, ``train_loss`` is the mean over what was left.

    >>> model = LitTwoLayer(2, 4, 1, task="binary", activation="tanh")
    >>> model(torch.zeros(3, 2)).shape
    torch.Size([3, 1])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        task: str = "binary",
        activation: str = "relu",
        init: str = "he",
        backward: str = "manual",
        class_weight: list[float] | None = None,
        label_smoothing: float = 0.0,
        standardize: bool = True,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        lr_scheduler: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau] | None = None,
        steps_per_call: int | None = 32,
        train_metrics: bool = False,
    ) -> None:
        super().__init__(steps_per_call)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler", "steps_per_call", "train_metrics"])
        self.standardize = standardize
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self._optimizer_names: list[str] | None = None
        self._resumed_names: list[str] | None = None
        self.net = TwoLayerNet(
            in_features,
            hidden_features,
            out_features,
            activation=activation,
            task=task,
            init=init,
            backward=backward,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
        )
        self.standardize_inputs = Standardize(in_features)
        self.standardize_targets = Standardize(out_features) if task == "regression" else None
        metrics = metrics_for(task, out_features)
        self.train_metrics = metrics.clone(prefix="train_") if train_metrics else None
        self._costs: Tensor | float = 0.0  # of the epoch's examples so far, their sum
        self._examples = 0
        self.val_metrics = metrics.clone(prefix="val_")
        self.test_metrics = metrics.clone(prefix="test_")

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and self.standardize and data is not None and hasattr(data, "train_inputs"):
            self.standardize_inputs.fit(data.train_inputs)
            if self.standardize_targets is not None:
                self.standardize_targets.fit(data.train_targets)

    def forward(self, X: Tensor) -> Tensor:
        """Predictions for raw rows, ``(..., out_features)``: probabilities, or values in raw units."""
        return self._predictions(self.net(self.standardize_inputs(X)))

    def build_optimizer(self) -> tuple[Optimizer, LRScheduler | ReduceLROnPlateau | None]:
        """A fresh optimizer and its scheduler, if there is one, as configured."""
        optimizer = self.optimizer(self.net.parameters())
        _fuse(optimizer)
        return optimizer, None if self.lr_scheduler is None else self.lr_scheduler(optimizer)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, scheduler = self.build_optimizer()
        self._optimizer_names = [type(optimizer).__name__, type(scheduler).__name__]
        if self._resumed_names not in (None, self._optimizer_names):
            raise ValueError(
                f"optimizer and lr_scheduler must be {self._resumed_names}, whose state is in the checkpoint, "
                f"got {self._optimizer_names}"
            )
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["optimizer_names"] = self._optimizer_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._resumed_names = checkpoint.get("optimizer_names")

    def batch_loss(self, batch: Batch) -> Tensor:
        X, T, Y = self.prepared(*batch)
        if self.train_metrics is not None:
            self._evaluate(self.train_metrics, X, T, Y)
        return self.net.loss(X, T)

    def batch_gradients(self) -> Callable[[Batch], Tensor]:
        net = self.net
        parameters = {name: V for name, V in net.named_parameters() if V.requires_grad}
        by_equations = (
            net.backward != "autograd"
            and {name for name, _ in net.named_parameters()} == {"W1", "b1", "W2", "b2"}
            and not torch.is_autocast_enabled(self.device.type)  # it has no say in what builds no graph
        )

        def gradients(batch: Batch) -> Tensor:
            X, T, Y = self.prepared(*batch)
            if self.train_metrics is not None:
                self._evaluate(self.train_metrics, X, T, Y)
            J, grads = net.loss_and_grads(X, T) if by_equations else gradients_by_autograd(net, X, T)
            for name, V in parameters.items():
                V.grad = grads[name]
            return J

        return gradients

    def after_steps(self, cost: Tensor, examples: int) -> None:
        self._costs = self._costs + cost * examples
        self._examples += examples

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, self.val_metrics, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, self.test_metrics, "test")

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        return self(batch if isinstance(batch, Tensor) else batch[0])

    def _step(self, batch: Batch, metrics: MetricCollection, stage: str) -> None:
        X, T, Y = self.prepared(*batch)
        J = self._evaluate(metrics, X, T, Y)
        self.log(f"{stage}_loss", J, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(X))

    # Once an epoch: logged in every step, the loss and the metrics cost more time than the step itself.

    def on_train_epoch_end(self) -> None:
        if self._examples:
            J = self._costs / self._examples
            self.log("train_loss", J, prog_bar=True, sync_dist=True, batch_size=self._examples)
        self._costs, self._examples = 0.0, 0
        if self.train_metrics is not None:
            self._log_metrics(self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_metrics(self.test_metrics)

    def _log_metrics(self, metrics: MetricCollection) -> None:
        self.log_dict(metrics.compute(), sync_dist=True)
        metrics.reset()

    @torch.no_grad()
    def _evaluate(self, metrics: MetricCollection, X: Tensor, T: Tensor, Y: Tensor) -> Tensor:
        """Adds a prepared batch to the metrics, and returns its cost."""
        logits = self.net(X)
        metrics.update(*as_metrics_take_them(self.net.task, self._predictions(logits), Y))
        return self.net.cost(logits, T)

    def prepared(self, X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the network takes and what its cost compares with, standardised, and the targets in raw units."""
        if self.standardize_targets is None:
            return self.standardize_inputs(X), Y, Y
        Y = Y.reshape(len(X), -1)
        return self.standardize_inputs(X), self.standardize_targets(Y), Y

    def _predictions(self, logits: Tensor) -> Tensor:
        A2 = self.net.output(logits)
        return A2 if self.standardize_targets is None else self.standardize_targets.inverse(A2)


def _fuse(optimizer: Optimizer) -> None:
    """Makes the optimizer update all parameters in one call, if it can and was not told how to."""
    devices = {V.device.type for group in optimizer.param_groups for V in group["params"]}
    told = optimizer.defaults.get("foreach") is not None or optimizer.defaults.get("differentiable")
    if optimizer.defaults.get("fused", False) is None and not told and devices <= {"cpu", "cuda"}:
        for options in (optimizer.defaults, *optimizer.param_groups):
            options["fused"] = True
