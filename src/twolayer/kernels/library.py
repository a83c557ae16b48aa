"""The compiled kernel for the CPU: found, checked and loaded once.

It is built with the package, once for each level of processors: on x86-64 for ``x86-64-v2``, ``x86-64-v3`` and
``x86-64-v4`` (with AVX-512), elsewhere one ``baseline``. The highest that the processor runs is loaded, or that of the
environment variable ``TWOLAYER_CPU_LEVEL``. A library that is not what was built, or was built from other sources
than those beside it, is not loaded.
"""

import ctypes
import hashlib
import json
import logging
import os
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

FOLDER = resources.files("twolayer.kernels")
PROCESS = os.getpid()
"""That in which the package was imported: whoever is forked off it has none of its threads."""
AGAIN = "install the package again, with pip's --force-reinstall --no-deps --no-cache-dir"


class Kernel(NamedTuple):
    level: str
    levels: list[str]
    """All that this processor runs, the lowest first."""
    library: ctypes.CDLL


@cache
def load() -> Kernel | str:
    """The kernel, or why there is none; that is also logged, when it is first asked for.

    Raises:
        ValueError: ``TWOLAYER_CPU_LEVEL`` names no level that was built and that this processor runs.
    """
    try:
        return _load(FOLDER)
    except (OSError, RuntimeError) as error:
        reason = str(error)
    logging.getLogger("twolayer").warning("PyTorch's operators run, not the CPU kernel: %s", reason)
    return reason


def cpu_level() -> str | None:
    """The level of processors that the CPU kernel is built for which runs here, or None where none does.

    On x86-64 ``"x86-64-v2"``, ``"x86-64-v3"`` or ``"x86-64-v4"``, elsewhere ``"baseline"``. :func:`kernel_for` calls
    each of them ``"cpu"``. They differ in speed, and in how their sums are rounded. The environment variable
    ``TWOLAYER_CPU_LEVEL`` asks for a lower one than the processor's.

    Raises:
        ValueError: ``TWOLAYER_CPU_LEVEL`` names none that was built and that this processor runs.

    >>> cpu_level() in ("x86-64-v2", "x86-64-v3", "x86-64-v4", "baseline", None)
    True
    """
    kernel = load()
    return None if isinstance(kernel, str) else kernel.level


def _load(folder: Traversable) -> Kernel:
    """The kernel in a folder; raises RuntimeError or OSError where there is none that could be used."""
    levels, libraries = _built(folder)
    runs = levels[: _open(folder, "level", libraries).twolayer_levels()]
    if not runs:
        raise RuntimeError(f"it is built for processors from {levels[0]} on, and this one is older")
    level = os.environ.get("TWOLAYER_CPU_LEVEL") or runs[-1]
    if level not in runs:
        raise ValueError(f"TWOLAYER_CPU_LEVEL must be one of {', '.join(runs)} on this processor, got {level!r}")
    library = _open(folder, level, libraries)
    ctypes.c_int.in_dll(library, "twolayer_process").value = PROCESS
    return Kernel(level, runs, library)


def _built(folder: Traversable) -> tuple[list[str], dict[str, str]]:
    """The levels, the lowest first, and the checksum of each library, as ``hatch_build.py`` wrote them down."""
    listed = folder / "built" / "libraries.json"
    if not listed.is_file():
        raise RuntimeError(f"none was built in {folder}; in a checkout, pip install -e . builds it")
    try:
        built = json.loads(listed.read_bytes())
        failed, levels, sources, libraries = (built[key] for key in ("failed", "levels", "sources", "libraries"))
        if {*libraries} != {"level", *levels} and failed is None:
            raise ValueError("a name is damaged")
        changed = [name for name, checksum in sources.items() if _checksum(folder / name) != checksum]
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise RuntimeError(f"{listed} is damaged; {AGAIN}") from None
    if failed is not None:
        raise RuntimeError(f"when this package was installed, {failed}; get one, such as g++, and {AGAIN}")
    if changed:
        raise RuntimeError(
            f"{changed[0]} has changed since it was built; in a checkout, pip install -e . builds it anew"
        )
    return levels, libraries


def _open(folder: Traversable, level: str, libraries: dict[str, str]) -> ctypes.CDLL:
    with resources.as_file(folder / "built" / f"cpu-{level}.so") as path:
        if not path.is_file() or _checksum(path) != libraries.get(level):
            raise RuntimeError(f"{path} is missing or is not the file that was built; {AGAIN}")
        return ctypes.CDLL(str(path))


def _checksum(path: Traversable) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
