"""What the network is asked for: each task is an output activation and the cost that is its match.

Because the two match (the canonical link of a generalised linear model), the output error is ``dZ2 = A2 − Y`` for
every one of them. The names are torchmetrics' words.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from twolayer import equations
from twolayer.checks import check_range, check_weights


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


def _cross_entropy_of_labels(Z2: Tensor, Y: Tensor) -> Tensor:
    L = F.binary_cross_entropy_with_logits(Z2, Y, reduction="none")
    return L.squeeze(-1) if L.shape[-1] == 1 else L.sum(-1)


def _error_of_labels(Z2: Tensor, Y: Tensor) -> Tensor:
    return equations.dZ2(torch.sigmoid(Z2), Y)


def _softmax(Z2: Tensor) -> Tensor:
    return torch.softmax(Z2, -1)


def _cross_entropy_of_classes(Z2: Tensor, Y: Tensor) -> Tensor:
    return -(Y * torch.log_softmax(Z2, -1)).sum(-1)


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


_LABELS = Task(torch.sigmoid, _cross_entropy_of_labels, _error_of_labels, lambda Z2, Y: -Z2, _curvature_of_labels)

TASKS = {
    "binary": _LABELS,
    "multilabel": _LABELS,
    "multiclass": Task(
        _softmax,
        _cross_entropy_of_classes,
        _error_of_classes,
        lambda Z2, Y: -torch.log_softmax(Z2, -1),
        _curvature_of_classes,
    ),
    "regression": Task(_identity, _half_squared_error, equations.dZ2, lambda Z2, Y: Y - Z2, lambda Z2, Y, tZ2: tZ2),
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


def check_targets(Y: Tensor, shape: tuple[int, ...], device: torch.device, task: str) -> None:
    """Raises unless ``Y`` are targets for logits of that shape, ``(..., n_y)``, and device.

    Raises:
        TypeError: ``Y`` is no tensor, or its dtype cannot hold such targets.
        ValueError: its shape or device does not fit, there are no examples, or a value is outside [0, 1] (looked at on
            a CPU only: on a GPU that would be a synchronisation in every step).
        IndexError: a class index is outside [0, n_y).
    """
    *lead, n_y = shape
    if 0 in lead:
        raise ValueError(f"X and logits must hold at least one example, got logits of shape {tuple(shape)}")
    if not isinstance(Y, Tensor):
        raise TypeError(f"Y must be a tensor, got {type(Y).__name__}")
    if Y.device != device:
        raise ValueError(f"Y must be on the logits' device {device}, got {Y.device}")
    if task == "binary" and n_y != 1:
        raise ValueError(f"logits must have one output for task 'binary', got {n_y}; 'multilabel' has several")
    if task == "multiclass" and not Y.is_floating_point():
        if Y.dtype is torch.bool or Y.is_complex():
            raise TypeError(f"Y must hold integer class indices or float probabilities for multiclass, got {Y.dtype}")
        if list(Y.shape) != lead:
            raise ValueError(f"Y must have shape {tuple(lead)} for class indices, got {tuple(Y.shape)}")
        check_range("Y", Y, 0, n_y - 1, f"{n_y} classes", IndexError)
        return
    if Y.is_complex() or (task == "regression" and not Y.is_floating_point()):
        raise TypeError(f"Y must be floating point for task {task!r}, got {Y.dtype}")
    if list(Y.shape) != [*lead, n_y] and not (n_y == 1 and list(Y.shape) == lead):
        also = (
            f" or {tuple(lead)}" if n_y == 1 else f", or class indices {tuple(lead)}," if task == "multiclass" else ""
        )
        raise ValueError(f"Y must have shape {tuple(shape)}{also} for task {task!r}, got {tuple(Y.shape)}")
    if task != "regression":
        check_range("Y", Y, 0, 1, f"task {task!r}")


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


def at_least_float32(Z2: Tensor) -> Tensor:
    """Logits as costs take them: in half precision, a cost would be no better than two or three digits."""
    return Z2.float() if Z2.dtype in (torch.float16, torch.bfloat16) else Z2


def check_label_smoothing(label_smoothing: float, task: str) -> None:
    """Raises ValueError or TypeError unless ``label_smoothing`` is a number in [0, 1), and 0 for regression."""
    if not isinstance(label_smoothing, int | float):
        raise TypeError(f"label_smoothing must be a number, got {label_smoothing!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if label_smoothing and task == "regression":
        raise ValueError(f"label_smoothing must be 0 for regression, got {label_smoothing}")


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

    Args:
        Y: dense targets ``(..., n_y)``, before label smoothing. A soft label weighs as the mean of its classes.
        task: a key of ``TASKS``.
        sample_weight: ``(...)``, not negative, not all zero.
        class_weight: ``(2,)`` for binary (of class 0 and of class 1), ``(n_y,)`` for multiclass; positive.

    >>> example_weights(torch.tensor([[0.0], [1.0]]), "binary", class_weight=torch.tensor([1.0, 3.0]))
    tensor([1., 3.])
    """
    weights = None
    if class_weight is not None:
        by_class = torch.cat([1 - Y, Y], -1) if task == "binary" else Y
        weights = by_class @ class_weight.to(Y)
    if sample_weight is not None:
        sample_weight = sample_weight.to(Y.dtype)
        weights = sample_weight if weights is None else weights * sample_weight
    return weights


def check_example_weights(
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    shape: tuple[int, ...],
    device: torch.device,
    task: str,
) -> None:
    """Raises unless the weights fit logits of that shape, ``(..., n_y)``, and device.

    Raises:
        TypeError: a weight is no tensor.
        ValueError: a shape or device is wrong, a value is (CPU only), or the task has no classes.
    """
    *lead, n_y = shape
    if class_weight is not None:
        check_class_weight(class_weight, task, n_y)
        if class_weight.device != device:
            raise ValueError(f"class_weight must be on Y's device {device}, got {class_weight.device}")
    if sample_weight is not None:
        if not isinstance(sample_weight, Tensor):
            raise TypeError(f"sample_weight must be a tensor, got {type(sample_weight).__name__}")
        if list(sample_weight.shape) != lead:
            raise ValueError(f"sample_weight must have shape {tuple(lead)}, got {tuple(sample_weight.shape)}")
        if sample_weight.device != device:
            raise ValueError(f"sample_weight must be on Y's device {device}, got {sample_weight.device}")
        check_weights("sample_weight", sample_weight)


def check_class_weight(class_weight: Tensor, task: str, n_y: int) -> None:
    """Raises ValueError or TypeError unless the class weights are one positive number for each class of the task."""
    if task not in ("binary", "multiclass"):
        raise ValueError(f"class_weight must be None for task {task!r}: only 'binary' and 'multiclass' have classes")
    classes = 2 if task == "binary" else n_y
    if not isinstance(class_weight, Tensor):
        raise TypeError(f"class_weight must be a tensor, got {type(class_weight).__name__}")
    if class_weight.shape != (classes,):
        raise ValueError(
            f"class_weight must have shape {(classes,)} for task {task!r}, got {tuple(class_weight.shape)}"
        )
    check_weights("class_weight", class_weight, zero_allowed=False)
