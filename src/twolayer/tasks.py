"""What the network is asked for: each task is an output activation and the cost that is its match.

Because the two match (the canonical link of a generalised linear model), the output error is ``dZ2 = A2 − Y`` for
every one of them. The names are torchmetrics' words.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from twolayer import equations
from twolayer.activations import ACTIVATIONS, Activation
from twolayer.context import can_look_at
from twolayer.equations import Parameters


class Task(NamedTuple):
    """An output activation and its cost. ``Z2`` and ``Y`` are ``(m, n_y)``; losses are ``(m,)``, one per example.

    >>> task = TASKS["binary"]
    >>> task.loss(torch.zeros(1, 1), torch.ones(1, 1))  # −log ½
    tensor([0.6931])
    """

    output: Callable[[Tensor], Tensor]
    """``A2`` from ``Z2``."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """``L`` from ``Z2`` and ``Y``. It starts from the logits so that it stays finite where ``log A2`` does not."""
    error: Callable[[Tensor, Tensor], Tensor]
    """``dZ2 = ∂L/∂Z2`` from ``Z2`` and ``Y``."""
    target_gradient: Callable[[Tensor, Tensor], Tensor]
    """``∂L/∂Y`` from ``Z2`` and ``Y``: for targets that are themselves computed, as in distillation."""
    curvature: Callable[[Tensor, Tensor, Tensor], Tensor]
    """``∂²L/∂Z2² tZ2`` from ``Z2``, ``Y`` and a direction ``tZ2``: how ``dZ2`` changes along it."""
    reduced: Callable[[Tensor, Tensor, str], Tensor] | None = None
    """``J`` of examples that weigh the same, their ``"mean"`` or ``"sum"``, in fewer operators of PyTorch's; it may be
    NaN where ``loss`` is not."""


def all_finite(V: Tensor) -> bool:
    """Whether that is known at next to no cost. What is masked for infinities takes half as long as the cost itself."""
    return can_look_at(V) and math.isfinite(V.detach().sum().item())


def _cross_entropy_of_labels(Z2: Tensor, Y: Tensor) -> Tensor:
    if all_finite(Z2):
        losses = F.binary_cross_entropy_with_logits(Z2, Y, reduction="none")
    else:
        losses = _losses_of_infinite_logits(Z2, Y)
    return losses.squeeze(-1) if losses.shape[-1] == 1 else losses.sum(-1)


def _losses_of_infinite_logits(Z2: Tensor, Y: Tensor) -> Tensor:
    """Nothing on the side of the label, and infinite otherwise. PyTorch's formula has 0 · ∞ for either."""
    infinite, right = Z2.isinf(), (Z2 > 0) == Y
    largest = torch.finfo(Z2.dtype).max
    finite = torch.where(infinite, Z2.clamp(-largest, largest), Z2)  # a NaN, whose clamp has no derivative, stays
    losses = F.binary_cross_entropy_with_logits(finite, Y, reduction="none")
    wrong = infinite & ~right
    return torch.where(wrong, torch.where(Z2 > 0, 1 - Y, -Y) * Z2.masked_fill(~wrong, 0), losses)


def _error_of_labels(Z2: Tensor, Y: Tensor) -> Tensor:
    return equations.dZ2(torch.sigmoid(Z2), Y)


def _softmax(Z2: Tensor) -> Tensor:
    return torch.softmax(Z2, -1)


def _cross_entropy_of_classes(Z2: Tensor, Y: Tensor) -> Tensor:
    log_A2 = torch.log_softmax(Z2, -1)
    if not all_finite(log_A2):
        log_A2 = log_A2.masked_fill((Y == 0) & (log_A2 == -torch.inf), 0)  # 0 log 0 = 0, as for a masked class
    return -(Y * log_A2).sum(-1)


def _error_of_classes(Z2: Tensor, Y: Tensor) -> Tensor:
    # A row of Y sums to one, but a derivative with respect to Y looks beside such rows; there A2 counts Σ Y times.
    return equations.dZ2(_softmax(Z2) * Y.sum(-1, keepdim=True), Y)


def _curvature_of_labels(Z2: Tensor, Y: Tensor, tZ2: Tensor) -> Tensor:
    A2 = torch.sigmoid(Z2)
    return A2 * (1 - A2) * tZ2


def _curvature_of_classes(Z2: Tensor, Y: Tensor, tZ2: Tensor) -> Tensor:
    A2 = _softmax(Z2)
    return A2 * (tZ2 - (A2 * tZ2).sum(-1, keepdim=True)) * Y.sum(-1, keepdim=True)


def _half_squared_error(Z2: Tensor, Y: Tensor) -> Tensor:
    return 0.5 * (Z2 - Y).square().sum(-1)


def _identity(Z2: Tensor) -> Tensor:
    return Z2


