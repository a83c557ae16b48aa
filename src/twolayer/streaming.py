"""Cost and every gradient in one pass over the examples, a chunk at a time, in constant memory.

Nothing of size ``m × n_h`` ever exists: the hidden activations of a chunk are computed, used and overwritten by
those of the next. The equations are those of :mod:`twolayer.equations`, on buffers that are allocated once, with two
turns that make them quicker:

- Of few features, a chunk is copied beside a column of ones, and ``b1`` stands as one more column of ``W1``. The
  product then needs no bias, and ``db1`` is that column of ``dW1``.
- With one output, ``dZ1 = dZ2 W2 ⊙ g'(Z1)`` is ``g'(Z1)`` with its rows scaled by ``dZ2`` and its columns by ``W2``. In
  ``dW1 = dZ1ᵀ X`` the rows' scale can as well go to ``X``, which is narrow, and the columns' to the finished sum.

The mean is divided out at the end, so that sums do not underflow. Whatever the dtype of the parameters, chunks are
computed in at least float32 and summed in float64.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from twolayer.activations import LEAKY_RELU_SLOPE
from twolayer.tasks import TASKS, dense_targets, example_weights, smoothed

aten = torch.ops.aten

CACHE_BYTES = 2 << 20
"""What the buffers of a chunk may take: about the second-level cache of a CPU core."""
FEWEST_ROWS = 2048
"""Of a chunk: wide layers leave the cache all the same, and the weights' gradient is written once for each chunk."""
ROWS_IN_FLOAT32 = 1 << 14
"""Sums of this many examples are formed in the chunks' own dtype before they join the float64 total."""


class InPlace(NamedTuple):
    """An activation on buffers: ``g(Z)`` overwrites ``Z``; ``times_prime(dA, A, out)`` is ``dA ⊙ g'(Z)``."""

    g: Callable[[Tensor], Tensor]
    times_prime: Callable[[Tensor, Tensor, Tensor], Tensor]


IN_PLACE = {
    "sigmoid": InPlace(torch.sigmoid_, lambda dA, A, out: aten.sigmoid_backward(dA, A, grad_input=out)),
    "tanh": InPlace(torch.tanh_, lambda dA, A, out: aten.tanh_backward(dA, A, grad_input=out)),
    "relu": InPlace(torch.relu_, lambda dA, A, out: aten.threshold_backward(dA, A, 0, grad_input=out)),
    "leaky_relu": InPlace(
        lambda Z: F.leaky_relu_(Z, LEAKY_RELU_SLOPE),
        lambda dA, A, out: aten.leaky_relu_backward(dA, A, LEAKY_RELU_SLOPE, True, grad_input=out),
    ),
}


NARROW = 128
"""Features up to which a copy with a column of ones costs less than what it saves."""


