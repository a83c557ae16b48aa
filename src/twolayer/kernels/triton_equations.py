"""The equations on tiles, for the kernels to call: activations, output error and cost, products that are summed.

A tile's hidden layer stands in columns, as in the notes: ``Z1 = W1 Xᵀ + b1`` is ``(n_h, rows)``. So the hidden units
are the rows of every large product, as tensor cores want it, and ``A1`` and ``dZ1`` go from registers straight into
``dW2ᵀ = A1 dZ2`` and ``dW1 = dZ1 X``. What has the outputs stands in rows, ``(rows, n_y)``.

Sizes in capitals are padded to powers of two, at least 16. A NaN stays one wherever it goes, and a class index that is
out of range becomes one.

No function here reads a constant of the module, such as the slope of leaky ReLU: Triton's key of what is compiled
would then depend on which kernel a process has compiled first, and a cache that another one has filled be missed.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Network(NamedTuple):
    """Parameters, sizes, the hidden activation, and how products are formed; the last two are tl.constexpr."""

    W1: Any
    b1: Any
    W2: Any
    b2: Any
    n_x: int
    n_h: int
    n_y: int
    activation: Any
    precision: Any


class Cost(NamedTuple):
    """What the cost is made of, besides logits, targets and the weights of single examples."""

    task: Any
    """A tl.constexpr."""
    class_weight: Any
    scales: Any
    """Three numbers in float64 by which weights of examples, weights of classes and targets are multiplied, or None."""
    smoothing: float


class Tile(NamedTuple):
    """What a program holds at a time, a tl.constexpr."""

    ROWS: int
    N_X: int = 0
    UNITS: int = 0
    N_Y: int = 0
    ALIGNED: bool = False
    """Whether rows of ``X`` may be read 16 bytes at a time."""


@triton.jit
def activation(Z, ACTIVATION: tl.constexpr, EXACT: tl.constexpr):
    """``g(Z)``; if not ``EXACT``, up to an absolute error of float32's ε, which is below that of rounded operands."""
    if ACTIVATION == "relu":
        return tl.where(Z < 0, 0.0, Z)
    elif ACTIVATION == "leaky_relu":
        return tl.where(Z < 0, Z * 0.01, Z)
    elif ACTIVATION == "sigmoid":
        return 1 / (1 + tl.exp(-Z))
    else:
        tl.static_assert(ACTIVATION == "tanh", "no such activation")
        A = 1 - 2 / (1 + tl.exp(2 * Z))
        if EXACT:  # near zero that cancels; tanh(z) = z + z³ p(z²), p interpolated on z² < 0.36
            Z_squared = Z * Z
            p = -6.2691197e-3
            p = p * Z_squared + 2.1110959e-2
            p = p * Z_squared - 5.3873949e-2
            p = p * Z_squared + 1.3332915e-1
            p = p * Z_squared - 3.3333331e-1
            A = tl.where(Z_squared < 0.36, Z + Z * Z_squared * p, A)
        return A


@triton.jit
def prime(A, ACTIVATION: tl.constexpr):
    """``g'`` from ``A = g(Z)``."""
    if ACTIVATION == "relu":
        return tl.where(A > 0, 1.0, 0.0)
    elif ACTIVATION == "leaky_relu":
        return tl.where(A > 0, 1.0, 0.01)
    elif ACTIVATION == "sigmoid":
        return A * (1 - A)
    else:
        tl.static_assert(ACTIVATION == "tanh", "no such activation")
        return 1 - A * A


@triton.jit
def add_dot(total, A, B, PRECISION: tl.constexpr):
    """``total + A B``. Tensor cores cut off what they add to, so that in full precision it is added outside of them."""
    if PRECISION != "tf32":
        return tl.fma(tl.dot(A, B, input_precision=PRECISION), 1.0, total)
    else:
        return tl.dot(A, B, total, input_precision=PRECISION)


@triton.jit
def rows_of_tile(tile, m, ROWS: tl.constexpr):
    """The first row of a tile, in 64 bits, and how many it has."""
    first = tl.cast(tile, tl.int64) * ROWS
    return first, tl.minimum(m - first, ROWS).to(tl.int32)


@triton.jit
def tiles_of(m, ROWS: tl.constexpr):
    """How many tiles there are; that, and not ``m``, is a number of 32 bits."""
    return tl.cdiv(tl.cast(m, tl.int64), ROWS).to(tl.int32)


