"""The kernels for a GPU, by name. Triton, in which they are written, is imported when a CUDA tensor asks for one.

``"triton_narrow"``
    One pass over the examples, weights and sums in registers: :mod:`twolayer.kernels.triton_narrow`.
``"triton_wide"``
    Two kernels, by tiles of examples and by slabs of hidden units: :mod:`twolayer.kernels.triton_wide`.
``"triton_chunked"``
    Chunks of examples, products by cuBLAS: :mod:`twolayer.kernels.triton_chunked`.
"""

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from twolayer import kernels
from twolayer.equations import Parameters
from twolayer.tasks import Examples, Objective

KERNELS = kernels.KERNELS[2:]
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FARTHEST = 1 << 22
"""Elements from one row to the next: within a tile, 32 bits count them."""
MOST_PARAMETERS = 1 << 31
MOST_EXAMPLES = 1 << 34


class Card(NamedTuple):
    """What the registers and the shared memory of an architecture hold, by what is multiplied: tests look at it."""

    rows: dict[str, int]
    """Of a tile of the narrow kernel, or nothing where it does not run."""
    wide: dict[str, dict[int, tuple[int, int]]]
    """Of the wide kernel: rows of a tile and warps, for ``n_x`` up to a number."""


# With more rows or fewer warps, sums do not fit the registers.
HOPPER = Card(
    {"half": 64, "tf32": 32, "float32": 16},
    {
        "half": {128: (64, 4), 256: (16, 8)},
        "tf32": {64: (32, 4), 128: (32, 8)},
        "float32": {64: (16, 4)},
    },
)
BLACKWELL = Card(
    {"half": 64, "tf32": 32, "float32": 16},
    {"half": {128: (64, 8), 256: (16, 8)}, "tf32": {128: (16, 8)}, "float32": {64: (16, 8)}},
)
OTHERS = Card(
    {"half": 32, "tf32": 32, "float32": 16},
    {"half": {64: (32, 4), 128: (16, 8)}, "tf32": {64: (32, 4), 128: (16, 8)}, "float32": {32: (16, 8)}},
)
# Triton forms no products there: the kernels that leave them to cuBLAS run, and that of tiny descents.
POINTWISE_ALONE = Card({}, {})
CARDS = {
    "7.5": POINTWISE_ALONE,
    "8.0": OTHERS,
    "8.6": OTHERS,
    "8.9": OTHERS,
    "9.0": HOPPER,
    "10.0": BLACKWELL,
    "10.3": BLACKWELL,
    "12.0": OTHERS,
    "12.1": OTHERS,
    "gfx942": OTHERS,
}
"""By compute capability, or by AMD's name."""


@cache
def triton_is_installed() -> bool:
    return find_spec("triton") is not None


def module(kernel: str) -> ModuleType:
    return import_module(f"twolayer.kernels.{kernel}")


def architecture(device: torch.device) -> str:
    """A key of ``CARDS``, or what else the GPU is. The interpreter, on a CPU, takes the tiles of ``"9.0"``."""
    if device.type != "cuda":
        return "9.0"
    if torch.version.hip is not None:  # there, a capability says nothing of the instructions
        name: str = torch.cuda.get_device_properties(device).gcnArchName
        return name.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


def card(X: Tensor) -> Card:
    return CARDS[architecture(X.device)]


def multiplied(X: Tensor) -> str:
    """What products are formed of: ``"half"``, ``"tf32"`` or ``"float32"``."""
    if X.dtype != torch.float32:
        return "half"
    return "float32" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@cache
def why_triton_cannot_start(device: torch.device) -> str | None:
    """What keeps Triton from running anything at all, such as a C compiler that is not there, or None.

    It is tried once, by a kernel that does nothing, and said once.
    """
    try:
        module("triton_launch").start(device)
    except Exception as error:  # of the compiler's, the file system's or the driver's: what is caught is what is said
        reason = f"Triton cannot start: {error}"
        warnings.warn(f"the GPU's kernels are not used, PyTorch's operators run: {reason}", stacklevel=2)
        return reason
    return None


def why_not(kernel: str, examples: Examples, parameters: Parameters, objective: Objective) -> str | None:
    """What keeps the kernel of that name from a call, or None."""
    if not triton_is_installed():
        return "Triton is not installed"
    device = parameters.W1.device
    found = architecture(device)
    if found not in CARDS:
        return f"it is compiled and looked at for {', '.join(CARDS)}, and {device} is {found}"
    return why_not_of_these(kernel, examples, parameters, objective) or why_triton_cannot_start(device)


def why_not_of_these(kernel: str, examples: Examples, parameters: Parameters, objective: Objective) -> str | None:
    """The same, of names, dtypes and sizes alone."""
    X, Y = examples.X, examples.Y
    if objective.activation not in ACTIVATIONS:
        return f"it knows no activation {objective.activation!r}"
    if X.dtype not in DTYPES:
        return f"it multiplies float32, bfloat16 and float16, and X is {X.dtype}"
    for name, V in parameters._asdict().items():
        if V.dtype not in (torch.float32, X.dtype):
            return f"it reads parameters of float32 or of the dtype of X, {X.dtype}, and {name} is {V.dtype}"
    if Y.dtype not in (*DTYPES, torch.float64, *INTEGERS):
        return f"it reads no targets of {Y.dtype}"
    (m, n_x), (n_y, n_h) = X.shape, parameters.W2.shape
    if 0 in (n_x, n_h, n_y):
        return f"no dimension may be zero, and n_x, n_h, n_y are {n_x}, {n_h}, {n_y}"
    if n_h * (n_x + 1 + n_y) >= MOST_PARAMETERS or m >= MOST_EXAMPLES or max(X.stride(0), Y.stride(0)) > FARTHEST:
        return (
            f"it counts fewer than {MOST_PARAMETERS} parameters and {MOST_EXAMPLES} examples, whose rows are "
            f"at most {FARTHEST} elements apart"
        )
    reason: str | None = module(kernel).why_not(X, n_x, n_h, n_y)
    return reason
