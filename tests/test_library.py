"""The kernel's libraries: which one is loaded, what is not loaded, and how they are built."""

import hashlib
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from twolayer import functional
from twolayer.kernels import library

ROOT = Path(__file__).parents[1]
KERNELS = Path(library.__file__).parent
KERNEL = library.load()
built = pytest.mark.skipif(isinstance(KERNEL, str), reason=f"needs the CPU kernel: {KERNEL}")

TENSORS = torch.ones(5, 2), torch.ones(5), torch.ones(3, 2), torch.ones(1, 3)
"""``X``, ``Y``, ``W1`` and ``W2`` that the kernel takes."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of what is loaded, which nothing is loaded from yet."""
    folder = shutil.copytree(KERNELS, tmp_path / "kernels")
    monkeypatch.setattr(library, "FOLDER", folder)
    library.load.cache_clear()
    yield folder / "built"
    library.load.cache_clear()


@pytest.fixture
def opened(monkeypatch):
    """The names of the libraries that are opened."""
    names = []
    original = library.ctypes.CDLL
    monkeypatch.setattr(library.ctypes, "CDLL", lambda path: names.append(Path(path).name) or original(path))
    return names


def assert_not_used(caplog, *said):
    """PyTorch's operators run, one line says why, once, and so does the error where the kernel is asked for."""
    assert functional.kernel_for(*TENSORS) == "torch"
    assert functional.cpu_level() is None
    assert functional.kernel_for(*TENSORS) == "torch"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "\n" not in record.getMessage()
    for words in said:
        assert words in record.getMessage()
    with pytest.raises(RuntimeError, match="kernel 'cpu' cannot run: ") as error:
        functional.kernel_for(*TENSORS, kernel="cpu")
    assert str(error.value).removeprefix("kernel 'cpu' cannot run: ") in record.getMessage()


@built
def test_the_highest_level_of_the_processor_is_loaded(folder, opened):
    assert functional.kernel_for(*TENSORS) == "cpu"
    if platform.machine() == "x86_64":  # PyTorch asks the processor by itself
        highest = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}.get(torch.backends.cpu.get_cpu_capability(), "x86-64-v2")
    else:
        highest = "baseline"
    assert functional.cpu_level() == highest
    assert opened == ["cpu-level.so", f"cpu-{highest}.so"]


@built
@pytest.mark.parametrize("level", [] if isinstance(KERNEL, str) else KERNEL.levels)
def test_a_level_can_be_asked_for(folder, opened, monkeypatch, level):
    monkeypatch.setenv("TWOLAYER_CPU_LEVEL", level)
    assert functional.cpu_level() == level
    assert opened == ["cpu-level.so", f"cpu-{level}.so"]


@built
def test_a_level_that_there_is_not_raises(folder, opened, monkeypatch):
    monkeypatch.setenv("TWOLAYER_CPU_LEVEL", "x86-64-v9")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"TWOLAYER_CPU_LEVEL must be one of .*, got 'x86-64-v9'"):
            functional.kernel_for(*TENSORS)
    assert set(opened) == {"cpu-level.so"}


class Processor:
    """A ``cpu-level.so`` that knows a processor of some levels."""

    def __init__(self, levels):
        self.twolayer_levels = lambda: levels


@built
def test_older_processors(folder, monkeypatch, caplog):
    levels = json.loads((folder / "libraries.json").read_text())["levels"]
    original = library._open
    for number in range(len(levels)):
        opened = []

        def opens(folder, level, libraries, number=number, opened=opened):
            if level == "level":
                return Processor(number)
            opened.append(level)
            return original(folder, levels[0], libraries)  # whatever this processor is

        monkeypatch.setattr(library, "_open", opens)
        library.load.cache_clear()
        if number:
            assert functional.cpu_level() == levels[number - 1]
            assert opened == [levels[number - 1]]
            monkeypatch.setenv("TWOLAYER_CPU_LEVEL", levels[number])
            library.load.cache_clear()
            with pytest.raises(ValueError, match=f"on this processor, got '{levels[number]}'"):
                library.load()
            monkeypatch.delenv("TWOLAYER_CPU_LEVEL")
        else:
            assert_not_used(caplog, f"from {levels[0]} on")
            assert not opened


def flipped(content):
    at = content.find(b"libraries")  # of the list, the name under which the checksums of libraries stand
    at = len(content) // 2 if at < 0 else at
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: content[:4096] + bytes(4096) + content[8192:],
    "all zeros": lambda content: bytes(len(content)),
    "a flipped bit": flipped,
    "appended to": lambda content: content + b"\0",
    "text": lambda content: b"not a library\n",
    "another library": lambda content: Path(importlib.util.find_spec("_ctypes").origin).read_bytes(),
    "missing": None,
}


