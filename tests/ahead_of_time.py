"""Compiles the GPU's kernels without a GPU and reads what came of it.

``python tests/ahead_of_time.py corners,others 9.0 8.0 gfx942`` goes through two tables for each architecture and prints
a line of JSON for each kernel of each network; without architectures, for all that the package knows. What is compiled
is what a call on such a card asks for, and stays in Triton's cache (``TRITON_CACHE_DIR``), where that call finds it.

It is a program of its own because a process in which Triton interprets its kernels cannot compile them.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from twolayer.equations import Parameters
from twolayer.kernels import gpu, triton_chunked, triton_descent, triton_launch, triton_narrow, triton_wide
from twolayer.kernels.triton_launch import Launch, Pass
from twolayer.tasks import Examples, Objective

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

Row = tuple[str, int, int, int, torch.dtype, str, dict[str, Any]]
"""A family, ``n_x, n_h, n_y``, dtype, precision, and options of the pass."""
KINDS = {
    "half": (torch.bfloat16, "highest"),
    "tf32": (torch.float32, "high"),
    "float32": (torch.float32, "highest"),
}
NARROW = [(16, 64), (64, 64), (16, 128), (32, 128)]  # n_x, n_h: the corners of what fits
WEIGHTS = {"sample_weight": torch.empty(1 << 20, device="meta")}


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


def corners(architecture: str) -> Iterator[Row]:
    """The largest networks that each kernel takes, with one and with most outputs."""
    card = gpu.CARDS[architecture]
    for kind, widths in card.wide.items():
        for n_y in (1, 32):
            yield "triton_wide", max(widths), 512, n_y, *KINDS[kind], {"input_gradient": True}
    for kind in card.rows:
        for n_x, n_h in ((64, 64), (32, 128)):
            for n_y in (1, 16):
                yield "triton_narrow", n_x, n_h, n_y, *KINDS[kind], {}
    yield "triton_chunked", 784, 128, 4096, *KINDS["float32"], {}
    yield "triton_descent", 2, 16, 1, *KINDS["float32"], {}


def others(architecture: str) -> Iterator[Row]:
    """Smaller ones, odd sizes, whose loads are masked one by one, and every activation, task and option."""
    card = gpu.CARDS[architecture]
    for kind in card.rows:
        for n_x, n_h in ((16, 64), (16, 128), (5, 7), (61, 63), (31, 127)):
            for n_y in (1, 3, 16):
                yield "triton_narrow", n_x, n_h, n_y, *KINDS[kind], {}
    for kind, widths in card.wide.items():
        for n_x in {16, max(widths) - 3, *widths}:
            for n_y in (1, 31):
                yield "triton_wide", n_x, 501, n_y, *KINDS[kind], {"input_gradient": True}
    if card.rows:
        float16 = (torch.float16, "highest")
        yield "triton_narrow", 32, 128, 10, *float16, {**WEIGHTS, "label_smoothing": 0.1}
        yield "triton_narrow", 32, 64, 10, *KINDS["float32"], {**WEIGHTS, "input_gradient": True}
        for task in ("multilabel", "regression"):
            yield "triton_narrow", 32, 64, 10, *KINDS["float32"], {"task": task}
        for activation in ("sigmoid", "relu", "leaky_relu"):
            yield "triton_narrow", 32, 128, 1, *KINDS["half"], {"activation": activation}
    for kind in ("half", "float32"):
        for n_y in (10, 1024):
            yield "triton_chunked", 784, 128, n_y, *KINDS[kind], {}
    for n_x, n_h, n_y in ((2, 4, 1), (4, 8, 4)):
        yield "triton_descent", n_x, n_h, n_y, *KINDS["float32"], {}


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
    return planned(family, Pass(*values, input_gradient))


def planned(family: str, p: Pass) -> list[Launch]:
    if family == "triton_chunked":
        p.allocate(1, 264, errors=False)
        Z, logits, dtype, m = p.X.new_empty(p.m, p.n_h), p.X.new_empty(p.m, p.n_y).float(), p.X.dtype, p.m
        given = {"Z1": Z, "A1": Z, "dA1": Z, "Z2": logits, "errors": logits.to(dtype)}
        kernels = (triton_chunked.activations, triton_chunked.logit_errors, triton_chunked.hidden_errors)
        return [*(triton_chunked.launch(p, kernel, m=m, **given) for kernel in kernels), p.reduced()]
    if family == "triton_descent":
        return [triton_descent.plan(p, torch.empty(1000, device="meta"), 0.1)]
    return list(gpu.module(family).plan(p))


def compiled(launch: Launch) -> dict[str, Any]:
    """Registers and stack of a thread, shared memory of a block, and what multiplies: of one kernel as launched."""
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    binary = launch.kernel.run(**launch.arguments, grid=launch.grid, warmup=True, **options)
    asm = binary.asm
    found = read_amdgcn(asm["amdgcn"]) if "amdgcn" in asm else {**read_cubin(asm["cubin"]), **read_ptx(asm["ptx"])}
    return {"kernel": launch.kernel.fn.__name__, "shared": binary.metadata.shared, **found}


def read_cubin(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {"registers": found["REG"], "stack": found["STACK"] + found["LOCAL"]}


def read_ptx(code: str) -> dict[str, int]:
    """How many instructions of the tensor cores: one each in the machine code, which takes seconds to take apart."""
    return {name: code.count(name) for name in ("wgmma.mma_async", "mma.sync", "tcgen05.mma")}


def read_amdgcn(code: str) -> dict[str, int]:
    def number(key: str) -> int:
        return int(re.findall(rf"\.{key}:\s+(\d+)", code)[0])

    return {
        "registers": number("vgpr_count"),
        "stack": number("private_segment_fixed_size"),
        "MFMA": len(re.findall(r"\bv_mfma", code)),
    }


def varied() -> Iterator[dict[str, Any]]:
    """How many variants a run over batches of several sizes, at several addresses, compiles of each kernel."""
    for family, n_x, n_h, n_y in (
        ("triton_narrow", 5, 7, 3),
        ("triton_wide", 19, 70, 2),
        ("triton_chunked", 19, 13, 3),
    ):
        X, Y, weights = torch.rand(300, n_x), torch.randint(n_y, (300,)), torch.rand(300)
        parameters = Parameters(torch.rand(n_h, n_x), torch.rand(n_h), torch.rand(n_y, n_h), torch.rand(n_y))
        seen = set()
        for rows in (slice(0, 64), slice(64, 128), slice(1, 2), slice(3, 300), slice(7, 23)):
            examples = Examples(X[rows], Y[rows], weights[rows])
            for launch in planned(family, Pass(examples, parameters, Objective("tanh", "multiclass"), True)):
                launch.kernel.run(**launch.arguments, grid=launch.grid, warmup=True, num_warps=launch.warps)
                seen.add(launch.kernel)
        for kernel in seen:
            variants = kernel.device_caches.pop(triton.runtime.driver.active.get_current_device())[0]
            yield {"family": family, "kernel": kernel.fn.__name__, "variants": len(variants)}


def keys(backwards: bool) -> dict[str, str]:
    """Triton's names of what is compiled of each kernel, asked for in one order or the other."""
    modules = [triton_launch, triton_narrow, triton_wide, triton_chunked, triton_descent]
    kernels = {
        name: V
        for module in modules
        for name, V in vars(module).items()
        if isinstance(V, triton.JITFunction) and V.fn.__module__ == module.__name__
    }
    return {name: kernels[name].cache_key for name in sorted(kernels, reverse=backwards)}


def main(tables: list[str], architectures: list[str]) -> None:
    if tables[0] in ("keys", "keys backwards"):
        print(json.dumps(keys(tables[0] != "keys")))
        return
    triton.runtime.driver.set_active(absent := Absent())
    for architecture in architectures:
        absent.target = target_of(architecture)
        gpu.architecture = lambda device, found=architecture: found
        if "varied" in tables:
            for found in varied():
                print(json.dumps({"architecture": architecture, **found}), flush=True)
        rows = [row for table in (corners, others) if table.__name__ in tables for row in table(architecture)]
        jobs = [(row, launch) for row in rows for launch in launches(*row)]
        with ThreadPoolExecutor() as pool:  # the assembler is a process of its own
            for (row, _), found in zip(jobs, pool.map(lambda job: compiled(job[1]), jobs), strict=True):
                family, n_x, n_h, n_y, dtype, precision, options = row
                network = {"family": family, "n_x": n_x, "n_h": n_h, "n_y": n_y, "precision": precision}
                row = {"architecture": architecture, **network, "dtype": str(dtype), "options": [*options], **found}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    names = sys.argv[2:] or list(gpu.CARDS)
    main(sys.argv[1].split(",") if len(sys.argv) > 1 else ["corners", "others"], names)
