"""What a kernel reads by its address is first made what it says it is: ``readable``."""

from collections.abc import Iterable

from torch import Tensor

from twolayer import context
from twolayer.equations import Parameters
from twolayer.tasks import Examples


def unreadable(examples: Examples, parameters: Parameters) -> str | None:
    """What keeps any kernel from reading tensors by their address, or None: a transform or a trace."""
    for name, V in (("X", examples.X), ("W1", parameters.W1), ("Y", examples.Y)):
        if context.is_transformed(V):
            return f"it reads memory, and {name} has none of its own inside a transform"
        if context.is_traced(V):
            return f"it reads memory, and inside a trace {name} may have none"
    return None


def why_not(examples: Examples) -> str | None:
    """What of the memory's layout keeps any kernel from reading it, or None."""
    for name, V in (("X", examples.X), ("Y", examples.Y)):
        if not has_rows(V):
            return f"it reads rows, and {name} has strides {V.stride()}"
    return None


def has_rows(V: Tensor) -> bool:
    """Whether the numbers of a row stand one after the other."""
    return V.is_contiguous() or V.ndim != 2 or V.shape[1] <= 1 or V.stride(1) == 1


def readable(examples: Examples, parameters: Parameters) -> tuple[Examples, Parameters]:
    """The same numbers in memory: PyTorch keeps some tensors as the negative of what is there.

    Raises:
        RuntimeError: the memory of one was freed: before a way back, say, that nobody looked at again.
    """
    X, parameters = readable_network(examples.X, parameters)
    others = examples[1:]
    _refuse_freed(zip(examples._fields[1:], others, strict=True))
    for V in others:
        if V is not None and V.is_neg():
            return Examples(X, *(None if V is None else V.resolve_neg() for V in others)), parameters  # type: ignore[arg-type]
    return examples if X is examples.X else Examples(X, *others), parameters


def readable_network(X: Tensor, parameters: Parameters) -> tuple[Tensor, Parameters]:
    """As :func:`readable`; and the parameters, or a direction, are contiguous."""
    _refuse_freed(zip(("X", *parameters._fields), (X, *parameters), strict=True))
    if X.is_neg():
        X = X.resolve_neg()
    for V in parameters:
        if V.is_neg() or not V.is_contiguous():
            return X, Parameters(*(V.resolve_neg().contiguous() for V in parameters))
    return X, parameters


def _refuse_freed(tensors: Iterable[tuple[str, Tensor | None]]) -> None:
    for name, V in tensors:
        if V is not None and context.is_freed(V):
            raise RuntimeError(f"{name} must have its memory, and its storage was freed")
