"""Statistics of a training set, kept beside the network that was trained with them."""

import torch
from torch import Tensor, nn


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

    def fit(self, X: Tensor) -> "Standardize":
        """Takes the statistics of ``X``, ``(m, features)``, computed in float64.

        Raises:
            ValueError: the shape is another, ``X`` is empty, or not all of it is finite.
        """
        if X.ndim != 2 or X.shape[0] == 0 or X.shape[1] != len(self.mean):
            raise ValueError(f"X must have shape (m, {len(self.mean)}) with m ≥ 1, got {tuple(X.shape)}")
        X = X.double()
        if not X.isfinite().all():
            raise ValueError("X must be finite, got NaN or infinity")
        std = X.std(0, correction=0)
        self.mean.copy_(X.mean(0))
        self.std.copy_(torch.where(std > 0, std, 1.0))
        return self

    def forward(self, X: Tensor) -> Tensor:
        return (X - self.mean) / self.std

    def inverse(self, X: Tensor) -> Tensor:
        """Back to the original units.

        >>> Standardize(1).fit(torch.tensor([[0.0], [2.0]])).inverse(torch.tensor([[3.0]]))
        tensor([[4.]])
        """
        return X * self.std + self.mean
