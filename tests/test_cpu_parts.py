"""What the compiled kernel does beside cost and gradients: logits, their way back, the Hessian's product, norms."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from problems import problem, relative_error
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

from twolayer import TwoLayerNet, functional
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


def incoming(truth):
    """The same each time: a sum of other numbers may cancel, and then has no digits that could be compared."""
    return torch.randn(truth.shape, dtype=truth.dtype, generator=torch.Generator().manual_seed(0))


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
    dZ2 = incoming(truth)
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


@pytest.mark.parametrize("n_y", [1, 3, 9])
@pytest.mark.parametrize("n_h", [1, 2, 4, 5, 15, 16, 17, 31, 33, 64, 100])
@pytest.mark.parametrize("m", [1, 2, 15, 16, 17, 113, 225])
def test_logits_and_their_way_back_of_every_size(m, n_h, n_y, threads, by_kernel):
    """Rows that end within a register and within a slab of units, at the end of a tile and of all."""
    task = {1: "binary", 3: "multilabel", 9: "multiclass"}[n_y]
    p = problem("tanh", task, dtype=torch.float32, m=m, n_x=3, n_h=n_h, n_y=n_y)
    net, exact = p.net(), p.net().double()
    Z2, truth = net(p.X), exact.to_sequential()(p.X.double())
    assert relative_error(Z2, truth) < ALLOWED
    dZ2 = incoming(truth)
    found = torch.autograd.grad(Z2, list(net.parameters()), dZ2.float())
    assert worst(found, torch.autograd.grad(truth, list(exact.parameters()), dZ2)) < ALLOWED


@pytest.mark.parametrize(("n_x", "n_h"), [(131, 259), (5, 1031), (67, 1031)])
@pytest.mark.parametrize("m", [29, 225])
def test_every_part_of_networks_for_which_rows_are_regrouped(m, n_x, n_h, threads, by_kernel):
    p = problem("tanh", "regression", dtype=torch.float32, m=m, n_x=n_x, n_h=n_h, n_y=2, margin=0.0)
    net = p.net()
    with torch.no_grad():
        net.W1 *= n_x**-0.5  # units that are not all saturated
        net.W2 *= n_h**-0.5
    exact = p.net().double()
    exact.load_state_dict(net.state_dict())
    X, Y = p.X.double(), p.Y.double()
    Z2, truth = net(p.X), exact.to_sequential()(X)
    assert relative_error(net(p.X.detach()), truth) < ALLOWED
    dZ2 = incoming(truth)
    back = torch.autograd.grad(Z2, list(net.parameters()), dZ2.float())
    assert worst(back, torch.autograd.grad(truth, list(exact.parameters()), dZ2)) < ALLOWED

    sequential = exact.to_sequential()
    parameters = dict(sequential.named_parameters())

    def cost(parameters, X, Y):
        return 0.5 * (functional_call(sequential, parameters, (X,)) - Y).square().sum(-1).mean()

    v = {name: incoming(V) for name, V in parameters.items()}
    along = jvp(lambda of: grad(cost)(of, X, Y), (parameters,), (v,))[1]
    names = [name for name, _ in net.named_parameters()]
    product = net.hvp(p.X, p.Y, {name: V.float() for name, V in zip(names, v.values(), strict=True)})
    assert worst([product[name] for name in names], list(along.values())) < ALLOWED
    each = vmap(grad(cost), (None, 0, 0))(parameters, X[:, None], Y[:, None])
    norms = sum(dV.flatten(1).square().sum(1) for dV in each.values()).sqrt()
    assert relative_error(net.per_sample_grad_norms(p.X, p.Y), norms) < ALLOWED


@pytest.mark.parametrize("n_h", [3, 17, 37])
def test_what_is_no_number_in_one_example_stays_there(n_h, by_kernel):
    p = problem("tanh", "regression", dtype=torch.float32, m=20, n_x=3, n_h=n_h, n_y=2)
    net = p.net()
    dZ2 = incoming(torch.empty(20, 2))
    rows = [r for r in range(20) if r != 7]

    def of_inputs(X):
        X = X.clone().requires_grad_()
        return torch.autograd.grad(net(X), [X, *net.parameters()], dZ2)[0][rows]  # the parameters' are asked for, too

    beside = p.X.clone()
    beside[7] = torch.nan
    assert torch.equal(of_inputs(beside), of_inputs(p.X))


def test_parameters_with_strides(by_kernel):
    net, X, Y, *_ = in_both("tanh", "regression")
    names = [name for name, _ in net.named_parameters()]
    direction = {name: torch.randn_like(V) for name, V in net.named_parameters()}
    wide = {name: torch.nn.Parameter(_with_strides(V.detach())) for name, V in net.named_parameters()}
    wide_direction = {name: _with_strides(V) for name, V in direction.items()}
    assert not any(V.is_contiguous() for V in (*wide.values(), *wide_direction.values()))
    dense = dict(net.named_parameters())
    dZ2 = torch.randn(len(X), net.out_features)

    def passes(parameters, along):
        Z2 = functional.logits(X, **parameters, activation="tanh")
        yield Z2.detach()
        yield from torch.autograd.grad(Z2, [parameters[name] for name in names], dZ2)
        options = {"activation": "tanh", "task": "regression"}
        J, grads = functional.loss_and_grads(X, Y, **parameters, **options)
        yield from (J, *(grads[name] for name in names))
        product = functional.hvp(X, Y, **parameters, v=along, **options)
        yield from (product[name] for name in names)
        yield functional.per_sample_grad_norms(X, Y, **parameters, **options)

    for a, b in zip(passes(wide, wide_direction), passes(dense, direction), strict=True):
        assert torch.equal(a, b)


def _with_strides(V):
    return torch.stack([V, torch.full_like(V, 1e9)], -1)[..., 0]


@pytest.mark.parametrize(
    "changed",
    [
        lambda dZ2: dZ2.T.contiguous().T,
        lambda dZ2: dZ2[:, :1].expand_as(dZ2),
        lambda dZ2: torch.complex(torch.zeros_like(dZ2), -dZ2).conj().imag,  # the negative of what is there
    ],
    ids=["transposed", "expanded", "negative"],
)
def test_what_comes_back_as_autograd_leaves_it(changed, by_kernel):
    net, X, *_ = in_both("relu", "multilabel")
    dZ2 = changed(torch.randn(len(X), net.out_features))
    assert dZ2.is_neg() or not dZ2.is_contiguous()
    dense = torch.empty(dZ2.shape).copy_(dZ2)
    found, expected = (torch.autograd.grad(net(X), list(net.parameters()), V) for V in (dZ2, dense))
    assert all(map(torch.equal, found, expected))


def test_what_comes_back_from_a_sum_goes_straight_to_the_kernel(monkeypatch):
    """It is one number, expanded."""
    net, X, *_ = in_both("relu", "multilabel")
    monkeypatch.setattr(choice, "backward_from_kept", None)
    net(X).sum().backward()
    assert torch.equal(net.b2.grad, torch.full((net.out_features,), float(len(X))))


@pytest.mark.parametrize("dX", [False, True])
@pytest.mark.parametrize("name", ["W1", "W2", "b1", "b2"])
@pytest.mark.parametrize("change", ["strides", "another dtype", "fewer numbers", "freed"])
def test_memory_given_away_before_the_way_back(change, name, dX):
    """By ``.data`` and ``untyped_storage()``, of which autograd knows nothing: right, or PyTorch's own error."""
    net, X, *_ = in_both("tanh", "multilabel")
    inputs = [*net.parameters()] + ([X.requires_grad_()] if dX else [])
    dZ2 = torch.randn(len(X), net.out_features)
    truth = torch.autograd.grad(net(X), inputs, dZ2)
    Z2, V = net(X), getattr(net, name)
    if change == "freed":
        V.untyped_storage().resize_(0)
    else:
        cast = {"strides": _with_strides, "another dtype": Tensor.double, "fewer numbers": lambda V: V[..., :-1]}
        V.data = cast[change](V.data)
    try:
        found = torch.autograd.grad(Z2, inputs, dZ2)
    except RuntimeError:
        assert change != "strides"
        return
    for a, b in zip(found, truth, strict=True):
        assert relative_error(a.double(), b.double()) < ALLOWED


