"""Narrow networks on a GPU: cost and every gradient in one pass, with all weights resident.

As many programs as the chip holds go through the examples, a tile of rows at a time, and read each once. They keep the
weights and the sums of the gradients in registers until the end.
"""

from collections.abc import Sequence
from functools import partial

import triton
import triton.language as tl
from torch import Tensor

from twolayer.kernels import gpu
from twolayer.kernels.triton_equations import (
    Tile,
    add_gradients,
    hidden,
    hidden_error,
    load_inputs,
    load_weights,
    output,
    rows_of_tile,
    store_block,
    store_costs,
    store_gradients,
    tiles_of,
)
from twolayer.kernels.triton_launch import VARYING, Launch, Pass, padded, run
from twolayer.kernels.triton_wide import input_gradient


@triton.jit(**VARYING)
def narrow_pass(X, Y, sample_weight, m, X_stride, Y_stride, network, cost, errors, sums, costs, TILE: tl.constexpr):
    """Each program writes the sums of its share of the rows, and if asked to, ``dZ2 (m, n_y)`` into ``errors``."""
    dtype: tl.constexpr = X.dtype.element_ty
    n_y = network.n_y
    i, j = tl.arange(0, TILE.ROWS), tl.arange(0, TILE.N_Y)
    w1, bias1, w2 = load_weights(network, 0, dtype, TILE)
    bias2 = tl.load(network.b2 + j, mask=j < n_y, other=0.0).to(tl.float32)
    dW1 = tl.full((TILE.UNITS, TILE.N_X), 0.0, tl.float32)
    db1 = tl.full((TILE.UNITS,), 0.0, tl.float32)
    dW2 = tl.full((TILE.UNITS, TILE.N_Y), 0.0, tl.float32)
    db2 = tl.full((TILE.ROWS, TILE.N_Y), 0.0, tl.float32)
    J = tl.full((TILE.ROWS,), 0.0, tl.float32)
    weight = tl.full((TILE.ROWS,), 0.0, tl.float32)
    for tile in range(tl.program_id(0), tiles_of(m, TILE.ROWS), tl.num_programs(0)):
        first, rows = rows_of_tile(tile, m, TILE.ROWS)
        x = load_inputs(X, X_stride, first, rows, network.n_x, TILE)
        A1 = hidden(x, w1, bias1, network, 0)
        Z2 = tl.dot(tl.trans(A1.to(dtype)), w2, input_precision=network.precision) + bias2[None, :]
        L, w, dZ2 = output(Z2, Y, Y_stride, sample_weight, first, rows, network, cost, TILE)
        J += L
        weight += w
        db2 += dZ2
        dz2 = dZ2.to(dtype)
        if errors is not None:
            store_block(errors + first * n_y, i, j, n_y, rows, n_y, dz2)
        dZ1 = hidden_error(A1, w2, dz2, network)
        dW1, db1, dW2 = add_gradients(dW1, db1, dW2, x, A1, dZ1, dz2, network)
    store_gradients(sums, tl.program_id(0), dW1, db1, dW2, network, 0, TILE)
    store_costs(costs, tl.program_id(0), db2, J, weight, n_y, TILE)


def why_not(X: Tensor, n_x: int, n_h: int, n_y: int) -> str | None:
    """What keeps the kernel from a network of this size, or None."""
    kind = gpu.multiplied(X)
    if kind not in gpu.card(X).rows:
        return f"its products want tensor cores, and {X.device} is {gpu.architecture(X.device)}"
    N_X, N_H, N_Y = padded(n_x), padded(n_h, 64), padded(n_y)
    weights, most = N_X * N_H, 2048 if kind == "float32" and n_y > 1 else 4096
    if weights > most or N_H > 128 or N_Y > 16:
        return f"weights and sums do not fit the registers: n_x, n_h, n_y, padded, are {N_X}, {N_H}, {N_Y}"
    return None


def plan(p: Pass) -> Sequence[Launch]:
    """What to launch."""
    rows = p.card.rows[p.multiplied]
    tile = Tile(rows, padded(p.n_x), padded(p.n_h, 64), padded(p.n_y), p.aligned)
    programs = max(1, min(2 * p.multiprocessors, triton.cdiv(p.m, rows)))
    p.allocate(programs, programs, errors=p.dX is not None)
    launches = [p.launch(narrow_pass, (programs,), warps=tile.UNITS // 16, TILE=tile), p.reduced()]
    return launches if p.dX is None else [*launches, input_gradient(p)]


loss_and_grads = partial(run, plan)
"""As :func:`twolayer.kernels.chunked.loss_and_grads`, where :func:`why_not` has nothing against it."""
