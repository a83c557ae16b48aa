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
from twolayer.checks import check_range, check_weights
from twolayer.kernels import memory

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread"]
NATIVE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"

# Their places in the enums of cpu.cpp.
ACTIVATIONS = {name: number for number, name in enumerate(["sigmoid", "tanh", "relu", "leaky_relu"])}
TASKS = {name: number for number, name in enumerate(["binary", "multilabel", "multiclass", "regression", "pairing"])}
DTYPES = {
    dtype: number
    for number, dtype in enumerate(
        [
            torch.float32,
            torch.float64,
            torch.bool,
            torch.uint8,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.uint16,
            torch.uint32,
            torch.uint64,
        ]
    )
}
NO_MEMORY, _, TARGETS, SAMPLE_WEIGHT, CLASS_WEIGHT = range(1, 6)
ARGUMENTS = struct.Struct("=14q14q2d")
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


def why_not(X: Tensor, Y: Tensor, W1: Tensor, sample_weight: Tensor | None = None) -> str | None:
    """What keeps the kernel from a call, or None. Compiles it if it can run and is not compiled yet."""
    if W1.device.type != "cpu":
        return f"it runs on a CPU, and W1 is on {W1.device}"
    if not W1.dtype == X.dtype == torch.float32:
        return f"it computes in float32, and X and W1 are {X.dtype} and {W1.dtype}"
    if Y.dtype not in DTYPES:
        return f"it reads no targets of {Y.dtype}"
    if sample_weight is not None and sample_weight.dtype not in (torch.float32, torch.float64):
        return f"it reads weights of float32 and float64, and sample_weight is {sample_weight.dtype}"
    reason = memory.why_not(X, Y, W1)
    if reason is not None:
        return reason
    library = _load()
    return library if isinstance(library, str) else None


def loss_and_grads(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: str,
    task: str,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    input_gradient: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """As :func:`twolayer.streaming.loss_and_grads`, where :func:`why_not` has nothing against it.

    On as many threads as :func:`torch.get_num_threads` says, if there is work for them; for a number of threads, the
    result is the same to the last bit each time.
    """
    library = _load()
    assert isinstance(library, ctypes.CDLL), library
    (m, n_x), n_h, n_y = X.shape, len(b1), len(b2)
    parameters = {name: V.contiguous() for name, V in {"W1": W1, "b1": b1, "W2": W2, "b2": b2}.items()}
    if class_weight is not None:
        class_weight = class_weight.to(torch.float64).contiguous()
    grads = {name: torch.empty_like(V) for name, V in parameters.items()}
    dX = X.new_empty(m, n_x) if input_gradient else None
    J = torch.empty((), dtype=torch.float32)
    work = m * n_h * (4 * n_x + 6 * n_y + 40)  # 40 for the activation
    failed = library.twolayer_pass(
        ARGUMENTS.pack(
            *map(_address, (X, *parameters.values(), Y, sample_weight, class_weight, dX, *grads.values(), J)),
            m,
            n_x,
            n_h,
            n_y,
            X.stride(0),
            Y.stride(0),
            0 if sample_weight is None else sample_weight.stride(0),
            ACTIVATIONS[activation],
            TASKS[task],
            DTYPES[Y.dtype],
            0 if sample_weight is None else DTYPES[sample_weight.dtype],
            task != "multiclass" or Y.is_floating_point(),
            reduction == "mean",
            max(1, min(torch.get_num_threads(), work // WORTH_A_THREAD)),
            label_smoothing,
            LEAKY_RELU_SLOPE,
        )
    )
    if failed:
        raise refusal(failed, Y, task, n_y, sample_weight, class_weight)
    if dX is not None:
        grads["X"] = dX
    return J, grads


def refusal(
    code: int, Y: Tensor, task: str, n_y: int, sample_weight: Tensor | None, class_weight: Tensor | None
) -> Exception:
    """The exception for what a function of the library returned, with the words of :mod:`twolayer.checks`.

    Args:
        code: of ``enum Refused``.
        others: what the kernel was given.
    """
    try:
        if code == TARGETS and task == "multiclass" and not Y.is_floating_point():
            check_range("Y", Y.long(), 0, n_y - 1, f"{n_y} classes", IndexError)
        elif code == TARGETS:
            check_range("Y", Y if Y.is_floating_point() else Y.long(), 0, 1, f"task {task!r}")
        elif code == SAMPLE_WEIGHT and sample_weight is not None:
            check_weights("sample_weight", sample_weight)
        elif code == CLASS_WEIGHT and class_weight is not None:
            check_weights("class_weight", class_weight, zero_allowed=False)
    except (IndexError, ValueError) as error:
        return error
    if code == NO_MEMORY:
        return MemoryError("the CPU kernel got no memory")
    return ValueError(f"the CPU kernel does not take these arguments ({code})")


def _address(V: Tensor | None) -> int:
    return 0 if V is None else V.data_ptr()
