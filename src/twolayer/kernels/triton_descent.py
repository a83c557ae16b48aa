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
from twolayer.kernels.triton_equations import (
    Tile,
    activation,
    load_inputs,
    load_weights,
    output,
    prime,
    store_block,
)
from twolayer.kernels.triton_launch import VARYING, Launch, Pass
from twolayer.tasks import Examples, Objective


@triton.jit(**VARYING)
def descent(
    X, Y, sample_weight, m, X_stride, Y_stride, network, cost, costs, iterations, learning_rate, TILE: tl.constexpr
):
    """``costs`` become those at the start of each iteration, and the parameters what the last one leaves."""
    n_x, n_h, n_y = network.n_x, network.n_h, network.n_y
    k, h, j = tl.arange(0, TILE.N_X), tl.arange(0, TILE.UNITS), tl.arange(0, TILE.N_Y)
    x = load_inputs(X, X_stride, 0, m, n_x, TILE)
    w1, bias1, w2 = load_weights(network, 0, tl.float32, TILE)  # W2ᵀ
    bias2 = tl.load(network.b2 + j, mask=j < n_y, other=0.0)
    for iteration in range(iterations):
        Z1 = tl.sum(w1[:, None, :] * x[None, :, :], 2) + bias1[:, None]
        A1 = activation(Z1, network.activation, True)
        A1 = tl.where(h[:, None] < n_h, A1, 0.0)
        Z2 = tl.sum(A1[:, :, None] * w2[:, None, :], 0) + bias2[None, :]
        L, w, dZ2 = output(Z2, Y, Y_stride, sample_weight, 0, m, network, cost, TILE)
        share = 1 / tl.sum(w)
        tl.store(costs + iteration, share * tl.sum(L))
        step = learning_rate * share
        dA1 = tl.sum(w2[:, None, :] * dZ2[None, :, :], 2)
        dZ1 = dA1 * prime(A1, network.activation)
        w2 -= step * tl.sum(A1[:, :, None] * dZ2[None, :, :], 1)
        bias2 -= step * tl.sum(dZ2, 0)
        w1 -= step * tl.sum(dZ1[:, :, None] * x[None, :, :], 1)
        bias1 -= step * tl.sum(dZ1, 1)
    store_block(network.W1, h, k, n_x, n_h, n_x, w1)
    tl.store(network.b1 + h, bias1, mask=h < n_h)
    tl.store(network.W2 + j[None, :] * n_h + h[:, None], w2, mask=(h[:, None] < n_h) & (j[None, :] < n_y))
    tl.store(network.b2 + j, bias2, mask=j < n_y)


MOST = 1 << 14
"""Elements of the largest product, padded: 64 for each thread, which its registers hold beside the rest."""


def _tile(m: int, n_x: int, n_h: int, n_y: int) -> Tile:
    return Tile(*map(triton.next_power_of_2, (m, n_x, n_h, n_y)))


def why_not(X: Tensor, n_x: int, n_h: int, n_y: int) -> str | None:
    """What keeps the kernel from these examples and a network of this size, or None."""
    if X.dtype != torch.float32:
        return f"it computes in float32, and X is {X.dtype}"
    tile = _tile(len(X), n_x, n_h, n_y)
    elements = tile.ROWS * tile.UNITS * max(tile.N_X, tile.N_Y)
    if elements > MOST or tile.ROWS > 512:
        return (
            f"its registers hold 512 examples and products of {MOST} elements, "
            f"and there are {tile.ROWS} and {elements}, padded"
        )
    return None


def plan(p: Pass, costs: Tensor, learning_rate: float) -> Launch:
    """What to launch for as many iterations as ``costs`` has room for."""
    arguments = {**p.arguments, "costs": costs, "iterations": len(costs), "learning_rate": float(learning_rate)}
    arguments["TILE"] = _tile(p.m, p.n_x, p.n_h, p.n_y)
    return Launch(descent, (1,), {name: arguments[name] for name in descent.arg_names}, warps=8)


@torch.no_grad()
def gradient_descent(
    examples: Examples, parameters: Parameters, objective: Objective, *, costs: Tensor, learning_rate: float
) -> None:
    """As many iterations as ``costs`` has room for; it is filled, and the parameters are changed.

    Args:
        costs: ``(iterations,)``.
        others: as for :func:`twolayer.kernels.chunked.loss_and_grads`, if :func:`why_not` has nothing against them.
    """
    with torch.cuda.device_of(examples.X):
        p = Pass(examples, parameters, objective)
        plan(p, costs, learning_rate)()
        for V, written in zip(parameters, p.parameters, strict=True):
            if written is not V:
                V.copy_(written)
    increment_version(parameters)  # autograd does not see what a kernel writes
