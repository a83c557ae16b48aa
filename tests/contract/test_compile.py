"""``torch.compile``: one graph, without a break, whose backward pass is still ours."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from problems import Problem, assert_equal, problem
from torch import Tensor, func
from torch.autograd import grad

from twolayer import activations

from .models import Ours
from .test_func import functional

contract = pytest.mark.contract
pytestmark = [
    pytest.mark.usefixtures("fresh_dynamo"),
    # PyTorch's own, from inside the compiler.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


newer = pytest.mark.skipif(
    torch.__version__ < "2.13", reason="older PyTorch cannot compile `jacrev` of several tensors, whatever the network"
)


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """In one graph, or an error. The backend traces as Inductor does, but writes no code: quicker to run once."""
    return torch.compile(function, **{"fullgraph": True, "backend": "aot_eager", **options})


def as_it_is(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return function


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """Nothing compiled before or after."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def same_compiled(same_on_one: Callable[..., None]) -> Callable[..., None]:
    """Asserts that ``(model, X, Y, compiled) → tensors`` gives what ``nn.Sequential`` gives uncompiled."""

    def compare(compute: Callable[..., Any]) -> None:
        same_on_one(partial(compute, compiled=compiled), partial(compute, compiled=as_it_is))

    return compare


def cost_and_gradients(cost: Callable[..., Tensor], model: torch.nn.Module, X: Tensor, Y: Tensor) -> list[Tensor]:
    X = X.clone().requires_grad_()
    J = cost(X, Y)
    return [J, *grad(J, [X, *model.parameters()])]


@contract("torch.compile", "forward, `fullgraph=True`")
def test_forward(same):
    def through_forward(model, X, Y, compiled=as_it_is):
        X.requires_grad_()
        Z2 = compiled(model.net)(X)
        return Z2, grad(Z2.square().sum(), [X, *model.parameters()])

    same(partial(through_forward, compiled=compiled), through_forward)


@contract("torch.compile", "cost, `fullgraph=True`")
def test_cost(same):
    def through_cost(model, X, Y, compiled=as_it_is):
        return cost_and_gradients(compiled(model), model, X, Y)

    same(partial(through_cost, compiled=compiled), through_cost)


@contract("torch.compile", "cost, with Inductor")
@pytest.mark.slow
def test_inductor(same_compiled):
    def through_cost(model, X, Y, compiled):
        return cost_and_gradients(compiled(model, backend="inductor"), model, X, Y)

    same_compiled(through_cost)


@contract("torch.compile", "a training step in one graph, by `torch.func`")
def test_functional_training_step(same_compiled):
    def trained(model, X, Y, compiled):
        cost, P = functional(model)

        @compiled
        def step(P, X, Y):
            dP, J = func.grad_and_value(cost)(P, X, Y)
            return {name: p - 0.1 * dP[name] for name, p in P.items()}, J

        costs = []
        for _ in range(3):
            P, J = step(P, X, Y)
            costs.append(J)
        return costs, P

    same_compiled(trained)


@contract("torch.compile", "a training step in one graph, by `autograd.grad`")
@pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="this PyTorch cannot trace `autograd.grad`"
)
def test_training_step(same_compiled):
    def trained(model, X, Y, compiled):
        parameters = list(model.parameters())

        @compiled
        def step(X, Y):
            J = model(X, Y)
            gradients = grad(J, parameters)
            with torch.no_grad():
                for p, dp in zip(parameters, gradients, strict=True):
                    p.sub_(dp, alpha=0.1)
            return J.detach()

        return [step(X, Y) for _ in range(3)], parameters

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        same_compiled(trained)


@contract("torch.compile", "`torch.optim` steps compiled beside it")
def test_training_loop(same_compiled):
    def trained(model, X, Y, compiled):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        cost, update = compiled(model), compiled(optimizer.step, fullgraph=False)
        for _ in range(3):
            optimizer.zero_grad()
            cost(X, Y).backward()
            update()
        return list(model.parameters())

    same_compiled(trained)


