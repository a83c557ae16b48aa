"""What the GPU's kernels have in common: their arguments, the buffers of their sums, and the mean at the end.

Each program of a kernel writes its own sums, in float32, and one more kernel adds them up in a fixed order and divides
by the total weight: no atomics, so the result is the same to the last bit each time. In full precision a program adds
up tiles, rounding to nearest: an error that grows as the root of their number, to some 1e-6 at 2²⁴ examples.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from twolayer.activations import LEAKY_RELU_SLOPE
from twolayer.equations import Parameters
from twolayer.tasks import PAIRING, Examples, Objective

STAGES = 2
"""Of the pipeline that loads tiles ahead."""


def padded(n: int, least: int = 16) -> int:
    """What stands for ``n`` in a tile: the next power of two, at least 16."""
    return max(least, triton.next_power_of_2(n))


def rows_of_a_tile(X: Tensor) -> int:
    """As many as leave the registers room for the operands, which take more of them the more precise they are."""
    if X.dtype != torch.float32:
        return 64
    return 32 if precision(X) == "tf32" else 16


def precision(X: Tensor) -> str:
    """How float32 is multiplied, as :func:`torch.set_float32_matmul_precision` says.

    ``"highest"`` takes each number apart into three of bfloat16, which hold all of its 24 bits, and leaves out products
    below float32's ε. ``"high"`` and ``"medium"`` take TensorFloat32, as PyTorch itself does on CUDA for both.
    """
    if X.dtype != torch.float32 or torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return "ieee" if X.is_cpu else "bf16x6"  # the interpreter has float32 itself


class Launch(NamedTuple):
    """A kernel with its grid and its arguments by name."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int

    def __call__(self) -> None:
        self.kernel[self.grid](**self.arguments, num_warps=self.warps, num_stages=STAGES)


class Pass:
    """A call of ``loss_and_grads``: its arguments as kernels take them, the buffers that they fill, the result.

    Args: as for :func:`twolayer.kernels.chunked.loss_and_grads`.
    """

    errors: Tensor | None
    """``dZ2 (m, n_y)``, where it is kept."""
    sums: Tensor
    """``(slots, …)``, each row ``dW1, db1, dW2`` of some of the examples."""
    costs: Tensor
    """``(slots, n_y + 2)``, each row ``db2, J, Σ w`` of some of the examples."""

    def __init__(
        self, examples: Examples, parameters: Parameters, objective: Objective, input_gradient: bool = False
    ) -> None:
        (X, Y, sample_weight, class_weight), task = examples, objective.task
        (self.m, self.n_x), (self.n_y, self.n_h) = X.shape, parameters.W2.shape
        self.X, self.dtype, self.rows = X, parameters.W1.dtype, rows_of_a_tile(X)
        self.multiprocessors = torch.cuda.get_device_properties(X.device).multi_processor_count if X.is_cuda else 1
        self.dX = X.new_empty(self.m, self.n_x) if input_gradient else None
        self.unit: Tensor | None = None
        if X.dtype == torch.float16:  # of narrow range: what errors are measured in is put aside
            if task == PAIRING:
                Y = self._in_units(Y)
            if sample_weight is not None:
                sample_weight = self._in_units(sample_weight)
            if class_weight is not None:
                class_weight = self._in_units(class_weight)
        self.arguments: dict[str, Any] = {
            "X": X,
            "Y": Y.view(torch.uint8) if Y.dtype == torch.bool else Y,
            **{name: V.contiguous() for name, V in parameters._asdict().items()},
            "sample_weight": None if sample_weight is None else sample_weight.contiguous(),
            "class_weight": None if class_weight is None else class_weight.to(torch.float32).contiguous(),
            "m": self.m,
            "n_x": self.n_x,
            "n_h": self.n_h,
            "n_y": self.n_y,
            "X_stride": X.stride(0),
            "Y_stride": Y.stride(0),
            "smoothing": float(objective.label_smoothing),
            "unit": self.unit,
            "ACTIVATION": objective.activation,
            "SLOPE": LEAKY_RELU_SLOPE,
            "TASK": task,
            "CLASS_INDICES": task == "multiclass" and not Y.is_floating_point(),
            "MEAN": objective.reduction == "mean",
            "PRECISION": precision(X),
        }

    def _in_units(self, V: Tensor) -> Tensor:
        """``V`` with a greatest magnitude of one, by which ``self.unit`` grows."""
        if V.numel() == 0:
            return V
        unit = V.abs().amax().float().clamp_min(torch.finfo(torch.float32).tiny)
        self.unit = unit if self.unit is None else self.unit * unit
        return V / unit

    def allocate(self, slots: int, cost_slots: int, errors: bool) -> None:
        """Buffers: so many partial sums, and ``dZ2`` where it is kept."""
        n = self.n_h * (self.n_x + 1 + self.n_y)
        self.errors = self.X.new_empty(self.m, self.n_y) if errors else None
        self.sums = self.X.new_empty(slots, n, dtype=torch.float32)
        self.costs = self.X.new_empty(cost_slots, self.n_y + 2, dtype=torch.float32)
        self.grads = self.X.new_empty(n + self.n_y, dtype=self.dtype)
        self.J = self.X.new_empty(2, dtype=torch.float32)

    def launch(self, kernel: Any, grid: tuple[int, ...], sizes: dict[str, Any], *, warps: int) -> Launch:
        """Of a kernel, with what it takes of the arguments and the buffers."""
        buffers = {"errors": self.errors, "sums": self.sums, "costs": self.costs, "dX": self.dX}
        results = {"grads": self.grads, "J": self.J, "slots": len(self.sums), "cost_slots": len(self.costs)}
        arguments = {**self.arguments, **buffers, **results, **sizes}
        return Launch(kernel, grid, {name: arguments[name] for name in kernel.arg_names}, warps)

    def reduced(self) -> Launch:
        """The launch that makes the result out of the sums."""
        n, block = self.sums.shape[1], 64
        return self.launch(reduce, (triton.cdiv(n + self.n_y + 1, block),), {"n": n, "BLOCK": block}, warps=4)

    def result(self) -> tuple[Tensor, Tensor | None, Parameters]:
        shapes = [(self.n_h, self.n_x), (self.n_h,), (self.n_y, self.n_h), (self.n_y,)]
        parts = self.grads.split([torch.Size(shape).numel() for shape in shapes])
        grads = Parameters(*(part.view(shape) for part, shape in zip(parts, shapes, strict=True)))
        J, share = self.J
        return J, None if self.dX is None else self.dX.mul_(share), grads


