"""Cost and all gradients, one step: ours against eager autograd, torch.compile, JAX and scikit-learn.

``python benchmarks/step.py`` runs itself twice, with the default malloc and with one that keeps its memory, and writes
``results/step.md`` beside this file. In each round every peer has its turn; ratios are medians over paired rounds.
Needs ``pip install -e ".[train,bench]"``.
"""

import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twolayer.functional import BACKWARDS

RESULTS = Path(__file__).parent / "results" / "step.md"
KEEPING = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "1073741824",
}
MALLOCS = {"default malloc": {}, "malloc that keeps its memory": KEEPING}
# n_x, n_h, n_y, m, activation, rounds
SHAPES = [
    (28, 300, 1, 100_000, "tanh", 7),
    (8, 64, 1, 500_000, "tanh", 7),
    (784, 128, 10, 20_000, "relu", 7),
    (1024, 4096, 16, 4_096, "relu", 3),
    (2, 4, 1, 400, "tanh", 11),
    (28, 100, 1, 200, "relu", 11),
]
MODES = {f"`net.loss`, {mode}": mode for mode in BACKWARDS}
PASS, PLAIN = "`loss_and_grads`", '`loss_and_grads`, `kernel="torch"`'
OURS = (*MODES, PASS, PLAIN)
BEST = "best peer"
# The row of SHAPES, what is measured, against what, and the least ratio with either malloc.
TARGETS = [
    (0, PASS, BEST, (2.0, 1.7)),
    (1, PASS, BEST, (3.0, 2.0)),
    (2, PASS, BEST, (1.1, 1.05)),
    (3, PASS, BEST, (1.1, 1.05)),
    (3, PASS, "floor", (1 / 1.1, 1 / 1.1)),
    (4, PASS, "eager", (2.5, 2.5)),
    (4, PASS, "JAX", (1.3, 1.3)),
    *((5, name, "eager", (1.0, 1.0)) for name in MODES),
    (5, PASS, "eager", (2.5, 2.5)),
]

Step = Callable[[], Any]


