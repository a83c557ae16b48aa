"""The pass as one program for the CPU: ``cpu.cpp``, compiled when the package is built, see
:mod:`~twolayer.kernels.library`."""

import struct

import torch
from torch import Tensor

from twolayer.activations import LEAKY_RELU_SLOPE
from twolayer.equations import Parameters
from twolayer.kernels.library import Kernel, load
from twolayer.tasks import Examples, Objective

# Their places in the enums of cpu.cpp.
ACTIVATIONS = {name: number for number, name in enumerate(["sigmoid", "tanh", "relu", "leaky_relu"])}
TASKS = {name: number for number, name in enumerate(["binary", "multilabel", "multiclass", "regression", "pairing"])}
DTYPES = {
    dtype: number
    for number, dtype in enumerate(
        [
            torch.float32,
            torch.float64,
            torch.bool,
            torch.uint8,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.uint16,
            torch.uint32,
            torch.uint64,
        ]
    )
}
NO_MEMORY = 1
REFUSED = {
    3: (ValueError, "Y must lie in the range that the task asks for"),
    4: (ValueError, "sample_weight must be finite, not negative and not all zero"),
    5: (ValueError, "class_weight must be finite and positive"),
}
ARGUMENTS = struct.Struct("=14q14q2d")
WORTH_A_THREAD = 10_000_000
"""Floating point operations that take longer than to start a thread."""


def why_not(examples: Examples, parameters: Parameters, objective: Objective) -> str | None:
    """What keeps the kernel from a call, or None."""
    X, Y, sample_weight, _ = examples
    W1 = parameters.W1
    if objective.activation not in ACTIVATIONS:
        return f"it knows no activation {objective.activation!r}"
    if objective.task not in TASKS:
        return f"it knows no task {objective.task!r}"
    if not W1.dtype == X.dtype == torch.float32:
        return f"it computes in float32, and X and W1 are {X.dtype} and {W1.dtype}"
    if not parameters.b1.dtype == parameters.W2.dtype == parameters.b2.dtype == torch.float32:
        return f"it computes in float32, and W2 is {parameters.W2.dtype}"
    if Y.dtype not in DTYPES:
        return f"it reads no targets of {Y.dtype}"
    if sample_weight is not None and sample_weight.dtype not in (torch.float32, torch.float64):
        return f"it reads weights of float32 and float64, and sample_weight is {sample_weight.dtype}"
    kernel = load()
    return kernel if isinstance(kernel, str) else None


def loss_and_grads(
    examples: Examples, parameters: Parameters, objective: Objective, *, input_gradient: bool = False
) -> tuple[Tensor, Tensor | None, Parameters]:
    """As :func:`twolayer.kernels.chunked.loss_and_grads`, where :func:`why_not` has nothing against it.

    On as many threads as :func:`torch.get_num_threads` says, if there is work for them; for a number of threads, the
    result is the same to the last bit each time.

    Raises:
        ValueError: targets or weights are out of range, or a dimension is zero.
        MemoryError: there is none.
    """
    kernel = load()
    assert isinstance(kernel, Kernel), kernel
    X, Y, sample_weight, class_weight = examples
    (m, n_x), (n_y, n_h) = X.shape, parameters.W2.shape
    parameters = Parameters(*(V.contiguous() for V in parameters))
    if class_weight is not None:
        class_weight = class_weight.to(torch.float64).contiguous()
    grads = Parameters(*map(torch.empty_like, parameters))
    dX = X.new_empty(m, n_x) if input_gradient else None
    J = X.new_empty(())
    work = m * n_h * (4 * n_x + 6 * n_y + 40)  # 40 for the activation
    failed = kernel.library.twolayer_pass(
        ARGUMENTS.pack(
            *map(_address, (X, *parameters, Y, sample_weight, class_weight, dX, *grads, J)),
            m,
            n_x,
            n_h,
            n_y,
            X.stride(0),
            Y.stride(0),
            0 if sample_weight is None else sample_weight.stride(0),
            ACTIVATIONS[objective.activation],
            TASKS[objective.task],
            DTYPES[Y.dtype],
            0 if sample_weight is None else DTYPES[sample_weight.dtype],
            objective.task != "multiclass" or Y.is_floating_point(),
            objective.reduction == "mean",
            max(1, min(torch.get_num_threads(), work // WORTH_A_THREAD)),
            objective.label_smoothing,
            LEAKY_RELU_SLOPE,
        )
    )
    if failed == NO_MEMORY:
        raise MemoryError("the CPU kernel got no memory")
    if failed:
        error, words = REFUSED.get(failed, (ValueError, "the CPU kernel does not take these arguments"))
        raise error(words)
    return J, dX, grads


def _address(V: Tensor | None) -> int:
    return 0 if V is None else V.data_ptr()
