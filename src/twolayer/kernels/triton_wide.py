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

from twolayer.kernels import gpu
from twolayer.kernels.triton_equations import (
    Tile,
    add_dot,
    add_gradients,
    hidden,
    hidden_error,
    load_block,
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


@triton.jit(**VARYING)
def output_errors(X, Y, sample_weight, m, X_stride, Y_stride, network, cost, errors, costs, TILE: tl.constexpr):
    """``errors`` become ``dZ2 (m, n_y)``; each program writes its ``db2, J, Σ w``."""
    dtype: tl.constexpr = X.dtype.element_ty
    n_y = network.n_y
    i, j = tl.arange(0, TILE.ROWS), tl.arange(0, TILE.N_Y)
    bias2 = tl.load(network.b2 + j, mask=j < n_y, other=0.0).to(tl.float32)
    db2 = tl.full((TILE.ROWS, TILE.N_Y), 0.0, tl.float32)
    J = tl.full((TILE.ROWS,), 0.0, tl.float32)
    weight = tl.full((TILE.ROWS,), 0.0, tl.float32)
    for tile in range(tl.program_id(0), tiles_of(m, TILE.ROWS), tl.num_programs(0)):
        first, rows = rows_of_tile(tile, m, TILE.ROWS)
        x = load_inputs(X, X_stride, first, rows, network.n_x, TILE)
        Z2 = tl.full((TILE.ROWS, TILE.N_Y), 0.0, tl.float32) + bias2[None, :]
        for slab in range(0, network.n_h, TILE.UNITS):
            w1, bias1, w2 = load_weights(network, slab, dtype, TILE)
            A1 = hidden(x, w1, bias1, network, slab)
            Z2 = add_dot(Z2, tl.trans(A1.to(dtype)), w2, network.precision)
        L, w, dZ2 = output(Z2, Y, Y_stride, sample_weight, first, rows, network, cost, TILE)
        J += L
        weight += w
        db2 += dZ2
        store_block(errors + first * n_y, i, j, n_y, rows, n_y, dZ2.to(dtype))
    store_costs(costs, tl.program_id(0), db2, J, weight, n_y, TILE)


@triton.jit(**VARYING)
def slab_gradients(X, m, X_stride, network, errors, sums, TILE: tl.constexpr):
    """Each program sums the gradients of one slab over its share of the rows."""
    dtype: tl.constexpr = X.dtype.element_ty
    n_y = network.n_y
    i, j = tl.arange(0, TILE.ROWS), tl.arange(0, TILE.N_Y)
    slab = tl.program_id(0) * TILE.UNITS
    w1, bias1, w2 = load_weights(network, slab, dtype, TILE)
    dW1 = tl.full((TILE.UNITS, TILE.N_X), 0.0, tl.float32)
    db1 = tl.full((TILE.UNITS,), 0.0, tl.float32)
    dW2 = tl.full((TILE.UNITS, TILE.N_Y), 0.0, tl.float32)
    for tile in range(tl.program_id(1), tiles_of(m, TILE.ROWS), tl.num_programs(1)):
        first, rows = rows_of_tile(tile, m, TILE.ROWS)
        x = load_inputs(X, X_stride, first, rows, network.n_x, TILE)
        dz2 = load_block(errors + first * n_y, i, j, n_y, 1, rows, n_y)
        A1 = hidden(x, w1, bias1, network, slab)
        dZ1 = hidden_error(A1, w2, dz2, network)
        dW1, db1, dW2 = add_gradients(dW1, db1, dW2, x, A1, dZ1, dz2, network)
    store_gradients(sums, tl.program_id(1), dW1, db1, dW2, network, slab, TILE)


@triton.jit(**VARYING)
def input_gradients(X, m, X_stride, network, errors, share, dX, TILE: tl.constexpr):
    """``dX = dZ1 W1`` of one tile of rows, times ``share``."""
    dtype: tl.constexpr = X.dtype.element_ty
    n_x, n_y = network.n_x, network.n_y
    i, k, j = tl.arange(0, TILE.ROWS), tl.arange(0, TILE.N_X), tl.arange(0, TILE.N_Y)
    first, rows = rows_of_tile(tl.program_id(0), m, TILE.ROWS)
    x = load_inputs(X, X_stride, first, rows, n_x, TILE)
    dz2 = load_block(errors + first * n_y, i, j, n_y, 1, rows, n_y)
    dx = tl.full((TILE.ROWS, TILE.N_X), 0.0, tl.float32)
    for slab in range(0, network.n_h, TILE.UNITS):
        w1, bias1, w2 = load_weights(network, slab, dtype, TILE)
        A1 = hidden(x, w1, bias1, network, slab)
        dZ1 = hidden_error(A1, w2, dz2, network)
        dx = add_dot(dx, tl.trans(dZ1.to(dtype)), w1, network.precision)
    store_block(dX + first * n_x, i, k, n_x, rows, n_x, (dx * tl.load(share)).to(dtype))


SLAB = 64
MOST_OUTPUTS = 32


def why_not(X: Tensor, n_x: int, n_h: int, n_y: int) -> str | None:
    """What keeps the kernels from a network of this size, or None."""
    most = max(gpu.card(X).wide.get(gpu.multiplied(X), [0]))
    if n_x > most or n_y > MOST_OUTPUTS:
        return (
            f"a slab does not fit the registers: n_x is {n_x}, at most {most} on {gpu.architecture(X.device)}, "
            f"and n_y is {n_y}, at most {MOST_OUTPUTS}"
        )
    return None


def plan(p: Pass) -> Sequence[Launch]:
    """What to launch."""
    tile, warps = _tile(p)
    tiles, slabs = max(1, triton.cdiv(p.m, tile.ROWS)), triton.cdiv(p.n_h, tile.UNITS)
    programs = min(2 * p.multiprocessors, tiles)
    splits = min(triton.cdiv(2 * p.multiprocessors, slabs), tiles)
    p.allocate(splits, programs, errors=True)
    errors = p.launch(output_errors, (programs,), warps=warps, TILE=tile)
    if (
        p.n_x % 16 or p.n_h % 16
    ):  # weights that are read one by one: to load them ahead takes more registers than there are
        errors = errors._replace(stages=1)
    return [
        errors,
        p.launch(slab_gradients, (slabs, splits), warps=warps, TILE=tile),
        p.reduced(),
        *([] if p.dX is None else [input_gradient(p)]),
    ]


def input_gradient(p: Pass) -> Launch:
    """The launch that fills ``p.dX`` from ``p.errors``, once the sums are reduced."""
    tile, warps = _tile(p)
    return p.launch(input_gradients, (max(1, triton.cdiv(p.m, tile.ROWS)),), warps=warps, TILE=tile)


def _tile(p: Pass) -> tuple[Tile, int]:
    """A tile, and warps, that leave nothing in memory that belongs in registers."""
    widths = p.card.wide[p.multiplied]
    rows, warps = widths[min(n_x for n_x in widths if n_x >= p.n_x)]
    return Tile(rows, padded(p.n_x), SLAB, padded(p.n_y), p.aligned), warps


loss_and_grads = partial(run, plan)
"""As :func:`twolayer.kernels.chunked.loss_and_grads`, where :func:`why_not` has nothing against it."""