def _summed_over_outputs(loss: Callable[..., Tensor], factor: float = 1.0) -> Callable[[Tensor, Tensor, str], Tensor]:
    """From PyTorch's, whose mean is one over examples and outputs."""

    def reduced(Z2: Tensor, Y: Tensor, reduction: str) -> Tensor:
        times = factor * Z2.shape[-1] if reduction == "mean" else factor
        J = loss(Z2, Y, reduction=reduction)
        return J if times == 1 else times * J

    return reduced


_LABELS = Task(
    torch.sigmoid,
    _cross_entropy_of_labels,
    _error_of_labels,
    lambda Z2, Y: -Z2,
    _curvature_of_labels,
    _summed_over_outputs(F.binary_cross_entropy_with_logits),
)

TASKS = {
    "binary": _LABELS,
    "multilabel": _LABELS,
    "multiclass": Task(
        _softmax,
        _cross_entropy_of_classes,
        _error_of_classes,
        lambda Z2, Y: -torch.log_softmax(Z2, -1),
        _curvature_of_classes,
        lambda Z2, Y, reduction: F.cross_entropy(Z2, Y, reduction=reduction),
    ),
    "regression": Task(
        _identity,
        _half_squared_error,
        equations.dZ2,
        lambda Z2, Y: Y - Z2,
        lambda Z2, Y, tZ2: tZ2,
        _summed_over_outputs(F.mse_loss, 0.5),
    ),
}

PAIRING = "pairing"
"""No task but the cost ``L = Σ Z2 ⊙ Y``, for which ``dZ2 = Y``: its gradients are what any ``Y`` at the logits pulls
back to the parameters and to ``X``."""

COSTS = {
    **TASKS,
    PAIRING: Task(
        _identity,
        lambda Z2, Y: (Z2 * Y).sum(-1),
        lambda Z2, Y: Y,
        lambda Z2, Y: Z2,
        lambda Z2, Y, tZ2: torch.zeros_like(tZ2),
    ),
}


def dense_targets(Y: Tensor, logits: Tensor, task: str) -> Tensor:
    """Targets in the logits' shape and dtype: what ``dZ2 = A2 − Y`` subtracts.

    Args:
        Y: binary and multilabel: 0 and 1, or probabilities, of any dtype; multiclass: class indices ``(...)`` or
            probabilities ``(..., n_y)``; regression: floats. With one output, ``(...)`` and ``(..., 1)`` are the same.
        logits: ``Z2``, ``(..., n_y)``.
        task: a key of ``TASKS``.

    >>> dense_targets(torch.tensor([2, 0]), torch.zeros(2, 3), "multiclass")
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    if task == "multiclass" and not Y.is_floating_point():
        indices = Y.long().unsqueeze(-1)
        return torch.zeros_like(logits).scatter(-1, indices, torch.ones_like(indices, dtype=logits.dtype))
    return (Y if Y.ndim == logits.ndim else Y.unsqueeze(-1)).to(logits.dtype)


def summing_dtype(device: torch.device) -> torch.dtype:
    """In which sums over examples are formed: float64, which Apple's GPUs do not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_float32(Z2: Tensor) -> Tensor:
    """Logits as costs take them: in half precision, a cost would be no better than two or three digits."""
    return Z2.float() if Z2.dtype in (torch.float16, torch.bfloat16) else Z2


def smoothed(Y: Tensor, label_smoothing: float, task: str) -> Tensor:
    """Dense targets moved by ``label_smoothing`` towards the uniform distribution over the classes.

    With ``ε = label_smoothing``: ``(1 − ε) Y + ε / n_y`` for multiclass, ``(1 − ε) Y + ε / 2`` for labels.

    >>> smoothed(torch.tensor([[0.0], [1.0]]), 0.1, "binary")
    tensor([[0.0500],
            [0.9500]])
    """
    if label_smoothing == 0:
        return Y
    classes = Y.shape[-1] if task == "multiclass" else 2
    return (1 - label_smoothing) * Y + label_smoothing / classes


def example_weights(
    Y: Tensor, task: str, sample_weight: Tensor | None = None, class_weight: Tensor | None = None
) -> Tensor | None:
    """One weight per example, ``(...)``: ``sample_weight`` times the weight of its class. None for none.

    In :func:`summing_dtype`, so that no weight is lost before the weights are normalised, whatever their scale.

    Args:
        Y: dense targets ``(..., n_y)``, before label smoothing. A soft label weighs as the mean of its classes.
        task: a key of ``TASKS``.
        sample_weight: ``(...)``, not negative, not all zero.
        class_weight: ``(2,)`` for binary (of class 0 and of class 1), ``(n_y,)`` for multiclass; positive.

    >>> example_weights(torch.tensor([[0.0], [1.0]]), "binary", class_weight=torch.tensor([1.0, 3.0]))
    tensor([1., 3.], dtype=torch.float64)
    """
    if sample_weight is None and class_weight is None:
        return None
    weights, dtype = None, summing_dtype(Y.device)
    if class_weight is not None:
        by_class = torch.cat([1 - Y, Y], -1) if task == "binary" else Y
        weights = by_class.to(dtype) @ class_weight.to(dtype)
    if sample_weight is not None:
        sample_weight = sample_weight.to(dtype)
        weights = sample_weight if weights is None else weights * sample_weight
    return weights


