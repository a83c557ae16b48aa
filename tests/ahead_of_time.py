"""Compiles the GPU's kernels without a GPU, for compute capability 9.0, and reads from the machine code what came of it.

``python tests/ahead_of_time.py`` goes through the table and prints a line of JSON for each kernel of each network: tests/test_ahead_of_time.py
runs it, since a process that interprets kernels cannot compile them.
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from twolayer.kernels.triton_launch import Launch, Pass

TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def compiled(launch: Launch) -> dict:
    """Registers and stack of a thread, shared memory of a block, and what multiplies: of one kernel as launched."""
    signature, constants, attributes = {}, {}, {}
    names = launch.kernel.arg_names
    constexprs = {parameter.name for parameter in launch.kernel.params if parameter.is_constexpr}
    for name, value in launch.arguments.items():
        position = (names.index(name),)
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[position] = [["tt.divisibility", 16]]
        elif name in constexprs or value is None or (isinstance(value, int) and value == 1):
            signature[name] = "constexpr"
            constants[position] = value
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[position] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    source = ASTSource(launch.kernel, {name: signature[name] for name in names}, constants, attributes)
    options = {"num_warps": launch.warps}
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([CUOBJDUMP, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return {
        "kernel": launch.kernel.fn.__name__,
        "registers": int(found["REG"]),
        "stack": int(found["STACK"]) + int(found["LOCAL"]),
        "shared": binary.metadata.shared,
        "HGMMA": len(re.findall(r"\bHGMMA", code)),
        "HMMA": len(re.findall(r"\bHMMA", code)),
        "LDGSTS": len(re.findall(r"\bLDGSTS|\bUTMALDG", code)),
        "local": len(re.findall(r"\b(?:LDL|STL)", code)),
    }


def launches(family, n_x, n_h, n_y, m, dtype, precision="highest", activation="tanh", task=None, **options):
    """What a family launches for a network of this size."""
    torch.set_float32_matmul_precision(precision)
    task = task or ("binary" if n_y == 1 else "multiclass")
    X = torch.empty(m, n_x, dtype=dtype, device="meta")
    Y = torch.empty(m, device="meta", dtype=torch.int64 if task == "multiclass" else torch.float32)
    if task != "multiclass":
        Y = Y[:, None].expand(m, n_y).contiguous()
    W = [torch.empty(shape, device="meta") for shape in ((n_h, n_x), (n_h,), (n_y, n_h), (n_y,))]
    p = Pass(X, Y, *W, activation=activation, task=task, **options)
    return [*importlib.import_module(f"twolayer.kernels.{family}").plan(p), p.mean()]