def peers(n_x: int, n_h: int, n_y: int, m: int, activation: str) -> dict[str, Step]:
    """Each a call that computes the cost and all four gradients, on the same numbers. Checked against the first."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from torch import nn
    from torch.nn import functional as F

    from twolayer import TwoLayerNet

    generator = torch.Generator().manual_seed(0)
    task = "binary" if n_y == 1 else "multiclass"
    X = torch.randn(m, n_x, generator=generator)
    labels = torch.randint(2 if n_y == 1 else n_y, (m,), generator=generator)
    Y = labels.float() if n_y == 1 else labels
    nets = {
        backward: TwoLayerNet(n_x, n_h, n_y, activation=activation, task=task, init="xavier", backward=backward)
        for backward in BACKWARDS
    }
    for net in nets.values():
        net.load_state_dict(nets["autograd"].state_dict())
    sequential: nn.Sequential = nets["autograd"].to_sequential()
    theirs = list(sequential.parameters())

    def cost(X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
        logits = sequential(X)
        return F.binary_cross_entropy_with_logits(logits.squeeze(-1), Y) if n_y == 1 else F.cross_entropy(logits, Y)

    def stepping(cost: Callable[..., torch.Tensor], parameters: list[torch.Tensor]) -> Step:
        def step() -> list[torch.Tensor]:
            for V in parameters:
                V.grad = None
            J = cost(X, Y)
            J.backward()
            return [J, *(V.grad for V in parameters)]

        return step

    def without_graph(kernel: str | None) -> Step:
        def step() -> list[torch.Tensor]:
            J, grads = nets["manual"].loss_and_grads(X, Y, kernel=kernel)
            return [J, *grads.values()]

        return step

    def jax_cost(parameters: list[Any], X: Any, Y: Any) -> Any:
        W1, b1, W2, b2 = parameters
        logits = (jnp.tanh if activation == "tanh" else jax.nn.relu)(X @ W1.T + b1) @ W2.T + b2
        if n_y == 1:
            return jnp.mean(jax.nn.softplus(logits[:, 0]) - Y * logits[:, 0])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), Y[:, None], 1))

    in_jax = [jnp.asarray(V.detach().numpy()) for V in theirs]
    X_jax, Y_jax = jnp.asarray(X.numpy()), jnp.asarray(Y.numpy())
    value_and_grad = jax.jit(jax.value_and_grad(jax_cost))

    def by_jax() -> list[Any]:
        J, grads = jax.block_until_ready(value_and_grad(in_jax, X_jax, Y_jax))
        return [J, *grads]

    mlp = MLPClassifier((n_h,), activation=activation, alpha=0, batch_size=n_y + 1, max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        few = np.arange(2 if n_y == 1 else n_y).repeat(2)
        mlp.fit(np.zeros((len(few), n_x), np.float32), few)  # only to set it up
    weights = [V.detach().numpy() for V in theirs]
    mlp.coefs_, mlp.intercepts_ = [weights[0].T, weights[2].T], [weights[1], weights[3]]
    Y_dense = (labels[:, None] if n_y == 1 else F.one_hot(labels, n_y)).numpy()
    layers = [X.numpy(), np.empty((m, n_h), np.float32), np.empty((m, n_y), np.float32)]
    deltas = [np.empty_like(layer) for layer in layers[1:]]

    def by_sklearn() -> list[Any]:
        coefs, intercepts = [np.empty_like(V) for V in mlp.coefs_], [np.empty_like(V) for V in mlp.intercepts_]
        J, (dW1, dW2), (db1, db2) = mlp._backprop(X.numpy(), Y_dense, None, list(layers), deltas, coefs, intercepts)
        return [J, dW1.T, db1, dW2.T, db2]

    steps = {
        "eager": stepping(cost, theirs),
        "torch.compile": stepping(torch.compile(cost), theirs),
        "JAX": by_jax,
        "scikit-learn": by_sklearn,
        **{name: stepping(nets[mode].loss, list(nets[mode].parameters())) for name, mode in MODES.items()},
        PASS: without_graph(None),
        PLAIN: without_graph("torch"),
    }
    expected = [torch.as_tensor(V).clone() for V in steps["eager"]()]
    close = 1e-3 * max(dV.abs().max().item() for dV in expected[1:])  # db2 may be a sum that cancels
    for name, step in steps.items():
        for found, truth in zip(step(), expected, strict=True):
            found = torch.tensor(np.asarray(found.detach() if isinstance(found, torch.Tensor) else found))
            torch.testing.assert_close(found.float(), truth, rtol=1e-3, atol=close, msg=f"{name} is wrong")
    return steps


def rounds_of(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each peer in each round, in which a quick one is called often enough to be timed."""
    calls = {}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        calls[name] = max(1, round(0.05 / (time.perf_counter() - start)))
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            time.sleep(0.25)  # a peer's threads spin on after its turn: not at the next one's cost
            start = time.perf_counter()
            for _ in range(calls[name]):
                step()
            taken[name].append(1000 * (time.perf_counter() - start) / calls[name])
    return taken


def profile(step: Step) -> list[list[str]]:
    """Where the time of a step goes: the functions that take most by themselves, with their microseconds a step."""
    steps = 2000
    with cProfile.Profile() as profiler:
        for _ in range(steps):
            step()
    found = pstats.Stats(profiler).get_stats_profile().func_profiles.items()
    rows = sorted(((entry.tottime, name, entry.file_name) for name, entry in found), reverse=True)[:10]
    return [
        [f"`{name}`", Path(file).name if file != "~" else "", f"{1e6 * time / steps:.1f}"] for time, name, file in rows
    ]


def rates() -> tuple[float, float]:
    """Floating point operations of a matrix product, and tanh in the cache, per second: the best of some rounds."""
    import torch

    A = torch.randn(2048, 2048)
    small = torch.randn(1 << 18)
    product = min(rounds_of({"": lambda: A @ A}, 15)[""])
    tanh = min(rounds_of({"": lambda: torch.tanh(small, out=small)}, 15)[""])
    return 2 * 2048**3 / product * 1000, small.numel() / tanh * 1000


