"""An ensemble at once against its networks one after the other: the gradients of all costs on one batch.

``python benchmarks/ensemble.py`` prints the table and writes it to ``results/ensemble.md`` beside this file.
"""

import statistics

import torch
from measuring import interleaved, options, publish, quicker, table, timed
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from twolayer import TwoLayerNet
from twolayer.functional import BACKWARDS

SHAPES = [(32, 8, 16), (200, 28, 100)]  # examples, features, hidden units
SIZES = [1, 100]
ROUNDS = 15


def measured(m: int, n_x: int, n_h: int, size: int, backward: str, rounds: int) -> list[str]:
    """Milliseconds one after the other, and at once, and how many times quicker that is."""
    generator = torch.Generator().manual_seed(0)
    nets = [TwoLayerNet(n_x, n_h, 1, backward=backward, generator=generator) for _ in range(size)]
    X = torch.randn(m, n_x, generator=generator)
    Y = (X[:, 0] > 0).float()

    def one_after_the_other() -> list[tuple[Tensor, ...]]:
        return [torch.autograd.grad(net.loss(X, Y), list(net.parameters())) for net in nets]

    parameters, _ = stack_module_state(nets)

    def cost(parameters: dict[str, Tensor]) -> Tensor:
        return nets[0].cost(functional_call(nets[0], parameters, (X,)), Y)

    at_once = vmap(grad(cost))
    for i, alone in enumerate(one_after_the_other()):
        for dV, together in zip(alone, at_once(parameters).values(), strict=True):
            torch.testing.assert_close(together[i], dV)
    times = interleaved(timed({"loop": one_after_the_other, "at once": lambda: at_once(parameters)}), rounds, pause=0)
    milliseconds = [f"{1000 * statistics.median(seconds):.2f}" for seconds in times.values()]
    return [*milliseconds, f"{statistics.median(quicker(times, 'at once', 'loop')):.1f}"]


def main() -> None:
    chosen = options(__doc__).parse_args()
    rounds = chosen.rounds or ROUNDS
    torch.set_num_threads(1)  # two would wait for each other longer than these small networks take
    rows = [
        [f"{m} × {n_x}, {n_h} hidden", f"`{backward}`", str(size), *measured(m, n_x, n_h, size, backward, rounds)]
        for m, n_x, n_h in SHAPES
        for backward in BACKWARDS
        for size in SIZES
    ]
    body = f"""\
Milliseconds for the gradients of the costs of several networks on one batch: in a Python loop, and at once, by
`stack_module_state` and `vmap(grad(…))`. Medians of {rounds} rounds, in which the two take turns.

{table(["batch and network", "`backward`", "networks", "loop", "at once", "times quicker"], rows, 2)}"""
    publish(__file__, "An ensemble at once", body, dry_run=chosen.dry_run)


if __name__ == "__main__":
    main()
