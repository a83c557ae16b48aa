"""What a picture asks for answers in the place of a network: several networks at once, or columns of a table."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from twolayer.network import TwoLayerNet


@dataclass(frozen=True)
class Asked:
    """As a trained model: it takes rows ``(m, n_x)`` and answers ``(m, n_y)``, by a function."""

    net: TwoLayerNet
    """By whose sizes and task a picture goes."""
    answer: Callable[[Tensor], Tensor]

    def __call__(self, X: Tensor) -> Tensor:
        return self.answer(X)