@pytest.mark.parametrize("name", ["W1", "W2"])
@pytest.mark.parametrize("way", ["streamed", "create_graph", "second derivative"])
def test_memory_freed_before_a_pass_that_comes_later(way, name):
    net, X, Y, *_ = in_both("tanh", "multilabel")
    net.backward = "streamed" if way == "streamed" else "manual"
    parameters = list(net.parameters())
    J = net(X).square().sum() if way == "streamed" else net.loss(X, Y)
    if way == "second derivative":
        J = sum(dV.sum() for dV in torch.autograd.grad(J, parameters, create_graph=True))
    getattr(net, name).untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"freed|not allocated"):
        torch.autograd.grad(J, parameters, create_graph=way == "create_graph")


def test_a_thread_that_ends_gives_its_memory_back(by_kernel):
    """Each thread that calls keeps some for the calls that follow: here 2 MB, for W1 and its gradient in slabs."""
    resource = pytest.importorskip("resource")
    net, X = TwoLayerNet(700, 400, 1), torch.randn(5, 700)

    def calls():
        for _ in range(3):
            net(X).sum().backward()

    def call_in_threads(count):
        for _ in range(count):
            thread = threading.Thread(target=calls)
            thread.start()
            thread.join()

    call_in_threads(20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call_in_threads(100)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert more / (1 if sys.platform == "linux" else 1024) < 50_000  # kilobytes


FORKED = """
import os, signal, torch
from twolayer import TwoLayerNet

X, Y = torch.randn(20_000, 100), torch.ones(20_000)
torch.set_num_threads(2)
X.exp()  # PyTorch's threads are there
net = TwoLayerNet(100, 64, 1)
if {used_before}:
    net.loss_and_grads(X, Y)
child = os.fork()
if not child:
    signal.alarm(60)
J, _ = net.loss_and_grads(X, Y)
if not child:
    os._exit(0 if J.isfinite() else 1)
raise SystemExit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("used_before", [False, True])
def test_a_forked_process_does_not_wait_for_threads_that_stayed_behind(used_before):
    """PyTorch's own operators do: https://github.com/pytorch/pytorch/issues/17199."""
    done = subprocess.run([sys.executable, "-c", FORKED.format(used_before=used_before)], timeout=120)
    assert done.returncode == 0


def test_who_computes_the_logits():
    net, X, *_ = in_both("relu", "binary")
    assert choice._forward_by_kernel(X, manual.Parameters(*net.parameters()), "relu", functional.Plan())
    for other in (X.double(), X.T.contiguous().T):
        assert not choice._forward_by_kernel(other, manual.Parameters(*net.parameters()), "relu", functional.Plan())
    assert relative_error(net(X.T.contiguous().T), net(X)) < ALLOWED
