"""Cost and all gradients, one step on a GPU: ours against eager, torch.compile, a CUDA graph of eager, and JAX.

``python benchmarks/gpu.py`` prints what the GPU can do, then a table for each network, and after each writes ``gpu.md``
and ``gpu.json`` to the folder that ``$TWOLAYER_RESULTS`` names, or to ``results`` beside this file. From a checkout,
with ``PYTHONPATH=src``. In each round every peer has its turn; a time is the median over rounds, between two CUDA
events, or for JAX on the host's clock around calls that follow each other. What is left when ``MINUTES`` are over is
not begun, and the table says so. ``--max-autotune`` adds that mode of torch.compile, which takes minutes to compile.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX takes most of the memory else

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twolayer import TwoLayerNet, gradient_descent
from twolayer.functional import kernel_for
from twolayer.kernels import gpu

RESULTS = Path(os.environ.get("TWOLAYER_RESULTS") or Path(__file__).parent / "results")
MINUTES = 7
ROUNDS = 15
OURS = "ours"

Step = Callable[[], Any]


class Case(NamedTuple):
    n_x: int
    n_h: int
    n_y: int
    m: int
    dtype: torch.dtype
    precision: str = "highest"

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.") if self.precision == "highest" else "tf32"
        return f"{self.n_x}, {self.n_h}, {self.n_y}, {self.m:,}, {dtype}"


CASES = [
    Case(32, 128, 1, 1 << 20, torch.bfloat16),
    Case(32, 128, 1, 1 << 20, torch.float32, "high"),
    Case(32, 128, 1, 1 << 20, torch.float32),
    Case(64, 64, 16, 1 << 20, torch.bfloat16),
    Case(128, 512, 1, 1 << 20, torch.bfloat16),
    Case(784, 128, 10, 60_000, torch.bfloat16),
    Case(1024, 4096, 1024, 16_384, torch.bfloat16),
    Case(2, 4, 1, 400, torch.float32),
]


def timed(steps: dict[str, Step], rounds: int = ROUNDS) -> dict[str, float]:
    """Microseconds of each, the median over rounds in which all have their turn, each for at least a millisecond."""
    calls = {}
    for name, step in steps.items():
        step()
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        calls[name] = max(1, min(100, round(1e-3 / (time.perf_counter() - start))))
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start = time.perf_counter()
            begin.record()
            for _ in range(calls[name]):
                result = step()
            end.record()
            torch.cuda.synchronize()
            if name == "JAX":  # it has streams of its own
                result[0].block_until_ready()
                elapsed = 1e6 * (time.perf_counter() - start)
            else:
                elapsed = 1e3 * begin.elapsed_time(end)
            taken[name].append(elapsed / calls[name])
    return {name: statistics.median(times) for name, times in taken.items()}


def rates() -> dict[str, float]:
    """Bytes a second of a copy, read and written; operations a second of matrix products; exponentials a second."""
    n = 1 << 28
    source, target = torch.empty(n, device="cuda").normal_(), torch.empty(n, device="cuda")
    few = torch.randn(1 << 22, device="cuda")
    A = torch.randn(8192, 8192, device="cuda")
    half = A.bfloat16()

    def product(precision: str) -> Step:
        def step() -> Tensor:
            torch.set_float32_matmul_precision(precision)
            return A @ A

        return step

    steps = {
        "copy": lambda: target.copy_(source),
        "bfloat16": lambda: half @ half,
        "high": product("high"),
        "highest": product("highest"),
        "tanh": lambda: torch.tanh(few, out=few),
    }
    took = timed(steps, 5)
    found = {name: 2 * 8192**3 / took[name] * 1e6 for name in ("bfloat16", "high", "highest")}
    return {"copy": 8 * n / took["copy"] * 1e6, **found, "tanh": len(few) / took["tanh"] * 1e6}


def floor(case: Case, rate: dict[str, float]) -> dict[str, float]:
    """Microseconds that the bytes of ``X`` and ``Y`` take, the operations, and the tanhs, each by itself."""
    n_x, n_h, n_y, m, dtype, precision = case
    targets = case.m * (8 if n_y > 1 else dtype.itemsize)
    operations = m * (4 * n_x * n_h + 6 * n_h * n_y)
    return {
        "bytes": 1e6 * (m * n_x * dtype.itemsize + targets) / rate["copy"],
        "operations": 1e6 * operations / rate["bfloat16" if dtype == torch.bfloat16 else precision],
        "tanh": 1e6 * m * n_h / rate["tanh"],
    }


def graph_of(step: Step) -> Step:
    """What replays the step as one CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def peers(case: Case, max_autotune: bool) -> dict[str, Callable[[], Step]]:
    """What makes each step, since some take long to make. A step computes the cost and all four gradients."""
    n_x, n_h, n_y, m, dtype, _ = case
    generator = torch.Generator("cuda").manual_seed(0)
    X = torch.randn(m, n_x, generator=generator, device="cuda").to(dtype)
    labels = torch.randint(2 if n_y == 1 else n_y, (m,), generator=generator, device="cuda")
    Y = labels.to(dtype) if n_y == 1 else labels
    task = "binary" if n_y == 1 else "multiclass"
    options = {"activation": "tanh", "task": task, "init": "xavier", "device": "cuda", "dtype": dtype}
    net = TwoLayerNet(n_x, n_h, n_y, **options)
    sequential: nn.Sequential = net.to_sequential()
    theirs = list(sequential.parameters())

    def cost(X: Tensor, Y: Tensor) -> Tensor:
        logits = sequential(X).float()
        return (
            F.binary_cross_entropy_with_logits(logits.squeeze(-1), Y.float())
            if n_y == 1
            else F.cross_entropy(logits, Y)
        )

    def stepping(cost: Callable[..., Tensor], parameters: list[Tensor]) -> Step:
        def step() -> list[Tensor]:
            return [J := cost(X, Y), *torch.autograd.grad(J, parameters)]

        return step

    def compiled(mode: str) -> Callable[[], Step]:
        def make() -> Step:
            torch._dynamo.reset()
            return stepping(torch.compile(cost, mode=mode), theirs)

        return make

    def mode(backward: str) -> Callable[[], Step]:
        def make() -> Step:
            ours = TwoLayerNet(n_x, n_h, n_y, backward=backward, **options)
            ours.load_state_dict(net.state_dict())
            return stepping(ours.loss, list(ours.parameters()))

        return make

    def kernel(name: str | None) -> Step:
        def step() -> list[Tensor]:
            J, grads = net.loss_and_grads(X, Y, kernel=name)
            return [J, *grads.values()]

        return step

    def jax_step() -> Step:
        import jax
        import jax.numpy as jnp

        def jax_cost(parameters: list[Any], X: Any, Y: Any) -> Any:
            W1, b1, W2, b2 = parameters
            logits = (jnp.tanh(X @ W1.T + b1) @ W2.T + b2).astype(jnp.float32)
            if n_y == 1:
                return jnp.mean(jax.nn.softplus(logits[:, 0]) - Y * logits[:, 0])
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), Y[:, None], 1))

        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if case.precision == "high" else "highest")
        arrays = [jnp.from_dlpack(V.detach()) for V in theirs]
        X_jax, Y_jax = jnp.from_dlpack(X), jnp.from_dlpack(Y.to(torch.float32 if n_y == 1 else torch.int32))
        value_and_grad = jax.jit(jax.value_and_grad(jax_cost))

        def step() -> list[Any]:
            J, grads = value_and_grad(arrays, X_jax, Y_jax)
            return [*grads, J]

        return step

    eager = stepping(cost, theirs)
    kernels = [name for name in ("torch", *gpu.KERNELS) if name == "torch" or _runs(name, X, Y, net)]
    return {
        "eager": lambda: eager,
        "a CUDA graph of eager": lambda: graph_of(eager),
        "JAX": jax_step,
        f"{OURS}: manual": mode("manual"),
        f"{OURS}: streamed": mode("streamed"),
        **{f"{OURS}: `loss_and_grads`, `{name}`": (lambda name=name: kernel(name)) for name in kernels},
        f"{OURS}: a CUDA graph of `loss_and_grads`": lambda: graph_of(kernel(None)),
        "torch.compile": compiled("default"),
        "torch.compile, reduce-overhead": compiled("reduce-overhead"),
        **({"torch.compile, max-autotune": compiled("max-autotune")} if max_autotune else {}),
    }


