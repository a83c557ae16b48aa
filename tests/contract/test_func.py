"""``torch.func``: the network and its cost as functions, transformed and nested at will."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import assert_equal, problem
from torch import Tensor, func
from torch.utils._python_dispatch import TorchDispatchMode

from .models import Ours, Theirs

contract = pytest.mark.contract
Parameters = dict[str, Tensor]


def functional(model: torch.nn.Module) -> tuple[Callable[..., Tensor], Parameters]:
    """The cost as a function ``(parameters, X, Y)``, and the parameters."""

    def cost(parameters, X, Y):
        return func.functional_call(model, parameters, (X, Y))

    return cost, {name: p.detach() for name, p in model.named_parameters()}


def direction(parameters: Parameters) -> Parameters:
    return {name: torch.linspace(-1, 2, p.numel()).reshape(p.shape).to(p) for name, p in parameters.items()}


def spelled(transforms: tuple[Callable[..., Any], ...]) -> str:
    return "-".join(transform.__name__ for transform in transforms)


@contract("torch.func", "`functional_call`")
def test_functional_call(same):
    def with_other_parameters(model, X, Y):
        cost, P = functional(model)
        return cost(direction(P), X, Y)

    same(with_other_parameters)


@contract("torch.func", "`grad`, `grad_and_value`")
def test_grad(same):
    def gradients(model, X, Y):
        cost, P = functional(model)
        everything = (0, 1, 2)
        return func.grad(cost, everything)(P, X, Y), func.grad_and_value(cost, everything)(P, X, Y)

    same(gradients)


@contract("torch.func", "`grad` of `grad`")
def test_grad_of_grad(same):
    def penalty(model, X, Y):
        cost, P = functional(model)

        def squared_gradient(P, X):
            return sum(dV.square().sum() for dV in func.grad(cost)(P, X, Y).values())

        return func.grad(squared_gradient, (0, 1))(P, X)

    same(penalty)


@contract("torch.func", "`vjp`")
def test_vjp(same):
    def pulled_back(model, X, Y):
        _, P = functional(model.net)
        Z2, pull = func.vjp(lambda P, X: func.functional_call(model.net, P, (X,)), P, X)
        return Z2, pull(Z2 + 1)

    same(pulled_back)


@contract("torch.func", "`jvp`")
def test_jvp(same):
    def pushed_forward(model, X, Y):
        cost, P = functional(model)
        return func.jvp(cost, (P, X, Y), (direction(P), X + 1, Y - 1))

    same(pushed_forward)


@contract("torch.func", "`linearize`")
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
def test_linearize(same):
    def linearized(model, X, Y):
        cost, P = functional(model)
        value, linear = func.linearize(lambda P: cost(P, X, Y), P)
        return value, linear(direction(P))

    same(linearized)


@contract("torch.func", "`jacrev`, `jacfwd`")
def test_jacobians(same):
    def jacobians(model, X, Y):
        _, P = functional(model.net)

        def logits(P, X):
            return func.functional_call(model.net, P, (X,))

        return func.jacrev(logits, (0, 1))(P, X), func.jacfwd(logits, (0, 1))(P, X)

    same(jacobians)


@contract("torch.func", "`hessian`")
def test_hessian(same):
    def hessian(model, X, Y):
        cost, P = functional(model)
        return func.hessian(cost)(P, X, Y)

    same(hessian)


@contract("torch.func", "`jacfwd` and `jacrev` of each other, three deep")
@pytest.mark.parametrize("transforms", [*itertools.product([func.jacfwd, func.jacrev], repeat=3)], ids=spelled)
def test_nested(backward, device, transforms):
    example = problem("tanh", "multiclass", m=2, n_x=2, n_h=2, soft=True, device=device)

    def third_derivative(model):
        derivative = functools.reduce(lambda f, transform: transform(f), transforms, lambda X: model(X, example.Y))
        return derivative(example.X)

    assert_equal([third_derivative(Ours(example, backward))], [third_derivative(Theirs(example))])


@contract("torch.func", "Hessian-vector products: forward over reverse, reverse over forward")
def test_hessian_vector_product(same):
    def products(model, X, Y):
        cost, P = functional(model)
        V = direction(P)
        forward_over_reverse = func.jvp(lambda P: func.grad(cost)(P, X, Y), (P,), (V,))[1]
        reverse_over_forward = func.grad(lambda P: func.jvp(lambda P: cost(P, X, Y), (P,), (V,))[1])(P)
        return forward_over_reverse, reverse_over_forward

    same(products)


@contract("torch.func", "`vmap(grad)`: the gradient of every example")
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_per_sample_gradients(same, chunk_size):
    def each_its_own(model, X, Y):
        cost, P = functional(model)

        def cost_of_one(P, x, y):
            return cost(P, x.unsqueeze(0), y.unsqueeze(0))

        per_sample = func.vmap(func.grad(cost_of_one), (None, 0, 0), chunk_size=chunk_size)(P, X, Y)
        mean = func.grad(cost)(P, X, Y)
        assert all(torch.allclose(per_sample[n].mean(0), mean[n], atol=20 * torch.finfo(X.dtype).eps) for n in P)
        return per_sample

    same(each_its_own)


@contract("torch.func", "`vmap` over any dimension, nested")
def test_vmap(same):
    def mapped(model, X, Y):
        cost, P = functional(model)
        many = torch.stack([X, 2 * X, X - 1], 1)
        over_inputs = func.vmap(model.net, 1, 2)(many)
        over_both = func.vmap(func.vmap(cost, (None, 0, 0)), (None, 1, None))(
            P, many.transpose(0, 1).unsqueeze(2).transpose(0, 1), Y.unsqueeze(1)
        )
        over_tangents = func.vmap(lambda t: func.jvp(model.net, (X,), (t,))[1])(many.transpose(0, 1))
        return over_inputs, over_both, over_tangents

    same(mapped)


class CountOperators(TorchDispatchMode):
    """Counts what PyTorch is asked to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators[str(operator)] += 1
        return operator(*args, **kwargs or {})


def ensemble(size: int, backward: str, device: str) -> tuple[list[Ours], Callable[..., Any], tuple[Any, ...]]:
    """Networks of their own, and the gradient of all their costs at once with its arguments."""
    examples = [problem("tanh", "multiclass", soft=True, device=device, seed=seed) for seed in range(size)]
    models = [Ours(example, backward) for example in examples]
    P, _ = func.stack_module_state(models)
    cost, _ = functional(models[0])
    gradients = func.vmap(func.grad_and_value(cost), (0, None, None))
    return models, gradients, ({n: p.detach() for n, p in P.items()}, examples[0].X, examples[0].Y)


@contract("torch.func", "`stack_module_state` and `vmap`: a hundred networks at once")
def test_ensemble(backward, device):
    models, gradients, (P, X, Y) = ensemble(100, backward, device)
    dP, J = gradients(P, X, Y)
    for i, model in enumerate(models):
        J_i = model(X, Y)
        J_i.backward()
        assert torch.allclose(J[i], J_i, rtol=1e-12)
        for name, p in model.named_parameters():
            assert torch.allclose(dP[name][i], p.grad, rtol=1e-10, atol=1e-14)


@contract("torch.func", "an ensemble of a hundred runs as many operators as one of two")
def test_ensemble_batches(backward, device):
    counts = []
    for size in (2, 100):
        _, gradients, arguments = ensemble(size, backward, device)
        with CountOperators() as counter:
            gradients(*arguments)
        counts.append(counter.operators)
    assert counts[0] == counts[1]
    assert counts[0].total() > 10
