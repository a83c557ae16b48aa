"""What autograd, torch.func and torch.compile make of the streamed mode where a GPU's kernel runs.

On a GPU, or in Triton's interpreter, whose door is opened for CPU tensors. The truth is PyTorch's own layers and losses
in float64.
"""

import pytest
import torch
from problems import TRUE_LOSSES, problem, relative_error
from torch.utils.checkpoint import checkpoint

pytest.importorskip("triton")

from twolayer.kernels import choice, cpu, gpu, triton_chunked
from twolayer.tasks import PAIRING

ALLOWED = {
    torch.float32: 50 * torch.finfo(torch.float32).eps,
    torch.float16: 5 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 5 * torch.finfo(torch.bfloat16).eps,
}
FAMILIES = {"triton_narrow": (5, 7), "triton_wide": (5, 130), "triton_chunked": (70, 7)}

families = pytest.mark.parametrize("family", FAMILIES)
dtypes = pytest.mark.parametrize("dtype", ALLOWED)


@pytest.fixture(autouse=True)
def opened(monkeypatch, kernel_device):
    monkeypatch.setattr(triton_chunked, "FEWEST_ROWS", 10)
    monkeypatch.setattr(triton_chunked, "CHUNK_BYTES", 0)
    if kernel_device == "cpu":
        monkeypatch.setattr(gpu, "why_not", gpu.why_not_of_these)
        monkeypatch.setattr(choice, "DEVICES", dict.fromkeys(choice.DEVICES, "cpu"))
        monkeypatch.setattr(cpu, "is_there", lambda: False)  # whose turn would be theirs


def of_size(family, dtype, kernel_device):
    if kernel_device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter has no products of bfloat16")
    n_x, n_h = FAMILIES[family]
    p = problem("tanh", "multiclass", m=23, n_x=n_x, n_h=n_h, dtype=dtype, device=kernel_device)
    p.W1 *= n_x**-0.5
    p.W2 *= n_h**-0.5
    return p


def cost_of_theirs(net, task):
    return lambda X, Y: TRUE_LOSSES[task](net(X), Y).mean()


def assert_same(compute, p, family):
    """``compute(cost, net, X, Y)`` gives tensors, the same for our network and PyTorch's, up to float32's roundings."""
    ours, theirs = p.net(backward="streamed", kernel=family), p.sequential().double()
    truth = compute(cost_of_theirs(theirs, p.task), theirs, p.X.double(), p.Y)
    for found, true in zip(compute(ours.loss, ours, p.X, p.Y), truth, strict=True):
        assert true.abs().max() > 1e-3, "compares nothing"
        assert relative_error(found, true) < ALLOWED[p.X.dtype]


def grads_of(net):
    return [V.grad for V in net.parameters()]


def scaled_in_place(cost, net, X, Y):
    J = cost(X, Y)
    J /= 4
    J.backward()
    return [J, *grads_of(net)]


def added_up(cost, net, X, Y):
    total = cost(X[:10], Y[:10])
    total += cost(X[10:], Y[10:])
    total.backward()
    return [total, *grads_of(net)]


def accumulated(cost, net, X, Y):
    for _ in range(2):
        cost(X, Y).backward()
    for V in net.parameters():
        V.grad *= 0.5
    cost(X, Y).backward()
    return grads_of(net)


@families
@dtypes
@pytest.mark.parametrize("compute", [scaled_in_place, added_up, accumulated])
def test_gradients_accumulate(compute, dtype, family, kernel_device):
    assert_same(compute, of_size(family, dtype, kernel_device), family)


@families
@dtypes
@pytest.mark.parametrize("task", ["multiclass", PAIRING])
@pytest.mark.parametrize("input_gradient", [False, True])
def test_the_operator_is_what_it_claims(input_gradient, task, dtype, family, kernel_device):
    p = of_size(family, dtype, kernel_device)
    Y = p.Y if task == "multiclass" else torch.randn_like(p.X[:, :4])
    tensors = (p.X, Y, torch.rand_like(p.X[:, 0]), None, *p.network[1:])
    options = ("tanh", task, 0.0, "sum" if task == PAIRING else "mean", None, family, input_gradient)
    utilities = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.twolayer.loss_and_grads.default, (*tensors, *options), test_utils=utilities)


@families
@dtypes
@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_cost_is_the_cost(moves, dtype, family, kernel_device):
    def compute(cost, net, X, Y):
        torch._dynamo.reset()
        X = X.clone().requires_grad_(moves)
        J = torch.compile(cost, fullgraph=True, backend="aot_eager")(X, Y)
        J.backward()
        return [J, *grads_of(net), *([X.grad] if moves else [])]

    assert_same(compute, of_size(family, dtype, kernel_device), family)


def along_inputs(cost, net, X, Y):
    X = X.clone().requires_grad_()
    J = 3 * cost(X, Y)
    J.backward()
    return [X.grad, *grads_of(net)]


def twice_from_one_graph(cost, net, X, Y):
    J = cost(X, Y)
    J.backward(retain_graph=True)
    J.backward()
    return grads_of(net)


def penalty(cost, net, X, Y):
    P = list(net.parameters())
    grads = torch.autograd.grad(cost(X, Y), P, create_graph=True)
    return torch.autograd.grad(sum(dV.square().sum() for dV in grads), P)


def frozen(cost, net, X, Y):
    first, *others = net.parameters()
    first.requires_grad_(False)
    cost(X, Y).backward()
    assert first.grad is None
    return [V.grad for V in others]


def checkpointed(cost, net, X, Y):
    checkpoint(cost, X, Y, use_reentrant=False).backward()
    return grads_of(net)


def saved_on_cpu(cost, net, X, Y):
    with torch.autograd.graph.save_on_cpu():
        J = cost(X, Y)
    J.backward()
    return grads_of(net)


@dtypes
@pytest.mark.parametrize(
    "compute",
    [along_inputs, twice_from_one_graph, penalty, frozen, checkpointed, saved_on_cpu],
    ids=lambda f: f.__name__,
)
def test_the_ways_of_autograd(compute, dtype, kernel_device):
    assert_same(compute, of_size("triton_narrow", dtype, kernel_device), "triton_narrow")


def mapped(cost, net, X, Y):
    return [torch.func.vmap(torch.func.grad(lambda x, y: cost(x[None], y[None])))(X, Y)]


def pushed_forward(cost, net, X, Y):
    return torch.func.jvp(lambda X: cost(X, Y), (X,), (torch.ones_like(X),))


@dtypes
@pytest.mark.parametrize("compute", [mapped, pushed_forward])
def test_transforms_go_by_torch(compute, dtype, kernel_device):
    """What a transform maps over has no memory of its own: no kernel is asked for, and none reads it."""
    assert_same(compute, of_size("triton_narrow", dtype, kernel_device), None)