ITERATIONS = 1000
DESCENT = Case(2, 4, 1, 400, torch.float32)


def descents() -> dict[str, Callable[[], Step]]:
    """The notes' loop, ``ITERATIONS`` of it in a call, on a tiny network."""
    n_x, n_h, n_y, m, *_ = DESCENT
    X = torch.randn(m, n_x, device="cuda")
    Y = (X[:, :1] * X[:, 1:] > 0).float()
    net = TwoLayerNet(n_x, n_h, n_y, activation="tanh", device="cuda")
    sequential = TwoLayerNet(n_x, n_h, n_y, activation="tanh", device="cuda").to_sequential()
    theirs = list(sequential.parameters())

    def eager() -> None:
        grads = torch.autograd.grad(F.binary_cross_entropy_with_logits(sequential(X), Y), theirs)
        with torch.no_grad():
            torch._foreach_add_(theirs, grads, alpha=-0.1)

    def times(step: Step) -> Step:
        return lambda: [step() for _ in range(ITERATIONS)]

    def ours(kernel: str) -> Callable[[], Step]:
        options = {"learning_rate": 0.1, "iterations": ITERATIONS, "kernel": kernel}
        return lambda: lambda: gradient_descent(net, X, Y, **options)

    return {
        "eager": lambda: times(eager),
        "a CUDA graph of eager": lambda: times(graph_of(eager)),
        **{f"{OURS}: `gradient_descent`, `{kernel}`": ours(kernel) for kernel in ("steps", "triton_descent")},
    }


