"""Compiles the GPU's kernels without a GPU and reads what came of it.

``python tests/ahead_of_time.py 9.0 8.0 gfx942`` goes through the table for each architecture and prints a line of JSON
for each kernel of each network; without arguments, for all that the package knows. What is compiled is what a call on
such a card asks for, and stays in Triton's cache (``TRITON_CACHE_DIR``), where that call finds it.

It is a program of its own because a process in which Triton interprets its kernels cannot compile them.
"""

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from twolayer.equations import Parameters
from twolayer.kernels import gpu, triton_chunked, triton_descent
from twolayer.kernels.triton_launch import STAGES, Launch, Pass
from twolayer.tasks import Examples, Objective

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

FLOAT32 = ("highest", "high")
NARROW = [(16, 64), (64, 64), (16, 128), (32, 128)]  # n_x, n_h: the corners of what fits
WIDE = {torch.bfloat16: (128, 256), "high": (64, 128), "highest": (16, 64)}  # n_x, by what is multiplied


class Absent:
    """Stands in for a driver of Triton's, where the GPU is not."""

    target: GPUTarget

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int | str:
        return self.target.arch

    def get_current_stream(self, device: object) -> int:
        return 0


def target_of(architecture: str) -> GPUTarget:
    """``"9.0"`` is NVIDIA's, ``"gfx942"`` AMD's."""
    if architecture.startswith("gfx"):
        return GPUTarget("hip", architecture, 64)
    return GPUTarget("cuda", int(architecture.replace(".", "")), 32)


def table():
    """Families with ``n_x, n_h, n_y``, dtype and precision, and options of the pass."""
    for n_x, n_h in NARROW:
        for n_y in (1, 16):
            yield "triton_narrow", n_x, n_h, n_y, torch.bfloat16, "highest", {}
            for precision in FLOAT32:
                yield "triton_narrow", n_x, n_h, n_y, torch.float32, precision, {}
    for key, sizes in WIDE.items():
        for n_x in sizes:
            for n_y in (1, 32):
                dtype, precision = (torch.float32, key) if key in FLOAT32 else (key, "highest")
                yield "triton_wide", n_x, 512, n_y, dtype, precision, {"input_gradient": True}
    weighted = {"sample_weight": torch.empty(1 << 20, device="meta")}
    yield "triton_narrow", 32, 128, 10, torch.float16, "highest", {**weighted, "label_smoothing": 0.1}
    yield "triton_narrow", 32, 64, 10, torch.float32, "highest", {**weighted, "input_gradient": True}
    for task in ("multilabel", "regression"):
        yield "triton_narrow", 32, 64, 10, torch.float32, "highest", {"task": task}
    for activation in ("sigmoid", "relu", "leaky_relu"):
        yield "triton_narrow", 32, 128, 1, torch.bfloat16, "highest", {"activation": activation}
    for dtype in (torch.bfloat16, torch.float32):
        for n_y in (10, 1024, 4096):
            yield "triton_chunked", 784, 128, n_y, dtype, "highest", {}
    for n_x, n_h, n_y in ((2, 4, 1), (2, 16, 1), (4, 8, 4)):
        yield "triton_descent", n_x, n_h, n_y, torch.float32, "highest", {}


def launches(family, n_x, n_h, n_y, dtype, precision, options) -> list[Launch]:
    """What a family launches for a network of this size, if it takes it."""
    torch.set_float32_matmul_precision(precision)
    options = {"activation": "tanh", "task": "binary" if n_y == 1 else "multiclass", **options}
    m = 512 if family == "triton_descent" else 1 << 20
    X = torch.empty(m, n_x, dtype=dtype, device="meta")
    if options["task"] == "multiclass":
        Y = torch.empty(m, dtype=torch.int64, device="meta")
    else:
        Y = torch.empty(m, n_y, device="meta")
    parameters = [torch.empty(shape, device="meta") for shape in ((n_h, n_x), (n_h,), (n_y, n_h), (n_y,))]
    examples = Examples(X, Y, options.pop("sample_weight", None))
    input_gradient = options.pop("input_gradient", False)
    values = (examples, Parameters(*parameters), Objective(**options))
    if gpu.why_not_of_these(family, *values) is not None:
        return []
    p = Pass(*values, input_gradient)
    if family == "triton_chunked":
        p.allocate(1, 264, errors=False)
        Z = torch.empty(m, n_h, dtype=dtype, device="meta")
        logits = torch.empty(m, n_y, device="meta")
        given = {"Z1": Z, "A1": Z, "dA1": Z, "Z2": logits, "errors": logits.to(dtype)}
        kernels = (triton_chunked.activations, triton_chunked.logit_errors, triton_chunked.hidden_errors)
        return [triton_chunked.launch(p, kernel, m=m, **given) for kernel in kernels]
    if family == "triton_descent":
        return [triton_descent.plan(p, torch.empty(1000, device="meta"), 0.1)]
    return list(gpu.module(family).plan(p))


def compiled(launch: Launch) -> dict[str, Any]:
    """Registers and stack of a thread, shared memory of a block, and what multiplies: of one kernel as launched."""
    options = {"num_warps": launch.warps, "num_stages": STAGES}
    binary = launch.kernel.run(**launch.arguments, grid=launch.grid, warmup=True, **options)
    found = read_amdgcn(binary.asm["amdgcn"]) if "amdgcn" in binary.asm else read_cubin(binary.asm["cubin"])
    return {"kernel": launch.kernel.fn.__name__, "shared": binary.metadata.shared, **found}


def read_cubin(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run([CUOBJDUMP, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    products = {name: len(re.findall(rf"\b{name}", code)) for name in ("HGMMA", "HMMA", "UTCHMMA", "UTCQMMA")}
    return {"registers": found["REG"], "stack": found["STACK"] + found["LOCAL"], **products}


def read_amdgcn(code: str) -> dict[str, int]:
    def number(key: str) -> int:
        return int(re.findall(rf"\.{key}:\s+(\d+)", code)[0])

    return {
        "registers": number("vgpr_count"),
        "stack": number("private_segment_fixed_size"),
        "MFMA": len(re.findall(r"\bv_mfma", code)),
    }


def main(architectures: list[str]) -> None:
    triton.runtime.driver.set_active(absent := Absent())
    for architecture in architectures:
        absent.target = target_of(architecture)
        jobs = [(row, launch) for row in table() for launch in launches(*row)]
        with ThreadPoolExecutor() as pool:  # the assembler is a process of its own
            for (row, _), found in zip(jobs, pool.map(lambda job: compiled(job[1]), jobs), strict=True):
                family, n_x, n_h, n_y, dtype, precision, options = row
                network = {"family": family, "n_x": n_x, "n_h": n_h, "n_y": n_y, "precision": precision}
                row = {"architecture": architecture, **network, "dtype": str(dtype), "options": [*options], **found}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["9.0"])
