"""Which program runs the pass: PyTorch's operators, or a kernel of :mod:`twolayer.kernels`.

None is swapped for another unseen: :func:`kernel_for` says which one a call would take, and one that is asked for by
its name runs or raises.
"""

from typing import Any

from torch import Tensor

from twolayer import at_once, streaming
from twolayer.checks import one_of
from twolayer.chunks import default_chunk_size
from twolayer.kernels import cpu, gpu

KERNELS = ("torch", "cpu", *gpu.KERNELS)


def check_kernel(kernel: str | None, chunk_size: int | None) -> None:
    """Raises ValueError unless it is None or the name of a kernel, and of one that takes the ``chunk_size``."""
    if kernel is not None and one_of("kernel", kernel, KERNELS) != "torch" and chunk_size is not None:
        raise ValueError(f"chunk_size must be None for kernel {kernel!r}, which sees to that itself, got {chunk_size}")


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
    check_kernel(kernel, chunk_size)
    if kernel == "torch" or (kernel is None and chunk_size is not None):
        return "torch"
    reasons = {name: _why_not(name, X, Y, W1, W2, sample_weight) for name in ([kernel] if kernel else KERNELS[1:])}
    found = next((name for name, reason in reasons.items() if reason is None), None)
    if kernel is not None and found is None:
        raise RuntimeError(f"kernel {kernel!r} cannot run: {reasons[kernel]}")
    return found or "torch"


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
    """:func:`twolayer.streaming.loss_and_grads` by the kernel that :func:`kernel_for` names.

    In PyTorch's operators, examples that are no more than one chunk go at once.
    """
    options["sample_weight"] = sample_weight
    kernel = kernel_for(X, Y, W1, W2, sample_weight=sample_weight, chunk_size=chunk_size, kernel=kernel)
    if kernel != "torch":
        found: tuple[Tensor, dict[str, Tensor]] = (cpu if kernel == "cpu" else gpu.module(kernel)).loss_and_grads(
            X, Y, W1, b1, W2, b2, **options
        )
        return found
    (m, n_x), (n_y, n_h) = X.shape, W2.shape
    if chunk_size is None and m <= default_chunk_size(n_x, n_h, n_y, W1.itemsize, W1.device.type):
        return at_once.loss_and_grads(X, Y, W1, b1, W2, b2, **options)
    return streaming.loss_and_grads(X, Y, W1, b1, W2, b2, chunk_size=chunk_size, **options)