def _runs(name: str, X: Tensor, Y: Tensor, net: TwoLayerNet) -> bool:
    try:
        return kernel_for(X, Y, net.W1, net.W2, kernel=name) == name
    except RuntimeError:
        return False


def measure(
    made: dict[str, Callable[[], Step]], until: float
) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Microseconds and megabytes of each peer, and why others are left out."""
    steps: dict[str, Step] = {}
    memory, left_out = {}, {}
    expected: list[Tensor] = []
    for name, make in made.items():
        if time.monotonic() > until:
            left_out[name] = "no time was left"
            continue
        try:
            step = make()
            found = step()
            torch.cuda.synchronize()
            if name != "JAX" and isinstance(found, list) and isinstance(found[0], Tensor):
                expected = expected or [V.detach().float().clone() for V in found]
                for V, truth in zip(found, expected, strict=True):
                    close = 0.05 * expected[1].abs().max().item()
                    torch.testing.assert_close(V.float(), truth, rtol=0.05, atol=close, msg=f"{name} is wrong")
            del found
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            torch.cuda.synchronize()
            memory[name] = (torch.cuda.max_memory_allocated() - before) / 1e6
            steps[name] = step
        except Exception as error:  # a peer that cannot run is a result too
            left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return timed(steps), memory, left_out


def table(case: Case, rate: dict[str, float], result: tuple[dict[str, float], dict[str, float], dict[str, str]]) -> str:
    took, memory, left_out = result
    floors = floor(case, rate)
    least = max(floors.values())
    best = min((time for name, time in took.items() if not name.startswith(OURS)), default=float("nan"))
    parts = ", ".join(f"{name} {value:.1f}" for name, value in floors.items())
    lines = [
        f"## {case}",
        "",
        f"Floor: {least:.1f} µs, the largest of {parts}.",
        "",
        "| | µs | best peer ÷ it | it ÷ floor | peak memory, MB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, value in sorted(took.items(), key=lambda item: item[1]):
        megabytes = "–" if name == "JAX" else f"{memory[name]:.1f}"
        lines.append(f"| {name} | {value:.1f} | {best / value:.2f} | {value / least:.1f} | {megabytes} |")
    return "\n".join([*lines, *(f"| {name} | {reason} | | | |" for name, reason in left_out.items())])


def write(page: list[str], results: dict[str, Any]) -> None:
    """Beside its place first: what a case has written stays if the next one ends the process."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, text in (("gpu.md", "\n\n".join(page)), ("gpu.json", json.dumps(results, indent=1))):
        beside = RESULTS / f".{name}"
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(RESULTS / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-autotune", action="store_true")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA GPU, and torch.cuda.is_available() is False")
    until = time.monotonic() + 60 * MINUTES
    versions = f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}"
    rate = rates()
    bandwidth = f"copy {rate['copy'] / 1e12:.2f} TB/s, tanh {rate['tanh'] / 1e12:.2f} T/s"
    products = ", ".join(f"{name} {rate[name] / 1e12:.0f} TFLOP/s" for name in ("bfloat16", "high", "highest"))
    page = [
        "# Cost and all gradients, one step on a GPU",
        "<!-- Written by `python benchmarks/gpu.py`. Do not edit. -->",
        f"{versions}: {bandwidth}; products of 8192 × 8192: {products}.",
        "Networks are n_x, n_h, n_y, m and dtype. Medians of rounds in which every peer has its turn. Memory is what a "
        "step takes at its peak beyond inputs and parameters.",
    ]
    print("\n\n".join(page), flush=True)
    cases: dict[str, Any] = {}
    results = {"device": versions, "rates": rate, "results": cases}

    def done(name: str, took: dict[str, float], left_out: dict[str, str], section: str, **others: Any) -> None:
        cases[name] = {"microseconds": took, **others, "left out": left_out}
        page.append(section)
        print("\n" + section, flush=True)
        write(page, results)

    for number, case in enumerate(CASES):
        share = (until - time.monotonic()) / (len(CASES) + 1 - number)
        torch.set_float32_matmul_precision(case.precision)
        took, memory, left_out = result = measure(peers(case, chosen.max_autotune), time.monotonic() + share)
        done(str(case), took, left_out, table(case, rate, result), megabytes=memory)
    took, _, left_out = measure(descents(), until)
    lines = [f"| {name} | {value / ITERATIONS:.2f} |" for name, value in took.items()]
    lines += [f"| {name} | {reason} |" for name, reason in left_out.items()]
    section = "\n".join([f"## {DESCENT}: an iteration of gradient descent", "", "| | µs |", "|---|---:|", *lines])
    done("descent", took, left_out, section)


if __name__ == "__main__":
    main()
