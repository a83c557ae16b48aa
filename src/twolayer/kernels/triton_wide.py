"""Wider hidden layers on a GPU: cost and output errors in one kernel, the gradients of the weights in another.

The first goes through all hidden units for a tile of rows, and keeps of it ``dZ2 (m, n_y)``; the second goes through
the rows for a slab of hidden units, whose ``A1`` it computes anew; a third does so for ``dX``, where that is asked for.
No ``(m, n_h)`` array is written.
"""

from collections.abc import Sequence
from functools import partial

import triton
import triton.language as tl
from torch import Tensor

from twolayer.kernels.triton_equations import (
    add_dot,
    add_gradients,
    hidden,
    hidden_error,
    load_block,
    load_weights,
    output,
    store_block,
    store_costs,
    store_gradients,
)
from twolayer.kernels.triton_launch import Launch, Pass, padded, rows_of_a_tile, run


@triton.jit
def output_errors(
    X,
    Y,
    W1,
    b1,
    W2,
    b2,
    sample_weight,
    class_weight,
    errors,
    costs,
    m,
    n_x,
    n_h,
    n_y,
    X_stride,
    Y_stride,
    smoothing,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    TASK: tl.constexpr,
    CLASS_INDICES: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    N_X: tl.constexpr,
    SLAB: tl.constexpr,
    N_Y: tl.constexpr,
):
    """``errors`` become ``dZ2 (m, n_y)``; each program writes its ``db2, J, Σ w``."""
    dtype: tl.constexpr = X.dtype.element_ty
    i, k, j = tl.arange(0, ROWS), tl.arange(0, N_X), tl.arange(0, N_Y)
    bias2 = tl.load(b2 + j, mask=j < n_y, other=0.0).to(tl.float32)
    db2 = tl.zeros((ROWS, N_Y), tl.float32)
    J = tl.zeros((ROWS,), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(m, ROWS), tl.num_programs(0)):
        first = tl.cast(tile, tl.int64) * ROWS
        left = (m - first).to(tl.int32)
        x = load_block(X + first * X_stride, i, k, X_stride, 1, left, n_x)
        Z2 = tl.zeros((ROWS, N_Y), tl.float32) + bias2[None, :]
        for slab in range(0, n_h, SLAB):
            h = slab + tl.arange(0, SLAB)
            w1, bias1, w2 = load_weights(W1, b1, W2, h, k, j, n_x, n_h, n_y, dtype)
            A1 = hidden(x, w1, bias1, h, n_h, ACTIVATION, SLOPE, PRECISION)
            Z2 = add_dot(Z2, tl.trans(A1.to(dtype)), w2, PRECISION)
        L, w, dZ2 = output(
            Z2, Y, sample_weight, class_weight, first, i, left, n_y, Y_stride, smoothing, TASK, CLASS_INDICES, N_Y
        )
        J += L
        weight += w
        db2 += dZ2
        store_block(errors + first * n_y, i, j, n_y, left, n_y, dZ2.to(dtype))
    store_costs(costs + tl.program_id(0) * (n_y + 2), db2, J, weight, j, n_y)


@triton.jit
def slab_gradients(
    X,
    W1,
    b1,
    W2,
    errors,
    sums,
    m,
    n_x,
    n_h,
    n_y,
    X_stride,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    N_X: tl.constexpr,
    SLAB: tl.constexpr,
    N_Y: tl.constexpr,
):
    """Each program sums the gradients of one slab over its share of the rows."""
    dtype: tl.constexpr = X.dtype.element_ty
    i, k, j = tl.arange(0, ROWS), tl.arange(0, N_X), tl.arange(0, N_Y)
    h = tl.program_id(0) * SLAB + tl.arange(0, SLAB)
    w1, bias1, w2 = load_weights(W1, b1, W2, h, k, j, n_x, n_h, n_y, dtype)
    dW1 = tl.zeros((SLAB, N_X), tl.float32)
    db1 = tl.zeros((SLAB,), tl.float32)
    dW2 = tl.zeros((SLAB, N_Y), tl.float32)
    for tile in range(tl.program_id(1), tl.cdiv(m, ROWS), tl.num_programs(1)):
        first = tl.cast(tile, tl.int64) * ROWS
        left = (m - first).to(tl.int32)
        x = load_block(X + first * X_stride, i, k, X_stride, 1, left, n_x)
        dz2 = load_block(errors + first * n_y, i, j, n_y, 1, left, n_y)
        A1 = hidden(x, w1, bias1, h, n_h, ACTIVATION, SLOPE, PRECISION)
        dZ1 = hidden_error(A1, w2, dz2, ACTIVATION, SLOPE, PRECISION)
        dW1, db1, dW2 = add_gradients(dW1, db1, dW2, x, A1, dZ1, dz2, PRECISION)
    store_gradients(sums + tl.program_id(1) * n_h * (n_x + 1 + n_y), dW1, db1, dW2, h, k, j, n_x, n_h, n_y)


