"""The equations on tiles, for the kernels to call: activations, output error and cost, products that are summed.

A tile's hidden layer stands in columns, as in the notes: ``Z1 = W1 Xᵀ + b1`` is ``(n_h, rows)``. So the hidden units
are the rows of every large product, as tensor cores want it, and ``A1`` and ``dZ1`` go from registers straight into
``dW2ᵀ = A1 dZ2`` and ``dW1 = dZ1 X``. What has the outputs stands in rows, ``(rows, n_y)``.

Sizes in capitals are padded to powers of two, at least 16. A NaN stays one wherever it goes, and a class index that is
out of range becomes one.
"""

import triton
import triton.language as tl


@triton.jit
def activation(Z, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, EXACT: tl.constexpr):
    """``g(Z)``; if not ``EXACT``, up to an absolute error of float32's ε, which is below that of rounded operands."""
    if ACTIVATION == "relu":
        return tl.where(Z < 0, 0.0, Z)
    elif ACTIVATION == "leaky_relu":
        return tl.where(Z < 0, Z * SLOPE, Z)
    elif ACTIVATION == "sigmoid":
        return 1 / (1 + tl.exp(-Z))
    else:
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
def prime(A, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """``g'`` from ``A = g(Z)``."""
    if ACTIVATION == "relu":
        return tl.where(A > 0, 1.0, 0.0)
    elif ACTIVATION == "leaky_relu":
        return tl.where(A > 0, 1.0, SLOPE)
    elif ACTIVATION == "sigmoid":
        return A * (1 - A)
    else:
        return 1 - A * A


@triton.jit
def add_dot(total, A, B, PRECISION: tl.constexpr):
    """``total + A B``. Tensor cores cut off what they add to, so that in full precision it is added outside of them."""
    if PRECISION != "tf32":
        return tl.fma(tl.dot(A, B, input_precision=PRECISION), 1.0, total)
    else:
        return tl.dot(A, B, total, input_precision=PRECISION)


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
def load_weights(W1, b1, W2, h, k, j, n_x, n_h, n_y, dtype: tl.constexpr):
    """``W1 (H, N_X)``, ``b1`` and ``W2ᵀ (H, N_Y)`` of the hidden units ``h``."""
    w1 = load_block(W1, h, k, n_x, 1, n_h, n_x).to(dtype)
    w2 = load_block(W2, h, j, 1, n_h, n_h, n_y).to(dtype)
    return w1, tl.load(b1 + h, mask=h < n_h, other=0.0).to(tl.float32), w2


@triton.jit
def hidden(X, W1, b1, h, n_h, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr):
    """``A1`` in float32, ``(H, ROWS)``, from ``X (ROWS, N_X)`` and ``W1 (H, N_X)``."""
    Z1 = tl.dot(W1, tl.trans(X), input_precision=PRECISION) + b1[:, None]
    A1 = activation(Z1, ACTIVATION, SLOPE, PRECISION != "tf32")
    return tl.where(h[:, None] < n_h, A1, 0.0)  # units that are none stay out of it, also where X is infinite


@triton.jit
def hidden_error(A1, W2, dZ2, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr):
    """``dZ1 (H, ROWS)`` in float32, from ``A1 (H, ROWS)``, ``W2ᵀ (H, N_Y)`` and ``dZ2 (ROWS, N_Y)``."""
    dA1 = tl.dot(W2, tl.trans(dZ2), input_precision=PRECISION)
    return dA1 * prime(A1, ACTIVATION, SLOPE)


@triton.jit
def add_gradients(dW1, db1, dW2, X, A1, dZ1, dZ2, PRECISION: tl.constexpr):
    """``dW1 (H, N_X)``, ``db1 (H,)`` and ``dW2ᵀ (H, N_Y)`` with those of a tile added."""
    dW1 = add_dot(dW1, dZ1.to(X.dtype), X, PRECISION)
    dW2 = add_dot(dW2, A1.to(X.dtype), dZ2, PRECISION)
    return dW1, db1 + tl.sum(dZ1, 1), dW2


@triton.jit
def store_gradients(sums, dW1, db1, dW2, h, k, j, n_x, n_h, n_y):
    """Puts hidden units ``h`` of them where ``sums`` points to: ``dW1, db1, dW2``, one after the other."""
    store_block(sums, h, k, n_x, n_h, n_x, dW1)
    sums += n_h * n_x
    tl.store(sums + h, db1, mask=h < n_h)
    sums += n_h
    tl.store(sums + j[None, :] * n_h + h[:, None], dW2, mask=(h[:, None] < n_h) & (j[None, :] < n_y))


@triton.jit
def store_costs(costs, db2, J, weight, j, n_y):
    """``db2, J, Σ w``, one after the other, from those of each row of a tile."""
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
def output(
    Z2,
    Y,
    sample_weight,
    class_weight,
    first,
    i,
    m,
    n_y,
    Y_stride,
    smoothing,
    TASK: tl.constexpr,
    CLASS_INDICES: tl.constexpr,
    N_Y: tl.constexpr,
):
    """Each example's weighted loss and weight, ``(ROWS,)``, and ``dZ2 (ROWS, N_Y)``, zero where there is no example.

    The examples are ``first + i`` for an ``i`` below ``m``.
    """
    j = tl.arange(0, N_Y)
    Y += first * Y_stride
    real = (i[:, None] < m) & (j[None, :] < n_y)
    if CLASS_INDICES:
        index = tl.load(Y + i * Y_stride, mask=i < m, other=0).to(tl.int64)
        index = tl.where((index >= 0) & (index < n_y), index, -1).to(tl.int32)
        y = tl.where(index[:, None] == j[None, :], 1.0, 0.0)
        y = tl.where(index[:, None] < 0, float("nan"), y)
    else:
        y = load_block(Y, i, j, Y_stride, 1, m, n_y).to(tl.float32)

    w = tl.where(i < m, 1.0, 0.0)
    if sample_weight is not None:
        w = tl.load(sample_weight + first + i, mask=i < m, other=0.0).to(tl.float32)
    if class_weight is not None:
        if TASK == "binary":
            label = tl.sum(tl.where(real, y, 0.0), 1)
            w *= (1 - label) * tl.load(class_weight) + label * tl.load(class_weight + 1)
        else:
            c = tl.load(class_weight + j, mask=j < n_y, other=0.0)
            w *= tl.sum(tl.where(real, y * c[None, :], 0.0), 1)
    evenly = smoothing / 2
    if TASK == "multiclass":
        evenly = smoothing / n_y
    y = (1 - smoothing) * y + evenly

    if TASK == "regression":
        dZ2 = Z2 - y
        L = 0.5 * dZ2 * dZ2
    elif TASK == "pairing":
        dZ2 = y
        L = Z2 * y
    elif TASK == "multiclass":
        y = tl.where(real, y, 0.0)
        Z2 = tl.where(j[None, :] < n_y, Z2, float("-inf"))
        Z2 -= tl.max(Z2, 1)[:, None]
        A2 = tl.exp(Z2)
        total = tl.sum(A2, 1)
        dZ2 = A2 * (tl.sum(y, 1) / total)[:, None] - y
        L = y * (tl.log(total)[:, None] - tl.where(y == 0, 0.0, Z2))
    else:
        e = tl.exp(-tl.abs(Z2))
        dZ2 = tl.where(Z2 < 0, e, 1.0) / (1 + e) - y
        L = tl.where(Z2 < 0, 0.0, Z2) - Z2 * y + _log1p(e)
    L = tl.where(i < m, w * tl.sum(tl.where(real, L, 0.0), 1), 0.0)
    return L, w, tl.where(real, w[:, None] * dZ2, 0.0)
