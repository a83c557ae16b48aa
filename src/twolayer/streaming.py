"""Cost, every gradient and the Hessian's product in one pass over the examples, a chunk at a time, in constant memory.

Nothing of size ``m × n_h`` ever exists: the hidden activations of a chunk are computed, used and overwritten by
those of the next. The equations are those of :mod:`twolayer.equations`, on buffers that are allocated once, with two
turns that make them quicker:

- Of few features, a chunk is copied beside a column of ones, and ``b1`` stands as one more column of ``W1``. The
  product then needs no bias, and ``db1`` is that column of ``dW1``.
- With one output, ``dZ1 = dZ2 W2 ⊙ g'(Z1)`` is ``g'(Z1)`` with its rows scaled by ``dZ2`` and its columns by ``W2``. In
  ``dW1 = dZ1ᵀ X`` the rows' scale can as well go to ``X``, which is narrow, and the columns' to the finished sum.

Of examples that fit one chunk, the equations are taken as they stand, by :mod:`twolayer.at_once`.

The mean is divided out at the end, so that sums do not underflow. Whatever the dtype of the parameters, chunks are
computed in at least float32 and summed in float64.
"""

from typing import Any

import torch
from torch import Tensor

from twolayer import at_once
from twolayer.activations import ACTIVATIONS
from twolayer.chunks import Chunks, Sums, default_rows
from twolayer.tasks import COSTS, PAIRING


@torch.no_grad()
def logits(
    X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, *, activation: str, chunk_size: int | None = None
) -> Tensor:
    """``Z2``, ``(m, n_y)``, in at least float32. Args: as for :func:`loss_and_grads`."""
    if _in_one_chunk(X, W1, W2, chunk_size):
        return at_once.logits(X, W1, b1, W2, b2, activation=activation)
    chunks = Chunks(X, None, W1, b1, W2, b2, activation=activation, chunk_size=chunk_size)
    Z2 = chunks.buffer(chunks.m, chunks.n_y)
    for chunk in chunks:
        Z2[chunk.rows] = chunk.Z2
    return Z2


