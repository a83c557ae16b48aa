"""What the compiled kernel does beside cost and gradients: logits, their way back, the Hessian's product, norms."""

import pytest
import torch
from problems import problem, relative_error
from torch.func import functional_call, grad, jvp, vmap

from twolayer import functional
from twolayer.activations import ACTIVATIONS
from twolayer.backward import manual
from twolayer.kernels import choice, library, plain
from twolayer.tasks import TASKS

KERNEL = library.load()
pytestmark = pytest.mark.skipif(isinstance(KERNEL, str), reason=f"needs the CPU kernel: {KERNEL}")

# Roundings of float32: of the inputs and of some hundred products and sums, of which most cancel.
ALLOWED = 100 * torch.finfo(torch.float32).eps


@pytest.fixture
def by_kernel(monkeypatch):
    """Fails if PyTorch's operators run a pass."""
    for module, names in ((plain, ("forward", "backward")), (choice, ("_torch",))):
        for name in names:
            monkeypatch.setattr(module, name, lambda *a, name=name, **k: pytest.fail(f"PyTorch's operators ran {name}"))


def in_both(activation, task, n_h=37):
    """The problem's network and data in float32, and the same numbers in float64."""
    p = problem(activation, task, dtype=torch.float32, m=77, n_x=6, n_h=n_h)
    net = p.net()
    exact = p.net().double()
    Y = p.Y.double() if p.Y.is_floating_point() else p.Y
    return net, p.X, p.Y, exact, p.X.double(), Y


def worst(found, truth):
    scale = max(V.abs().max() for V in truth)
    return max((a.double() - b).abs().max().item() for a, b in zip(found, truth, strict=True)) / scale.item()


@pytest.mark.parametrize("n_h", [37, 32, 3])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_and_their_way_back(activation, task, n_h, threads, by_kernel):
    net, X, _, exact, X64, _ = in_both(activation, task, n_h)
    X, X64 = X.requires_grad_(), X64.requires_grad_()
    Z2, truth = net(X), exact.to_sequential()(X64)
    assert relative_error(Z2, truth) < ALLOWED
    assert relative_error(net(X.detach()), truth) < ALLOWED
    with torch.no_grad():
        assert torch.equal(net(X), Z2)
    dZ2 = torch.randn_like(truth)
    found = torch.autograd.grad(Z2, [X, *net.parameters()], dZ2.float())
    expected = torch.autograd.grad(truth, [X64, *exact.parameters()], dZ2)
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < ALLOWED


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hessian_products(activation, task, weighted, threads, by_kernel):
    net, X, Y, exact, X64, Y64 = in_both(activation, task)
    w = torch.linspace(0.1, 2, len(X)) if weighted else None
    v = {name: torch.randn_like(V) for name, V in exact.named_parameters()}
    found = net.hvp(X, Y, {name: V.float() for name, V in v.items()}, sample_weight=w)

    def gradients(*parameters):
        def cost(parameters):
            Z2 = functional_call(exact.to_sequential(), parameters, X64)
            return functional.cost(
                Z2, Y64, task=task, sample_weight=None if w is None else w.double(), backward="autograd"
            )

        names = dict(zip(["0.weight", "0.bias", "2.weight", "2.bias"], parameters, strict=True))
        return tuple(grad(cost)(names).values())

    _, truth = jvp(gradients, tuple(exact.parameters()), tuple(v.values()))
    assert worst(found.values(), truth) < ALLOWED


@pytest.mark.parametrize("n_h", [37, 3])  # of few units, those of several rows share a register
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_norms(activation, task, n_h, threads, by_kernel):
    net, X, Y, exact, X64, Y64 = in_both(activation, task, n_h)
    sequential = exact.to_sequential()

    def norm(x, y):
        def cost(parameters):
            Z2 = functional_call(sequential, parameters, x.unsqueeze(0))
            return functional.cost(Z2, y.unsqueeze(0), task=task, backward="autograd")

        grads = grad(cost)(dict(sequential.named_parameters()))
        return torch.sqrt(sum(dV.square().sum() for dV in grads.values()))

    assert relative_error(net.per_sample_grad_norms(X, Y), vmap(norm)(X64, Y64)) < ALLOWED


@pytest.mark.parametrize("kernel", ["torch", None])
def test_a_second_derivative_of_the_logits_runs_once_more(kernel):
    net, X, _, exact, X64, _ = in_both("tanh", "multiclass")
    net.kernel = kernel
    products = []
    for model, rows in ((net, X), (exact.to_sequential(), X64)):
        P = list(model.parameters())
        first = torch.autograd.grad(model(rows).square().sum(), P, create_graph=True)
        products.append(torch.autograd.grad(sum(dV.square().sum() for dV in first), P))
    assert worst(*products) < ALLOWED


def test_what_is_kept_is_given_away_only_by_the_last_backward_pass():
    net, X, Y, *_ = in_both("tanh", "binary")
    J = net.loss(X, Y)
    J.backward(retain_graph=True)
    once = [V.grad.clone() for V in net.parameters()]
    for V in net.parameters():
        V.grad.zero_()  # in place: it must not be what the graph holds
    J.backward(retain_graph=True)
    J.backward()
    for V, dV in zip(net.parameters(), once, strict=True):
        assert torch.equal(V.grad, 2 * dV)
    with pytest.raises(RuntimeError, match="second time"):
        J.backward()


def test_a_parameter_changed_before_a_second_derivative_is_noticed():
    net, X, Y, *_ = in_both("tanh", "binary")
    J = net.loss(X, Y)
    with torch.no_grad():
        net.W2.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        J.backward()


def test_who_computes_the_logits():
    net, X, *_ = in_both("relu", "binary")
    assert choice._forward_by_kernel(X, manual.Parameters(*net.parameters()), "relu", functional.Plan())
    for other in (X.double(), X.T.contiguous().T):
        assert not choice._forward_by_kernel(other, manual.Parameters(*net.parameters()), "relu", functional.Plan())
    assert relative_error(net(X.T.contiguous().T), net(X)) < ALLOWED
