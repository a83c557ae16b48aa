"""The examples, a chunk at a time on buffers that are allocated once, and sums over all of them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from twolayer.activations import LEAKY_RELU_SLOPE
from twolayer.tasks import COSTS, PAIRING, dense_targets, example_weights, smoothed

aten = torch.ops.aten

CACHE_BYTES = 2 << 20
"""What the buffers of a chunk may take: about the second-level cache of a CPU core."""
GPU_BYTES = 64 << 20
"""The same on a GPU, where a chunk must be long enough that starting its operators does not count."""
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


def default_chunk_size(n_x: int, n_h: int, n_y: int, itemsize: int = 4, device: str = "cpu") -> int:
    """The rows whose buffers take 2 MB on a CPU and 64 MB elsewhere; at least 2048.

    >>> default_chunk_size(8, 64, 1)
    6472
    """
    room = CACHE_BYTES if device == "cpu" else GPU_BYTES
    row = itemsize * ((_padded(n_x) if n_x < NARROW else n_x) + n_h * min(n_y, 2) + n_y)
    return max(FEWEST_ROWS, room // row)


def default_rows(W1: Tensor, W2: Tensor) -> int:
    """The default chunk size for a network of these weights."""
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


class Errors(NamedTuple):
    """What the targets of a chunk make of its logits."""

    Y: Tensor
    """Dense and smoothed."""
    dZ2: Tensor
    """Of each example by itself."""
    w: Tensor | None


class Chunks:
    """The forward pass, chunk by chunk.

    Args: see :func:`twolayer.streaming.loss_and_grads`. Of ``X``, ``(m, n_x)``, and of ``Y`` only a chunk is touched at
    a time.
    """

    def __init__(
        self,
        X: Tensor,
        Y: Tensor | None,
        W1: Tensor,
        b1: Tensor,
        W2: Tensor,
        b2: Tensor,
        *,
        activation: str,
        task: str = PAIRING,
        sample_weight: Tensor | None = None,
        class_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        chunk_size: int | None = None,
    ) -> None:
        (self.m, self.n_x), self.n_h, self.n_y = X.shape, len(b1), len(b2)
        self.dtype = torch.promote_types(W1.dtype, torch.float32)
        self.device = W1.device
        self.X, self.Y, self.task, self.label_smoothing = X, Y, task, label_smoothing
        self.sample_weight, self.class_weight, self.reduction = sample_weight, class_weight, reduction
        self.W1, self.b1, self.W2, self.b2 = (V.to(self.dtype) for V in (W1, b1, W2, b2))
        self.activation = activation
        self.g, self.times_prime = IN_PLACE[activation]
        self.narrow = self.n_x < NARROW
        self.width = _padded(self.n_x) if self.narrow else self.n_x
        self.rows = max(1, min(self.m, chunk_size or default_rows(W1, W2)))

    def buffer(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def beside(self, V1: Tensor, b: Tensor) -> Tensor:
        """``[V1 b]ᵀ``, by which a chunk of few features is multiplied: the ones beside it meet ``b``."""
        both = self.buffer(self.width, self.n_h)
        both[: self.n_x], both[self.n_x] = V1.mT, b
        return both

    def __iter__(self) -> Iterator[Chunk]:
        hidden, logits = self.buffer(self.rows, self.n_h), self.buffer(self.rows, self.n_y)
        if self.narrow:
            features, W1b1 = self.buffer(self.rows, self.width), self.beside(self.W1, self.b1)
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
            yield Chunk(rows, X, A1, Z2)

    def errors(self, rows: slice, Z2: Tensor) -> Errors:
        assert self.Y is not None
        Y = dense_targets(self.Y[rows], Z2, self.task)
        sample_weight = None if self.sample_weight is None else self.sample_weight[rows]
        w = example_weights(Y, self.task, sample_weight, self.class_weight)
        Y = smoothed(Y, self.label_smoothing, self.task)
        return Errors(Y, self.flushed(COSTS[self.task].error(Z2, Y)), w)

    def flushed(self, dZ2: Tensor) -> Tensor:
        """``dZ2`` without what is so small that products of it would be denormal numbers, with which a matrix product
        takes many times as long."""
        return F.hardshrink(dZ2, torch.finfo(self.dtype).tiny / torch.finfo(self.dtype).eps)


class Sums:
    """Sums over all chunks: of some chunks in their own dtype, in ``parts``, and of those in float64."""

    def __init__(self, chunks: Chunks, *shapes: tuple[int, ...]) -> None:
        # Single numbers are summed in float64 from the start: it costs nothing.
        self.parts = [chunks.buffer(*shape).to(chunks.dtype if shape else torch.float64) for shape in shapes]
        self.totals = [part.to(torch.float64, copy=True) for part in self.parts]
        self.every = max(1, min(64, ROWS_IN_FLOAT32 // chunks.rows))
        self.count = 0

    def chunk_done(self, last: bool) -> None:
        self.count += 1
        if last or self.count % self.every == 0:
            for total, part in zip(self.totals, self.parts, strict=True):
                total += part
                part.zero_()