class Examples(NamedTuple):
    """What the network learns from: inputs, targets and their weights."""

    X: Tensor
    """``(m, n_x)``"""
    Y: Tensor
    """Targets as for :func:`twolayer.functional.cost`, ``m`` of them."""
    sample_weight: Tensor | None = None
    """``(m,)``"""
    class_weight: Tensor | None = None


class Direction(NamedTuple):
    """Along what a derivative is taken, or what it is along each; None where it is zero, or not asked for."""

    X: Tensor | None
    Y: Tensor | None
    parameters: Parameters


@dataclass(frozen=True)
class Objective:
    """What is minimised: the names and numbers that, with examples and parameters, make the cost ``J``.

    Frozen, so that it is one value wherever PyTorch takes arguments apart.

    >>> examples = Examples(torch.ones(2, 1), torch.tensor([0, 1]), sample_weight=torch.tensor([1.0, 3.0]))
    >>> Objective("tanh", "binary").cost(torch.zeros(2, 1), examples)
    tensor(0.6931)
    """

    activation: str
    task: str
    label_smoothing: float = 0.0
    reduction: str = "mean"
    """``"mean"``, ``"sum"``, or ``"none"`` for the weighted loss of each example."""

    @property
    def g(self) -> Activation:
        return ACTIVATIONS[self.activation]

    @property
    def formulas(self) -> Task:
        """The task's own: loss, error and curvature."""
        return COSTS[self.task]

    def targets(self, examples: Examples, Z2: Tensor) -> tuple[Tensor, Tensor | None]:
        """Dense and smoothed targets ``(m, n_y)`` in the dtype of the logits ``Z2``, and weights ``(m,)`` if any."""
        Y = dense_targets(examples.Y, Z2, self.task)
        weights = example_weights(Y, self.task, examples.sample_weight, examples.class_weight)
        return smoothed(Y, self.label_smoothing, self.task), weights

    def share(self, weights: Tensor | None, Z2: Tensor) -> Tensor | float:
        """What the loss of each example is multiplied by in ``J``: the same for all, or ``(m, 1)``, as ``Z2``."""
        if weights is None:
            # Not len, which torch.jit.trace takes for a constant.
            return 1 / Z2.shape[0] if self.reduction == "mean" else 1.0
        return self._normalised(weights, Z2.dtype).unsqueeze(-1)

    def _normalised(self, weights: Tensor, dtype: torch.dtype) -> Tensor:
        if self.reduction == "mean":
            weights = weights / weights.detach().amax()  # so that their sum does not overflow
            weights = weights / weights.sum()
        return weights.to(dtype)

    def cost(self, Z2: Tensor, examples: Examples, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """``J``, or with reduction ``"none"`` the weighted loss of each example, in at least float32.

        Args:
            Z2: logits, ``(..., n_y)``.
            examples: of the same leading shape; ``X`` plays no part.
            loss: what makes the loss of each example of ``Z2`` and dense ``Y``, if not the task's own formula.
        """
        Z2 = at_least_float32(Z2)
        return self.cost_of(Z2, *self.targets(examples, Z2), loss)

    def cost_of(
        self,
        Z2: Tensor,
        Y: Tensor,
        weights: Tensor | None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """:meth:`cost`, where :meth:`targets` has been asked."""
        reduced = self.formulas.reduced if weights is None and loss is None and self.reduction != "none" else None
        if reduced is not None and Z2.ndim == 2 and can_look_at(Z2):
            J = reduced(Z2, Y, self.reduction)
            if math.isfinite(J.item()):
                return J
        L = (loss or self.formulas.loss)(Z2, Y)
        if weights is not None:
            L = self._normalised(weights, L.dtype) * L
        if self.reduction == "mean":
            return L.mean() if weights is None else L.sum()
        return L.sum() if self.reduction == "sum" else L


@dataclass(frozen=True)
class Plan:
    """How a pass is to run, and whether it gives ``dX`` too."""

    chunk_size: int | None = None
    """Examples at a time in PyTorch's operators."""
    kernel: str | None = None
    """One of ``twolayer.kernels.KERNELS``, or None for the fastest that can run."""
    input_gradient: bool = False
