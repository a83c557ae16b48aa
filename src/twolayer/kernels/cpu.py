"""The pass as one program for the CPU: ``cpu.cpp``, compiled on and for this machine when it is first used.

That takes some seconds and a C++ compiler (``$CXX``, or ``c++``, ``g++`` or ``clang++`` in the path). The library is
kept in ``$XDG_CACHE_HOME/twolayer``. Where there is no compiler, the pass runs in PyTorch's operators.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import struct
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from twolayer.activations import LEAKY_RELU_SLOPE
from twolayer.equations import Parameters
from twolayer.tasks import Examples, Objective

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread"]
NATIVE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"

# Their places in the enums of cpu.cpp.
ACTIVATIONS = {name: number for number, name in enumerate(["sigmoid", "tanh", "relu", "leaky_relu"])}
TASKS = {name: number for number, name in enumerate(["binary", "multilabel", "multiclass", "regression", "pairing"])}
DTYPES = {
    torch.float32: 1,
    torch.float64: 2,
    torch.int64: 3,
    torch.int32: 4,
    torch.uint8: 5,
    torch.bool: 5,
}
ARGUMENTS = struct.Struct("=15q12q2d")
WORTH_A_THREAD = 10_000_000
"""Floating point operations that take longer than to start a thread."""


def compiler() -> list[str] | None:
    """The command of the C++ compiler, or None."""
    if "CXX" in os.environ:
        return shlex.split(os.environ["CXX"]) or None
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return None if found is None else [found]


def _processor() -> str:
    """What tells processors apart that need a library of their own."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join([platform.platform(), platform.processor(), *sorted(told)])


def build(command: list[str]) -> Path:
    """The compiled library, from the cache or made now: written beside its place and renamed.

    Raises:
        RuntimeError: the compiler fails; the message has its words.
    """
    command = [*command, *FLAGS, NATIVE, str(SOURCE)]
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), *map(os.fsencode, command), _processor().encode()]))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twolayer"
    path = folder / f"cpu-{key.hexdigest()[:16]}.so"
    if not path.exists():
        logging.getLogger("twolayer").info("compiling %s", SOURCE.name)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            made = Path(beside) / path.name
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{shlex.join(command)} failed: {done.stderr.strip()}")
            made.replace(path)
    return path


@cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    command = compiler()
    if command is None:
        return "there is no C++ compiler"
    try:
        library = ctypes.CDLL(str(build(command)))
    except (OSError, RuntimeError) as error:
        warnings.warn(f"the CPU kernel is not used: {error}", stacklevel=2)
        return str(error)
    library.twolayer_pass.argtypes = [ctypes.c_char_p]
    return library


def why_not(examples: Examples, parameters: Parameters, objective: Objective) -> str | None:
    """What keeps the kernel from a call, or None. Compiles it if it can run and is not compiled yet."""
    X, Y, sample_weight, _ = examples
    W1 = parameters.W1
    if objective.activation not in ACTIVATIONS:
        return f"it knows no activation {objective.activation!r}"
    if objective.task not in TASKS:
        return f"it knows no task {objective.task!r}"
    if not W1.dtype == X.dtype == torch.float32:
        return f"it computes in float32, and X and W1 are {X.dtype} and {W1.dtype}"
    if not parameters.b1.dtype == parameters.W2.dtype == parameters.b2.dtype == torch.float32:
        return f"it computes in float32, and W2 is {parameters.W2.dtype}"
    if Y.dtype not in DTYPES:
        return f"it reads no targets of {Y.dtype}"
    if sample_weight is not None and not (sample_weight.dtype == torch.float32 and sample_weight.is_contiguous()):
        return "it reads contiguous float32 weights"
    library = _load()
    return library if isinstance(library, str) else None


def loss_and_grads(
    examples: Examples, parameters: Parameters, objective: Objective, *, input_gradient: bool = False
) -> tuple[Tensor, Tensor | None, Parameters]:
    """As :func:`twolayer.kernels.chunked.loss_and_grads`, where :func:`why_not` has nothing against it.

    On as many threads as :func:`torch.get_num_threads` says, if there is work for them; for a number of threads, the
    result is the same to the last bit each time.
    """
    library = _load()
    assert isinstance(library, ctypes.CDLL), library
    X, Y, sample_weight, class_weight = examples
    (m, n_x), (n_y, n_h) = X.shape, parameters.W2.shape
    parameters = Parameters(*(V.contiguous() for V in parameters))
    if class_weight is not None:
        class_weight = class_weight.to(torch.float32).contiguous()
    grads = Parameters(*map(torch.empty_like, parameters))
    dX = X.new_empty(m, n_x) if input_gradient else None
    J, divisor = torch.empty((), dtype=torch.float32, device="cpu"), ctypes.c_double()
    work = m * n_h * (4 * n_x + 6 * n_y + 40)  # 40 for the activation
    failed = library.twolayer_pass(
        ARGUMENTS.pack(
            *map(_address, (X, *parameters, Y, sample_weight, class_weight, dX, *grads, J)),
            ctypes.addressof(divisor),
            m,
            n_x,
            n_h,
            n_y,
            X.stride(0),
            Y.stride(0),
            ACTIVATIONS[objective.activation],
            TASKS[objective.task],
            DTYPES[Y.dtype],
            objective.task != "multiclass" or Y.is_floating_point(),
            objective.reduction == "mean",
            max(1, min(torch.get_num_threads(), work // WORTH_A_THREAD)),
            objective.label_smoothing,
            LEAKY_RELU_SLOPE,
        )
    )
    if failed:
        raise MemoryError("the CPU kernel got no memory")
    return J, None if dX is None else dX.div_(divisor.value), grads


def _address(V: Tensor | None) -> int:
    return 0 if V is None else V.data_ptr()
