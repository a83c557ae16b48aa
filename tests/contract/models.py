"""The two sides of every comparison.

Each is a module with the same parameters in the same order, whose ``forward(X, Y)`` is the cost, whose ``net(X)`` are
the logits, and whose ``cost(logits, Y)`` is the cost of logits that are already there.
"""

from problems import TRUE_LOSSES, Problem
from torch import Tensor, nn


class Ours(nn.Module):
    """``TwoLayerNet`` and its own cost; in mode ``"streamed"`` in chunks smaller than every example's batch."""

    def __init__(self, example: Problem, backward: str, chunks: bool = True) -> None:
        super().__init__()
        size = {"chunk_size": 2} if chunks and backward == "streamed" else {}
        self.net = example.net(backward=backward, **size)

    def forward(self, X: Tensor, Y: Tensor) -> Tensor:
        return self.net.loss(X, Y)

    def cost(self, logits: Tensor, Y: Tensor) -> Tensor:
        return self.net.cost(logits, Y)


class Theirs(nn.Module):
    """``nn.Sequential`` and PyTorch's cost."""

    def __init__(self, example: Problem) -> None:
        super().__init__()
        self.net = example.sequential()
        self.task = example.task

    def forward(self, X: Tensor, Y: Tensor) -> Tensor:
        return self.cost(self.net(X), Y)

    def cost(self, logits: Tensor, Y: Tensor) -> Tensor:
        return TRUE_LOSSES[self.task](logits, Y).mean()