@triton.jit
def input_gradients(
    X,
    W1,
    b1,
    W2,
    errors,
    dX,
    m,
    n_x,
    n_h,
    n_y,
    X_stride,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    N_X: tl.constexpr,
    SLAB: tl.constexpr,
    N_Y: tl.constexpr,
):
    """``dX = dZ1 W1`` of one tile of rows."""
    dtype: tl.constexpr = X.dtype.element_ty
    i, k, j = tl.arange(0, ROWS), tl.arange(0, N_X), tl.arange(0, N_Y)
    first = tl.program_id(0).to(tl.int64) * ROWS
    left = (m - first).to(tl.int32)
    x = load_block(X + first * X_stride, i, k, X_stride, 1, left, n_x)
    dz2 = load_block(errors + first * n_y, i, j, n_y, 1, left, n_y)
    dx = tl.zeros((ROWS, N_X), tl.float32)
    for slab in range(0, n_h, SLAB):
        h = slab + tl.arange(0, SLAB)
        w1, bias1, w2 = load_weights(W1, b1, W2, h, k, j, n_x, n_h, n_y, dtype)
        A1 = hidden(x, w1, bias1, h, n_h, ACTIVATION, SLOPE, PRECISION)
        dZ1 = hidden_error(A1, w2, dz2, ACTIVATION, SLOPE, PRECISION)
        dx = add_dot(dx, tl.trans(dZ1.to(dtype)), w1, PRECISION)
    store_block(dX + first * n_x, i, k, n_x, left, n_x, dx.to(dtype))


SLAB = 64


def why_not(X: Tensor, n_x: int, n_h: int, n_y: int) -> str | None:
    """What keeps the kernels from a network of this size, or None."""
    most = 4 * rows_of_a_tile(X)
    if n_x > most or n_y > 32:
        return f"a slab does not fit the registers: n_x is {n_x}, at most {most}, and n_y is {n_y}, at most 32"
    return None


def plan(p: Pass) -> Sequence[Launch]:
    """What to launch; it fills ``p.sums`` and ``p.costs``, and ``p.dX`` where there is one."""
    rows, warps, sizes = _tiles(p)
    tiles, slabs = max(1, triton.cdiv(p.m, rows)), triton.cdiv(p.n_h, SLAB)
    programs = min(2 * p.multiprocessors, tiles)
    splits = min(triton.cdiv(2 * p.multiprocessors, slabs), tiles)
    p.allocate(splits, programs, errors=True)
    return [
        p.launch(output_errors, (programs,), sizes, warps=warps),
        p.launch(slab_gradients, (slabs, splits), sizes, warps=warps),
        *([] if p.dX is None else [input_gradient(p)]),
    ]


def input_gradient(p: Pass) -> Launch:
    """The launch that fills ``p.dX`` from ``p.errors``."""
    rows, warps, sizes = _tiles(p)
    return p.launch(input_gradients, (max(1, triton.cdiv(p.m, rows)),), sizes, warps=warps)


def _tiles(p: Pass) -> tuple[int, int, dict[str, int]]:
    """Rows and warps that leave nothing in memory that belongs in registers, and the sizes for the kernels."""
    N_X = padded(p.n_x)
    long = N_X * p.X.element_size() >= 512
    rows = min(p.rows, 32) if long else p.rows
    return rows, 8 if long else 4, {"ROWS": rows, "N_X": N_X, "SLAB": SLAB, "N_Y": padded(p.n_y)}


loss_and_grads = partial(run, plan)
"""As :func:`twolayer.kernels.chunked.loss_and_grads`, where :func:`why_not` has nothing against it."""