@built
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", ["level", "highest", "libraries.json"])
def test_a_damaged_library_is_not_loaded(folder, opened, caplog, which, damage):
    name = {"level": "cpu-level.so", "highest": f"cpu-{KERNEL.level}.so"}.get(which, which)
    path = folder / name
    if DAMAGE[damage] is None:
        path.unlink()
    else:
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    if which == "libraries.json" and damage == "appended to":
        path.write_bytes(path.read_bytes() + b"{")
    # A bit of the list that is in the checksum of a library makes that library another one.
    assert_not_used(caplog, str(folder.parent if name == "libraries.json" else path), "install")
    assert name not in opened


@built
def test_no_bit_of_the_list_can_be_flipped_unseen(folder):
    """Where the list is still taken, its names are the same; a checksum that is not fits no library."""
    path = folder / "libraries.json"
    content = path.read_bytes()
    built, _ = library._built(folder.parent)  # among them, levels that this processor may not have
    for bit in range(8 * len(content)):
        path.write_bytes(content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :])
        try:
            levels, libraries = library._built(folder.parent)
        except RuntimeError:
            continue
        assert levels == built
        assert {*libraries} == {"level", *levels}


@built
def test_the_library_of_another_level_is_another_library(folder, opened, caplog):
    if len(KERNEL.levels) == 1:
        pytest.skip("there is one level")
    shutil.copy2(folder / f"cpu-{KERNEL.levels[0]}.so", folder / f"cpu-{KERNEL.level}.so")
    assert_not_used(caplog, f"cpu-{KERNEL.level}.so", "not the file that was built")
    assert opened == ["cpu-level.so"]


@built
@pytest.mark.parametrize("source", ["cpu.cpp", "cpu_level.cpp"])
def test_what_was_built_from_other_sources_is_not_used(folder, opened, caplog, source):
    with (folder.parent / source).open("a") as file:
        file.write("\n")
    assert_not_used(caplog, f"{source} has changed", "pip install -e .")
    assert not opened


def test_where_none_was_built(folder, caplog):
    shutil.rmtree(folder, ignore_errors=True)
    assert_not_used(caplog, f"none was built in {folder.parent}", "pip install -e .")


def test_it_is_said_on_one_line_and_is_no_warning(tmp_path):
    """A line on the error output, whatever Python does with warnings."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("built", "__pycache__"))
    script = (
        "import torch; from twolayer import TwoLayerNet; net = TwoLayerNet(2, 3, 1)\n"
        "for _ in range(3): net.loss_and_grads(torch.ones(5, 2), torch.ones(5))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'src')!r})\n{script}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "PyTorch's operators run, not the CPU kernel: none was built" in done.stderr


@pytest.fixture
def building(tmp_path):
    """``hatch_build.py`` as a module, and a folder of sources."""
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "kernels"
    folder.mkdir()
    for source in [*KERNELS.glob("*.cpp"), *KERNELS.glob("*.h")]:
        shutil.copy2(source, folder)
    return module, folder


COMPILER = """
import sys
from pathlib import Path
*flags, o, library = sys.argv[1:]
assert o == "-o"
Path(library).write_text(" ".join(flags))
"""


def test_each_level_is_built_with_its_flags_and_listed(building, monkeypatch, tmp_path):
    module, folder = building
    (tmp_path / "compiler.py").write_text(COMPILER)
    monkeypatch.setenv("CXX", f"{sys.executable} {tmp_path / 'compiler.py'}")
    built = folder / "built"
    built.mkdir()
    (built / "cpu-of-old.so").touch()
    assert module.build(folder) is None
    made = json.loads((built / "libraries.json").read_text())
    assert made["failed"] is None
    assert {*made["sources"]} == {path.name for path in folder.iterdir() if path.suffix in (".cpp", ".h")}
    assert {path.name for path in built.glob("*.so")} == {f"cpu-{level}.so" for level in made["libraries"]}
    assert {*made["libraries"]} == {"level", *made["levels"]}
    for level, checksum in made["libraries"].items():
        content = (built / f"cpu-{level}.so").read_text()
        assert hashlib.sha256(content.encode()).hexdigest() == checksum
        assert content.endswith("cpu_level.cpp" if level == "level" else "cpu.cpp")
        assert (f"-march={level}" in content) == level.startswith("x86")
        assert ("-march" in content) == level.startswith("x86")


FAILING = {
    "there was no C++ compiler": None,
    "the C++ compiler failed": f"{sys.executable} -c 'raise SystemExit(\"out of ink\")'",
    "the C++ compiler /nowhere/c++ could not be run": "/nowhere/c++",
}


@pytest.mark.parametrize("reason", FAILING)
def test_a_build_without_a_compiler_says_so_later(building, monkeypatch, caplog, reason):
    module, folder = building
    if FAILING[reason] is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(folder))
    else:
        monkeypatch.setenv("CXX", FAILING[reason])
    (folder / "built").mkdir()
    (folder / "built" / "cpu-x86-64-v4.so").touch()
    assert module.build(folder).startswith(reason)
    assert {path.name for path in (folder / "built").iterdir()} == {"libraries.json"}
    monkeypatch.setattr(library, "FOLDER", folder)
    library.load.cache_clear()
    try:
        assert_not_used(caplog, f"when this package was installed, {reason}", "--no-cache-dir")
    finally:
        library.load.cache_clear()
