"""The door: every argument is checked here, and comes in as a value. An error names it, what came, what is expected."""

import math
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import TypeVar

import torch
from torch import Tensor

from twolayer.activations import ACTIVATIONS
from twolayer.context import PLAIN, autocast_enabled, can_look_at, is_expanded, is_freed, is_looked_at, undisturbed
from twolayer.equations import Parameters
from twolayer.kernels import KERNELS
from twolayer.tasks import TASKS, Direction, Examples, Objective, Plan

REDUCTIONS = ("mean", "sum", "none")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Of parameters, inputs and logits: the equations are those of real numbers."""
INDICES = (
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
)
"""Of classes."""
ROUNDING = 4
"""Units in the last place that a computed probability may lie outside of [0, 1]."""

ALONE = 1 << 14
"""Numbers that PyTorch looks through on one thread. Others, once woken, wait for more work, in the way of the kernel's
own threads: on two cores that took a sixth of a pass."""

Name = TypeVar("Name", bound=str)


# Single values


def one_of(argument: str, value: Name, valid: Collection[str]) -> Name:
    """``value`` if it is one of the valid names.

    Raises:
        ValueError: it is not; the message lists the names that are.

    >>> one_of("init", "hee", ["he", "xavier"])
    Traceback (most recent call last):
    ...
    ValueError: init must be one of 'he', 'xavier', got 'hee'
    """
    if value not in tuple(valid):  # which asks for no hash
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, valid))}, got {value!r}")
    return value


def positive_int(argument: str, value: int) -> int:
    """``value`` as an int, if it is an integer of at least one, NumPy's included.

    Raises:
        TypeError: it is no integer.
        ValueError: it is smaller than one.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{argument} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{argument} must be at least 1, got {value}")
    return int(value)


def dtype(value: torch.dtype, argument: str = "dtype") -> torch.dtype:
    """``value`` if the equations can be computed in it.

    Raises:
        TypeError: they cannot.
    """
    if value not in DTYPES:
        raise TypeError(f"{argument} must be of {_named(DTYPES)}, got {value}")
    return value


def dense(argument: str, V: Tensor) -> Tensor:
    """``V`` if it is a tensor that has all of its numbers in memory, as PyTorch's operators and the kernels read it.

    Raises:
        TypeError: it is no tensor, or a sparse or nested one.
        RuntimeError: its storage was freed, or holds fewer numbers.
    """
    if type(V) not in PLAIN:
        if not isinstance(V, Tensor):
            raise TypeError(f"{argument} must be a tensor, got {type(V).__name__}")
        if is_expanded(V):
            return V
    if V.layout is not torch.strided or V.is_nested:
        raise TypeError(
            f"{argument} must be dense, got {'a nested tensor' if V.is_nested else V.layout}: use to_dense()"
        )
    if is_freed(V):
        raise RuntimeError(
            f"{argument} must have its memory, got a tensor {tuple(V.shape)} whose storage was freed or is smaller"
        )
    return V


# The first look, and most often the only one: those below ask every tensor for every property, to say what does not fit


def is_ordinary(X: Tensor, parameters: Parameters, Y: Tensor | None = None) -> bool:
    """Whether all are dense tensors on a CPU of one dtype (``Y`` of any), and of shapes ``(m, n_x)`` and the network's,
    while nothing traces, transforms or converts them."""
    if is_looked_at():
        return False
    W1, b1, W2, b2 = parameters
    try:
        (m, n_x), (n_h, features), (n_y, hidden) = X.shape, W1.shape, W2.shape
        return (
            features == n_x
            and hidden == n_h
            and b1.shape == (n_h,)
            and b2.shape == (n_y,)
            and m * n_x * n_h * n_y > 0
            and undisturbed(X, W1, b1, W2, b2, Y)
            and X.dtype == W1.dtype == b1.dtype == W2.dtype == b2.dtype
            and X.dtype in DTYPES
        )
    except (RuntimeError, ValueError, AttributeError):  # another number of dimensions, no memory, no tensor
        return False


def are_ordinary(examples: Examples, parameters: Parameters, task: str) -> bool:
    """Whether it :func:`is_ordinary`, there are no weights, and targets have a shape and dtype that the task takes."""
    X, Y, sample_weight, class_weight = examples
    if sample_weight is not None or class_weight is not None or not is_ordinary(X, parameters, Y):
        return False
    rows, n_y = X.shape[:1], parameters.b2.shape
    if task == "multiclass" and Y.dtype in INDICES:
        return Y.shape == rows
    return (
        (Y.shape == rows + n_y or (n_y == (1,) and Y.shape == rows))
        and (Y.dtype in DTYPES or (task in ("binary", "multilabel") and (Y.dtype in INDICES or Y.dtype is torch.bool)))
        and not (task == "binary" and n_y != (1,))
    )


