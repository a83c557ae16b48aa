"""What a PyTorch project calls, at the package's defaults, beside the same on ``nn.Sequential``.

``python benchmarks/paths.py`` measures twice, with the default malloc and with one that keeps its memory, and writes
``results/paths.md`` beside this file. Ratios are medians over rounds in which all take turns: above 1, ours is quicker.
Needs ``pip install -e ".[train,bench]"``.
"""

import statistics
from functools import partial
from typing import Any

import torch
from measuring import (
    MALLOCS,
    Step,
    Times,
    alone,
    best,
    interleaved,
    options,
    publish,
    quicker,
    spread,
    table,
    timed,
    verdict,
)
from memory import LOSS as MEMORY_OF_LOSS
from memory import grown
from peers import PASS, PROBLEMS, Problem, check, criterion, data, in_torch, network, peers, stepping, without_graph
from torch import Tensor, nn

from twolayer import functional, shortcut
from twolayer.backward.gradients import Loss
from twolayer.backward.kept import How, Logits
from twolayer.equations import Parameters
from twolayer.functional import cpu_level
from twolayer.kernels import cpu
from twolayer.kernels.chunked import default_chunk_size
from twolayer.tasks import Examples, Objective, Plan

SMALL = ["flower", "minibatch"]
SHAPES = [*SMALL, "images", "higgs", "mnist"]
EAGER, LOSS, OWN, NO_GRAD = "`nn.Sequential`", "`net.loss` + `backward`", "`net(X)`, own loss", "`net(X)`, `no_grad`"
STREAMED = ", streamed"
HVP, NORMS, BY_OPERATORS, BY_FUNC = "`hvp`", "`per_sample_grad_norms`", ", in operators", ", `torch.func`"
ROWS_OF_NORMS = 2_000
"""Of ``vmap(grad)``, which has a gradient of each in memory."""
AT_MOST_MB = 2

# What is called, against what, and the least ratio for each shape, with the default malloc and the other.
TARGETS = {
    (LOSS, EAGER): {
        "flower": (1.6, 1.6),
        "minibatch": (1.5, 1.5),
        "images": (1.1, 1.1),
        "higgs": (8, 4),
        "mnist": (1.25, 1.25),
    },
    (OWN, EAGER): {"flower": (1, 1), "minibatch": (1, 1), "images": (1, 1), "higgs": (1.5, 1.2), "mnist": (1.05, 1.05)},
    (NO_GRAD, EAGER + ", `no_grad`"): {
        "flower": (1, 1),
        "minibatch": (1.1, 1.1),
        "images": (1, 1),
        "higgs": (6, 6),
        "mnist": (1, 1),
    },
    (PASS, "best peer"): {
        "flower": (1.7, 1.7),
        "minibatch": (1.7, 1.7),
        "images": (1.1, 1.1),
        "higgs": (3.3, 3.3),
        "mnist": (1.1, 1.1),
    },
    (HVP, HVP + BY_OPERATORS): {"higgs": (3, 3)},
    (NORMS, NORMS + BY_OPERATORS): {"higgs": (3, 3)},
}


def calls(problem: Problem) -> dict[str, Step]:
    X, Y = data(problem)
    net, streamed = network(problem), network(problem, backward="streamed")
    sequential = net.to_sequential()

    def own(module: nn.Module) -> Step:
        return stepping(lambda X, Y: criterion(module(X), Y), module, X, Y)

    def without_grad(module: nn.Module) -> Step:
        def step() -> Tensor:
            with torch.no_grad():
                return module(X)

        return step

    steps = {
        LOSS: stepping(net.loss, net, X, Y),
        LOSS + STREAMED: stepping(streamed.loss, streamed, X, Y),
        OWN: own(net),
        OWN + STREAMED: own(streamed),
        PASS: without_graph(problem),
    }
    check(steps, in_torch(problem)())
    return {**steps, NO_GRAD: without_grad(net), EAGER + ", `no_grad`": without_grad(sequential), **second(problem)}