@triton.jit
def reduce(sums, slots, n, costs, cost_slots, n_y, unit, grads, J, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    """``grads`` and ``J[0]`` are the columns of ``sums`` and then ``costs``, added up, times ``J[1]``: 1 / Σ w or 1."""
    if MEAN:  # the unit of the weights cancels
        share = 1 / tl.sum(add_slots(costs, n_y + 1 + tl.arange(0, 1), cost_slots, n_y + 2, n_y + 2, 1))
    else:
        share = 1.0
        if unit is not None:
            share = tl.load(unit)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    of_sums = add_slots(sums, i, slots, n, n, BLOCK)
    of_costs = add_slots(costs, i - n, cost_slots, n_y + 1, n_y + 2, BLOCK)
    total = tl.where(i < n, of_sums, of_costs) * share
    tl.store(grads + i, total.to(grads.dtype.element_ty), mask=i < n + n_y)
    tl.store(J + i - n - n_y, total, mask=i == n + n_y)
    tl.store(J + 1, share, mask=tl.program_id(0) == 0)


@triton.jit
def add_slots(sums, i, slots, n, stride, BLOCK: tl.constexpr):
    """``Σ_s sums[s, i]``, for what of ``i`` is within ``[0, n)``."""
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, slots, 32):
        s = first + tl.arange(0, 32)
        part = tl.load(
            sums + s[:, None].to(tl.int64) * stride + i[None, :],
            mask=(s[:, None] < slots) & (i[None, :] >= 0) & (i[None, :] < n),
            other=0.0,
        )
        total += tl.sum(part, 0)
    return total


def run(
    plan: Callable[[Pass], Sequence[Any]],
    examples: Examples,
    parameters: Parameters,
    objective: Objective,
    *,
    input_gradient: bool = False,
) -> tuple[Tensor, Tensor | None, Parameters]:
    """:func:`twolayer.kernels.chunked.loss_and_grads` by the launches that are planned."""
    with torch.cuda.device_of(examples.X), torch.no_grad():
        p = Pass(examples, parameters, objective, input_gradient)
        for launch in plan(p):
            launch()
        p.reduced()()
        return p.result()
