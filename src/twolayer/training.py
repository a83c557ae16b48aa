"""Training with Lightning: ``LitTwoLayer``."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryF1Score,
    MulticlassAccuracy,
    MultilabelAccuracy,
    MultilabelAUROC,
    MultilabelF1Score,
)
from torchmetrics.regression import MeanSquaredError, R2Score

from twolayer.network import TwoLayerNet
from twolayer.standardization import Standardize

Batch = tuple[Tensor, Tensor]


def metrics_for(task: str, out_features: int) -> MetricCollection:
    """What tells how good the predictions of a task are.

    >>> sorted(metrics_for("regression", 1))
    ['r2', 'rmse']
    """
    if task == "binary":
        return MetricCollection({"accuracy": BinaryAccuracy(), "auroc": BinaryAUROC(), "f1": BinaryF1Score()})
    if task == "multilabel":
        return MetricCollection(
            {
                "accuracy": MultilabelAccuracy(out_features),
                "auroc": MultilabelAUROC(out_features),
                "f1": MultilabelF1Score(out_features),
            }
        )
    if task == "multiclass":
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(out_features, average="micro"),
                "accuracy_macro": MulticlassAccuracy(out_features, average="macro"),
            }
        )
    return MetricCollection({"rmse": MeanSquaredError(squared=False), "r2": R2Score()})


class LitTwoLayer(L.LightningModule):
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
            YAML file, its ``class_path`` and ``init_args``.
        lr_scheduler: called with the optimizer, likewise; stepped after every epoch. ``ReduceLROnPlateau`` watches
            ``val_loss``.

    Logs ``train_loss``, ``val_loss``, ``test_loss`` and the metrics of the task with the same prefixes.

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
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
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
        self.train_metrics = metrics.clone(prefix="train_")
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
        checkpoint["optimizer_names"] = self._optimizer_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed_names = checkpoint.get("optimizer_names")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, self.train_metrics, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, self.val_metrics, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, self.test_metrics, "test")

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        return self(batch if isinstance(batch, Tensor) else batch[0])

    def _step(self, batch: Batch, metrics: MetricCollection, stage: str) -> Tensor:
        X, Y = batch
        logits = self.net(self.standardize_inputs(X))
        if self.standardize_targets is not None:
            Y = Y.reshape(logits.shape)
        J = self.net.cost(logits, Y if self.standardize_targets is None else self.standardize_targets(Y))
        self.log(f"{stage}_loss", J, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(X))
        metrics.update(*self._for_metrics(self._predictions(logits.detach()), Y))
        return J

    # Once an epoch: logged in every step, the metrics cost more time than the step itself.

    def on_train_epoch_end(self) -> None:
        self._log_metrics(self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_metrics(self.test_metrics)

    def _log_metrics(self, metrics: MetricCollection) -> None:
        self.log_dict(metrics.compute(), sync_dist=True)
        metrics.reset()

    def _predictions(self, logits: Tensor) -> Tensor:
        A2 = self.net.output(logits)
        return A2 if self.standardize_targets is None else self.standardize_targets.inverse(A2)

    def _for_metrics(self, predictions: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
        """As torchmetrics wants them: hard labels, and one dimension where there is one output."""
        if self.net.task == "regression":
            return predictions, Y
        if self.net.task == "multiclass":
            return predictions, Y.argmax(-1) if Y.is_floating_point() else Y
        return predictions.squeeze(-1), (Y.reshape(predictions.shape) >= 0.5).squeeze(-1).int()
