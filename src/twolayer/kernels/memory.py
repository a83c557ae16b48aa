"""What every kernel asks of the tensors that it reads by their address."""

import torch
from torch import Tensor
from torch.nn import Parameter


def why_not(X: Tensor, Y: Tensor, W1: Tensor) -> str | None:
    """What keeps a kernel from reading them, or None: a transform, a trace, or rows that are not contiguous."""
    for name, V in (("X", X), ("W1", W1), ("Y", Y)):
        if type(V) not in (Tensor, Parameter) or torch._C._functorch.is_functorch_wrapped_tensor(V):
            return f"it reads memory, and {name} has none of its own inside a transform"
    if torch._C._len_torch_dispatch_stack():
        return "it reads memory, and there may be none inside a trace"
    for name, V in (("X", X), ("Y", Y)):
        if V.ndim == 2 and V.shape[1] > 1 and V.stride(1) != 1:
            return f"it reads rows, and {name} has strides {V.stride()}"
    return None
