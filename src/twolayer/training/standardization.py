"""Statistics of a training set, kept beside the network that was trained with them."""

import torch
from torch import Tensor, nn

from twolayer.training.finite import where_not_finite


class Standardize(nn.Module):
    """``(x − mean) / std``, feature by feature, with statistics that travel in the ``state_dict``.

    It starts as the identity. A feature that never varies is only centred.

    Args:
        features: how many.

    >>> standardize = Standardize(2).fit(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    >>> standardize(torch.tensor([[4.0, 6.0]]))
    tensor([[3., 1.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def fit(self, X: Tensor, argument: str = "X") -> "Standardize":
        """Takes the statistics of ``X``, ``(m, features)``, computed in float64.

        Args:
            X: the rows.
            argument: what errors call them.

        Raises:
            ValueError: the shape is another, ``X`` is empty, or not all of it is finite.
        """
        if X.ndim != 2 or X.shape[0] == 0 or X.shape[1] != len(self.mean):
            raise ValueError(f"{argument} must have shape (m, {len(self.mean)}) with m ≥ 1, got {tuple(X.shape)}")
        X = X.double()
        if found := where_not_finite(**{argument: X}):
            raise ValueError(f"{argument} must be finite, but {found}")
        std = X.std(0, correction=0)
        self.mean.copy_(X.mean(0))
        self.std.copy_(torch.where(std > 0, std, 1.0))
        return self

    def forward(self, X: Tensor) -> Tensor:
        """``X``, ``(..., features)``, in units of the statistics.

        Raises:
            ValueError: it has another number of features, of which a single one would be taken for all.
        """
        if X.ndim == 0 or X.shape[-1] != len(self.mean):
            raise ValueError(f"X must have shape (..., {len(self.mean)}), got {tuple(X.shape)}")
        return (X - self.mean) / self.std

    def inverse(self, X: Tensor) -> Tensor:
        """Back to the original units.

        >>> Standardize(1).fit(torch.tensor([[0.0], [2.0]])).inverse(torch.tensor([[3.0]]))
        tensor([[4.]])
        """
        return X * self.std + self.mean
