"""What a kernel reads by its address is first made what it says it is: ``readable``."""

from torch import Tensor

from twolayer import context
from twolayer.equations import Parameters
from twolayer.tasks import Examples


def why_not(examples: Examples, parameters: Parameters) -> str | None:
    """What keeps any kernel from reading tensors by their address, or None: a transform, a trace, or strides."""
    X, Y, W1 = examples.X, examples.Y, parameters.W1
    for name, V in (("X", X), ("W1", W1), ("Y", Y)):
        if context.is_transformed(V):
            return f"it reads memory, and {name} has none of its own inside a transform"
        if context.is_traced(V):
            return f"it reads memory, and inside a trace {name} may have none"
    for name, V in (("X", X), ("Y", Y)):
        if V.ndim == 2 and V.shape[1] > 1 and V.stride(1) != 1:
            return f"it reads rows, and {name} has strides {V.stride()}"
    return None


def readable(examples: Examples, parameters: Parameters) -> tuple[Examples, Parameters]:
    """The same numbers in memory: PyTorch keeps some tensors as the negative of what is there, and forgets nothing.

    Raises:
        RuntimeError: a storage is smaller than the tensor, as after ``untyped_storage().resize_``.
    """
    X, Y, sample_weight, _ = examples
    for name, V in (("X", X), ("Y", Y), ("sample_weight", sample_weight)):
        if V is not None and not _is_there(V):
            raise RuntimeError(f"{name} must have its memory, got a tensor {tuple(V.shape)} with a smaller storage")
    if any(V is not None and V.is_neg() for V in (*examples, *parameters)):
        resolved = [None if V is None else V.resolve_neg() for V in examples]
        return Examples(*resolved), Parameters(*(V.resolve_neg() for V in parameters))  # type: ignore[arg-type]
    return examples, parameters


def _is_there(V: Tensor) -> bool:
    if V.numel() == 0:
        return True
    last = V.storage_offset() + sum((n - 1) * stride for n, stride in zip(V.shape, V.stride(), strict=True))
    return V.untyped_storage().nbytes() >= (last + 1) * V.element_size()
