"""What the compiler makes of the GPU's kernels, read from the machine code; no GPU is needed."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("triton")

from twolayer.kernels import gpu

IN_EVERY_RUN = ("8.0", "8.6", "9.0", "10.0", "12.0")
POINTWISE = ("activations", "logit_errors", "hidden_errors", "reduce", "descent")
LARGE = {"narrow_pass", "output_errors", "slab_gradients", "input_gradients"}

SHARED = {"7.5": 64, "8.0": 163, "8.6": 99, "8.9": 99, "9.0": 227, "10.0": 227, "10.3": 227, "12.0": 99, "12.1": 99}
"""KiB of shared memory that a block may have."""
SHARED["gfx942"] = 64
REGISTERS = {"gfx942": 512}
"""Of a thread; those of NVIDIA's are 255."""
SPILLED = {
    "7.5": 0,
    "8.0": 0,
    "8.6": 8,
    "8.9": 8,
    "9.0": 0,
    "10.0": 32,
    "10.3": 32,
    "12.0": 16,
    "12.1": 16,
    "gfx942": 0,
}
"""Bytes of a thread's registers that lie in memory, of 1020, for the largest networks."""
SPILLED_OF_ODD_SIZES = {
    "7.5": 0,
    "8.0": 112,
    "8.6": 112,
    "8.9": 112,
    "9.0": 144,
    "10.0": 224,
    "10.3": 224,
    "12.0": 432,
    "12.1": 432,
    "gfx942": 180,
}
"""With loads that are masked one by one. The most is in the narrow kernel; on 12.0, in the wide one with 125 inputs."""
PRODUCTS = {"9.0": "wgmma.mma_async", "10.0": "tcgen05.mma", "10.3": "tcgen05.mma", "gfx942": "MFMA"}
"""The instruction of the tensor cores; else the one that all of NVIDIA's have."""


@pytest.fixture(
    params=[pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.every_card) for name in gpu.CARDS]
)
def architecture(request):
    return request.param


@cache
def compiled(table, architecture):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = Path(__file__).with_name("ahead_of_time.py")
    environment["PYTHONPATH"] = str(Path(gpu.__file__).parents[2])
    command = [sys.executable, program, table, architecture]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(kernels, architecture, spilled):
    assert [kernel for kernel in kernels if kernel["stack"] > spilled] == []
    assert [kernel for kernel in kernels if kernel["registers"] > REGISTERS.get(architecture, 255)] == []
    assert [kernel for kernel in kernels if kernel["shared"] > 1024 * SHARED[architecture]] == []


def test_the_largest_networks_fit_registers_and_shared_memory(architecture):
    kernels = compiled("corners", architecture)
    expected = {*POINTWISE, *LARGE} if gpu.CARDS[architecture].rows else {*POINTWISE}
    assert {kernel["kernel"] for kernel in kernels} == expected
    check(kernels, architecture, SPILLED[architecture])


def test_tensor_cores_multiply(architecture):
    """By their newest instructions, but for the small products of an output layer."""
    kernels = [kernel for kernel in compiled("corners", architecture) if kernel["kernel"] in LARGE]
    name = PRODUCTS.get(architecture, "mma.sync")
    assert [kernel for kernel in kernels if kernel[name] == 0] == []


@pytest.mark.every_card
def test_other_networks_fit_too(architecture):
    """Odd sizes, every activation, task and option: it takes minutes for each card."""
    check(compiled("others", architecture), architecture, SPILLED_OF_ODD_SIZES[architecture])


def test_batches_of_any_size_at_any_address_share_what_is_compiled():
    """A run over slices ends in a smaller batch, and begins its slices at addresses that 16 does not divide."""
    kernels = compiled("varied", "9.0")
    assert {kernel["kernel"] for kernel in kernels} >= {*LARGE, "activations", "logit_errors", "hidden_errors"}
    assert [kernel for kernel in kernels if kernel["variants"] != 1] == []


def test_what_is_compiled_is_found_whatever_a_process_has_compiled_before():
    (found,), (backwards,) = compiled("keys", "9.0"), compiled("keys backwards", "9.0")
    assert {*POINTWISE, *LARGE} < found.keys()
    assert found == backwards


def test_a_cache_can_be_carried(tmp_path, monkeypatch):
    """To another machine or another place, if its path is the same one there: Triton writes paths into it."""
    monkeypatch.setenv("TRITON_CACHE_DIR", "kept")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    compiled.__wrapped__("corners", "7.5")
    carried = (tmp_path / "here" / "kept").rename(tmp_path / "there" / "kept")
    files = {path: path.stat().st_mtime_ns for path in carried.rglob("*")}
    monkeypatch.chdir(tmp_path / "there")
    compiled.__wrapped__("corners", "7.5")
    assert len(files) > len(POINTWISE)
    assert {path: path.stat().st_mtime_ns for path in carried.rglob("*")} == files