def kernel() -> str:
    """The compiler that made the kernel, in its own words."""
    from twolayer.kernels.cpu import compiler

    command = compiler()
    if command is None:
        return "there is no compiler here: it is the plain operators too"
    return subprocess.run([*command, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0]


def measure() -> dict[str, Any]:
    result = []
    for n_x, n_h, n_y, m, activation, rounds in SHAPES:
        steps = peers(n_x, n_h, n_y, m, activation)
        taken = rounds_of(steps, rounds)
        flops, tanhs = rates()
        floor = m * (4 * n_x * n_h + 6 * n_h * n_y) / flops + (m * n_h / tanhs if activation == "tanh" else 0)
        result.append({"taken": taken, "floor": 1000 * floor})
    from machine import machine

    profiles = {name: profile(steps[name]) for name in (*MODES, PASS)}  # of the last, smallest shape
    return {"shapes": result, "machine": machine(), "kernel": kernel(), "profiles": profiles}


def ratios(row: dict[str, Any], name: str, against: str) -> tuple[list[float], str]:
    """How many times quicker ``name`` is in each round, and than whom."""
    taken = row["taken"]
    if against == BEST:
        against = min((peer for peer in taken if peer not in OURS), key=lambda peer: statistics.median(taken[peer]))
    others = [row["floor"]] * len(taken[name]) if against == "floor" else taken[against]
    return [a / b for a, b in zip(others, taken[name], strict=True)], against


def sizes(shape: tuple[Any, ...]) -> str:
    n_x, n_h, n_y, m, activation, _ = shape
    return f"{n_x}, {n_h}, {n_y}, {m:,}, {activation}"


def lines(*rows: list[str]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def table(measured: dict[str, Any]) -> str:
    names = list(measured["shapes"][0]["taken"])
    header = ["n_x, n_h, n_y, m", *names, "floor"]
    rows = []
    for shape, row in zip(SHAPES, measured["shapes"], strict=True):
        medians = [statistics.median(row["taken"][name]) for name in names]
        rows.append([sizes(shape), *(f"{median:.3g}" for median in medians), f"{row['floor']:.3g}"])
    return lines(header, ["---"] + ["---:"] * (len(header) - 1), *rows)


def target_table(found: dict[str, Any]) -> str:
    header = ["n_x, n_h, n_y, m", "what", "against", *(f"with the {malloc}" for malloc in found)]
    rows = []
    for index, name, against, least in TARGETS:
        row = [sizes(SHAPES[index]), name, against]
        for measured, target in zip(found.values(), least, strict=True):
            ratio, peer = ratios(measured["shapes"][index], name, against)
            median = statistics.median(ratio)
            verdict = "reached" if median >= target else "**missed**"
            who = f" ({peer})" if against == BEST else ""
            row.append(f"{median:.2f}{who}, {min(ratio):.2f} to {max(ratio):.2f}; {verdict}: {target:.3g}")
        rows.append(row)
    return lines(header, ["---"] * len(header), *rows)


def profile_tables(measured: dict[str, Any]) -> str:
    header = ["function", "in", "µs"]
    return "\n\n".join(
        f"{name}:\n\n{lines(header, ['---', '---', '---:'], *rows)}" for name, rows in measured["profiles"].items()
    )


def main() -> None:
    if sys.argv[1:] == ["measure"]:
        print(json.dumps(measure()))
        return
    found = {}
    for name, environment in MALLOCS.items():
        command = [sys.executable, __file__, "measure"]
        ran = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(ran.stdout.splitlines()[-1])
    tables = "\n\n".join(f"## With the {name}\n\n{table(measured)}" for name, measured in found.items())
    measured = found["default malloc"]
    page = f"""# Cost and all gradients, one step

<!-- Written by `python benchmarks/step.py`. Do not edit. -->

Milliseconds, medians over rounds in which every peer has its turn. `loss_and_grads` takes the kernel for the CPU
({measured["kernel"]}). The floor is the arithmetic alone: `m (4 n_x n_h + 6 n_h n_y)` operations at the
rate of a 2048 × 2048 matrix product and, for tanh, `m n_h` of them at their rate in the cache, both measured beside; a
kernel with a quicker product or tanh of its own can come below it.

{tables}

## Against the targets

How many times quicker, the median over paired rounds and their range.

{target_table(found)}

## Where a small step's time goes

Of the last shape, as cProfile sees it: the functions that take most by themselves, and their microseconds a step. It
makes Python itself look slower than it is.

{profile_tables(measured)}

{measured["machine"]}
"""
    print(page)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
