"""Narrow networks on a GPU: cost and every gradient in one pass, with all weights resident.

As many programs as the chip holds go through the examples, a tile of rows at a time, and read each once. They keep the
weights and the sums of the gradients in registers until the end.
"""

from collections.abc import Sequence
from functools import partial

import triton
import triton.language as tl
from torch import Tensor

from twolayer.kernels.triton_equations import (
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
from twolayer.kernels.triton_wide import input_gradient


@triton.jit
def narrow_pass(
    X,
    Y,
    W1,
    b1,
    W2,
    b2,
    sample_weight,
    class_weight,
    errors,
    sums,
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
    N_H: tl.constexpr,
    N_Y: tl.constexpr,
):
    dtype: tl.constexpr = X.dtype.element_ty
    i, k, h, j = tl.arange(0, ROWS), tl.arange(0, N_X), tl.arange(0, N_H), tl.arange(0, N_Y)
    w1, bias1, w2 = load_weights(W1, b1, W2, h, k, j, n_x, n_h, n_y, dtype)
    bias2 = tl.load(b2 + j, mask=j < n_y, other=0.0).to(tl.float32)
    dW1 = tl.zeros((N_H, N_X), tl.float32)
    db1 = tl.zeros((N_H,), tl.float32)
    dW2 = tl.zeros((N_H, N_Y), tl.float32)
    db2 = tl.zeros((ROWS, N_Y), tl.float32)
    J = tl.zeros((ROWS,), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(m, ROWS), tl.num_programs(0)):
        first = tl.cast(tile, tl.int64) * ROWS
        left = (m - first).to(tl.int32)
        x = load_block(X + first * X_stride, i, k, X_stride, 1, left, n_x)
        A1 = hidden(x, w1, bias1, h, n_h, ACTIVATION, SLOPE, PRECISION)
        Z2 = tl.dot(tl.trans(A1.to(dtype)), w2, input_precision=PRECISION) + bias2[None, :]
        L, w, dZ2 = output(
            Z2, Y, sample_weight, class_weight, first, i, left, n_y, Y_stride, smoothing, TASK, CLASS_INDICES, N_Y
        )
        J += L
        weight += w
        db2 += dZ2
        dz2 = dZ2.to(dtype)
        if errors is not None:
            store_block(errors + first * n_y, i, j, n_y, left, n_y, dz2)
        dZ1 = hidden_error(A1, w2, dz2, ACTIVATION, SLOPE, PRECISION)
        dW1, db1, dW2 = add_gradients(dW1, db1, dW2, x, A1, dZ1, dz2, PRECISION)
    store_gradients(sums + tl.program_id(0) * n_h * (n_x + 1 + n_y), dW1, db1, dW2, h, k, j, n_x, n_h, n_y)
    store_costs(costs + tl.program_id(0) * (n_y + 2), db2, J, weight, j, n_y)


def why_not(X: Tensor, n_x: int, n_h: int, n_y: int) -> str | None:
    """What keeps the kernel from a network of this size, or None."""
    N_X, N_H, N_Y = padded(n_x), padded(n_h, 64), padded(n_y)
    weights, most = N_X * N_H, 2048 if rows_of_a_tile(X) < 32 and n_y > 1 else 4096
    if weights > most or N_H > 128 or N_Y > 16:
        return f"weights and sums do not fit the registers: n_x, n_h, n_y, padded, are {N_X}, {N_H}, {N_Y}"
    return None


def plan(p: Pass) -> Sequence[Launch]:
    """What to launch; it fills ``p.sums`` and ``p.costs``, and ``p.dX`` where there is one."""
    N_X, N_H, N_Y = padded(p.n_x), padded(p.n_h, 64), padded(p.n_y)
    programs = max(1, min(2 * p.multiprocessors, triton.cdiv(p.m, p.rows)))
    p.allocate(programs, programs, errors=p.dX is not None)
    sizes = {"ROWS": p.rows, "N_X": N_X, "N_H": N_H, "N_Y": N_Y}
    launches = [p.launch(narrow_pass, (programs,), sizes, warps=N_H // 16)]
    return launches if p.dX is None else [*launches, input_gradient(p)]


loss_and_grads = partial(run, plan)
"""As :func:`twolayer.kernels.chunked.loss_and_grads`, where :func:`why_not` has nothing against it."""