@contract("torch.compile", "any batch size without compiling anew")
def test_dynamic_batch(backward, device):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = Ours(problem("tanh", "multiclass", device=device), backward)
    cost = compiled(model, backend=count, dynamic=None)
    for m in (7, 5, 12, 3, 64):
        example = problem("tanh", "multiclass", m=m, device=device)
        # Not at the first size, but at the second, Dynamo learns that the size varies.
        assert_equal(
            cost_and_gradients(cost, model, example.X, example.Y),
            cost_and_gradients(model, model, example.X, example.Y),
        )
    assert len(graphs) == 2

    torch.compiler.reset()
    graphs.clear()
    cost = compiled(model, backend=count, dynamic=True)
    for m in (7, 5, 12):
        example = problem("tanh", "multiclass", m=m, device=device)
        cost(example.X, example.Y)
    assert len(graphs) == 1


@contract("torch.compile", "`net.compile()` in place keeps the keys of `state_dict`")
def test_compiled_in_place(same_on_one):
    def in_place(model, X, Y):
        keys = list(model.state_dict())
        model.net.compile(fullgraph=True, backend="aot_eager")
        assert list(model.state_dict()) == keys
        return cost_and_gradients(model, model, X, Y)

    same_on_one(in_place, lambda model, X, Y: cost_and_gradients(model, model, X, Y))


@contract("torch.compile", "`grad`, `vmap(grad)`, `jvp`, `hessian` inside, `fullgraph=True`")
@pytest.mark.parametrize(
    "transform",
    ["grad", "per sample", "jvp", *(pytest.param(name, marks=newer) for name in ("hessian", "reverse over reverse"))],
)
def test_transforms_inside(same_compiled, transform):
    def transformed(model, X, Y, compiled):
        cost, P = functional(model)
        transforms = {
            "grad": func.grad(cost),
            "per sample": func.vmap(func.grad(lambda P, x, y: cost(P, x[None], y[None])), (None, 0, 0)),
            "jvp": lambda P, X, Y: func.jvp(lambda P: cost(P, X, Y), (P,), (P,)),
            "hessian": func.hessian(cost),
            "reverse over reverse": func.jacrev(func.grad(cost)),
        }
        return compiled(transforms[transform])(P, X, Y)

    same_compiled(transformed)


@contract("torch.compile", "the same tensor as two arguments")
def test_same_tensor_twice(one_example, backward, device):
    example = problem("tanh", "regression", n_x=5, n_h=5, n_y=5, device=device)
    model = Ours(example, backward)
    model.net.W2, model.net.b2 = model.net.W1, model.net.b1
    assert_equal(
        cost_and_gradients(compiled(model), model, example.X, example.Y),
        cost_and_gradients(model, model, example.X, example.Y),
    )


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Plants, when called, a wrong derivative of tanh."""

    def plant() -> None:
        tanh = activations.ACTIVATIONS["tanh"]
        wrong = tanh._replace(prime=lambda A: 3 * tanh.prime(A), pull_back=None)
        monkeypatch.setitem(activations.ACTIVATIONS, "tanh", wrong)

    return plant


@contract("torch.compile", "the compiled backward pass is the mode's own: it shows a wrong derivative planted in it")
@pytest.mark.parametrize("transformed", [False, True], ids=["autograd", "torch.func"])
def test_backward_is_ours(one_example: Problem, backward, planted, transformed):
    def gradient_of_b1(model):
        if transformed:
            cost, P = functional(model)
            return compiled(func.grad(cost))(P, one_example.X, one_example.Y)["net.b1"]
        return cost_and_gradients(compiled(model), model, one_example.X, one_example.Y)[3]

    model = Ours(one_example, backward)
    right = gradient_of_b1(model)
    torch.compiler.reset()
    planted()
    assert_equal([gradient_of_b1(model)], [right if backward == "autograd" else 3 * right])


@contract("torch.compile", "double backward through what was compiled")
@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="AOTAutograd raises, pytorch/pytorch#91469")
def test_double_backward(same_compiled):
    def penalised(model, X, Y, compiled):
        X.requires_grad_()
        (dX,) = grad(compiled(model)(X, Y), X, create_graph=True)
        return grad(dX.square().sum(), list(model.parameters()))

    same_compiled(penalised)


@contract("torch.compile", "`torch.func` around what was compiled")
@pytest.mark.xfail(strict=True, raises=torch._dynamo.exc.Unsupported, reason="Dynamo raises, pytorch/pytorch#128711")
def test_transforms_outside(same_compiled):
    def transformed(model, X, Y, compiled):
        return func.grad(compiled(model))(X, Y)

    same_compiled(transformed)
