"""Compiles the CPU kernel when the package is built: ``cpu.cpp`` once for each level of processors.

Hatchling runs it for every wheel and every editable install. In a wheel the libraries lie in ``built``, beside their
sources, with ``libraries.json``, which holds their checksums and those of the sources, or why there are none: without
a compiler the package works too. An editable install has them in the checkout, and a wheel leaves the checkout as it
is. After a change to the sources, ``python hatch_build.py`` compiles them anew.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path(__file__).parent / "src" / "twolayer" / "kernels"
INSIDE = "twolayer/kernels/built"
"""Where the libraries lie in a wheel."""
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread"]


def target(python: str, machine: str, oldest: str = "") -> tuple[str, list[str]]:
    """The platform in the wheel's tag, and the flags with which a compiler makes libraries for it.

    Args:
        python: what ``sysconfig.get_platform`` says.
        machine: what ``platform.machine`` says. A Python for two processors, macOS' universal2, runs on one of them.
        oldest: version of macOS, ``MACOSX_DEPLOYMENT_TARGET``; without, that of ``python``, and at least 11: pip takes
            no wheel for an older one on arm64.

    >>> target("linux-aarch64", "aarch64")
    ('linux_aarch64', [])
    >>> target("macosx-10.9-universal2", "arm64")
    ('macosx_11_0_arm64', ['-arch', 'arm64', '-mmacosx-version-min=11.0'])
    """
    system, *of_system = python.split("-")
    if system != "macosx":
        return re.sub(r"\W", "_", python), []
    version, built_for = of_system
    machine = machine if built_for == "universal2" else built_for
    major = max(11, int((oldest or version).split(".")[0]))
    return f"macosx_{major}_0_{machine}", ["-arch", machine, f"-mmacosx-version-min={major}.0"]


PLATFORM, FLAGS_OF_PLATFORM = target(
    sysconfig.get_platform(), platform.machine(), os.environ.get("MACOSX_DEPLOYMENT_TARGET", "")
)
LEVELS: dict[str, list[str]] = {"baseline": []}
if PLATFORM.endswith(("_x86_64", "_amd64")):
    LEVELS = {level: [f"-march={level}"] for level in ("x86-64-v2", "x86-64-v3", "x86-64-v4")}


def compiler() -> list[str]:
    """The command of the C++ compiler: ``$CXX``, or what is in the path.

    Raises:
        RuntimeError: there is none.
    """
    found = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if found is None:
        raise RuntimeError("there was no C++ compiler")
    try:
        command = shlex.split(found)
    except ValueError as error:
        raise RuntimeError(f"CXX must be a command, got {found!r}: {error}") from None
    if not command:
        raise RuntimeError(f"CXX must be a command, got {found!r}")
    return command


def compile_to(library: Path, source: Path, flags: list[str]) -> None:
    """One library from one source.

    Raises:
        RuntimeError: the compiler cannot be run or fails; the message has its words.
    """
    command = [*compiler(), *FLAGS, *FLAGS_OF_PLATFORM, *flags, str(source), "-o", str(library)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"the C++ compiler {command[0]} could not be run: {error}") from None
    if done.returncode:
        raise RuntimeError(f"the C++ compiler failed: {shlex.join(command)}\n{done.stderr.strip()}")


def build(kernels: Path = KERNELS, place: Path | None = None) -> str | None:
    """Compiles the libraries into ``place``, ``built`` beside the sources by default, and writes ``libraries.json``.

    Returns why it could not, or None.
    """
    place = place or kernels / "built"
    try:
        place.mkdir(exist_ok=True)
        return _build(kernels, place)
    except OSError as error:
        return f"{place} could not be written: {error}"


def _build(kernels: Path, place: Path) -> str | None:
    # What checks processors runs on all of them: it has no flags of a level.
    wanted = {"level": ("cpu_level.cpp", []), **{level: ("cpu.cpp", flags) for level, flags in LEVELS.items()}}
    names = {level: f"cpu-{level}.so" for level in wanted}
    made: dict[str, Any] = {"failed": None, "levels": [*LEVELS], "sources": {}, "libraries": {}}
    for source in sorted([*kernels.glob("*.cpp"), *kernels.glob("*.h")]):
        made["sources"][source.name] = checksum(source)
    failed = None
    with tempfile.TemporaryDirectory(dir=place) as folder, ThreadPoolExecutor(os.cpu_count()) as threads:
        building = [
            threads.submit(compile_to, Path(folder, names[level]), kernels / source, flags)
            for level, (source, flags) in wanted.items()
        ]
        try:
            for one in building:
                one.result()
        except RuntimeError as error:
            failed = str(error)
            made["failed"] = failed.splitlines()[0]
        for old in place.glob("*.so"):
            old.unlink()
        if failed is None:
            made["libraries"] = {level: checksum(Path(folder, name)) for level, name in names.items()}
            for name in names.values():  # renamed, not written over: a process may run the former one
                Path(folder, name).replace(place / name)
        manifest = Path(folder, "libraries.json")
        manifest.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        manifest.replace(place / manifest.name)
    return failed


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class KernelBuildHook(BuildHookInterface[Any]):
    """Hatchling's way in."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            failed = build()
        else:
            self.folder = tempfile.TemporaryDirectory()
            place = Path(self.folder.name)
            failed = build(place=place)
            build_data["force_include"].update({str(path): f"{INSIDE}/{path.name}" for path in place.iterdir()})
        if failed is None:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{PLATFORM}"
        else:
            self.app.display_warning(f"twolayer is built without its CPU kernel: {failed}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.folder.cleanup()


if __name__ == "__main__":
    sys.exit(build())
