"""The equations on tiles, for the kernels to call: activations, output error and cost, products that are summed.

A tile's hidden layer stands in columns, as in the notes: ``Z1 = W1 Xᵀ + b1`` is ``(n_h, rows)``. So the hidden units are the
rows of every product of any size, which is what tensor cores ask for, and ``A1`` and ``dZ1`` go from registers
straight into ``dW2ᵀ = A1 dZ2`` and ``dW1 = dZ1 X``. What has the outputs stands in rows, ``(rows, n_y)``.

Sizes in capitals are padded to powers of two, at least 16. What a number means that is no number stays one: no maximum
drops a NaN, and a class index that is out of range makes the cost NaN.
"""

import triton
import triton.language as tl


@triton.jit
def activation(Z, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, EXACT: tl.constexpr):
    """``g(Z)``. Not ``EXACT``: up to an absolute error of float32's ε, which is less than what rounded operands make."""
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
    """``total + A B``. Tensor cores cut off what they add to; in full precision the sum is formed outside of them."""
    if PRECISION == "tf32x3":
        return tl.fma(tl.dot(A, B, input_precision=PRECISION), 1.0, total)
    else:
        return tl.dot(A, B, total, input_precision=PRECISION)


@triton.jit
def load_block(pointer, i, j, row, column, m, n):
    """``pointer[i, j]`` of an ``m × n`` array with these strides, zero outside of it."""
    return tl.load(
        pointer + i[:, None].to(tl.int64) * row + j[None, :] * column,
        mask=(i[:, None] < m) & (j[None, :] < n),
        other=0.0,
    )


@triton.jit
def hidden(X, W1, b1, h, n_h, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr):
    """``A1`` in float32, ``(H, ROWS)``, from ``X (ROWS, N_X)`` and ``W1 (H, N_X)``."""
    Z1 = tl.dot(W1, tl.trans(X), input_precision=PRECISION) + b1[:, None]
    A1 = activation(Z1, ACTIVATION, SLOPE, PRECISION == "tf32x3")
    return tl.where(h[:, None] < n_h, A1, 0.0)  # units that are none stay out of it, also where X is infinite


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
    i,
    m,
    n_y,
    Y_stride,
    smoothing,
    TASK: tl.constexpr,
    CLASS_INDICES: tl.constexpr,
    N_Y: tl.constexpr,
):
    """Each example's weighted loss and weight, ``(ROWS,)``, and ``dZ2 (ROWS, N_Y)``, zero where there is no example."""
    j = tl.arange(0, N_Y)
    real = (i[:, None] < m) & (j[None, :] < n_y)
    if CLASS_INDICES:
        index = tl.load(Y + i.to(tl.int64) * Y_stride, mask=i < m, other=0)
        y = tl.where(index[:, None] == j[None, :], 1.0, 0.0)
        y = tl.where((index[:, None] >= 0) & (index[:, None] < n_y), y, float("nan"))
    else:
        y = load_block(Y, i, j, Y_stride, 1, m, n_y).to(tl.float32)

    w = tl.where(i < m, 1.0, 0.0)
    if sample_weight is not None:
        w = tl.load(sample_weight + i, mask=i < m, other=0.0).to(tl.float32)
    if class_weight is not None:
        if TASK == "binary":
            label = tl.sum(tl.where(real, y, 0.0), 1)
            w *= (1 - label) * tl.load(class_weight) + label * tl.load(class_weight + 1)
        else:
            c = tl.load(class_weight + j, mask=j < n_y, other=0.0)
            w *= tl.sum(tl.where(real, y * c[None, :], 0.0), 1)
    classes = 2.0
    if TASK == "multiclass":
        classes = n_y.to(tl.float32)
    y = (1 - smoothing) * y + smoothing / classes

    if TASK == "regression":
        dZ2 = Z2 - y
        L = 0.5 * dZ2 * dZ2
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
