"""The pass as one program for the CPU: ``cpu.cpp``, compiled when the package is built, see
:mod:`~twolayer.kernels.library`.

It reads memory by its address. What that asks of the tensors, :mod:`~twolayer.kernels.memory` sees to: parameters and
directions are contiguous, so are the rows of examples, and none is the negative of what is there.
"""

import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from twolayer.activations import LEAKY_RELU_SLOPE
from twolayer.equations import Parameters
from twolayer.kernels.library import Kernel, load
from twolayer.tasks import PAIRING, Examples, Objective, Plan

# Their places in the enums of cpu.cpp.
GRADIENTS, FORWARD, BACKWARD, NORMS, PRODUCT = range(5)
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
NO_MEMORY, UNKNOWN = 1, 2
REFUSED = {
    3: (ValueError, "Y must lie in the range that the task asks for"),
    4: (ValueError, "sample_weight must be finite, not negative and not all zero"),
    5: (ValueError, "class_weight must be finite and positive"),
}
FIELDS = (
    *("X", "W1", "b1", "W2", "b2", "Y", "sample_weight", "class_weight", "dX", "dW1", "db1", "dW2", "db2", "cost"),
    *("Z2", "A1", "norms", "tW1", "tb1", "tW2", "tb2", "rows", "X_mean", "X_std", "Y_mean", "Y_std"),
    *("m", "n_x", "n_h", "n_y", "X_stride", "Y_stride", "weight_stride"),
    *("pass", "activation", "task", "Y_dtype", "weight_dtype", "Y_is_dense", "mean", "threads"),
    *("label_smoothing", "leaky_slope"),
)
"""``Args`` of cpu.cpp: addresses, sizes, what is wanted, and two numbers of floating point; each of 8 bytes."""


def packing(*filled: str) -> struct.Struct:
    """What packs these of the fields, in their order; the others are zero."""
    return struct.Struct("=" + "".join("8x" if f not in filled else "d" if f in FIELDS[-2:] else "q" for f in FIELDS))


def _of_costs(*others: str) -> struct.Struct:
    return packing(*FIELDS[:14], *others, *FIELDS[26:])


OF_COSTS = {
    GRADIENTS: _of_costs(),
    NORMS: _of_costs("norms"),
    PRODUCT: _of_costs("tW1", "tb1", "tW2", "tb2"),
}
"""For each pass that knows the cost."""
OF_STEPS = _of_costs("X_mean", "X_std", "Y_mean", "Y_std")
OF_FORWARD = packing(
    *("X", "W1", "b1", "W2", "b2", "Z2", "A1", "m", "n_x", "n_h", "n_y", "X_stride"),
    *("pass", "activation", "task", "Y_is_dense", "threads", "leaky_slope"),
)
OF_BACKWARD = packing(
    *("X", "W1", "W2", "Y", "dX", "dW1", "db1", "dW2", "db2", "A1", "m", "n_x", "n_h", "n_y", "X_stride", "Y_stride"),
    *("pass", "activation", "task", "Y_is_dense", "threads", "leaky_slope"),
)
SIZES = slice(-14, -10)
"""``m, n_x, n_h, n_y`` among what :func:`prepared` returns."""
WORTH_A_THREAD = 3_000_000
"""Floating point operations that take longer than to start a thread."""
SCALAR = torch.empty((), dtype=torch.float32, device="cpu")
"""What the cost is like."""


def why_not(examples: Examples, parameters: Parameters, objective: Objective) -> str | None:
    """What keeps the kernel from a call, or None."""
    Y, sample_weight = examples.Y, examples.sample_weight
    if objective.task not in TASKS:
        return f"it knows no task {objective.task!r}"
    if Y.dtype not in DTYPES:
        return f"it reads no targets of {Y.dtype}"
    if sample_weight is not None and sample_weight.dtype not in (torch.float32, torch.float64):
        return f"it reads weights of float32 and float64, and sample_weight is {sample_weight.dtype}"
    return why_no_forward(examples.X, parameters, objective.activation)


