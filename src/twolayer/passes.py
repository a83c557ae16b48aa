"""Which program runs the pass: the operators of :mod:`twolayer.streaming`, or a kernel of :mod:`twolayer.kernels`.

None is swapped for another unseen: :func:`kernel_for` says which one a call would take, and one that is asked for by
its name runs or raises.
"""

from typing import Any

from torch import Tensor

from twolayer import streaming
from twolayer.checks import one_of
from twolayer.kernels import cpu

KERNELS = ("torch", "cpu")


def kernel_for(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    *,
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
    kernel: str | None = None,
) -> str:
    """The kernel that a call with these arguments takes: ``"torch"`` for PyTorch's operators, or ``"cpu"``.

    Args:
        X, Y, W1, sample_weight: those of the call. Values do not matter: shapes, strides, dtypes and devices do.
        chunk_size: is PyTorch's operators' alone; where it is given, they run.
        kernel: the one that is asked for, or None for the fastest that can run.

    Raises:
        ValueError: there is no such kernel, or it does not take a ``chunk_size``.
        RuntimeError: it cannot run here, or not on these arguments; the message says why.
    """
    if kernel is not None:
        one_of("kernel", kernel, KERNELS)
    if kernel == "torch" or (kernel is None and chunk_size is not None):
        return "torch"
    if chunk_size is not None:
        raise ValueError(f"chunk_size must be None for kernel {kernel!r}, which sees to that itself, got {chunk_size}")
    reason = cpu.why_not(X, Y, W1, sample_weight)
    if kernel == "cpu" and reason is not None:
        raise RuntimeError(f"kernel 'cpu' cannot run: {reason}")
    return "torch" if reason is not None else "cpu"


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
    if kernel_for(X, Y, W1, sample_weight=sample_weight, chunk_size=chunk_size, kernel=kernel) == "cpu":
        return cpu.loss_and_grads(X, Y, W1, b1, W2, b2, **options)
    return streaming.loss_and_grads(X, Y, W1, b1, W2, b2, chunk_size=chunk_size, **options)
