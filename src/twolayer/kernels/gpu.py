"""The kernels for a GPU, by name. Triton, in which they are written, is imported when a CUDA tensor asks for one.

``"triton_narrow"``
    One pass over the examples, weights and sums in registers: :mod:`twolayer.kernels.triton_narrow`.
``"triton_wide"``
    Two kernels, by tiles of examples and by slabs of hidden units: :mod:`twolayer.kernels.triton_wide`.
``"triton_chunked"``
    Chunks of examples, products by cuBLAS: :mod:`twolayer.kernels.triton_chunked`.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

from twolayer import kernels
from twolayer.equations import Parameters
from twolayer.tasks import Examples, Objective

KERNELS = kernels.KERNELS[2:]
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu")
COMPUTE_CAPABILITY = (9, 0)
"""For which tiles are cut, and for which the tests look at the machine code."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def triton_is_installed() -> bool:
    return find_spec("triton") is not None


def module(kernel: str) -> ModuleType:
    return import_module(f"twolayer.kernels.{kernel}")


def why_not(kernel: str, examples: Examples, parameters: Parameters, objective: Objective) -> str | None:
    """What keeps the kernel of that name from a call, or None."""
    if not triton_is_installed():
        return "Triton is not installed"
    device = parameters.W1.device
    capability = torch.cuda.get_device_capability(device)
    if capability != COMPUTE_CAPABILITY:
        return f"it is built for compute capability {COMPUTE_CAPABILITY}, and {device} has {capability}"
    return why_not_of_these(kernel, examples, parameters, objective)


def why_not_of_these(kernel: str, examples: Examples, parameters: Parameters, objective: Objective) -> str | None:
    """The same, of names, dtypes and sizes alone."""
    X, Y, W1 = examples.X, examples.Y, parameters.W1
    if objective.activation not in ACTIVATIONS:
        return f"it knows no activation {objective.activation!r}"
    if X.dtype not in DTYPES:
        return f"it multiplies float32, bfloat16 and float16, and X is {X.dtype}"
    if W1.dtype not in (torch.float32, X.dtype):
        return f"it reads parameters of float32 or of the dtype of X, {X.dtype}, and W1 is {W1.dtype}"
    if Y.is_complex() or Y.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return f"it reads no targets of {Y.dtype}"
    (n_x,), (n_y, n_h) = X.shape[1:], parameters.W2.shape
    reason: str | None = module(kernel).why_not(X, n_x, n_h, n_y)
    return reason
