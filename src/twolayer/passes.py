"""Which program runs the pass: PyTorch's operators, or a kernel of :mod:`twolayer.kernels`.

None is swapped for another unseen: :func:`kernel_for` says which one a call would take, and one that is asked for by
its name runs or raises.
"""

from typing import Any

from torch import Tensor

from twolayer import streaming
from twolayer.checks import no_autocast, one_of, positive_int
from twolayer.kernels import cpu, gpu

KERNELS = ("torch", "cpu", *gpu.KERNELS)


def check_pass(chunk_size: int | None = None, kernel: str | None = None, backward: str = "streamed") -> None:
    """Raises unless these say how a pass in constant memory is to run, if this is one, or are None.

    Raises:
        TypeError, ValueError: ``chunk_size`` is no positive integer, there is no such ``kernel``, the two do not go
            together, or the mode is not ``"streamed"``.
    """
    if chunk_size is not None:
        positive_int("chunk_size", chunk_size)
    if kernel is not None and one_of("kernel", kernel, KERNELS) != "torch" and chunk_size is not None:
        raise ValueError(f"chunk_size must be None for kernel {kernel!r}, which sees to that itself, got {chunk_size}")
    for name, value in (("chunk_size", chunk_size), ("kernel", kernel)):
        if value is not None and backward != "streamed":
            raise ValueError(f"{name} must be None unless backward='streamed', got {value!r} and {backward!r}")


def kernel_for(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    W2: Tensor,
    *,
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
    kernel: str | None = None,
) -> str:
    """The kernel that a pass over these arguments takes: ``"torch"`` for PyTorch's operators, ``"cpu"``, or one of
    :mod:`twolayer.kernels.gpu`.

    That is the pass of :func:`twolayer.functional.loss_and_grads`, and that of the mode ``"streamed"`` for cost and
    gradients. What else there is runs in PyTorch's operators.

    Args:
        X, Y, W1, W2, sample_weight: those of the call, ``X`` as ``(m, n_x)``. Shapes, strides, dtypes and devices
            matter, values do not.
        chunk_size: is for PyTorch's operators alone; where it is given, they run.
        kernel: the one that is asked for, or None for the fastest that can run.

    Raises:
        ValueError: there is no such kernel, or it does not take a ``chunk_size``.
        RuntimeError: it cannot run here, or not on these arguments; the message says why.

    >>> import torch
    >>> kernel_for(torch.ones(5, 2), torch.ones(5), torch.ones(3, 2), torch.ones(1, 3), chunk_size=2)
    'torch'
    """
    check_pass(chunk_size, kernel)
    if kernel == "torch" or (kernel is None and chunk_size is not None):
        return "torch"
    for name in KERNELS[1:] if kernel is None else [kernel]:
        reason = _why_not(name, X, Y, W1, W2, sample_weight)
        if reason is None:
            return name
    if kernel is not None:
        raise RuntimeError(f"kernel {kernel!r} cannot run: {reason}")
    return "torch"


def _why_not(kernel: str, X: Tensor, Y: Tensor, W1: Tensor, W2: Tensor, sample_weight: Tensor | None) -> str | None:
    if kernel == "cpu":
        return cpu.why_not(X, Y, W1, sample_weight)
    return gpu.why_not(kernel, X, Y, W1, W2)


def loss_and_grads(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
    kernel: str | None = None,
    **options: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """:func:`twolayer.streaming.loss_and_grads` by the kernel that :func:`kernel_for` names."""
    options["sample_weight"] = sample_weight
    kernel = kernel_for(X, Y, W1, W2, sample_weight=sample_weight, chunk_size=chunk_size, kernel=kernel)
    if kernel == "cpu":
        return cpu.loss_and_grads(X, Y, W1, b1, W2, b2, **options)
    with no_autocast(W1.device):
        if kernel == "torch":
            return streaming.loss_and_grads(X, Y, W1, b1, W2, b2, chunk_size=chunk_size, **options)
        found: tuple[Tensor, dict[str, Tensor]] = gpu.module(kernel).loss_and_grads(X, Y, W1, b1, W2, b2, **options)
        return found