@triton.jit
def load_block(pointer, i, j, row, column, m, n):
    """``pointer[i, j]`` of an ``m × n`` array with these strides, zero outside of it."""
    mask = (i[:, None] < m) & (j[None, :] < n)
    return tl.load(pointer + i[:, None] * row + j[None, :] * column, mask=mask, other=0.0)


@triton.jit
def store_block(pointer, i, j, row, m, n, values):
    """``pointer[i, j] = values`` within an ``m × n`` array of this stride."""
    tl.store(pointer + i[:, None] * row + j[None, :], values, mask=(i[:, None] < m) & (j[None, :] < n))


@triton.jit
def load_inputs(X, stride, first, rows, n_x, TILE: tl.constexpr):
    """``X (ROWS, N_X)`` from row ``first`` on, zero where there are no more than ``rows``."""
    X += first * stride
    if TILE.ALIGNED:
        X = tl.multiple_of(X, 16)
    return load_block(X, tl.arange(0, TILE.ROWS), tl.arange(0, TILE.N_X), stride, 1, rows, n_x)


@triton.jit
def load_weights(network, first, dtype: tl.constexpr, TILE: tl.constexpr):
    """``W1 (H, N_X)``, ``b1`` and ``W2ᵀ (H, N_Y)`` of the hidden units from ``first`` on."""
    h, k, j = tl.arange(0, TILE.UNITS), tl.arange(0, TILE.N_X), tl.arange(0, TILE.N_Y)
    n_x, n_h, left = network.n_x, network.n_h, network.n_h - first
    w1 = load_block(network.W1 + first * n_x, h, k, n_x, 1, left, n_x).to(dtype)
    w2 = load_block(network.W2 + first, h, j, 1, n_h, left, network.n_y).to(dtype)
    return w1, tl.load(network.b1 + first + h, mask=h < left, other=0.0).to(tl.float32), w2


@triton.jit
def hidden(X, W1, b1, network, first):
    """``A1`` in float32, ``(H, ROWS)``, from ``X (ROWS, N_X)`` and ``W1 (H, N_X)`` of the units from ``first`` on."""
    Z1 = tl.dot(W1, tl.trans(X), input_precision=network.precision) + b1[:, None]
    A1 = activation(Z1, network.activation, network.precision != "tf32")
    h = first + tl.arange(0, W1.shape[0])
    return tl.where(h[:, None] < network.n_h, A1, 0.0)  # units that are none stay out of it, also where X is infinite


@triton.jit
def hidden_error(A1, W2, dZ2, network):
    """``dZ1 (H, ROWS)`` in float32, from ``A1 (H, ROWS)``, ``W2ᵀ (H, N_Y)`` and ``dZ2 (ROWS, N_Y)``."""
    dA1 = tl.dot(W2, tl.trans(dZ2), input_precision=network.precision)
    return dA1 * prime(A1, network.activation)


@triton.jit
def add_gradients(dW1, db1, dW2, X, A1, dZ1, dZ2, network):
    """``dW1 (H, N_X)``, ``db1 (H,)`` and ``dW2ᵀ (H, N_Y)`` with those of a tile added."""
    dW1 = add_dot(dW1, dZ1.to(X.dtype), X, network.precision)
    dW2 = add_dot(dW2, A1.to(X.dtype), dZ2, network.precision)
    return dW1, db1 + tl.sum(dZ1, 1), dW2


@triton.jit
def store_gradients(sums, slot, dW1, db1, dW2, network, first, TILE: tl.constexpr):
    """Puts those of the hidden units from ``first`` on into their slot: ``dW1, db1, dW2``, one after the other."""
    n_x, n_h, n_y = network.n_x, network.n_h, network.n_y
    h, k, j = first + tl.arange(0, TILE.UNITS), tl.arange(0, TILE.N_X), tl.arange(0, TILE.N_Y)
    sums += tl.cast(slot, tl.int64) * n_h * (n_x + 1 + n_y)
    store_block(sums, h, k, n_x, n_h, n_x, dW1)
    sums += n_h * n_x
    tl.store(sums + h, db1, mask=h < n_h)
    sums += n_h
    tl.store(sums + j[None, :] * n_h + h[:, None], dW2, mask=(h[:, None] < n_h) & (j[None, :] < n_y))


@triton.jit
def store_costs(costs, slot, db2, J, weight, n_y, TILE: tl.constexpr):
    """``db2, J, Σ w``, one after the other, from those of each row of a tile."""
    j = tl.arange(0, TILE.N_Y)
    costs += slot * (n_y + 2)
    tl.store(costs + j, tl.sum(db2, 0), mask=j < n_y)
    tl.store(costs + n_y, tl.sum(J))
    tl.store(costs + n_y + 1, tl.sum(weight))


