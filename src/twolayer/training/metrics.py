"""What tells how good the predictions of a task are: ``metrics_for``."""

from torch import Tensor
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


def metrics_for(task: str, out_features: int) -> MetricCollection:
    """The metrics of a task.

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


def as_metrics_take_them(task: str, predictions: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions ``(m, n_y)`` and targets with hard labels, in one dimension where there is one output.

    >>> import torch
    >>> as_metrics_take_them("binary", torch.tensor([[0.2], [0.9]]), torch.tensor([0.1, 0.7]))
    (tensor([0.2000, 0.9000]), tensor([0, 1], dtype=torch.int32))
    """
    if task == "regression":
        return predictions, Y
    if task == "multiclass":
        return predictions, Y.argmax(-1) if Y.is_floating_point() else Y
    return predictions.squeeze(-1), (Y.reshape(predictions.shape) >= 0.5).squeeze(-1).int()