def why_no_forward(X: Tensor, parameters: Parameters, activation: str) -> str | None:
    """What keeps the kernel from computing the logits, or None."""
    W1, b1, W2, b2 = parameters
    if activation not in ACTIVATIONS:
        return f"it knows no activation {activation!r}"
    if not W1.dtype == X.dtype == torch.float32:
        return f"it computes in float32, and X and W1 are {X.dtype} and {W1.dtype}"
    if not b1.dtype == W2.dtype == b2.dtype == torch.float32:
        return f"it computes in float32, and W2 is {W2.dtype}"
    kernel = load()
    return kernel if isinstance(kernel, str) else None


def is_there() -> bool:
    """Whether the kernel can be called at all."""
    return not isinstance(load(), str)


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
    return _gradients(GRADIENTS, examples, parameters, objective, input_gradient=input_gradient)


def run_loss_and_grads(
    examples: Examples, parameters: Parameters, objective: Objective, plan: Plan
) -> tuple[Tensor, Tensor | None, Parameters]:
    """As :func:`twolayer.kernels.choice.run_loss_and_grads`, where nothing is left to choose."""
    return loss_and_grads(examples, parameters, objective, input_gradient=plan.input_gradient)


def hvp(examples: Examples, parameters: Parameters, direction: Parameters, objective: Objective) -> Parameters:
    """As :func:`twolayer.kernels.chunked.hvp` along the parameters; see :func:`loss_and_grads`."""
    along = tuple(V.data_ptr() for V in direction)
    return _gradients(PRODUCT, examples, parameters, objective, along)[2]


def per_sample_grad_norms(examples: Examples, parameters: Parameters, objective: Objective) -> Tensor:
    """As :func:`twolayer.kernels.chunked.per_sample_grad_norms`; see :func:`loss_and_grads`."""
    norms = examples.X.new_empty(len(examples.X))
    _gradients(NORMS, examples, parameters, objective, (norms.data_ptr(),))
    return norms


def forward(X: Tensor, parameters: Parameters, activation: str, *, keep: bool = False) -> tuple[Tensor, Tensor | None]:
    """``Z2``, ``(m, n_y)``, and ``A1``, ``(m, n_h)``, if it is to be kept; where :func:`why_no_forward` is None."""
    W1, b1, W2, b2 = parameters
    (m, n_x), (n_y, n_h) = X.shape, W2.shape
    Z2, A1 = X.new_empty(m, n_y), X.new_empty(m, n_h) if keep else None
    arguments = OF_FORWARD.pack(
        X.data_ptr(),
        W1.data_ptr(),
        b1.data_ptr(),
        W2.data_ptr(),
        b2.data_ptr(),
        Z2.data_ptr(),
        0 if A1 is None else A1.data_ptr(),
        m,
        n_x,
        n_h,
        n_y,
        X.stride()[0],
        FORWARD,
        ACTIVATIONS[activation],
        TASKS["regression"],
        True,
        threads_for(m * n_h * (2 * n_x + 2 * n_y + 20)),
        LEAKY_RELU_SLOPE,
    )
    _run(arguments)
    return Z2, A1


