"""Cost, every gradient and the Hessian's product in one pass over the examples, a chunk at a time, in constant memory.

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

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from twolayer.context import can_look_at
from twolayer.equations import Parameters
from twolayer.tasks import PAIRING, Direction, Examples, Objective, all_finite, summing_dtype

CACHE_BYTES = 2 << 20
"""What the buffers of a chunk may take: about the second-level cache of a CPU core."""
GPU_BYTES = 64 << 20
"""The same on a GPU, where a chunk must be long enough that starting its operators does not count."""
FEWEST_ROWS = 2048
"""Of a chunk: wide layers leave the cache all the same, and the weights' gradient is written once for each chunk."""
ROWS_IN_FLOAT32 = 1 << 14
"""Sums of this many examples are formed in the chunks' own dtype before they join the float64 total."""
NARROW = 128
"""Features up to which a copy with a column of ones costs less than what it saves."""


def default_chunk_size(n_x: int, n_h: int, n_y: int, itemsize: int = 4, device: str = "cpu") -> int:
    """The rows whose buffers take 2 MB on a CPU and 64 MB elsewhere; at least 2048.

    >>> default_chunk_size(8, 64, 1)
    6472
    """
    room = CACHE_BYTES if device == "cpu" else GPU_BYTES
    row = itemsize * ((_padded(n_x) if n_x < NARROW else n_x) + n_h * min(n_y, 2) + n_y)
    return max(FEWEST_ROWS, room // row)


def default_rows(parameters: Parameters) -> int:
    """The default chunk size for a network of these weights."""
    W1, _, W2, _ = parameters
    (n_h, n_x), n_y = W1.shape, W2.shape[0]
    return default_chunk_size(n_x, n_h, n_y, max(4, W1.element_size()), W1.device.type)


def _padded(n_x: int) -> int:
    """Columns for ``n_x`` features and the ones, up to what the matrix product's blocks are made of."""
    return -(-(n_x + 1) // 16) * 16


class Chunk(NamedTuple):
    """Some examples on their way through the network. The arrays are buffers, which the next chunk overwrites."""

    rows: slice
    X: Tensor
    """``(rows, n_x)``, in the dtype of the computation; if there are few features, with ones and zeros to the right."""
    A1: Tensor
    Z2: Tensor


class Chunks:
    """The forward pass, chunk by chunk. Of ``X``, ``(m, n_x)``, only a chunk is touched at a time."""

    def __init__(self, X: Tensor, parameters: Parameters, objective: Objective, chunk_size: int | None) -> None:
        self.X, self.objective, self.g = X, objective, objective.g
        self.dtype = torch.promote_types(parameters.W1.dtype, torch.float32)
        self.summing = summing_dtype(X.device)
        self.parameters = Parameters(*(V.to(self.dtype) for V in parameters))
        (self.m, self.n_x), (self.n_y, self.n_h) = X.shape, parameters.W2.shape
        self.narrow = self.n_x < NARROW
        self.width = _padded(self.n_x) if self.narrow else self.n_x
        self.rows = max(1, min(self.m, chunk_size or default_rows(parameters)))

    def buffer(self, *shape: int) -> Tensor:
        """Room for what will be written."""
        return torch.empty(shape, dtype=self.dtype, device=self.parameters.W1.device)

    def zeros(self, *shape: int) -> Tensor:
        return self.buffer(*shape).zero_()

    def beside(self, V1: Tensor, b: Tensor) -> Tensor:
        """``[V1 b]ᵀ``, by which a chunk of few features is multiplied: the ones beside it meet ``b``."""
        both = self.zeros(self.width, self.n_h)
        both[: self.n_x], both[self.n_x] = V1.mT, b
        return both

    def __iter__(self) -> Iterator[Chunk]:
        W1, b1, W2, b2 = self.parameters
        hidden, logits = self.buffer(self.rows, self.n_h), self.buffer(self.rows, self.n_y)
        if self.narrow:
            features, W1b1 = self.zeros(self.rows, self.width), self.beside(W1, b1)
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
                torch.addmm(b1, X, W1.mT, out=A1)
            self.g.in_place(A1)  # over Z1
            torch.addmm(b2, A1, W2.mT, out=Z2)
            yield Chunk(rows, X, A1, Z2)

    def errors(self, examples: Examples, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the targets make of the logits: dense ``Y``, ``dZ2`` of each example by itself, and weights if any."""
        w = examples.sample_weight
        some = Examples(chunk.X, examples.Y[chunk.rows], None if w is None else w[chunk.rows], examples.class_weight)
        Y, weights = self.objective.targets(some, chunk.Z2)
        if weights is not None:
            weights = (weights / self.unit(examples)).to(self.dtype)
        return Y, self.flushed(self.objective.formulas.error(chunk.Z2, Y)), weights

    def cost(self, chunk: Chunk, Y: Tensor, w: Tensor | None, quickly: bool) -> Tensor:
        """The sum of what the examples of a chunk cost, ``w`` times each; ``quickly``: or NaN, with infinite logits."""
        reduced = self.objective.formulas.reduced
        if quickly and w is None and reduced is not None:
            return reduced(chunk.Z2, Y, "sum")
        L = self.objective.formulas.loss(chunk.Z2, Y)
        return L.sum() if w is None else (w * L).sum()

    def exact_cost(self, examples: Examples) -> Tensor:
        """The sum over all chunks, in a pass of its own."""
        J = torch.zeros((), dtype=self.summing, device=self.parameters.W1.device)
        for chunk in self:
            Y, _, w = self.errors(examples, chunk)
            J += self.cost(chunk, Y, w, quickly=False)
        return J

    def unit(self, examples: Examples) -> Tensor | float:
        """The greatest weight that an example can have, in which weights are measured: their scale is no matter."""
        given = [w.max().to(self.summing) for w in examples[2:] if w is not None]
        return math.prod(given)

    def flushed(self, dZ2: Tensor) -> Tensor:
        """``dZ2`` without what is so small that products of it would be denormal numbers, with which a matrix product
        takes many times as long."""
        return F.hardshrink(dZ2, torch.finfo(self.dtype).tiny / torch.finfo(self.dtype).eps)

    def share(self, examples: Examples, total_weight: Tensor) -> float | Tensor:
        """What the sums over the examples are multiplied by."""
        if self.objective.reduction == "sum":
            return self.unit(examples)
        weighted = examples.sample_weight is not None or examples.class_weight is not None
        return 1 / total_weight if weighted else 1 / self.m


class Sums:
    """Sums over all chunks: of some chunks in their own dtype, in ``parts``, and of those in ``totals``, float64."""

    def __init__(self, chunks: Chunks, *shapes: tuple[int, ...]) -> None:
        # Single numbers are summed in float64 from the start: it costs nothing.
        self.parts = [chunks.zeros(*shape).to(chunks.dtype if shape else chunks.summing) for shape in shapes]
        self.totals = [part.to(chunks.summing, copy=True) for part in self.parts]
        self.every = max(1, min(64, ROWS_IN_FLOAT32 // chunks.rows))
        self.count = 0

    def chunk_done(self, last: bool) -> None:
        self.count += 1
        if last or self.count % self.every == 0:
            for total, part in zip(self.totals, self.parts, strict=True):
                total += part
                part.zero_()


def _finished(share: float | Tensor, dtype: torch.dtype, *transposed_W1_and_others: Tensor) -> Parameters:
    """The sums as gradients: ``dW1`` was summed transposed."""
    dW1, *others = transposed_W1_and_others
    return Parameters(*((share * dV).to(dtype).contiguous() for dV in (dW1.mT, *others)))


@torch.no_grad()
def logits(X: Tensor, parameters: Parameters, activation: str, *, chunk_size: int | None = None) -> Tensor:
    """``Z2``, ``(m, n_y)``, in at least float32."""
    chunks = Chunks(X, parameters, Objective(activation, PAIRING), chunk_size)
    Z2 = chunks.buffer(chunks.m, chunks.n_y)
    for chunk in chunks:
        Z2[chunk.rows] = chunk.Z2
    return Z2


@torch.no_grad()
def loss_and_grads(
    examples: Examples,
    parameters: Parameters,
    objective: Objective,
    *,
    chunk_size: int | None = None,
    input_gradient: bool = False,
) -> tuple[Tensor, Tensor | None, Parameters]:
    """``J``, ``dX`` if ``input_gradient`` asks for it, and the gradients of the parameters.

    Args: checked already; the task may be ``PAIRING`` too, the reduction ``"mean"`` or ``"sum"``.
    """
    chunks = Chunks(examples.X, parameters, objective, chunk_size)
    n_x, n_h, n_y, W1, W2 = chunks.n_x, chunks.n_h, chunks.n_y, chunks.parameters.W1, chunks.parameters.W2
    one_output, narrow = n_y == 1, chunks.narrow
    hidden_errors = chunks.buffer(0 if one_output else chunks.rows, n_h)
    W1W2 = W1 * W2.mT if one_output else W1
    dX = torch.empty_like(examples.X) if input_gradient else None
    sums = Sums(chunks, (), (), (chunks.width, n_h), (n_h,), (n_y, n_h), (n_y,))
    J, total_weight, dW1, db1, dW2, db2 = sums.parts  # dW1 is transposed; of few features, it has db1 as its next row

    quickly = can_look_at(chunks.parameters.W1)  # whether that was enough is then looked at, at the end
    for chunk in chunks:
        rows, X, A1, _ = chunk
        Y, dZ2, w = chunks.errors(examples, chunk)
        J += chunks.cost(chunk, Y, w, quickly)
        if w is not None:
            dZ2 = w.unsqueeze(-1) * dZ2
            total_weight += w.sum()
        dW2.addmm_(dZ2.mT, A1)
        db2 += dZ2.sum(0)
        if one_output:
            dZ1 = chunks.g.times_prime(dZ2.new_ones(()).expand_as(A1), A1, A1)  # W2 scales the columns, at the end
            if dX is not None:
                dX[rows] = (dZ1 @ W1W2).mul_(dZ2)
            (X if narrow else dZ1).mul_(dZ2)
        else:
            dA1 = torch.mm(dZ2, W2, out=hidden_errors[: len(dZ2)])
            dZ1 = chunks.g.times_prime(dA1, A1, dA1)
            if dX is not None:
                dX[rows] = dZ1 @ W1
        dW1.addmm_(X.mT, dZ1)
        if not narrow:
            db1 += dZ1.sum(0)
        sums.chunk_done(rows.stop == chunks.m)

    J, total_weight, dW1, db1, dW2, db2 = sums.totals
    if quickly and not math.isfinite(J.item()):
        J = chunks.exact_cost(examples)
    if narrow:
        dW1, db1 = dW1[:n_x], dW1[n_x]
    if one_output:
        dW1, db1 = dW1 * W2, db1 * W2[0]
    share = chunks.share(examples, total_weight)
    grads = _finished(share, parameters.W1.dtype, dW1, db1, dW2, db2)
    return (share * J).to(chunks.dtype), None if dX is None else dX.mul_(share), grads


@torch.no_grad()
def hvp(
    examples: Examples,
    parameters: Parameters,
    direction: Direction,
    objective: Objective,
    *,
    chunk_size: int | None = None,
    input_gradient: bool = False,
) -> Direction:
    """How the gradients change along a direction: the Hessian times it.

    Pearlmutter's R-operator (Fast exact multiplication by the Hessian, 1994): each equation of the pass is
    differentiated along the direction, by the rules of the product and the chain. ``R{V}`` is written ``RV``.

    Args:
        direction: of ``X`` and of ``Y``, this one for the task ``PAIRING`` alone, None for zero; of the parameters.
        chunk_size: a quarter of the gradients' by default: four more arrays of a chunk live at the same time.
        others: as for :func:`loss_and_grads`; with ``input_gradient``, the product has its part ``X``. Its part ``Y``
            belongs to ``PAIRING``.
    """
    chunks = Chunks(examples.X, parameters, objective, chunk_size or default_rows(parameters) // 4)
    n_x, n_h, n_y, narrow = chunks.n_x, chunks.n_h, chunks.n_y, chunks.narrow
    W1, _, W2, _ = chunks.parameters
    tX, tY, moving = direction
    tW1, tb1, tW2, tb2 = (V.to(chunks.dtype) for V in moving)
    tW1b1 = chunks.beside(tW1, tb1) if narrow else None
    buffers = [chunks.buffer(chunks.rows, n_h) for _ in range(4)]
    hX = torch.empty_like(examples.X) if input_gradient else None
    hY = chunks.buffer(chunks.m, n_y) if objective.task == PAIRING else None
    sums = Sums(chunks, (), (chunks.width, n_h), (n_h,), (n_y, n_h), (n_y,))
    total_weight, hW1, hb1, hW2, hb2 = sums.parts

    for chunk in chunks:
        rows, X, A1, Z2 = chunk
        RZ1, RA1, dA1, RdA1 = (buffer[: len(A1)] for buffer in buffers)
        if tW1b1 is not None:
            torch.mm(X, tW1b1, out=RZ1)
        else:
            torch.addmm(tb1, X, tW1.mT, out=RZ1)
        if tX is not None:
            RZ1.addmm_(tX[rows].to(chunks.dtype), W1.mT)
        chunks.g.times_prime(RZ1, A1, RA1)
        RZ2 = torch.addmm(tb2, RA1, W2.mT).addmm_(A1, tW2.mT)

        Y, dZ2, w = chunks.errors(examples, chunk)
        RdZ2 = objective.formulas.curvature(Z2, Y, RZ2)
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

        torch.mm(dZ2, W2, out=dA1)
        torch.mm(RdZ2, W2, out=RdA1).addmm_(dZ2, tW2)
        RdZ1 = chunks.g.times_prime(RdA1, A1, RdA1)
        if chunks.g.second is not None:
            RdZ1.addcmul_(RZ1.mul_(dA1), chunks.g.second(A1))
        hW1.addmm_(X.mT, RdZ1)
        if not narrow:
            hb1 += RdZ1.sum(0)
        if tX is not None or hX is not None:
            dZ1 = chunks.g.times_prime(dA1, A1, dA1)
            if tX is not None:
                hW1[:n_x].addmm_(tX[rows].to(chunks.dtype).mT, dZ1)
            if hX is not None:
                hX[rows] = (RdZ1 @ W1).addmm_(dZ1, tW1)
        sums.chunk_done(rows.stop == chunks.m)

    total_weight, hW1, hb1, hW2, hb2 = sums.totals
    if narrow:
        hW1, hb1 = hW1[:n_x], hW1[n_x]
    share = chunks.share(examples, total_weight)
    return Direction(
        X=None if hX is None else hX.mul_(share),
        Y=None if hY is None else hY.mul_(share),
        parameters=_finished(share, parameters.W1.dtype, hW1, hb1, hW2, hb2),
    )


@torch.no_grad()
def per_sample_grad_norms(
    examples: Examples, parameters: Parameters, objective: Objective, *, chunk_size: int | None = None
) -> Tensor:
    """``(m,)``: the norm of the gradient of each example's own loss, over all four parameters.

    The gradient of one example is ``dw1 = dz1 xᵀ`` and so on, and an outer product's norm is the product of the norms:
    ``‖dz1‖² (‖x‖² + 1) + ‖dz2‖² (‖a1‖² + 1)``, under the root. No gradient of a single example is ever formed.
    """
    chunks = Chunks(examples.X, parameters, objective, chunk_size)
    norms = chunks.buffer(chunks.m)
    hidden_errors = chunks.buffer(chunks.rows, chunks.n_h)
    for chunk in chunks:
        rows, X, A1, _ = chunk
        _, dZ2, _ = chunks.errors(examples, chunk)
        greatest = dZ2.abs().amax(1, keepdim=True)  # taken out: the squares of a small dZ2 would be zero
        greatest.masked_fill_((greatest == 0) | ~greatest.isfinite(), 1)
        dZ2 /= greatest
        dA1 = torch.mm(dZ2, chunks.parameters.W2, out=hidden_errors[: len(dZ2)])
        dZ1 = chunks.g.times_prime(dA1, A1, dA1)
        ones = 0 if chunks.narrow else 1  # of few features, X has its one already
        of_dZ1, of_X, of_dZ2, of_A1 = (_squared_norms(V, chunks.summing) for V in (dZ1, X, dZ2, A1))
        norms[rows] = (of_dZ1 * (of_X + ones) + of_dZ2 * (of_A1 + 1)).sqrt_() * greatest.squeeze(1)
    return norms


def _squared_norms(V: Tensor, dtype: torch.dtype) -> Tensor:
    """Of each row, ``(m,)``. Squares that float32 cannot hold, its norm and the product of two norms may well."""
    norms = torch.linalg.vector_norm(V, dim=1)
    if not all_finite(norms):
        norms = torch.linalg.vector_norm(V, dim=1, dtype=dtype)
    return norms.to(dtype).square_()