def second(problem: Problem) -> dict[str, Step]:
    """Hessian products and norms: ours, ours in PyTorch's operators, and by ``torch.func``."""
    X, Y = data(problem)
    few = slice(min(len(X), ROWS_OF_NORMS))
    net = network(problem)
    sequential = net.to_sequential()
    own = {name: V.detach() for name, V in sequential.named_parameters()}
    v = {name: torch.ones_like(V) for name, V in net.named_parameters()}
    v_of_own = {name: torch.ones_like(V) for name, V in own.items()}
    size = default_chunk_size(*problem[:3])

    def cost(parameters: dict[str, Tensor], X: Tensor, Y: Tensor) -> Tensor:
        return criterion(torch.func.functional_call(sequential, parameters, X), Y)

    def of_one(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cost(parameters, x.unsqueeze(0), y.unsqueeze(0))

    def norms() -> Tensor:
        grads = torch.func.vmap(torch.func.grad(of_one), (None, 0, 0))(own, X[few], Y[few])
        return torch.stack([dV.flatten(1).square().sum(1) for dV in grads.values()]).sum(0).sqrt()

    few_norms = f"{NORMS} of {len(X[few]):,}"
    return {
        HVP: lambda: net.hvp(X, Y, v),
        HVP + BY_OPERATORS: lambda: net.hvp(X, Y, v, chunk_size=max(1, size // 4)),
        HVP + BY_FUNC: lambda: torch.func.jvp(torch.func.grad(lambda P: cost(P, X, Y)), (own,), (v_of_own,)),
        NORMS: lambda: net.per_sample_grad_norms(X, Y),
        NORMS + BY_OPERATORS: lambda: net.per_sample_grad_norms(X, Y, chunk_size=size),
        few_norms: lambda: net.per_sample_grad_norms(X[few], Y[few]),
        few_norms + BY_FUNC: norms,
    }


def measure(names: list[str], rounds: int | None) -> dict[str, Times]:
    found = {}
    for name in names:
        problem = PROBLEMS[name]
        steps = {f"peer: {peer}": step for peer, step in peers(problem).items()}
        steps = {EAGER: steps.pop("peer: eager"), **steps, **calls(problem)}
        found[name] = interleaved(timed(steps), **problem.pacing(rounds))
    return found


def layers(problem: Problem) -> dict[str, Step]:
    """A step of ``net.loss`` from the inside out: each holds the one before."""
    X, Y = data(problem)
    net = network(problem)
    parameters, examples = Parameters(*net.parameters()), Examples(X, Y)
    objective, plan = Objective(problem.activation, problem.task), Plan()
    detached = Parameters(*(V.detach() for V in parameters))
    J, _, grads = cpu.run_loss_and_grads(examples, detached, objective, plan)

    def copied(*_: Any) -> tuple[Tensor, None, Parameters]:
        return J.clone(), None, Parameters(*(V.clone() for V in grads))

    def applied(run: Any) -> Tensor:
        return Loss.apply_at_rest(run, objective, plan, *examples[:2], *parameters, None, None)

    costs = {
        "PyTorch: the call of a Function, `backward`": lambda X, Y: applied(copied),
        "the kernel": lambda X, Y: applied(cpu.run_loss_and_grads),
        "whether the call is an ordinary one": lambda X, Y: shortcut.loss(examples, parameters, objective),
        "`functional.loss`": lambda X, Y: functional.loss(X, Y, *parameters, activation=problem.activation),
        "`net.loss`": net.loss,
    }
    return {EAGER: in_torch(problem), **{name: stepping(cost, net, X, Y) for name, cost in costs.items()}}


def layers_of_own(problem: Problem) -> dict[str, Step]:
    """The same of ``net(X)`` and a loss of one's own."""
    X, Y = data(problem)
    net = network(problem)
    parameters, activation, plan = Parameters(*net.parameters()), problem.activation, Plan()
    Z2, A1 = cpu.forward_and_kept(X, Parameters(*(V.detach() for V in parameters)), activation, plan)
    leaf = Z2.clone().requires_grad_()

    def copied(*_: Any) -> tuple[Tensor, ...]:
        return None, *(V.detach().clone() for V in parameters)

    def applied(forward: Any, backward: Any) -> Tensor:
        return Logits.apply_at_rest(How(forward, backward, activation, plan), X, *parameters)

    logits = {
        "PyTorch: the loss, `backward` to the logits": lambda X: leaf,
        "PyTorch: the call of a Function": lambda X: applied(lambda *_: (Z2.clone(), A1), copied),
        "the kernel, twice": lambda X: applied(cpu.forward_and_kept, cpu.backward_from_kept),
        "whether the call is an ordinary one": lambda X: shortcut.logits(X, parameters, activation),
        "`functional.logits`": lambda X: functional.logits(X, *parameters, activation=activation),
        "`net(X)`": net,
    }
    costs = {name: partial(lambda of, X, Y: criterion(of(X), Y), of) for name, of in logits.items()}
    return {EAGER: in_torch(problem), **{name: stepping(cost, net, X, Y) for name, cost in costs.items()}}


def measure_layers(names: list[str], rounds: int | None) -> list[dict[str, Times]]:
    return [
        {name: interleaved(timed(of(PROBLEMS[name])), **PROBLEMS[name].pacing(rounds)) for name in names}
        for of in (layers, layers_of_own)
    ]


def layers_table(measured: dict[str, Times]) -> str:
    rows: dict[str, list[str]] = {}
    for times in measured.values():
        before = 0.0
        for name, seconds in times.items():
            median = 1e6 * statistics.median(seconds)
            cells = rows.setdefault(name, [name])
            cells.extend([f"{median:.0f}", "" if name == EAGER else f"{median - before:+.0f}"])
            before = 0.0 if name == EAGER else median
    heads = [head for shape in measured for head in (str(PROBLEMS[shape]), "more")]
    return table(["microseconds", *heads], list(rows.values()))


def against(times: Times, other: str) -> str:
    return best(times, [EAGER, *(name for name in times if name.startswith("peer"))]) if other == "best peer" else other


def target_table(found: dict[str, dict[str, Times]]) -> str:
    rows = []
    for (what, other), by_shape in TARGETS.items():
        for shape, least in by_shape.items():
            row = [what, str(PROBLEMS[shape]), other]
            for measured, target in zip(found.values(), least, strict=True):
                if shape in measured:
                    times = measured[shape]
                    ratios = quicker(times, what, against(times, other))
                    row.append(f"{spread(ratios)}; {verdict(statistics.median(ratios) >= target, f'{target}')}")
            rows.append(row)
    header = ["what", "n_x, n_h, n_y, m", "against", *(f"with the {malloc}" for malloc in found)]
    return table(header, [row for row in rows if len(row) == len(header)], text=len(header))


def times_table(measured: dict[str, Times]) -> str:
    names = list(dict.fromkeys(name for times in measured.values() for name in times))
    rows = [
        [
            name,
            *(f"{1000 * statistics.median(times[name]):.3g}" if name in times else "" for times in measured.values()),
        ]
        for name in names
    ]
    return table(["milliseconds", *(str(PROBLEMS[shape]) for shape in measured)], rows)


def memory_table() -> str:
    few, many = (alone(grown, MEMORY_OF_LOSS, m) for m in (10**5, 10**7))
    row = [f"{few:.1f} MB", f"{many:.1f} MB", verdict(max(few, many) <= AT_MOST_MB, f"at most {AT_MOST_MB} MB")]
    return table(["m = 10⁵", "m = 10⁷", ""], [row], text=0)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=SHAPES, metavar="SHAPE")
    chosen = parser.parse_args()
    found: dict[str, Any] = {
        name: alone(measure, chosen.only, chosen.rounds, environment=environment)
        for name, environment in MALLOCS.items()
    }
    small = [name for name in SMALL if name in chosen.only]
    of_loss, of_own = alone(measure_layers, small, chosen.rounds, environment=MALLOCS["default malloc"])
    body = "\n\n".join(
        [
            f"""How many times quicker than the other, the median over paired rounds and their range. The kernel is that
for `{cpu_level()}`. "In operators" is what runs where there is none.

{target_table(found)}""",
            f"## Memory of `net.loss` and `backward` beyond inputs and parameters\n\n{memory_table()}",
            f"""## Where a small step goes

A step of `net.loss` and `backward` from the inside out: each line holds the one before, and "more" is what it adds. The
first gives copies of gradients that are there. Medians with the default malloc.

{layers_table(of_loss)}

The same of a step of `net(X)`, a loss of one's own and `backward`:

{layers_table(of_own)}""",
            *(f"## With the {malloc}\n\n{times_table(measured)}" for malloc, measured in found.items()),
        ]
    )
    publish(__file__, "What people call, at the defaults", body, dry_run=chosen.dry_run)


if __name__ == "__main__":
    main()
