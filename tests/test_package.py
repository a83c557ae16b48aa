"""What is built and installed: the platform of a wheel, other processors than this one, and no more than PyTorch.

``.ci/wheel`` builds the wheels themselves, and uses them.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import twolayer
from twolayer.kernels import library

SOURCE = Path(twolayer.__file__).parents[1]
ROOT = Path(__file__).parents[1]
KERNELS = SOURCE / "twolayer" / "kernels"


@pytest.fixture(scope="module")
def building():
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


@pytest.mark.parametrize("python", ["macosx-10.9-universal2", "macosx-11.0-arm64", "macosx-14.4-arm64"])
@pytest.mark.parametrize("oldest", ["", "10.15", "11", "12.3"])
def test_pip_takes_the_wheel_for_macos_on_the_oldest_it_is_compiled_for(building, python, oldest):
    tags = pytest.importorskip("packaging.tags")
    platform, flags = building.target(python, "arm64", oldest)
    compiled_for = flags[-1].removeprefix("-mmacosx-version-min=")
    assert flags[:2] == ["-arch", "arm64"]
    assert platform in tags.mac_platforms(tuple(map(int, compiled_for.split("."))), "arm64")


def test_the_wheel_for_this_machine_is_one_that_pip_takes_here(building):
    tags = pytest.importorskip("packaging.tags")
    assert building.PLATFORM in tags.platform_tags()


def test_where_nothing_can_be_written_it_says_so(building, tmp_path):
    """A checkout that is read-only: a file in the folder's place fails for every user, root included."""
    (tmp_path / "built").touch()
    assert building.build(tmp_path).startswith(f"{tmp_path / 'built'} could not be written: ")


ARM, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")


@pytest.mark.skipif(ARM is None, reason="needs a compiler for arm64: Debian's g++-aarch64-linux-gnu")
def test_arm64_has_one_level_that_is_compiled_and_listed(building, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", ARM)
    monkeypatch.setattr(building, "LEVELS", {"baseline": []})
    assert building.build(KERNELS, tmp_path) is None
    assert json.loads((tmp_path / "libraries.json").read_text())["levels"] == ["baseline"]
    for name in ("cpu-level.so", "cpu-baseline.so"):
        header = (tmp_path / name).read_bytes()[:20]
        assert (header[:4], header[18]) == (b"\x7fELF", 183)  # EM_AARCH64


@pytest.mark.skipif(ARM is None or EMULATOR is None, reason="needs a compiler and an emulator for arm64: qemu-user")
def test_passes_on_arm64(building, tmp_path):
    flags = [flag for flag in building.FLAGS if flag != "-shared"]
    program = tmp_path / "passes"
    done = run(ARM, *flags, "-static", f"-I{KERNELS}", ROOT / "tests" / "cpp" / "passes.cpp", "-o", program)
    assert done.returncode == 0, done.stderr
    done = run(EMULATOR, program, 20, 1, 3)
    assert done.returncode == 0, done.stdout + done.stderr


WITHOUT = "import sys; sys.path.insert(0, {!r}); sys.modules.update(dict.fromkeys({!r}))"
EXTRA = ["lightning", "torchmetrics", "jsonargparse", "yaml", "rich", "sklearn"]  # not numpy: PyTorch warns without


@pytest.mark.parametrize("module", ["data", "data.planar", "training", "training.module", "callbacks", "report"])
def test_what_needs_an_extra_says_which(module):
    done = run(sys.executable, "-c", f"{WITHOUT.format(str(SOURCE), EXTRA)}; import twolayer.{module}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: this needs ")
    assert last.endswith("pip install 'twolayer[train]'")


@pytest.mark.parametrize(
    ("program", "lacking"), [("script", EXTRA), ("module", EXTRA), ("train.py", EXTRA), ("script", ["sklearn"])]
)
def test_the_command_line_without_it_is_one_line(program, lacking):
    start = {
        "script": "from twolayer.__main__ import main; sys.exit(main())",
        "module": "import runpy; runpy.run_module('twolayer', run_name='__main__', alter_sys=True)",
        "train.py": f"import runpy; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')",
    }[program]
    done = run(sys.executable, "-c", f"{WITHOUT.format(str(SOURCE), lacking)}; {start}", "--help")
    assert done.returncode == 1
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
    assert done.stderr.endswith(": pip install 'twolayer[train]'\n")


def test_the_levels_that_are_built_are_those_that_are_known(building):
    """``cpu_level.cpp`` counts them, the lowest first."""
    assert [*building.LEVELS] in (["x86-64-v2", "x86-64-v3", "x86-64-v4"], ["baseline"])
    assert library.cpu_level() in (*building.LEVELS, None)
