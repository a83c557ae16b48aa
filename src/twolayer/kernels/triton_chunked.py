"""Wide inputs on a GPU: chunks of examples that stay in its cache, whose products are PyTorch's own, that is cuBLAS's.

Where a product is large, the library's is the fastest. What stands between them is fused: bias and activation; bias,
cost and output error; the derivative. No ``(m, n_h)`` array is kept.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from twolayer.kernels.triton_equations import (
    Network,
    Tile,
    activation,
    load_block,
    output,
    prime,
    rows_of_tile,
    store_block,
    tiles_of,
)
from twolayer.kernels.triton_launch import VARYING, Launch, Pass, padded, run

CHUNK_BYTES = 32 << 20
"""Of the buffers of a chunk: most of the second-level cache."""
FEWEST_ROWS = 1024
"""Of a chunk: a product of fewer leaves multiprocessors idle."""


@triton.jit
def _block(m, n_h, TILE: tl.constexpr):
    """The first row of a program's block of an ``m × n_h`` array, how many it has, and the places in it, in 64 bits."""
    across = tl.cdiv(n_h, TILE.UNITS)
    first, rows = rows_of_tile(tl.program_id(0) // across, m, TILE.ROWS)
    h = tl.program_id(0) % across * TILE.UNITS + tl.arange(0, TILE.UNITS)
    return first, rows, tl.arange(0, TILE.ROWS).to(tl.int64), h


@triton.jit(**VARYING)
def activations(Z1, m, network, TILE: tl.constexpr):
    """``A1 = g(Z1 + b1)``, in the place of ``Z1 (m, n_h)``."""
    n_h = network.n_h
    first, rows, i, h = _block(m, n_h, TILE)
    Z1 += first * n_h
    z = load_block(Z1, i, h, n_h, 1, rows, n_h).to(tl.float32)
    z += tl.load(network.b1 + h, mask=h < n_h, other=0.0).to(tl.float32)[None, :]
    a = activation(z, network.activation, network.precision != "tf32")
    store_block(Z1, i, h, n_h, rows, n_h, a.to(Z1.dtype.element_ty))


@triton.jit(**VARYING)
def hidden_errors(dA1, A1, m, network, TILE: tl.constexpr):
    """``dZ1 = dA1 ⊙ g'(Z1)``, in the place of ``dA1 (m, n_h)``."""
    n_h = network.n_h
    first, rows, i, h = _block(m, n_h, TILE)
    dA1 += first * n_h
    a = load_block(A1 + first * n_h, i, h, n_h, 1, rows, n_h).to(tl.float32)
    d = load_block(dA1, i, h, n_h, 1, rows, n_h).to(tl.float32) * prime(a, network.activation)
    store_block(dA1, i, h, n_h, rows, n_h, d.to(dA1.dtype.element_ty))


@triton.jit(**VARYING)
def logit_errors(Z2, Y, sample_weight, m, Y_stride, network, cost, errors, costs, TILE: tl.constexpr):
    """``errors`` become ``dZ2``, from ``Z2 (m, n_y)`` without its bias; each program adds to its ``db2, J, Σ w``."""
    n_y = network.n_y
    i, j = tl.arange(0, TILE.ROWS), tl.arange(0, TILE.N_Y)
    bias2 = tl.load(network.b2 + j, mask=j < n_y, other=0.0).to(tl.float32)
    costs += tl.program_id(0) * (n_y + 2)
    db2 = tl.load(costs + j, mask=j < n_y, other=0.0)
    J = tl.load(costs + n_y)
    weight = tl.load(costs + n_y + 1)
    for tile in range(tl.program_id(0), tiles_of(m, TILE.ROWS), tl.num_programs(0)):
        first, rows = rows_of_tile(tile, m, TILE.ROWS)
        z = load_block(Z2 + first * n_y, i, j, n_y, 1, rows, n_y).to(tl.float32) + bias2[None, :]
        L, w, dZ2 = output(z, Y, Y_stride, sample_weight, first, rows, network, cost, TILE)
        J += tl.sum(L)
        weight += tl.sum(w)
        db2 += tl.sum(dZ2, 0)
        store_block(errors + first * n_y, i, j, n_y, rows, n_y, dZ2.to(errors.dtype.element_ty))
    tl.store(costs + j, db2, mask=j < n_y)
    tl.store(costs + n_y, J)
    tl.store(costs + n_y + 1, weight)


def why_not(X: Tensor, n_x: int, n_h: int, n_y: int) -> str | None:
    """What keeps the kernels from a network of this size, or None."""
    if X.dtype != torch.float32 and "dtype" not in torch.ops.aten.mm.overloads():
        return f"PyTorch before 2.8 sums no products of {X.dtype} in float32"
    return f"a row of logits does not fit the registers: n_y is {n_y}, at most 4096" if n_y > 4096 else None


def plan(p: Pass) -> Sequence[Any]:
    """What to call."""
    p.allocate(1, 2 * p.multiprocessors, errors=False)
    # An array of one number, since a number alone would first be rounded to the dtype of dX.
    scaled = [] if p.dX is None else [partial(p.dX.mul_, p.share.view(1))]
    return [partial(_in_chunks, p), p.reduced(), *scaled]


def launch(p: Pass, kernel: Any, *, m: int, **given: Any) -> Launch:
    """Of a kernel, on the ``m`` rows that are given."""
    if kernel is logit_errors:
        N_Y = padded(p.n_y)
        return p.launch(kernel, (len(p.costs),), **given, m=m, TILE=Tile(max(1, 2048 // N_Y), N_Y=N_Y), warps=4)
    tile = Tile(32, UNITS=128)
    blocks = triton.cdiv(m, tile.ROWS) * triton.cdiv(p.n_h, tile.UNITS)
    return p.launch(kernel, (blocks,), **given, m=m, TILE=tile, warps=4)


def _in_chunks(p: Pass) -> None:
    X, Y, sample_weight = (p.arguments[name] for name in ("X", "Y", "sample_weight"))
    network: Network = p.arguments["network"]
    W1, W2 = network.W1.to(X.dtype), network.W2.to(X.dtype)
    p.sums.zero_()
    p.costs.zero_()
    parts = p.sums[0].split([p.n_h * p.n_x, p.n_h, p.n_y * p.n_h])
    dW1, db1, dW2 = parts[0].view(p.n_h, p.n_x), parts[1], parts[2].view(p.n_y, p.n_h)
    rows = min(max(FEWEST_ROWS, CHUNK_BYTES // (X.element_size() * (2 * p.n_h + p.n_x + 2 * p.n_y))), max(1, p.m))
    hidden, back = X.new_empty(rows, p.n_h), X.new_empty(rows, p.n_h)
    errors = X.new_empty(rows, p.n_y)
    for first in range(0, p.m, rows):
        chunk = slice(first, min(first + rows, p.m))
        x, m = X[chunk], chunk.stop - first
        A1, dZ2, dZ1 = hidden[:m], errors[:m], back[:m]
        of_rows: dict[str, Any] = {
            "m": m,
            "Y": Y[chunk],
            "sample_weight": None if sample_weight is None else sample_weight[chunk],
        }
        torch.mm(x, W1.mT, out=A1)
        launch(p, activations, Z1=A1, **of_rows)()
        launch(p, logit_errors, Z2=_product(A1, W2.mT), errors=dZ2, **of_rows)()
        torch.mm(dZ2, W2, out=dZ1)
        launch(p, hidden_errors, dA1=dZ1, A1=A1, **of_rows)()
        dW2 += _product(dZ2.mT, A1)
        dW1 += _product(dZ1.mT, x)
        db1 += dZ1.sum(0, dtype=torch.float32)
        if p.dX is not None:
            torch.mm(dZ1, W1, out=p.dX[chunk])


def _product(A: Tensor, B: Tensor) -> Tensor:
    """``A B`` in float32, also of operands in half precision."""
    if A.dtype == torch.float32:
        return A @ B
    if A.is_cpu:  # in the interpreter
        return A.float() @ B.float()
    return torch.mm(A, B, out_dtype=torch.float32)


loss_and_grads = partial(run, plan)
"""As :func:`twolayer.kernels.chunked.loss_and_grads`, where :func:`why_not` has nothing against it."""
