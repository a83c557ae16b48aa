"""What a batch may be: ``as_examples``."""

from typing import Any

from torch import Tensor


def as_examples(batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs, targets and weights of the batch; None for no weights.

    Raises:
        TypeError: it is no ``(X, Y)`` and no ``(X, Y, sample_weight)``.

    >>> as_examples({"x": [0.0, 1.0]})
    Traceback (most recent call last):
    ...
    TypeError: a batch must be (X, Y), two tensors, or (X, Y, sample_weight), got dict
    """
    if isinstance(batch, tuple | list) and len(batch) in (2, 3) and all(isinstance(part, Tensor) for part in batch):
        X, Y, *w = batch
        return X, Y, w[0] if w else None
    kinds = f" of {', '.join(type(part).__name__ for part in batch)}" if isinstance(batch, tuple | list) else ""
    raise TypeError(f"a batch must be (X, Y), two tensors, or (X, Y, sample_weight), got {type(batch).__name__}{kinds}")
