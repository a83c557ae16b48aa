"""Tiny networks on few examples on a GPU: every iteration of gradient descent in one launch, of one program.

Examples and parameters stand in registers from the first iteration to the last, and nothing is started in between. The
products are so small that tensor cores would not help: they are formed element by element, in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from twolayer.equations import Parameters
from twolayer.kernels.triton_equations import activation, load_block, output, prime, store_block
from twolayer.kernels.triton_launch import Launch, Pass
from twolayer.tasks import Examples, Objective


@triton.jit
def descent(
    X,
    Y,
    W1,
    b1,
    W2,
    b2,
    sample_weight,
    class_weight,
    costs,
    iterations,
    learning_rate,
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
    M: tl.constexpr,
    N_X: tl.constexpr,
    N_H: tl.constexpr,
    N_Y: tl.constexpr,
):
    """``costs`` become those at the start of each iteration, and the parameters what the last one leaves."""
    i, k, h, j = tl.arange(0, M), tl.arange(0, N_X), tl.arange(0, N_H), tl.arange(0, N_Y)
    x = load_block(X, i, k, X_stride, 1, m, n_x)
    w1 = load_block(W1, h, k, n_x, 1, n_h, n_x)
    w2 = load_block(W2, h, j, 1, n_h, n_h, n_y)  # W2ᵀ
    bias1 = tl.load(b1 + h, mask=h < n_h, other=0.0)
    bias2 = tl.load(b2 + j, mask=j < n_y, other=0.0)
    for iteration in range(iterations):
        Z1 = tl.sum(w1[:, None, :] * x[None, :, :], 2) + bias1[:, None]
        A1 = activation(Z1, ACTIVATION, SLOPE, True)
        A1 = tl.where(h[:, None] < n_h, A1, 0.0)
        Z2 = tl.sum(A1[:, :, None] * w2[:, None, :], 0) + bias2[None, :]
        L, w, dZ2 = output(
            Z2, Y, sample_weight, class_weight, 0, i, m, n_y, Y_stride, smoothing, TASK, CLASS_INDICES, N_Y
        )
        share = 1 / tl.sum(w)
        tl.store(costs + iteration, share * tl.sum(L))
        step = learning_rate * share
        dA1 = tl.sum(w2[:, None, :] * dZ2[None, :, :], 2)
        dZ1 = dA1 * prime(A1, ACTIVATION, SLOPE)
        w2 -= step * tl.sum(A1[:, :, None] * dZ2[None, :, :], 1)
        bias2 -= step * tl.sum(dZ2, 0)
        w1 -= step * tl.sum(dZ1[:, :, None] * x[None, :, :], 1)
        bias1 -= step * tl.sum(dZ1, 1)
    store_block(W1, h, k, n_x, n_h, n_x, w1)
    tl.store(b1 + h, bias1, mask=h < n_h)
    tl.store(W2 + j[None, :] * n_h + h[:, None], w2, mask=(h[:, None] < n_h) & (j[None, :] < n_y))
    tl.store(b2 + j, bias2, mask=j < n_y)


MOST = 1 << 14
"""Elements of the largest product, padded: 64 for each thread, which its registers hold beside the rest."""


def _sizes(m: int, n_x: int, n_h: int, n_y: int) -> dict[str, int]:
    names = ("M", "N_X", "N_H", "N_Y")
    return {name: triton.next_power_of_2(n) for name, n in zip(names, (m, n_x, n_h, n_y), strict=True)}


def why_not(X: Tensor, n_x: int, n_h: int, n_y: int) -> str | None:
    """What keeps the kernel from these examples and a network of this size, or None."""
    if X.dtype != torch.float32:
        return f"it computes in float32, and X is {X.dtype}"
    M, N_X, N_H, N_Y = _sizes(len(X), n_x, n_h, n_y).values()
    elements = M * N_H * max(N_X, N_Y)
    if elements > MOST or M > 512:
        return (
            f"its registers hold 512 examples and products of {MOST} elements, and there are {M} and {elements}, padded"
        )
    return None


def plan(p: Pass, costs: Tensor, learning_rate: float) -> Launch:
    """What to launch for as many iterations as ``costs`` has room for."""
    arguments = {**p.arguments, "costs": costs, "iterations": len(costs), "learning_rate": float(learning_rate)}
    arguments |= _sizes(p.m, p.n_x, p.n_h, p.n_y)
    return Launch(descent, (1,), {name: arguments[name] for name in descent.arg_names}, warps=8)


@torch.no_grad()
def gradient_descent(
    examples: Examples, parameters: Parameters, objective: Objective, *, costs: Tensor, learning_rate: float
) -> None:
    """As many iterations as ``costs`` has room for; it is filled, and the parameters, contiguous ones, are changed.

    Args:
        costs: ``(iterations,)``.
        others: as for :func:`twolayer.kernels.chunked.loss_and_grads`, if :func:`why_not` has nothing against them.
    """
    with torch.cuda.device_of(examples.X):
        plan(Pass(examples, parameters, objective), costs, learning_rate)()
    increment_version(parameters)  # autograd does not see what a kernel writes
