"""The metrics of a task where each row has a weight: ``WeightedScores``."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class WeightedScores(Metric):
    """The metrics of :func:`~twolayer.training.metrics.metrics_for` by the same names: a row of weight 2 counts as two.

    Args:
        task: ``"binary"``, ``"multilabel"``, ``"multiclass"`` or ``"regression"``.

    >>> scores = WeightedScores("binary")
    >>> scores.update(torch.tensor([0.9, 0.9, 0.1]), torch.tensor([1, 0, 0]), torch.tensor([2.0, 1.0, 1.0]))
    >>> {name: round(value.item(), 3) for name, value in scores.compute().items()}
    {'accuracy': 0.75, 'auroc': 0.75, 'f1': 0.8}
    """

    preds: list[Tensor]
    target: list[Tensor]
    weight: list[Tensor]

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        for name in ("preds", "target", "weight"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor, weight: Tensor) -> None:
        self.preds.append(preds)
        self.target.append(target)
        self.weight.append(weight)

    def compute(self) -> dict[str, Tensor]:
        preds, target = (dim_zero_cat(state).double() for state in (self.preds, self.target))
        w = dim_zero_cat(self.weight).double()
        scores = {"regression": _of_values, "multiclass": _of_classes}.get(self.task, _of_labels)
        return {name: value.float() for name, value in scores(preds, target, w / w.sum()).items()}


def _of_values(preds: Tensor, target: Tensor, w: Tensor) -> dict[str, Tensor]:
    preds, target, w = preds.reshape(len(w), -1), target.reshape(len(w), -1), w.unsqueeze(1)
    residual = (w * (preds - target).square()).sum(0)
    total = (w * (target - (w * target).sum(0)).square()).sum(0)
    r2 = torch.where(total > 0, 1 - residual / total, (residual == 0).double()).mean()
    return {"rmse": residual.mean().sqrt(), "r2": r2 if len(w) > 1 else torch.full_like(r2, torch.nan)}


def _of_classes(preds: Tensor, target: Tensor, w: Tensor) -> dict[str, Tensor]:
    right = preds.argmax(-1) == target
    recalls = [(w * right)[target == k].sum() / w[target == k].sum() for k in target.unique()]
    return {"accuracy": (w * right).sum(), "accuracy_macro": torch.stack(recalls).mean()}


def _of_labels(preds: Tensor, target: Tensor, w: Tensor) -> dict[str, Tensor]:
    preds, target, w = preds.reshape(len(w), -1), target.reshape(len(w), -1) >= 0.5, w.unsqueeze(1)
    said = preds > 0.5
    both = 2 * (w * (said & target)).sum(0)
    f1 = both / ((w * said).sum(0) + (w * target).sum(0)).clamp(min=torch.finfo(w.dtype).tiny)
    areas = torch.stack([_auroc(*columns, w[:, 0]) for columns in zip(preds.T, target.T, strict=True)])
    return {"accuracy": (w * (said == target)).sum(0).mean(), "auroc": areas.nanmean(), "f1": f1.mean()}


def _auroc(preds: Tensor, target: Tensor, w: Tensor) -> Tensor:
    """The weight of pairs in the right order among pairs of both classes; equal predictions count half."""
    values, place = preds.unique(return_inverse=True)
    positive, negative = (
        w.new_zeros(len(values)).index_add(0, place, w * side) for side in (target.double(), (~target).double())
    )
    below = negative.cumsum(0) - negative / 2
    return (positive * below).sum() / (positive.sum() * negative.sum())