@triton.jit
def _log1p(t):
    """Of ``t`` in [0, 1]: 2 artanh(t / (2 + t)), whose series ends where the next term is below float32's ε."""
    s = t / (2 + t)
    s_squared = s * s
    p = 1 / 15
    p = p * s_squared + 1 / 13
    p = p * s_squared + 1 / 11
    p = p * s_squared + 1 / 9
    p = p * s_squared + 1 / 7
    p = p * s_squared + 1 / 5
    p = p * s_squared + 1 / 3
    p = p * s_squared + 1.0
    return 2 * s * p


@triton.jit
def _scaled(V, scales, which: tl.constexpr):
    """In float32, ``V`` times a scale: the product may be within its range where neither factor is."""
    if scales is None:
        return V.to(tl.float32)
    else:
        return (V.to(tl.float64) * tl.load(scales + which)).to(tl.float32)


@triton.jit
def output(Z2, Y, Y_stride, sample_weight, first, rows, network, cost, TILE: tl.constexpr):
    """Each example's weighted loss and weight, ``(ROWS,)``, and ``dZ2 (ROWS, N_Y)``, zero where there is no example.

    They are those from ``first`` on, no more than ``rows``. Where a cost has zero times infinity, that is zero.
    """
    task: tl.constexpr = cost.task
    n_y = network.n_y
    i, j = tl.arange(0, TILE.ROWS), tl.arange(0, TILE.N_Y)
    Y += tl.cast(first, tl.int64) * Y_stride
    real = (i[:, None] < rows) & (j[None, :] < n_y)
    if task == "multiclass" and not Y.dtype.element_ty.is_floating():
        index = tl.load(Y + i * Y_stride, mask=i < rows, other=0).to(tl.int64)
        index = tl.where((index >= 0) & (index < n_y), index, -1).to(tl.int32)
        y = tl.where(index[:, None] == j[None, :], 1.0, 0.0)
        y = tl.where(index[:, None] < 0, float("nan"), y)
    else:
        y = load_block(Y, i, j, Y_stride, 1, rows, n_y)
        y = _scaled(y, cost.scales, 2) if task == "pairing" else y.to(tl.float32)

    w = tl.where(i < rows, 1.0, 0.0)
    if sample_weight is not None:
        w = _scaled(tl.load(sample_weight + first + i, mask=i < rows, other=0.0), cost.scales, 0)
    if cost.class_weight is not None:
        if task == "binary":
            label = tl.sum(tl.where(real, y, 0.0), 1)
            of_class_0 = _scaled(tl.load(cost.class_weight), cost.scales, 1)
            w *= (1 - label) * of_class_0 + label * _scaled(tl.load(cost.class_weight + 1), cost.scales, 1)
        else:
            c = _scaled(tl.load(cost.class_weight + j, mask=j < n_y, other=0.0), cost.scales, 1)
            w *= tl.sum(tl.where(real, y * c[None, :], 0.0), 1)
    evenly = cost.smoothing / 2
    if task == "multiclass":
        evenly = cost.smoothing / n_y
    y = (1 - cost.smoothing) * y + evenly

    if task == "regression":
        dZ2 = Z2 - y
        L = 0.5 * dZ2 * dZ2
    elif task == "pairing":
        dZ2 = y
        L = Z2 * y
    elif task == "multiclass":
        y = tl.where(real, y, 0.0)
        Z2 = tl.where(j[None, :] < n_y, Z2, float("-inf"))
        Z2 -= tl.max(Z2, 1)[:, None]
        A2 = tl.exp(Z2)
        total = tl.sum(A2, 1)
        dZ2 = A2 * (tl.sum(y, 1) / total)[:, None] - y
        L = y * (tl.log(total)[:, None] - tl.where(y == 0, 0.0, Z2))
    else:
        tl.static_assert(task == "binary" or task == "multilabel", "no such task")
        size = tl.abs(Z2)
        e = tl.exp(-size)
        dZ2 = tl.where(Z2 < 0, e, 1.0) / (1 + e) - y
        wrong = tl.where(Z2 < 0, y, 1 - y)
        L = tl.where(wrong == 0, 0.0, size * wrong) + _log1p(e)
    L = tl.where(i < rows, w * tl.sum(tl.where(real, L, 0.0), 1), 0.0)
    return L, w, tl.where(real, w[:, None] * dZ2, 0.0)
