"""Cost and all gradients, one step: ours against eager autograd, torch.compile, JAX and scikit-learn.

``python benchmarks/step.py`` runs itself twice, with the default malloc and with one that keeps its memory, and writes
``results/step.md`` beside this file. In each round every peer has its turn; ratios are medians over paired rounds.
Needs ``pip install -e ".[train,bench]"``.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
OURS = ("`net.loss`, autograd", "`net.loss`, manual", "`loss_and_grads`")

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
        for backward in ("autograd", "manual")
    }
    nets["manual"].load_state_dict(nets["autograd"].state_dict())
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

    def without_graph() -> list[torch.Tensor]:
        J, grads = nets["manual"].loss_and_grads(X, Y)
        return [J, *grads.values()]

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
        OURS[0]: stepping(nets["autograd"].loss, list(nets["autograd"].parameters())),
        OURS[1]: stepping(nets["manual"].loss, list(nets["manual"].parameters())),
        OURS[2]: without_graph,
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


def rates() -> tuple[float, float]:
    """Floating point operations of a matrix product, and tanh in the cache, per second: the best of some rounds."""
    import torch

    A = torch.randn(2048, 2048)
    small = torch.randn(1 << 18)
    product = min(rounds_of({"": lambda: A @ A}, 15)[""])
    tanh = min(rounds_of({"": lambda: torch.tanh(small, out=small)}, 15)[""])
    return 2 * 2048**3 / product * 1000, small.numel() / tanh * 1000


def measure() -> dict[str, Any]:
    result = []
    for n_x, n_h, n_y, m, activation, rounds in SHAPES:
        taken = rounds_of(peers(n_x, n_h, n_y, m, activation), rounds)
        flops, tanhs = rates()
        floor = m * (4 * n_x * n_h + 6 * n_h * n_y) / flops + (m * n_h / tanhs if activation == "tanh" else 0)
        result.append({"taken": taken, "floor": 1000 * floor})
    from machine import machine

    return {"shapes": result, "machine": machine()}


def table(measured: dict[str, Any]) -> str:
    names = list(measured["shapes"][0]["taken"])
    header = ["n_x, n_h, n_y, m", *names, "floor", "`loss_and_grads`: best peer ÷ it", "eager ÷ it", "it ÷ floor"]
    lines = [" | ".join(header), " | ".join(["---"] + ["---:"] * (len(header) - 1))]
    for (n_x, n_h, n_y, m, activation, _), row in zip(SHAPES, measured["shapes"], strict=True):
        taken, floor = row["taken"], row["floor"]
        median = {name: statistics.median(times) for name, times in taken.items()}
        best = min((name for name in names if name not in OURS), key=median.__getitem__)
        ours = taken[OURS[2]]
        against = {
            name: statistics.median(a / b for a, b in zip(taken[name], ours, strict=True)) for name in (best, "eager")
        }
        cells = [
            f"{n_x}, {n_h}, {n_y}, {m:,}, {activation}",
            *(f"{median[name]:.3g}" for name in names),
            f"{floor:.3g}",
        ]
        cells += [f"{against[best]:.2f} ({best})", f"{against['eager']:.2f}", f"{median[OURS[2]] / floor:.1f}"]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


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
    page = f"""# Cost and all gradients, one step

<!-- Written by `python benchmarks/step.py`. Do not edit. -->

Milliseconds, medians over rounds in which every peer has its turn; ratios are medians over paired rounds, larger than 1
where `loss_and_grads` is quicker. The floor is the arithmetic alone: `m (4 n_x n_h + 6 n_h n_y)` operations at the
rate of a 2048 × 2048 matrix product and, for tanh, `m n_h` of them at their rate in the cache, both measured beside.

{tables}

{found["default malloc"]["machine"]}
"""
    print(page)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