# What the package computes with


def objective(activation: str, task: str, label_smoothing: float = 0.0, reduction: str = "mean") -> Objective:
    """What is minimised.

    Raises:
        ValueError: there is no such activation, task or reduction, or ``label_smoothing`` is not in [0, 1), and 0 for
            regression.
        TypeError: it is no number.
    """
    one_of("activation", activation, ACTIVATIONS), one_of("task", task, TASKS)
    one_of("reduction", reduction, REDUCTIONS)
    if type(label_smoothing) is not float and not isinstance(label_smoothing, Real):
        raise TypeError(f"label_smoothing must be a number, got {label_smoothing!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if label_smoothing and task == "regression":
        raise ValueError(f"label_smoothing must be 0 for regression, got {label_smoothing}")
    return Objective(activation, task, float(label_smoothing), reduction)


def plan(chunk_size: int | None, kernel: str | None = None) -> Plan:
    """How a pass for cost and gradients is to run.

    Raises:
        TypeError, ValueError: ``chunk_size`` is no positive integer, there is no such ``kernel``, or the two do not go
            together.
    """
    if chunk_size is not None:
        chunk_size = positive_int("chunk_size", chunk_size)
    if kernel is not None and one_of("kernel", kernel, KERNELS) != "torch" and chunk_size is not None:
        raise ValueError(f"chunk_size must be None for kernel {kernel!r}, which sees to that itself, got {chunk_size}")
    return Plan(chunk_size, kernel)


def mode(backward: Name, plan: Plan, modes: Collection[str]) -> Name:
    """The name of a mode that goes by that plan.

    Raises:
        ValueError: there is no such mode, or PyTorch's own differentiation is asked for, which knows no plan.
    """
    one_of("backward", backward, modes)
    for name, value in (("chunk_size", plan.chunk_size), ("kernel", plan.kernel)):
        if value is not None and backward == "autograd":
            raise ValueError(f"{name} must be None for backward='autograd', got {value!r}")
    return backward


def checked(parameters: Parameters) -> Parameters:
    """The parameters, of shapes ``(n_h, n_x), (n_h,), (n_y, n_h), (n_y,)`` and alike in all else.

    Under autocast, which converts them, other dtypes than that of ``W1`` will do, and are taken to it.

    Raises:
        ValueError: a shape or device does not fit, or there are no features, hidden units or outputs.
        TypeError: one is no dense tensor, or a dtype does not fit.
        RuntimeError: the storage of one was freed.
    """
    W1, b1, W2, b2 = parameters
    dense("W1", W1), dense("b1", b1), dense("W2", W2), dense("b2", b2)
    of_W1, of_b1, of_W2, of_b2 = W1.shape, b1.shape, W2.shape, b2.shape
    if not (len(of_W1) == len(of_W2) == 2 and of_W1[:1] == of_b1 and of_W2 == of_b2 + of_b1):
        shapes = ", ".join(str(tuple(p.shape)) for p in (W1, b1, W2, b2))
        raise ValueError(f"W1, b1, W2, b2 must have shapes (n_h, n_x), (n_h,), (n_y, n_h), (n_y,), got {shapes}")
    if 0 in of_W1 or 0 in of_b2:
        raise ValueError(f"n_x, n_h, n_y must be at least 1, got {W1.shape[1]}, {W1.shape[0]}, {b2.shape[0]}")
    dtype(W1.dtype, "W1")
    if W1.device == b1.device == W2.device == b2.device and W1.dtype == b1.dtype == W2.dtype == b2.dtype:
        return parameters
    for name, p in parameters._asdict().items():
        if p.device != W1.device:
            raise ValueError(f"{name} must be on the device of W1, {W1.device}, got {p.device}")
        if p.dtype != W1.dtype and not (p.dtype in DTYPES and autocast_enabled(W1.device)):
            raise TypeError(f"{name} must have the dtype of W1, {W1.dtype}, got {p.dtype}")
    return Parameters(*(p.to(W1.dtype) for p in parameters))


def features(X: Tensor, W1: Tensor) -> Tensor:
    """``X``, ``(..., n_x)`` in the dtype and on the device of ``W1``. Under autocast, any floating point dtype will do.

    Raises:
        TypeError: it is no tensor, or its dtype is another.
        ValueError: its shape or device does not fit.
    """
    dense("X", X)
    if X.ndim == 0 or X.shape[-1] != W1.shape[-1]:
        raise ValueError(f"X must have shape (..., {W1.shape[-1]}), got {tuple(X.shape)}")
    if X.device != W1.device:
        raise ValueError(f"X must be on the parameters' device {W1.device}, got {X.device}")
    if X.dtype != W1.dtype and not (X.dtype in DTYPES and autocast_enabled(X.device)):
        raise TypeError(f"X must have the parameters' dtype {W1.dtype}, got {X.dtype}")
    return X


def call(examples: Examples, parameters: Parameters, task: str) -> tuple[Examples, Parameters, tuple[int, ...]]:
    """Inputs, targets and weights of any leading shape as rows ``(m, …)``, the parameters, and the shape of the logits.

    Raises:
        TypeError, ValueError, IndexError, RuntimeError: as :func:`checked`, :func:`features` and :func:`targets`.
    """
    if are_ordinary(examples, parameters, task):
        shape = (len(examples.X), len(parameters.b2))
        _targets_in_range(examples.Y, shape[1], task)
        return examples, parameters, shape
    parameters = checked(parameters)
    X, Y, sample_weight, class_weight = examples
    shape = (*features(X, parameters.W1).shape[:-1], parameters.b2.shape[0])
    targets(examples, shape, task)
    if len(shape) != 2:
        m = math.prod(shape[:-1])  # not -1, which no dimension of zero allows
        Y = Y.reshape(m, shape[-1]) if Y.ndim == len(shape) else Y.reshape(m)
        X = X.reshape(m, X.shape[-1])
        sample_weight = None if sample_weight is None else sample_weight.reshape(m)
    return Examples(X, Y, sample_weight, class_weight), parameters, shape


def targets(examples: Examples, shape: tuple[int, ...], task: str) -> None:
    """Raises unless targets and weights fit logits of that shape, ``(..., n_y)``, on the device of ``X``.

    Raises:
        TypeError: ``Y`` or a weight is no tensor, or its dtype cannot hold such targets.
        ValueError: a shape or device does not fit, there are no examples, the task has no classes to weigh, or a value
            is out of range (looked at on a CPU only: on a GPU that would be a synchronisation in every step).
        IndexError: a class index is outside [0, n_y).
    """
    X, Y, sample_weight, class_weight = examples
    if not shape:
        raise ValueError("logits must have shape (..., n_y), got ()")
    *lead, n_y = shape
    if 0 in lead:
        raise ValueError(f"X and logits must hold at least one example, got logits of shape {tuple(shape)}")
    dense("Y", Y)
    if Y.device != X.device:
        raise ValueError(f"Y must be on the logits' device {X.device}, got {Y.device}")
    if task == "binary" and n_y != 1:
        raise ValueError(f"logits must have one output for task 'binary', got {n_y}; 'multilabel' has several")
    if task == "multiclass" and not Y.is_floating_point():
        _class_indices(Y, lead, n_y)
    else:
        _dense_targets(Y, lead, n_y, task)
    _targets_in_range(Y, n_y, task)
    if class_weight is not None:
        class_weights(class_weight, task, n_y)
        if class_weight.device != X.device:
            raise ValueError(f"class_weight must be on Y's device {X.device}, got {class_weight.device}")
    if sample_weight is not None:
        dense("sample_weight", sample_weight)
        if list(sample_weight.shape) != lead:
            raise ValueError(f"sample_weight must have shape {tuple(lead)}, got {tuple(sample_weight.shape)}")
        if sample_weight.device != X.device:
            raise ValueError(f"sample_weight must be on Y's device {X.device}, got {sample_weight.device}")
        _weights_in_range("sample_weight", sample_weight)


def _targets_in_range(Y: Tensor, n_y: int, task: str) -> None:
    if task == "multiclass" and not Y.is_floating_point():
        _in_range("Y", Y, (0, n_y - 1), f"{n_y} classes", IndexError)
    elif task != "regression":
        _in_range("Y", Y, (0, 1), f"task {task!r}")


def _class_indices(Y: Tensor, lead: list[int], n_y: int) -> None:
    if Y.dtype not in INDICES:
        raise TypeError(f"Y must hold integer class indices or float probabilities for multiclass, got {Y.dtype}")
    if list(Y.shape) != lead:
        raise ValueError(f"Y must have shape {tuple(lead)} for class indices, got {tuple(Y.shape)}")


def _dense_targets(Y: Tensor, lead: list[int], n_y: int, task: str) -> None:
    if Y.dtype not in DTYPES and (task in ("regression", "multiclass") or Y.dtype not in (*INDICES, torch.bool)):
        expected = "floating point" if task in ("regression", "multiclass") else "0 and 1, or floating point"
        raise TypeError(f"Y must be {expected} for task {task!r}, of {_named(DTYPES)}, got {Y.dtype}")
    if list(Y.shape) != [*lead, n_y] and not (n_y == 1 and list(Y.shape) == lead):
        if task == "multiclass" and list(Y.shape) == lead:
            raise TypeError(f"Y must hold integers for class indices, got {Y.dtype}: use Y.long()")
        also = (
            f" or {tuple(lead)}" if n_y == 1 else f", or class indices {tuple(lead)}," if task == "multiclass" else ""
        )
        raise ValueError(f"Y must have shape {(*lead, n_y)}{also} for task {task!r}, got {tuple(Y.shape)}")


def class_weights(class_weight: Tensor, task: str, n_y: int) -> None:
    """Raises ValueError or TypeError unless the class weights are one positive number for each class of the task."""
    if task not in ("binary", "multiclass"):
        raise ValueError(f"class_weight must be None for task {task!r}: only 'binary' and 'multiclass' have classes")
    classes = 2 if task == "binary" else n_y
    dense("class_weight", class_weight)
    if class_weight.shape != (classes,):
        raise ValueError(
            f"class_weight must have shape {(classes,)} for task {task!r}, got {tuple(class_weight.shape)}"
        )
    _weights_in_range("class_weight", class_weight, zero_allowed=False)


def direction(v: Mapping[str, Tensor], parameters: Parameters) -> Direction:
    """The direction in which the parameters move, from a tensor like each of them, by its name.

    Raises:
        TypeError, ValueError: it is no such dict.
    """
    if not isinstance(v, Mapping):
        raise TypeError(f"v must be a dict of tensors, got {type(v).__name__}")
    if v.keys() != set(Parameters._fields):
        raise ValueError(
            f"v must have the keys {', '.join(Parameters._fields)}, got {', '.join(map(str, v)) or 'none'}"
        )
    for name, V in parameters._asdict().items():
        dense(f"v[{name!r}]", v[name])
        if v[name].shape != V.shape:
            raise ValueError(f"v[{name!r}] must have the shape of {name}, {tuple(V.shape)}, got {tuple(v[name].shape)}")
        if v[name].device != V.device:
            raise ValueError(f"v[{name!r}] must be on the device of {name}, {V.device}, got {v[name].device}")
        if v[name].dtype != V.dtype:
            raise TypeError(f"v[{name!r}] must have the dtype of {name}, {V.dtype}, got {v[name].dtype}")
    return Direction(None, None, Parameters(**v))


# Values of tensors, looked at only where that costs nothing


def _extremes(V: Tensor) -> tuple[float, float]:
    if V.requires_grad:
        V = V.detach()
    if V.dtype in (torch.uint16, torch.uint32, torch.uint64):  # which PyTorch does not compare
        V = V.long()
    if V.numel() <= ALONE:
        least, greatest = torch.aminmax(V)
        return least.item(), greatest.item()
    pieces = [torch.aminmax(piece) for piece in V.split(max(1, ALONE * len(V) // V.numel()))]
    bounds = torch.stack([bound for both in pieces for bound in both])  # a NaN among them comes through
    return bounds.amin().item(), bounds.amax().item()


def _named(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def _in_range(
    argument: str, V: Tensor, bounds: tuple[float, float], what_for: str, error: type[Exception] = ValueError
) -> None:
    if can_look_at(V):
        (low, high), (least, greatest) = bounds, _extremes(V)
        if low <= least and greatest <= high:
            return
        rounding = ROUNDING * torch.finfo(V.dtype).eps if V.is_floating_point() else 0
        if not (least >= low - rounding and greatest <= high + rounding):
            raise error(f"{argument} must lie in [{low}, {high}] for {what_for}, got values from {least} to {greatest}")


def _weights_in_range(argument: str, weights: Tensor, zero_allowed: bool = True) -> None:
    if weights.dtype not in (*DTYPES, *INDICES, torch.bool):
        raise TypeError(f"{argument} must hold real numbers, of {_named(DTYPES)} or integers, got {weights.dtype}")
    if can_look_at(weights):
        least, greatest = _extremes(weights)
        if not ((least >= 0 if zero_allowed else least > 0) and 0 < greatest < torch.inf):
            expected = "not negative and not all zero" if zero_allowed else "positive"
            raise ValueError(f"{argument} must be finite, {expected}, got values from {least} to {greatest}")