def forward_and_kept(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> tuple[Tensor, Tensor]:
    """As :func:`twolayer.kernels.choice.forward_and_kept`, where nothing is left to choose."""
    Z2, A1 = forward(X, parameters, activation, keep=True)
    assert A1 is not None
    return Z2, A1


def backward_from_kept(
    kept: Sequence[Tensor], dZ2: Tensor, activation: str, plan: Plan, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """As :func:`twolayer.kernels.choice.backward_from_kept`, where nothing is left to choose and all parameters'
    gradients are needed."""
    X, W1, _, W2, _, A1 = kept
    (m, n_x), (n_y, n_h) = X.shape, W2.shape
    dX = X.new_empty(m, n_x) if needs[0] else None
    dW1, db1, dW2, db2 = torch.empty_like(W1), W1.new_empty(n_h), torch.empty_like(W2), W2.new_empty(n_y)
    arguments = OF_BACKWARD.pack(
        X.data_ptr(),
        W1.data_ptr(),
        W2.data_ptr(),
        dZ2.data_ptr(),
        0 if dX is None else dX.data_ptr(),
        dW1.data_ptr(),
        db1.data_ptr(),
        dW2.data_ptr(),
        db2.data_ptr(),
        A1.data_ptr(),
        m,
        n_x,
        n_h,
        n_y,
        X.stride()[0],
        n_y,
        BACKWARD,
        ACTIVATIONS[activation],
        TASKS[PAIRING],
        True,
        threads_for(work_of(m, n_x, n_h, n_y)),
        LEAKY_RELU_SLOPE,
    )
    _run(arguments)
    return dX, dW1, db1, dW2, db2


def _gradients(
    which: int,
    examples: Examples,
    parameters: Parameters,
    objective: Objective,
    others: tuple[int, ...] = (),
    input_gradient: bool = False,
) -> tuple[Tensor, Tensor | None, Parameters]:
    fields, (J, dX, grads, _) = prepared(which, examples, parameters, objective, others, input_gradient)
    threads = threads_for(work_of(*fields[SIZES]))
    _run(OF_COSTS[which].pack(*fields, threads, objective.label_smoothing, LEAKY_RELU_SLOPE))
    return J, dX, grads


def prepared(
    which: int,
    examples: Examples,
    parameters: Parameters,
    objective: Objective,
    others: tuple[int, ...] = (),
    input_gradient: bool = False,
) -> tuple[tuple[int, ...], tuple[Tensor, Tensor | None, Parameters, Any]]:
    """What the kernel is told, up to the threads; and what it writes to, and has to live until then.

    ``others`` are what the packing has between the cost and the sizes.
    """
    X, Y, sample_weight, class_weight = examples
    W1, b1, W2, b2 = parameters
    (m, n_x), (n_y, n_h) = X.shape, W2.shape
    if class_weight is not None:
        class_weight = class_weight.to(torch.float64).contiguous()
    empty = torch.empty_like
    J, dX = empty(SCALAR), X.new_empty(m, n_x) if input_gradient else None
    dW1, db1, dW2, db2 = empty(W1), empty(b1), empty(W2), empty(b2)
    return (
        (
            X.data_ptr(),
            W1.data_ptr(),
            b1.data_ptr(),
            W2.data_ptr(),
            b2.data_ptr(),
            Y.data_ptr(),
            0 if sample_weight is None else sample_weight.data_ptr(),
            0 if class_weight is None else class_weight.data_ptr(),
            0 if dX is None else dX.data_ptr(),
            dW1.data_ptr(),
            db1.data_ptr(),
            dW2.data_ptr(),
            db2.data_ptr(),
            J.data_ptr(),
            *others,
            m,
            n_x,
            n_h,
            n_y,
            X.stride(0),
            Y.stride(0),
            0 if sample_weight is None else sample_weight.stride(0),
            which,
            ACTIVATIONS[objective.activation],
            TASKS[objective.task],
            DTYPES[Y.dtype],
            0 if sample_weight is None else DTYPES[sample_weight.dtype],
            objective.task != "multiclass" or Y.is_floating_point(),
            objective.reduction == "mean",
        ),
        (J, dX, Parameters(dW1, db1, dW2, db2), class_weight),
    )


def work_of(m: int, n_x: int, n_h: int, n_y: int) -> int:
    """Floating point operations of cost and gradients, about."""
    return m * n_h * (4 * n_x + 6 * n_y + 40)  # 40 for the activation


def threads_for(work: int) -> int:
    return 1 if work < 2 * WORTH_A_THREAD else min(torch.get_num_threads(), work // WORTH_A_THREAD)


def _run(arguments: bytes) -> None:
    """Raises MemoryError or ValueError as :func:`loss_and_grads` says."""
    failed = call("twolayer_pass", arguments)
    if failed:
        error, words = REFUSED.get(failed, (ValueError, "the CPU kernel does not take these arguments"))
        raise error(words)


def call(function: str, *arguments: bytes) -> int:
    """What a function of the library refuses, or 0. Raises MemoryError where it got none."""
    kernel = load()
    assert isinstance(kernel, Kernel), kernel
    failed: int = getattr(kernel.library, function)(*arguments)
    if failed == NO_MEMORY:
        raise MemoryError("the CPU kernel got no memory")
    return failed
