"""Weights of classes by the rows of a training split: ``class_weights``."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def class_weights(given: str | Mapping[str, float], Y: Tensor, names: Sequence[str]) -> Tensor:
    """A weight for each class, float32.

    Args:
        given: ``"balanced"``, for weights by which all classes count the same in sum, or weights by the names of
            classes; those not named weigh 1.
        Y: the training rows' class indices ``(m,)``, or probabilities.
        names: of the classes, in order.

    Raises:
        ValueError: a name is no class, or a class that has to be balanced has no rows.

    >>> class_weights("balanced", torch.tensor([0, 0, 0, 1]), ["no", "yes"])
    tensor([0.6667, 2.0000])
    >>> class_weights({"yes": 5}, torch.tensor([0, 0, 0, 1]), ["no", "yes"])
    tensor([1., 5.])
    """
    if isinstance(given, Mapping):
        if unknown := [name for name in given if str(name) not in names]:
            quoted = ": in YAML, yes and no stand in quotes" if isinstance(unknown[0], bool) else ""
            raise ValueError(f"class_weight must name classes, {', '.join(names)}, got {unknown[0]!r}{quoted}")
        by_name = {str(name): float(weight) for name, weight in given.items()}
        return torch.tensor([by_name.get(name, 1.0) for name in names])
    if given != "balanced":
        raise ValueError(f"class_weight must be 'balanced', weights, or weights by class name, got {given!r}")
    if not Y.is_floating_point():
        counts = Y.long().reshape(-1).bincount(minlength=len(names)).double()
    elif Y.ndim == 2 and Y.shape[1] == len(names):
        counts = Y.double().sum(0)
    else:
        counts = torch.stack([(1 - Y).double().sum(), Y.double().sum()])
    if not counts.min() > 0:
        raise ValueError(
            f"class_weight 'balanced' must have rows of each class, got none of {names[int(counts.argmin())]}"
        )
    return (counts.sum() / (len(names) * counts)).float()
