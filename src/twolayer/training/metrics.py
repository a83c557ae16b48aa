"""How good the predictions of an epoch are: ``Evaluation``, and the metrics of each task."""

import math
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryF1Score,
    MulticlassAccuracy,
    MultilabelAccuracy,
    MultilabelAUROC,
    MultilabelF1Score,
)
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.regression import MeanSquaredError
from torchmetrics.utilities import dim_zero_cat

from twolayer.training.weighted import WeightedScores

WIDE = torch.float32 if torch.backends.mps.is_available() else torch.float64
"""For sums of squares; Apple's GPUs have no float64."""


def metrics_for(task: str, out_features: int) -> MetricCollection:
    """The metrics of a task. One that is not defined, such as R² of a single row, is NaN.

    >>> sorted(metrics_for("regression", 1))
    ['r2', 'rmse']
    """
    if task == "binary":
        return MetricCollection({"accuracy": BinaryAccuracy(), "auroc": AUROC(), "f1": BinaryF1Score()})
    if task == "multilabel":
        return MetricCollection(
            {
                "accuracy": MultilabelAccuracy(out_features),
                "auroc": AUROCOfLabels(out_features),
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
    return MetricCollection({"rmse": MeanSquaredError(squared=False), "r2": R2()})


def as_metrics_take_them(task: str, predictions: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions ``(m, n_y)`` and targets with hard labels, in one dimension where there is one output.

    >>> as_metrics_take_them("binary", torch.tensor([[0.2], [0.9]]), torch.tensor([0.1, 0.7]))
    (tensor([0.2000, 0.9000]), tensor([0, 1], dtype=torch.int32))
    """
    if task == "regression":
        return predictions, Y
    if task == "multiclass":
        return predictions, Y.argmax(-1) if Y.is_floating_point() else Y
    return predictions.squeeze(-1), (Y.reshape(predictions.shape) >= 0.5).squeeze(-1).int()


class Evaluation:
    """The cost and the metrics of one stage, over the rows of an epoch. No module: it is no part of the network.

    Args:
        prefix: of the names, ``"val_"`` say.
        task, out_features: of the network.

    >>> evaluation = Evaluation("val_", "binary", 1)
    >>> evaluation.update(torch.tensor([[0.2], [0.9]]), torch.tensor([0, 1]), (torch.tensor(0.1), 2))
    >>> {name: round(value.item(), 2) for name, value in sorted(evaluation.compute().items())}
    {'val_accuracy': 1.0, 'val_auroc': 1.0, 'val_f1': 1.0, 'val_loss': 0.1}
    >>> evaluation.compute()  # of no rows
    {}
    """

    def __init__(self, prefix: str, task: str, out_features: int) -> None:
        self.prefix, self.task = prefix, task
        self._metrics: MetricCollection | WeightedScores = metrics_for(task, out_features)
        self._cost = WeightedMean()
        self._updated = False
        self._said: set[str] = set()

    def in_constant_memory(self) -> None:
        """For more rows than fit: the AUROC counts predictions that are equal to 0.0006 of a logit as equal."""
        if self.task == "binary":
            self._metrics = metrics_for(self.task, 1)
            self._metrics["auroc"] = BinnedAUROC()

    def update(
        self,
        predictions: Tensor,
        Y: Tensor,
        cost: tuple[Tensor, Tensor | float] | None = None,
        sample_weight: Tensor | None = None,
    ) -> None:
        """Adds a batch: predictions ``(m, n_y)``, raw targets, mean cost and how much that weighs, and weights."""
        if sample_weight is not None and not isinstance(self._metrics, WeightedScores):
            self._metrics = WeightedScores(self.task)  # from the first batch on
        if self._cost.device != predictions.device:
            self._metrics.to(predictions.device)
            self._cost.to(predictions.device)
        weights = () if sample_weight is None else (sample_weight,)
        self._metrics.update(*as_metrics_take_them(self.task, predictions, Y), *weights)
        if cost is not None:
            self._cost.update(*cost)
        self._updated = True

    def compute(self) -> dict[str, Tensor]:
        """The metrics of all batches by name, on all processes; then it starts anew."""
        if not self._updated:
            return {}
        values = dict(self._metrics.compute())
        if self._cost.update_called:
            values["loss"] = self._cost.compute()
        for name, value in values.items():
            if name != "loss" and name not in self._said and value.isnan():
                self._said.add(name)
                rank_zero_info(f"{self.prefix}{name} is NaN: there are too few rows for it, or rows of one class only")
        self.reset()
        return {self.prefix + name: value for name, value in values.items()}

    def reset(self) -> None:
        """Forgets the rows that were added."""
        self._metrics.reset()
        self._cost.reset()
        self._updated = False


class WeightedMean(Metric):
    """The mean of values by their weights, over batches and processes."""

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=WIDE), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=WIDE), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor | float) -> None:
        self.total = self.total + value.to(WIDE) * weight
        self.weight = self.weight + weight

    def compute(self) -> Tensor:
        return (self.total / self.weight).float()


class R2(Metric):
    """The coefficient of determination, the mean over outputs: exact for targets far from zero, too.

    Sums of squares are taken around the mean, in float64, and those of batches and processes put together.

    >>> r2 = R2()
    >>> Y = 1e4 + torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> round(r2(Y + 0.5, Y).item(), 6)
    0.8
    """

    count: Tensor
    mean: Tensor
    total: Tensor
    residual: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("count", "mean", "total", "residual"):  # of each process, stacked when it comes to computing
            self.add_state(name, torch.zeros(1, dtype=WIDE), dist_reduce_fx=None)

    def update(self, preds: Tensor, target: Tensor) -> None:
        Y, A2 = target.to(WIDE), preds.to(WIDE)
        mean = Y.mean(0)
        merged = _merged(
            torch.stack([self.count, self.count.new_full((1,), len(Y))]),
            torch.stack([self.mean.expand_as(mean), mean]),
            torch.stack([self.total.expand_as(mean), (Y - mean).square().sum(0)]),
        )
        self.count, self.mean, self.total = merged
        self.residual = self.residual + (Y - A2).square().sum(0)

    def compute(self) -> Tensor:
        count, residual, mean, total = (
            V.reshape(-1, V.shape[-1]) for V in (self.count, self.residual, self.mean, self.total)
        )
        count, mean, total = _merged(count, mean, total)
        if count < 2:
            return count.new_tensor(math.nan).float()
        residual = residual.sum(0)
        perfect = (residual == 0).to(WIDE)
        return torch.where(total > 0, 1 - residual / total, perfect).mean().float()


def _merged(count: Tensor, mean: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squares around it of all parts, by those of each, ``(parts, …)``."""
    m = count.sum(0)
    overall = (count * mean).sum(0) / m.clamp(min=1)
    return m, overall, (total + count * (mean - overall).square()).sum(0)


class AUROC(BinaryAUROC):
    """NaN unless there are rows of both classes."""

    def compute(self) -> Tensor:  # type: ignore[override]
        return _auroc(dim_zero_cat(self.preds), dim_zero_cat(self.target))


class AUROCOfLabels(MultilabelAUROC):
    """The mean over the labels of which there are rows of both classes; NaN if there are none."""

    def compute(self) -> Tensor:  # type: ignore[override]
        columns: Any = zip(dim_zero_cat(self.preds).T, dim_zero_cat(self.target).T, strict=True)
        return torch.stack([_auroc(preds, target) for preds, target in columns]).nanmean()


class BinnedAUROC(Metric):
    """The area under the ROC curve by counts of rows in narrow bins of the logit, whatever the number of rows.

    >>> auroc = BinnedAUROC()
    >>> round(auroc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1])).item(), 3)
    0.875
    """

    BINS, LARGEST = 65_536, 20.0
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(2, self.BINS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        logits = preds.to(WIDE).logit().clamp(-self.LARGEST, self.LARGEST)
        bins = ((logits / self.LARGEST + 1) / 2 * (self.BINS - 1)).round().long()
        counts = torch.bincount(target.long() * self.BINS + bins, minlength=2 * self.BINS)
        self.counts = self.counts + counts.reshape(2, -1)

    def compute(self) -> Tensor:
        negative, positive = self.counts.to(WIDE)
        below = negative.cumsum(0) - negative / 2
        return ((positive * below).sum() / (positive.sum() * negative.sum())).float()


def _auroc(preds: Tensor, target: Tensor) -> Tensor:
    if target.min() == target.max():
        return torch.full((), math.nan, device=target.device)
    return binary_auroc(preds, target.int())
