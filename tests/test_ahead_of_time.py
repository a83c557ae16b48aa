"""What the compiler makes of the GPU's kernels, read from the machine code; no GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

POINTWISE = ("activations", "logit_errors", "hidden_errors")
SHARED = 227 * 1024
"""Bytes of shared memory that a block may have on compute capability 9.0."""


@pytest.fixture(scope="module")
def kernels():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = Path(__file__).with_name("ahead_of_time.py")
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_is_there(kernels):
    names = {"narrow_pass", "output_errors", "slab_gradients", "input_gradients", "reduce", "descent", *POINTWISE}
    assert {kernel["kernel"] for kernel in kernels} == names


def test_nothing_spills(kernels):
    assert [kernel for kernel in kernels if kernel["stack"] > 0] == []


def test_shared_memory_is_enough(kernels):
    assert [kernel for kernel in kernels if kernel["shared"] > SHARED] == []


def test_tensor_cores_multiply(kernels):
    """Hopper's own instructions, for groups of four warps, but for the small products of an output layer."""
    kernels = [kernel for kernel in kernels if kernel["kernel"] not in ("reduce", "descent", *POINTWISE)]
    assert [kernel for kernel in kernels if kernel["HGMMA"] == 0] == []
