"""Checks of arguments. Each error names the argument, what came and what is expected."""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

Name = TypeVar("Name", bound=str)


def one_of(argument: str, value: Name, valid: Collection[str]) -> Name:
    """``value`` if it is one of the valid names.

    Raises:
        ValueError: it is not; the message lists the names that are.

    >>> one_of("init", "hee", ["he", "xavier"])
    Traceback (most recent call last):
    ...
    ValueError: init must be one of 'he', 'xavier', got 'hee'
    """
    if value not in valid:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, valid))}, got {value!r}")
    return value


def positive_int(argument: str, value: int) -> int:
    """``value`` if it is an integer of at least one.

    Raises:
        TypeError: it is no integer.
        ValueError: it is smaller than one.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{argument} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{argument} must be at least 1, got {value}")
    return value


def autocast_enabled(device: torch.device) -> bool:
    """Whether autocast converts what is on this device. PyTorch has no answer for meta tensors."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Nothing is converted inside."""
    return torch.autocast(device.type, enabled=False) if autocast_enabled(device) else nullcontext()


def check_parameters(W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor) -> None:
    """Raises ValueError or TypeError unless the shapes are ``(n_h, n_x), (n_h,), (n_y, n_h), (n_y,)``, all else alike.

    Under autocast, which converts them, any dtypes will do.
    """
    if not (W1.ndim == W2.ndim == 2 and (W1.shape[:1], W2.shape) == (b1.shape, (*b2.shape, *b1.shape))):
        shapes = ", ".join(str(tuple(p.shape)) for p in (W1, b1, W2, b2))
        raise ValueError(f"W1, b1, W2, b2 must have shapes (n_h, n_x), (n_h,), (n_y, n_h), (n_y,), got {shapes}")
    for name, p in (("b1", b1), ("W2", W2), ("b2", b2)):
        if p.device != W1.device:
            raise ValueError(f"{name} must be on the device of W1, {W1.device}, got {p.device}")
        if p.dtype != W1.dtype and not autocast_enabled(W1.device):
            raise TypeError(f"{name} must have the dtype of W1, {W1.dtype}, got {p.dtype}")


def check_features(X: Tensor, W1: Tensor) -> None:
    """Raises TypeError or ValueError unless ``X`` is ``(..., n_x)`` in the dtype and on the device of ``W1``.

    Under autocast, which converts it, any floating point dtype will do.
    """
    if not isinstance(X, Tensor):
        raise TypeError(f"X must be a tensor, got {type(X).__name__}")
    if X.ndim == 0 or X.shape[-1] != W1.shape[-1]:
        raise ValueError(f"X must have shape (..., {W1.shape[-1]}), got {tuple(X.shape)}")
    if X.device != W1.device:
        raise ValueError(f"X must be on the parameters' device {W1.device}, got {X.device}")
    if X.dtype != W1.dtype and not (X.is_floating_point() and autocast_enabled(X.device)):
        raise TypeError(f"X must have the parameters' dtype {W1.dtype}, got {X.dtype}")


def check_direction(v: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Raises TypeError or ValueError unless ``v`` has a tensor like each of the parameters, by its name."""
    if not isinstance(v, Mapping):
        raise TypeError(f"v must be a dict of tensors, got {type(v).__name__}")
    if v.keys() != parameters.keys():
        raise ValueError(f"v must have the keys {', '.join(parameters)}, got {', '.join(map(str, v)) or 'none'}")
    for name, V in parameters.items():
        if not isinstance(v[name], Tensor):
            raise TypeError(f"v[{name!r}] must be a tensor, got {type(v[name]).__name__}")
        if v[name].shape != V.shape:
            raise ValueError(f"v[{name!r}] must have the shape of {name}, {tuple(V.shape)}, got {tuple(v[name].shape)}")
        if v[name].device != V.device:
            raise ValueError(f"v[{name!r}] must be on the device of {name}, {V.device}, got {v[name].device}")
        if v[name].dtype != V.dtype:
            raise TypeError(f"v[{name!r}] must have the dtype of {name}, {V.dtype}, got {v[name].dtype}")


def check_range(
    argument: str, tensor: Tensor, low: float, high: float, what_for: str, error: type[Exception] = ValueError
) -> None:
    """Raises ``error`` unless all values lie in ``[low, high]``; looks at them only where that costs nothing."""
    if _can_look_at(tensor):
        least, greatest = (V.item() for V in torch.aminmax(tensor.detach()))
        if not (least >= low and greatest <= high):
            raise error(f"{argument} must lie in [{low}, {high}] for {what_for}, got values from {least} to {greatest}")


def check_weights(argument: str, weights: Tensor, zero_allowed: bool = True) -> None:
    """Raises unless weights are real, finite, not negative and not all zero, or not zero at all.

    Raises:
        TypeError: they are complex.
        ValueError: a value is wrong; they are looked at only where that costs nothing.
    """
    if weights.is_complex():
        raise TypeError(f"{argument} must be real, got {weights.dtype}")
    if _can_look_at(weights):
        least, greatest = (V.item() for V in torch.aminmax(weights.detach()))
        if not ((least >= 0 if zero_allowed else least > 0) and 0 < greatest < torch.inf):
            expected = "not negative and not all zero" if zero_allowed else "positive"
            raise ValueError(f"{argument} must be finite, {expected}, got values from {least} to {greatest}")


def _can_look_at(tensor: Tensor) -> bool:
    """Whether values can be read at no cost: there are some, no GPU to wait for, no trace or transform to break."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.numel() > 0
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and torch._C._len_torch_dispatch_stack() == 0
    )
