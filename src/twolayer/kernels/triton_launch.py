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

from twolayer.equations import Parameters
from twolayer.kernels import gpu
from twolayer.kernels.triton_equations import Cost, Network
from twolayer.tasks import PAIRING, Examples, Objective

STAGES = 2
"""Of the pipeline that loads tiles ahead."""


def padded(n: int, least: int = 16) -> int:
    """What stands for ``n`` in a tile: the next power of two, at least 16."""
    return max(least, triton.next_power_of_2(n))


def precision(X: Tensor) -> str:
    """How float32 is multiplied, as :func:`torch.set_float32_matmul_precision` says.

    ``"highest"`` takes each number apart into three of bfloat16, which hold all of its 24 bits, and leaves out products
    below float32's ε. ``"high"`` and ``"medium"`` take TensorFloat32, as PyTorch itself does on CUDA for both.
    """
    if gpu.multiplied(X) != "float32":
        return "tf32"
    return "ieee" if X.is_cpu else "bf16x6"  # the interpreter has float32 itself


VARYING: dict[str, Any] = {
    "do_not_specialize": ["m", "slots", "cost_slots", "iterations"],
    "do_not_specialize_on_alignment": ["X", "Y", "sample_weight"],
}
"""Of a kernel's arguments, those that differ from batch to batch: for them, nothing is compiled anew."""