@torch.no_grad()
def loss_and_grads(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    input_gradient: bool = False,
    **options: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """``J`` and ``{"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}``, and ``"X": dX`` when ``input_gradient`` asks for it.

    Args:
        X: ``(m, n_x)``.
        Y: targets as for :func:`twolayer.functional.cost`, ``m`` of them.
        W1, b1, W2, b2: parameters.
        options: ``activation``, ``task`` (a key of ``COSTS``), ``sample_weight``, ``class_weight``,
            ``label_smoothing``, ``reduction`` (``"mean"`` or ``"sum"``), ``chunk_size``; all of them checked already.
    """
    if _in_one_chunk(X, W1, W2, **options):
        return at_once.loss_and_grads(X, Y, W1, b1, W2, b2, input_gradient=input_gradient, **options)
    chunks = Chunks(X, Y, W1, b1, W2, b2, **options)
    one_output, narrow = chunks.n_y == 1, chunks.narrow
    hidden_errors = chunks.buffer(0 if one_output else chunks.rows, chunks.n_h)
    W1W2 = chunks.W1 * chunks.W2.mT if one_output else chunks.W1
    dX = torch.empty_like(X) if input_gradient else None
    n_x, n_h, n_y = chunks.n_x, chunks.n_h, chunks.n_y
    sums = Sums(chunks, (), (), (chunks.width, n_h), (n_h,), (n_y, n_h), (n_y,))
    J, total_weight, dW1, db1, dW2, db2 = sums.parts  # dW1 is transposed; of few features, it has db1 as its next row
    loss = COSTS[chunks.task].loss

    for rows, X_, A1, Z2 in chunks:
        Y_, dZ2, w = chunks.errors(rows, Z2)
        L = loss(Z2, Y_)
        if w is not None:
            L, dZ2 = w * L, w.unsqueeze(-1) * dZ2
            total_weight += w.sum()
        J += L.sum()
        dW2.addmm_(dZ2.mT, A1)
        db2 += dZ2.sum(0)
        if one_output:
            dZ1 = chunks.times_prime(dZ2.new_ones(()).expand_as(A1), A1, A1)  # W2 scales the columns, at the end
            if dX is not None:
                dX[rows] = (dZ1 @ W1W2).mul_(dZ2)
            (X_ if narrow else dZ1).mul_(dZ2)
        else:
            dA1 = torch.mm(dZ2, chunks.W2, out=hidden_errors[: len(dZ2)])
            dZ1 = chunks.times_prime(dA1, A1, dA1)
            if dX is not None:
                dX[rows] = dZ1 @ chunks.W1
        dW1.addmm_(X_.mT, dZ1)
        if not narrow:
            db1 += dZ1.sum(0)
        sums.chunk_done(rows.stop == chunks.m)

    J, total_weight, dW1, db1, dW2, db2 = sums.totals
    if narrow:
        dW1, db1 = dW1[:n_x], dW1[n_x]
    if one_output:
        dW1, db1 = dW1 * chunks.W2, db1 * chunks.W2[0]
    share = _share(chunks, total_weight)
    grads = {"W1": dW1.mT, "b1": db1, "W2": dW2, "b2": db2}
    grads = {name: (share * dV).to(W1.dtype).contiguous() for name, dV in grads.items()}
    if dX is not None:
        grads["X"] = dX.mul_(share)
    return (share * J).to(chunks.dtype), grads


@torch.no_grad()
def hvp(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    tX: Tensor | None,
    tY: Tensor | None,
    tW1: Tensor,
    tb1: Tensor,
    tW2: Tensor,
    tb2: Tensor,
    *,
    input_gradient: bool = False,
    **options: Any,
) -> dict[str, Tensor]:
    """How the gradients change along a direction: the Hessian times ``(tX, tW1, tb1, tW2, tb2)``, by name.

    Pearlmutter's R-operator (Fast exact multiplication by the Hessian, 1994): each equation of the pass is
    differentiated along the direction, by the rules of the product and the chain. ``R{V}`` is written ``RV``.

    Args:
        tX: direction of ``X``, or None for zero.
        tY: direction of ``Y``, for the task ``PAIRING`` alone, whose product has a part ``"Y"`` too.
        tW1, tb1, tW2, tb2: direction of the parameters.
        others: as for :func:`loss_and_grads`; with ``input_gradient``, the product has its part ``"X"``.
    """
    if _in_one_chunk(X, W1, W2, **options):
        network, direction = (X, Y, W1, b1, W2, b2), (tX, tY, tW1, tb1, tW2, tb2)
        return at_once.hvp(*network, *direction, input_gradient=input_gradient, **options)
    # Four more arrays of a chunk live at the same time than in the pass for the gradients.
    options["chunk_size"] = options.get("chunk_size") or default_rows(W1, W2) // 4
    chunks = Chunks(X, Y, W1, b1, W2, b2, **options)
    n_x, n_h, n_y, narrow = chunks.n_x, chunks.n_h, chunks.n_y, chunks.narrow
    tW1, tb1, tW2, tb2 = (V.to(chunks.dtype) for V in (tW1, tb1, tW2, tb2))
    tW1b1 = chunks.beside(tW1, tb1) if narrow else None
    curvature, second = COSTS[chunks.task].curvature, ACTIVATIONS[chunks.activation].second
    buffers = [chunks.buffer(chunks.rows, n_h) for _ in range(4)]
    hX = torch.empty_like(X) if input_gradient else None
    hY = chunks.buffer(chunks.m, n_y) if chunks.task == PAIRING else None
    sums = Sums(chunks, (), (chunks.width, n_h), (n_h,), (n_y, n_h), (n_y,))
    total_weight, hW1, hb1, hW2, hb2 = sums.parts

    for rows, X_, A1, Z2 in chunks:
        RZ1, RA1, dA1, RdA1 = (buffer[: len(A1)] for buffer in buffers)
        if tW1b1 is not None:
            torch.mm(X_, tW1b1, out=RZ1)
        else:
            torch.addmm(tb1, X_, tW1.mT, out=RZ1)
        if tX is not None:
            RZ1.addmm_(tX[rows], chunks.W1.mT)
        chunks.times_prime(RZ1, A1, RA1)
        RZ2 = torch.addmm(tb2, RA1, chunks.W2.mT).addmm_(A1, tW2.mT)

        Y_, dZ2, w = chunks.errors(rows, Z2)
        RdZ2 = curvature(Z2, Y_, RZ2)
        if tY is not None:
            RdZ2 = RdZ2 + tY[rows]
        if w is not None:
            RdZ2, dZ2, RZ2 = (w.unsqueeze(-1) * V for V in (RdZ2, dZ2, RZ2))
            total_weight += w.sum()
        RdZ2 = chunks.flushed(RdZ2)
        if hY is not None:
            hY[rows] = RZ2
        hW2.addmm_(RdZ2.mT, A1).addmm_(dZ2.mT, RA1)
        hb2 += RdZ2.sum(0)

        torch.mm(dZ2, chunks.W2, out=dA1)
        torch.mm(RdZ2, chunks.W2, out=RdA1).addmm_(dZ2, tW2)
        RdZ1 = chunks.times_prime(RdA1, A1, RdA1)
        if second is not None:
            RdZ1.addcmul_(RZ1.mul_(dA1), second(A1))
        hW1.addmm_(X_.mT, RdZ1)
        if not narrow:
            hb1 += RdZ1.sum(0)
        if tX is not None or hX is not None:
            dZ1 = chunks.times_prime(dA1, A1, dA1)
            if tX is not None:
                hW1[:n_x].addmm_(tX[rows].mT, dZ1)
            if hX is not None:
                hX[rows] = (RdZ1 @ chunks.W1).addmm_(dZ1, tW1)
        sums.chunk_done(rows.stop == chunks.m)

    total_weight, hW1, hb1, hW2, hb2 = sums.totals
    if narrow:
        hW1, hb1 = hW1[:n_x], hW1[n_x]
    share = _share(chunks, total_weight)
    product = {"W1": hW1.mT, "b1": hb1, "W2": hW2, "b2": hb2}
    product = {name: (share * hV).to(W1.dtype).contiguous() for name, hV in product.items()}
    if hX is not None:
        product["X"] = hX.mul_(share)
    if hY is not None:
        product["Y"] = hY.mul_(share)
    return product


def _in_one_chunk(X: Tensor, W1: Tensor, W2: Tensor, chunk_size: int | None = None, **_: Any) -> bool:
    """Whether buffers gain nothing. Half precision gains the precision of the chunks."""
    return len(X) <= (chunk_size or default_rows(W1, W2)) and W1.dtype not in (torch.float16, torch.bfloat16)


def _share(chunks: Chunks, total_weight: Tensor) -> float | Tensor:
    """What the sums over the examples are multiplied by."""
    if chunks.reduction == "sum":
        return 1.0
    return 1 / total_weight if chunks.sample_weight is not None or chunks.class_weight is not None else 1 / chunks.m


@torch.no_grad()
def per_sample_grad_norms(
    X: Tensor, Y: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, **options: Any
) -> Tensor:
    """``(m,)``: the norm of the gradient of each example's own loss, over all four parameters.

    The gradient of one example is ``dw1 = dz1 xᵀ`` and so on, and an outer product's norm is the product of the norms:
    ``‖dz1‖² (‖x‖² + 1) + ‖dz2‖² (‖a1‖² + 1)``, under the root. No gradient of a single example is ever formed.

    Args: as for :func:`loss_and_grads`.
    """
    chunks = Chunks(X, Y, W1, b1, W2, b2, **options)
    norms = torch.empty(chunks.m, dtype=chunks.dtype, device=chunks.device)
    hidden_errors = chunks.buffer(chunks.rows, chunks.n_h)
    for rows, X_, A1, Z2 in chunks:
        _, dZ2, _ = chunks.errors(rows, Z2)
        dA1 = torch.mm(dZ2, chunks.W2, out=hidden_errors[: len(dZ2)])
        dZ1 = chunks.times_prime(dA1, A1, dA1)
        ones = 0 if chunks.narrow else 1  # of few features, X has its one already
        norms[rows] = _square(dZ1) * (_square(X_) + ones) + _square(dZ2) * (_square(A1) + 1)
    return norms.sqrt_()


def _square(V: Tensor) -> Tensor:
    return torch.linalg.vecdot(V, V)
