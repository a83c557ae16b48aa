"""What goes into the network and its cost: checked, and brought into the shapes of the equations."""

import torch
from torch import Tensor

from twolayer.activations import ACTIVATIONS
from twolayer.checks import check_features, check_parameters, one_of
from twolayer.tasks import TASKS, check_example_weights, check_label_smoothing, check_targets


def check_network_and_cost(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    activation: str,
    task: str,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
) -> tuple[int, ...]:
    """Checks what goes into the whole network and its cost, and gives the shape of the logits."""
    one_of("activation", activation, ACTIVATIONS)
    one_of("task", task, TASKS)
    check_parameters(W1, b1, W2, b2)
    check_features(X, W1)
    shape = (*X.shape[:-1], b2.shape[0])
    check_cost(Y, shape, X.device, task, sample_weight, class_weight, label_smoothing)
    return shape


def check_cost(
    Y: Tensor,
    shape: tuple[int, ...],
    device: torch.device,
    task: str,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
) -> None:
    """Checks targets and weights of logits of that shape, ``(..., n_y)``, and device."""
    check_label_smoothing(label_smoothing, task)
    check_targets(Y, shape, device, task)
    check_example_weights(sample_weight, class_weight, shape, device, task)


def in_rows(
    X: Tensor, Y: Tensor, sample_weight: Tensor | None, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``X`` as ``(m, n_x)``, ``Y`` as ``(m,)`` or ``(m, n_y)``, and the weights as ``(m,)``."""
    if len(shape) == 2:
        return X, Y, sample_weight
    Y = Y.reshape(-1, shape[-1]) if Y.ndim == len(shape) else Y.reshape(-1)
    return X.reshape(-1, X.shape[-1]), Y, None if sample_weight is None else sample_weight.reshape(-1)