class Launch(NamedTuple):
    """A kernel with its grid and its arguments by name."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int
    stages: int = STAGES

    def __call__(self) -> None:
        self.kernel[self.grid](**self.arguments, num_warps=self.warps, num_stages=self.stages)


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
        X, Y, sample_weight, class_weight = examples
        (self.m, self.n_x), (self.n_y, self.n_h) = X.shape, parameters.W2.shape
        X, Y = X.resolve_neg(), Y.resolve_neg()
        if Y.dtype == torch.bool:
            Y = Y.view(torch.uint8)
        if sample_weight is not None:
            sample_weight = _dense(sample_weight if sample_weight.is_floating_point() else sample_weight.float())
        if class_weight is not None:
            class_weight = _dense(class_weight if class_weight.is_floating_point() else class_weight.float())
        self.X, self.card, self.multiplied = X, gpu.card(X), gpu.multiplied(X)
        self.parameters = Parameters(*map(_dense, parameters))
        self.aligned = X.data_ptr() % 16 == 0 and X.stride(0) % 16 == 0
        self.multiprocessors = torch.cuda.get_device_properties(X.device).multi_processor_count if X.is_cuda else 1
        self.dX = X.new_empty(self.m, self.n_x) if input_gradient else None
        # In half precision, what comes from behind may be beyond the range.
        targets = Y if objective.task == PAIRING and X.dtype == torch.float16 else None
        self.arguments: dict[str, Any] = {
            "X": X,
            "Y": Y,
            "sample_weight": sample_weight,
            "m": self.m,
            "X_stride": X.stride(0),
            "Y_stride": Y.stride(0),
            "network": Network(
                *self.parameters,
                self.n_x,
                self.n_h,
                self.n_y,
                tl.constexpr(objective.activation),
                tl.constexpr(precision(X)),
            ),
            "cost": Cost(
                tl.constexpr(objective.task),
                class_weight,
                _scales(sample_weight, class_weight, targets),
                float(objective.label_smoothing),
            ),
            "MEAN": objective.reduction == "mean",
        }

    def allocate(self, slots: int, cost_slots: int, errors: bool) -> None:
        """Buffers: so many partial sums, and ``dZ2`` where it is kept."""
        n = self.n_h * (self.n_x + 1 + self.n_y)
        self.errors = self.X.new_empty(self.m, self.n_y) if errors else None
        self.sums = self.X.new_empty(slots, n, dtype=torch.float32)
        self.costs = self.X.new_empty(cost_slots, self.n_y + 2, dtype=torch.float32)
        # None is a view of another: an operator may not return such, and a caller may change one in place.
        self.grads = Parameters(*(V.new_empty(V.shape) for V in self.parameters))
        self.J, self.share = (self.X.new_empty((), dtype=torch.float32) for _ in range(2))

    def launch(self, kernel: Any, grid: tuple[int, ...], *, warps: int, **given: Any) -> Launch:
        """Of a kernel, with what it takes of the arguments and the buffers, and of what is given in their place."""
        buffers = {"errors": self.errors, "sums": self.sums, "costs": self.costs, "dX": self.dX}
        results = {
            "grads": self.grads,
            "J": self.J,
            "share": self.share,
            "slots": len(self.sums),
            "cost_slots": len(self.costs),
        }
        arguments = {**self.arguments, **buffers, **results, **given}
        return Launch(kernel, grid, {name: arguments[name] for name in kernel.arg_names}, warps)

    def reduced(self) -> Launch:
        """The launch that makes the result out of the sums."""
        columns, block = self.sums.shape[1] + self.n_y + 1, 64
        return self.launch(reduce, (triton.cdiv(columns, block),), warps=4, BLOCK=block)

    def result(self) -> tuple[Tensor, Tensor | None, Parameters]:
        return self.J, self.dX, self.grads


def _dense(V: Tensor) -> Tensor:
    return V.resolve_neg().contiguous()


def _scales(*tensors: Tensor | None) -> Tensor | None:
    """What makes the greatest magnitude of each one: a number in float64, or None if there is nothing to scale."""
    if all(V is None for V in tensors):
        return None
    given = [V for V in tensors if V is not None]
    sizes = given[0].new_ones(len(tensors), dtype=torch.float64)
    for size, V in zip(sizes, tensors, strict=True):
        if V is not None and V.numel() > 0:
            torch.linalg.vector_norm(V, torch.inf, dtype=torch.float64, out=size)
    return sizes.clamp_min_(torch.finfo(torch.float64).tiny).reciprocal_()


@triton.jit(**VARYING)
def reduce(sums, slots, costs, cost_slots, network, cost, grads, J, share, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    """``grads`` and ``J`` become the columns of ``sums`` and then ``costs``, added up, times ``share``.

    That is 1 / Σ w or 1, without the scales; that of the weights cancels in the mean.
    """
    n_x, n_h, n_y = network.n_x, network.n_h, network.n_y
    if MEAN:
        scale = 1 / tl.sum(add_slots(costs, n_y + 1 + tl.arange(0, 1), cost_slots, n_y + 2, n_y + 2, 1))
    else:
        scale = 1.0
        if cost.scales is not None:
            scale = (1 / (tl.load(cost.scales) * tl.load(cost.scales + 1) * tl.load(cost.scales + 2))).to(tl.float32)
    tl.store(share, scale, mask=tl.program_id(0) == 0)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # the costs' may be beyond 2³¹
    n = n_h * (n_x + 1 + n_y)
    of_sums = add_slots(sums, i, slots, n, n, BLOCK)
    of_costs = add_slots(costs, i - n, cost_slots, n_y + 1, n_y + 2, BLOCK)
    total = tl.where(i < n, of_sums, of_costs) * scale
    i = store_part(grads.W1, i, n_h * n_x, total)
    i = store_part(grads.b1, i, n_h, total)
    i = store_part(grads.W2, i, n_y * n_h, total)
    i = store_part(grads.b2, i, n_y, total)
    store_part(J, i, 1, total)


@triton.jit
def store_part(V, i, n, values):
    """Stores those for which ``i`` is within ``[0, n)``, and counts on from there."""
    tl.store(V + i, values.to(V.dtype.element_ty), mask=(i >= 0) & (i < n))
    return i - n


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


@triton.jit
def nothing(V):
    tl.store(V, 0.0)


def start(device: torch.device) -> None:
    """Compiles and runs a kernel, which raises what keeps Triton from it."""
    V = torch.empty(1, device=device)
    with torch.cuda.device_of(V):
        nothing[(1,)](V)


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
        return p.result()
