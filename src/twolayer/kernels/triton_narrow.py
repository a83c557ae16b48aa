"""Narrow networks on a GPU: cost and every gradient in one pass, with all weights resident.

As many programs as the chip holds go through the examples, a tile of rows at a time, and read each once. They keep the weights and
the sums of the gradients in registers until the end.
"""

from functools import partial

import triton
import triton.language as tl

from twolayer.kernels.triton_equations import add_dot, hidden, load_block, output, prime
from twolayer.kernels.triton_launch import Launch, Pass, padded, run


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
    dX,
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
    k, h, j = tl.arange(0, N_X), tl.arange(0, N_H), tl.arange(0, N_Y)
    w1 = load_block(W1, h, k, n_x, 1, n_h, n_x).to(dtype)
    w2 = load_block(W2, h, j, 1, n_h, n_h, n_y).to(dtype)  # W2ᵀ
    bias1 = tl.load(b1 + h, mask=h < n_h, other=0.0).to(tl.float32)
    bias2 = tl.load(b2 + j, mask=j < n_y, other=0.0).to(tl.float32)
    ones = tl.full((ROWS, 16), 1.0, dtype)

    dW1 = tl.zeros((N_H, N_X), tl.float32)
    db1 = tl.zeros((N_H, 16), tl.float32)
    dW2 = tl.zeros((N_H, N_Y), tl.float32)
    db2 = tl.zeros((ROWS, N_Y), tl.float32)
    J = tl.zeros((ROWS,), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(m, ROWS), tl.num_programs(0)):
        i = tile * ROWS + tl.arange(0, ROWS)
        x = load_block(X, i, k, X_stride, 1, m, n_x)
        A1 = hidden(x, w1, bias1, h, n_h, ACTIVATION, SLOPE, PRECISION)
        a1 = A1.to(dtype)
        Z2 = tl.dot(tl.trans(a1), w2, input_precision=PRECISION) + bias2[None, :]
        L, w, dZ2 = output(
            Z2, Y, sample_weight, class_weight, i, m, n_y, Y_stride, smoothing, TASK, CLASS_INDICES, N_Y
        )
        J += L
        weight += w
        db2 += dZ2
        dz2 = dZ2.to(dtype)
        dW2 = add_dot(dW2, a1, dz2, PRECISION)
        dA1 = tl.dot(w2, tl.trans(dz2), input_precision=PRECISION)
        dz1 = (dA1 * prime(A1, ACTIVATION, SLOPE)).to(dtype)
        dW1 = add_dot(dW1, dz1, x, PRECISION)
        db1 = add_dot(db1, dz1, ones, PRECISION)
        if dX is not None:
            dx = tl.dot(tl.trans(dz1), w1, input_precision=PRECISION)
            inside = (i[:, None] < m) & (k[None, :] < n_x)
            tl.store(dX + i[:, None].to(tl.int64) * n_x + k[None, :], dx.to(dX.dtype.element_ty), mask=inside)

    sums += tl.program_id(0) * n_h * (n_x + 1 + n_y)
    tl.store(sums + h[:, None] * n_x + k[None, :], dW1, mask=(h[:, None] < n_h) & (k[None, :] < n_x))
    sums += n_h * n_x
    tl.store(sums + h, tl.sum(db1, 1) / 16, mask=h < n_h)  # sixteen times the same
    sums += n_h
    tl.store(sums + j[None, :] * n_h + h[:, None], dW2, mask=(h[:, None] < n_h) & (j[None, :] < n_y))
    costs += tl.program_id(0) * (n_y + 2)
    tl.store(costs + j, tl.sum(db2, 0), mask=j < n_y)
    tl.store(costs + n_y, tl.sum(J))
    tl.store(costs + n_y + 1, tl.sum(weight))


def why_not(n_x: int, n_h: int, n_y: int) -> str | None:
    """What keeps the kernel from a network of this size, or None."""
    n_x, n_h, n_y = map(padded, (n_x, n_h, n_y))
    if n_x * n_h > 4096 or n_h * n_y > 4096 or n_h > 256 or n_y > 64:
        return f"its sums do not fit the registers: n_x, n_h and n_y, padded, are {n_x}, {n_h} and {n_y}"
    return None


def plan(p: Pass) -> list[Launch]:
    """What to launch; it fills ``p.sums`` and ``p.costs``."""
    N_X, N_H, N_Y = map(padded, (p.n_x, p.n_h, p.n_y))
    rows = min(128, 8192 // N_H)
    programs = min(2 * p.multiprocessors, triton.cdiv(p.m, rows))
    p.allocate(programs, programs)
    arguments = p.arguments | {"dX": p.dX, "sums": p.sums, "costs": p.costs}
    sizes = {"ROWS": rows, "N_X": N_X, "N_H": N_H, "N_Y": N_Y}
    return [Launch(narrow_pass, (programs,), arguments | sizes, warps=8 if N_H >= 128 else 4, stages=2)]


loss_and_grads = partial(run, plan)
"""As :func:`twolayer.streaming.loss_and_grads`, where :func:`why_not` has nothing against it."""
