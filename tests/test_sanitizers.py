"""The kernel for the CPU under sanitizers, on problems drawn at random: ``cpp/passes.cpp``, built for each processor.

Many more of them: ``TWOLAYER_SANITIZERS=20000 pytest tests/test_sanitizers.py``.
"""

import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import twolayer.kernels

HERE = Path(__file__).parent
COMPILER = shlex.split(os.environ.get("CXX", "")) or [
    next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "")
]
FLAGS = ["-std=c++17", "-O1", "-g1", "-fno-math-errno", "-fno-trapping-math", "-pthread", "-fno-sanitize-recover=all"]
KERNELS = Path(twolayer.kernels.__file__).parent
PROBLEMS = int(os.environ.get("TWOLAYER_SANITIZERS", 200))
X86 = platform.machine() in ("x86_64", "AMD64")
MEMORY, THREADS = "address,undefined", "thread"
CPU = torch.backends.cpu.get_cpu_capability()
LEVELS = (
    {"x86-64-v2": True, "x86-64-v3": CPU in ("AVX2", "AVX512"), "x86-64-v4": CPU == "AVX512"} if X86 else {"": True}
)
BUILDS = [*((MEMORY, level) for level in LEVELS), (THREADS, "")]

pytestmark = pytest.mark.skipif(COMPILER == [""], reason="needs a C++ compiler")


def compiling(source: Path, to: Path, *flags: str) -> subprocess.Popen[str]:
    command = [*COMPILER, *FLAGS, *flags, "-I", str(KERNELS), str(source), "-o", str(to)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """All of them at once, on as many cores as there are."""
    folder = tmp_path_factory.mktemp("sanitizers")
    started = {}
    for number, (sanitizer, level) in enumerate(BUILDS):
        if LEVELS.get(level, True):
            program, architecture = folder / str(number), [f"-march={level}"] if level else []
            source = HERE / "cpp" / "passes.cpp"
            started[sanitizer, level] = (
                program,
                compiling(source, program, f"-fsanitize={sanitizer}", *architecture),
            )
    yield started
    for _, process in started.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize(("sanitizer", "level"), BUILDS)
def test_passes_under(sanitizer, level, builds, tmp_path):
    if not LEVELS.get(level, True):
        pytest.skip(f"this processor is no {level}")
    (tmp_path / "empty.cpp").write_text("int main() {}")
    empty = compiling(tmp_path / "empty.cpp", tmp_path / "empty", f"-fsanitize={sanitizer}")
    if empty.communicate() and (empty.returncode or subprocess.run([tmp_path / "empty"]).returncode):
        pytest.skip(f"the compiler has no -fsanitize={sanitizer} that runs here")
    program, process = builds[sanitizer, level]
    _, words = process.communicate()
    assert process.returncode == 0, words
    options = "allocator_may_return_null=1"
    done = subprocess.run(
        [program, str(PROBLEMS), "1", "4" if sanitizer == THREADS else "3"],
        capture_output=True,
        text=True,
        env={**os.environ, "ASAN_OPTIONS": options, "TSAN_OPTIONS": options},
    )
    assert done.returncode == 0, done.stdout + done.stderr
