"""The pass as one program for the CPU: ``cpu.cpp``, compiled when the package is built, see :mod:`.library`."""

import ctypes
import struct

import torch
from torch import Tensor

from twolayer.activations import LEAKY_RELU_SLOPE
from twolayer.kernels import memory
from twolayer.kernels.library import Kernel, load

# Their places in the enums of cpu.cpp.
ACTIVATIONS = {name: number for number, name in enumerate(["sigmoid", "tanh", "relu", "leaky_relu"])}
TASKS = {name: number for number, name in enumerate(["binary", "multilabel", "multiclass", "regression", "pairing"])}
DTYPES = {
    torch.float32: 1,
    torch.float64: 2,
    torch.int64: 3,
    torch.int32: 4,
    torch.uint8: 5,
    torch.bool: 5,
}
ARGUMENTS = struct.Struct("=15q12q2d")
WORTH_A_THREAD = 10_000_000
"""Floating point operations that take longer than to start a thread."""


def why_not(X: Tensor, Y: Tensor, W1: Tensor, sample_weight: Tensor | None = None) -> str | None:
    """What keeps the kernel from a call, or None."""
    if W1.device.type != "cpu":
        return f"it runs on a CPU, and W1 is on {W1.device}"
    if not W1.dtype == X.dtype == torch.float32:
        return f"it computes in float32, and X and W1 are {X.dtype} and {W1.dtype}"
    if Y.dtype not in DTYPES:
        return f"it reads no targets of {Y.dtype}"
    if sample_weight is not None and not (sample_weight.dtype == torch.float32 and sample_weight.is_contiguous()):
        return "it reads contiguous float32 weights"
    reason = memory.why_not(X, Y, W1)
    if reason is not None:
        return reason
    kernel = load()
    return kernel if isinstance(kernel, str) else None


def loss_and_grads(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: str,
    task: str,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    input_gradient: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """As :func:`twolayer.streaming.loss_and_grads`, where :func:`why_not` has nothing against it.

    On as many threads as :func:`torch.get_num_threads` says, if there is work for them; for a number of threads, the
    result is the same to the last bit each time.
    """
    kernel = load()
    assert isinstance(kernel, Kernel), kernel
    (m, n_x), n_h, n_y = X.shape, len(b1), len(b2)
    parameters = {name: V.contiguous() for name, V in {"W1": W1, "b1": b1, "W2": W2, "b2": b2}.items()}
    if class_weight is not None:
        class_weight = class_weight.to(torch.float32).contiguous()
    grads = {name: torch.empty_like(V) for name, V in parameters.items()}
    dX = X.new_empty(m, n_x) if input_gradient else None
    J, divisor = torch.empty((), dtype=torch.float32), ctypes.c_double()
    work = m * n_h * (4 * n_x + 6 * n_y + 40)  # 40 for the activation
    failed = kernel.library.twolayer_pass(
        ARGUMENTS.pack(
            *map(_address, (X, *parameters.values(), Y, sample_weight, class_weight, dX, *grads.values(), J)),
            ctypes.addressof(divisor),
            m,
            n_x,
            n_h,
            n_y,
            X.stride(0),
            Y.stride(0),
            ACTIVATIONS[activation],
            TASKS[task],
            DTYPES[Y.dtype],
            task != "multiclass" or Y.is_floating_point(),
            reduction == "mean",
            max(1, min(torch.get_num_threads(), work // WORTH_A_THREAD)),
            label_smoothing,
            LEAKY_RELU_SLOPE,
        )
    )
    if failed:
        raise MemoryError("the CPU kernel got no memory")
    if dX is not None:
        grads["X"] = dX.div_(divisor.value)
    return J, grads


def _address(V: Tensor | None) -> int:
    return 0 if V is None else V.data_ptr()