def default_chunk_size(n_x: int, n_h: int, n_y: int, itemsize: int = 4) -> int:
    """The rows whose buffers fit the cache, at least 2048.

    >>> default_chunk_size(8, 64, 1)
    6472
    """
    row = itemsize * ((_padded(n_x) if n_x < NARROW else n_x) + n_h * min(n_y, 2) + n_y)
    return max(FEWEST_ROWS, CACHE_BYTES // row)


def _padded(n_x: int) -> int:
    """Columns for ``n_x`` features and the ones, up to what the matrix product's blocks are made of."""
    return -(-(n_x + 1) // 16) * 16


class Chunk(NamedTuple):
    """Some examples on their way through the network. The arrays are buffers, which the next chunk overwrites."""

    rows: slice
    X: Tensor
    """``(rows, n_x)``, in the dtype of the computation; if there are few features, with ones and zeros to the right."""
    A1: Tensor
    L: Tensor
    dZ2: Tensor
    w: Tensor | None


class Chunks:
    """The forward pass, chunk by chunk, up to the output error.

    Args: see :func:`loss_and_grads`. ``X`` is ``(m, n_x)``; of it and of ``Y`` only a chunk is touched at a time.
    """

    def __init__(
        self,
        X: Tensor,
        Y: Tensor,
        W1: Tensor,
        b1: Tensor,
        W2: Tensor,
        b2: Tensor,
        *,
        activation: str,
        task: str,
        sample_weight: Tensor | None = None,
        class_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        chunk_size: int | None = None,
    ) -> None:
        (self.m, self.n_x), self.n_h, self.n_y = X.shape, len(b1), len(b2)
        self.dtype = torch.promote_types(W1.dtype, torch.float32)
        self.device = W1.device
        self.X, self.Y, self.task, self.label_smoothing = X, Y, task, label_smoothing
        self.sample_weight, self.class_weight = sample_weight, class_weight
        self.W1, self.b1, self.W2, self.b2 = (V.to(self.dtype) for V in (W1, b1, W2, b2))
        self.g, self.times_prime = IN_PLACE[activation]
        self.narrow = self.n_x < NARROW
        self.width = _padded(self.n_x) if self.narrow else self.n_x
        self.rows = min(self.m, chunk_size or default_chunk_size(self.n_x, self.n_h, self.n_y, self.dtype.itemsize))

    def buffer(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def __iter__(self) -> Iterator[Chunk]:
        hidden, logits = self.buffer(self.rows, self.n_h), self.buffer(self.rows, self.n_y)
        if self.narrow:
            features, W1b1 = self.buffer(self.rows, self.width), self.buffer(self.width, self.n_h)
            features[:, self.n_x] = 1
            W1b1[: self.n_x], W1b1[self.n_x] = self.W1.mT, self.b1
        # Products of what is smaller would be denormal numbers, with which a matrix product takes many times as long.
        smallest = torch.finfo(self.dtype).tiny / torch.finfo(self.dtype).eps
        loss, error = TASKS[self.task].loss, TASKS[self.task].error
        for start in range(0, self.m, self.rows):
            rows = slice(start, min(start + self.rows, self.m))
            size = rows.stop - start
            A1, Z2 = hidden[:size], logits[:size]
            if self.narrow:
                X = features[:size]
                X[:, : self.n_x], X[:, self.n_x] = self.X[rows], 1
                torch.mm(X, W1b1, out=A1)
            else:
                X = self.X[rows].to(self.dtype)
                torch.addmm(self.b1, X, self.W1.mT, out=A1)
            self.g(A1)  # over Z1
            torch.addmm(self.b2, A1, self.W2.mT, out=Z2)
            Y = dense_targets(self.Y[rows], Z2, self.task)
            sample_weight = None if self.sample_weight is None else self.sample_weight[rows]
            w = example_weights(Y, self.task, sample_weight, self.class_weight)
            Y = smoothed(Y, self.label_smoothing, self.task)
            yield Chunk(rows, X, A1, loss(Z2, Y), F.hardshrink(error(Z2, Y), smallest), w)


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
        options: ``activation``, ``task``, ``sample_weight``, ``class_weight``, ``label_smoothing``, ``chunk_size``; all
            of them checked already.
    """
    chunks = Chunks(X, Y, W1, b1, W2, b2, **options)
    one_output, narrow = chunks.n_y == 1, chunks.narrow
    errors = chunks.buffer(0 if one_output else chunks.rows, chunks.n_h)
    W1W2 = chunks.W1 * chunks.W2.mT if one_output else chunks.W1
    dX = torch.empty_like(X) if input_gradient else None
    n_x, n_h, n_y = chunks.n_x, chunks.n_h, chunks.n_y
    sums = [chunks.buffer(*shape) for shape in ((), (), (chunks.width, n_h), (n_h,), (n_y, n_h), (n_y,))]
    totals = [part.to(torch.float64, copy=True) for part in sums]
    J, total_weight, dW1, db1, dW2, db2 = sums  # dW1 is transposed, and of few features it has db1 as its next row
    flush_every = max(1, min(64, ROWS_IN_FLOAT32 // chunks.rows))

    for number, (rows, X_, A1, L, dZ2, w) in enumerate(chunks, 1):
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
            dA1 = torch.mm(dZ2, chunks.W2, out=errors[: len(dZ2)])
            dZ1 = chunks.times_prime(dA1, A1, dA1)
            if dX is not None:
                dX[rows] = dZ1 @ chunks.W1
        dW1.addmm_(X_.mT, dZ1)
        if not narrow:
            db1 += dZ1.sum(0)
        if number % flush_every == 0 or rows.stop == chunks.m:
            for total, part in zip(totals, sums, strict=True):
                total += part
                part.zero_()

    J, total_weight, dW1, db1, dW2, db2 = totals
    if narrow:
        dW1, db1 = dW1[:n_x], dW1[n_x]
    if one_output:
        dW1, db1 = dW1 * chunks.W2, db1 * chunks.W2[0]
    share = 1 / chunks.m if w is None else 1 / total_weight
    grads = {"W1": dW1.mT, "b1": db1, "W2": dW2, "b2": db2}
    grads = {name: (share * dV).to(W1.dtype).contiguous() for name, dV in grads.items()}
    if dX is not None:
        grads["X"] = dX.mul_(share)
    return (share * J).to(chunks.dtype), grads


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
    errors = chunks.buffer(chunks.rows, chunks.n_h)
    for rows, X_, A1, _, dZ2, _ in chunks:
        dA1 = torch.mm(dZ2, chunks.W2, out=errors[: len(dZ2)])
        dZ1 = chunks.times_prime(dA1, A1, dA1)
        ones = 0 if chunks.narrow else 1  # of few features, X has its one already
        norms[rows] = _square(dZ1) * (_square(X_) + ones) + _square(dZ2) * (_square(A1) + 1)
    return norms.sqrt_()


def _square(V: Tensor) -> Tensor:
    return torch.linalg.vecdot(V, V)
