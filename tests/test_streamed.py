"""The streamed mode under autograd, and the Hessian's product: right to every order, in one pass, in little memory."""

from functools import partial

import pytest
import torch
from problems import (
    NETWORK,
    PARAMETERS,
    assert_equal,
    problem,
    relative_error,
    value_and_gradients,
)
from test_streaming import run
from torch import func
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck

from twolayer import TwoLayerNet, functional
from twolayer.activations import ACTIVATIONS
from twolayer.backward.gradients import Gradients
from twolayer.equations import Parameters
from twolayer.kernels import choice, chunked, plain
from twolayer.tasks import COSTS, PAIRING, TASKS, Direction, Objective, Plan

activations = pytest.mark.parametrize("activation", ACTIVATIONS)
tasks = pytest.mark.parametrize("task", TASKS)
reductions = pytest.mark.parametrize("reduction", functional.REDUCTIONS)
M = 23
CHUNKS = [2, 10, M - 1, M, None]


def random_like(V, seed=1):
    return torch.randn(V.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(V)


def options_of(p, weighted):
    """Every option that the task has, and none."""
    if not weighted:
        return {}
    options = {"sample_weight": random_like(p.X[:, 0]).abs()}
    if p.task in ("binary", "multiclass"):
        options["class_weight"] = torch.linspace(0.5, 2, max(2, len(p.b2)), dtype=p.X.dtype, device=p.X.device)
    return options if p.task == "regression" else options | {"label_smoothing": 0.1}


def loss_of(p, backward="streamed", chunk_size=10, **options):
    """The cost as a function of ``X, W1, b1, W2, b2, Y``. Mode ``"autograd"``, tested elsewhere, is the truth here."""

    def J(X, W1, b1, W2, b2, Y):
        size = chunk_size if backward == "streamed" else None
        given = {"activation": p.activation, "task": p.task, "backward": backward, "chunk_size": size}
        return functional.loss(X, Y, W1, b1, W2, b2, **given, **options)

    return J


# The Hessian's product


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_x", [5, 130])  # on both sides of the width up to which chunks are copied
@tasks
@activations
def test_hvp_is_that_of_autograd(activation, task, n_x, weighted, device):
    p = problem(activation, task, m=M, n_x=n_x, n_h=7, soft=weighted, device=device)
    options = options_of(p, weighted)
    v = {name: random_like(getattr(p, name), seed) for seed, name in enumerate(PARAMETERS)}
    J = partial(loss_of(p, "autograd", **options), p.X)
    _, truth = torch.autograd.functional.hvp(lambda *P: J(*P, p.Y), p.network[1:], tuple(v.values()))
    for chunk_size in CHUNKS:
        found = functional.hvp(
            p.X, p.Y, *p.network[1:], v, activation=activation, task=task, chunk_size=chunk_size, **options
        )
        assert list(found) == list(PARAMETERS)
        assert_equal(list(found.values()), truth)
        assert not any(hV.requires_grad for hV in found.values())


@pytest.mark.parametrize("by", [chunked, plain], ids=["in chunks", "at once"])
@pytest.mark.parametrize("task", COSTS)
@activations
def test_the_whole_hessian_is_symmetric_and_moves_the_inputs_too(activation, task, by):
    p = problem(activation, "multilabel" if task == PAIRING else task, m=M, soft=True)
    J = loss_of(p, "autograd")
    p.Y = p.Y if task == "regression" else 0.7 * p.Y  # rows of probabilities that do not sum to one
    if task == PAIRING:

        def J(X, W1, b1, W2, b2, Y):
            return (p.true_logits(X, W1, b1, W2, b2) * Y).mean(0).sum()

    inputs = (*p.network, p.Y)
    t = [random_like(V, seed) for seed, V in enumerate(inputs)]
    if task != PAIRING:
        t[-1].zero_()
    _, (hX, *truth, hY) = torch.autograd.functional.hvp(J, inputs, tuple(t))
    tX, *others, tY = t
    direction = Direction(tX, tY if task == PAIRING else None, Parameters(*others))
    examples, parameters, objective = p.values(task=task)
    options = {"chunk_size": 10} if by is chunked else {}
    found = by.hvp(examples, parameters, direction, objective, input_gradient=True, **options)
    assert_equal([found.X, *found.parameters], [hX, *truth])
    if task == PAIRING:
        assert_equal([found.Y], [hY])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@tasks
def test_hvp_in_low_precision_is_as_good_as_its_last_rounding(task, dtype, device):
    p, exact = (problem("tanh", task, m=53, dtype=d, device=device) for d in (dtype, torch.float64))
    exact.X, *rounded = (getattr(p, name).double() for name in NETWORK)
    v = {name: random_like(getattr(p, name), seed) for seed, name in enumerate(PARAMETERS)}
    found = functional.hvp(p.X, p.Y, *p.network[1:], v, activation="tanh", task=task, chunk_size=10)
    v = {name: V.double() for name, V in v.items()}
    truth = functional.hvp(
        exact.X, p.Y.double() if p.Y.is_floating_point() else p.Y, *rounded, v, activation="tanh", task=task
    )
    for name, hV in truth.items():
        assert found[name].dtype == dtype
        # Float32's arithmetic over at most 53 terms, some of which cancel, and one rounding to the dtype.
        assert relative_error(found[name], hV) < 200 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps


def test_several_directions_at_once():
    p = problem("tanh", "multiclass", m=M)
    net = p.net(backward="streamed")
    v = {name: torch.stack([random_like(V, seed).detach() for seed in range(3)]) for name, V in net.named_parameters()}
    at_one_time = func.vmap(lambda v: net.hvp(p.X, p.Y, v))(v)
    for i in range(3):
        one = net.hvp(p.X, p.Y, {name: V[i] for name, V in v.items()}, chunk_size=4)
        assert_equal([V[i] for V in at_one_time.values()], list(one.values()))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda v: v.pop("b1"), ValueError, "v must have the keys W1, b1, W2, b2, got W1, W2, b2"),
        (lambda v: v.update(b1=0.5), TypeError, r"v\['b1'\] must be a tensor, got float"),
        (lambda v: v.update(b1=torch.ones(2)), ValueError, r"v\['b1'\] must have the shape of b1, \(3,\), got \(2,\)"),
        (lambda v: v.update(b1=torch.ones(3).half()), TypeError, r"v\['b1'\] must have the dtype of b1"),
        (lambda v: v.update(b1=torch.ones(3, device="meta")), ValueError, r"v\['b1'\] must be on the device of b1"),
    ],
)
def test_a_direction_that_does_not_fit_is_named(change, error, message):
    net = TwoLayerNet(2, 3, 1)
    v = {name: torch.ones_like(V) for name, V in net.named_parameters()}
    change(v)
    with pytest.raises(error, match=message):
        net.hvp(torch.zeros(4, 2), torch.zeros(4), v)
    with pytest.raises(TypeError, match="v must be a dict of tensors, got list"):
        net.hvp(torch.zeros(4, 2), torch.zeros(4), [])


# The cost under autograd


@pytest.mark.parametrize("weighted", [False, True])
@reductions
@tasks
@activations
def test_gradients_of_the_cost(activation, task, reduction, weighted, device):
    p = problem(activation, task, m=M, soft=True, device=device)
    options = {"reduction": reduction, **options_of(p, weighted)}
    truth = loss_of(p, "autograd", **options)
    incoming = random_like(truth(*p.network, p.Y))
    hard = [V.requires_grad_() for V in p.network]
    expected = grad(truth(*hard, p.Y), hard, incoming)
    for chunk_size in CHUNKS:
        J = loss_of(p, chunk_size=chunk_size, **options)(*hard, p.Y)
        assert_equal([J], [truth(*hard, p.Y)])
        assert_equal(grad(J, hard, incoming), expected)
    # And along the targets, which takes another way.
    inputs = [V.detach() for V in (*hard, p.Y)]
    assert_equal(
        value_and_gradients(loss_of(p, **options), inputs, incoming), value_and_gradients(truth, inputs, incoming)
    )


@reductions
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_gradients_along_weights(task, reduction):
    p = problem("tanh", task, m=M)
    weights = [random_like(p.X[:, 0]).exp(), torch.linspace(0.5, 2, max(2, len(p.b2)), dtype=torch.float64)]

    def J(backward, W1, sample_weight, class_weight):
        options = {"sample_weight": sample_weight, "class_weight": class_weight, "reduction": reduction}
        return loss_of(p, backward, **options)(p.X, W1, *p.network[2:], p.Y)

    tensors = [p.W1, *weights]
    incoming = random_like(J("autograd", *tensors))
    assert_equal(
        value_and_gradients(partial(J, "streamed"), tensors, incoming),
        value_and_gradients(partial(J, "autograd"), tensors, incoming),
    )


@pytest.mark.parametrize("along_targets", [False, True])
@tasks
@activations
def test_first_and_second_differences_agree(activation, task, along_targets):
    p = problem(activation, task, m=3, n_x=2, n_h=2, soft=True, margin=0.05)
    loss = loss_of(p, chunk_size=2)

    def J(*tensors):
        return loss(*tensors) if along_targets else loss(*tensors, p.Y)

    tensors = tuple(V.detach().requires_grad_() for V in (*p.network, p.Y)[: 6 if along_targets else 5])
    assert gradcheck(J, tensors, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(J, tensors, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("weighted", [False, True])
@tasks
@activations
def test_derivatives_three_deep(activation, task, weighted):
    p = problem(activation, task, m=M, soft=True)
    found = []
    for backward in ("streamed", "autograd"):
        inputs = [V.detach().clone().requires_grad_() for V in p.network]
        J = loss_of(p, backward, **options_of(p, weighted))(*inputs, p.Y)
        values = []
        for _ in range(3):
            # The cost itself takes part again, so that both its gradient and that of its gradients count.
            values.append(grad(J, inputs, create_graph=True, materialize_grads=True))
            J = J * sum((dV * random_like(dV)).sum() for dV in values[-1])
        found.append([V.detach() for level in values for V in level])
    assert_equal(*found, 1e-10)


@pytest.mark.parametrize("backwards", range(4))
def test_three_deep_forwards_and_backwards(backwards):
    """Three directional derivatives, the innermost backwards or not and so on: none is mapped over."""
    p = problem("tanh", "multiclass", m=M, soft=True)
    directions = [[random_like(V, 10 * level + seed) for seed, V in enumerate(p.network)] for level in range(3)]

    def along(f, direction, forwards):
        if forwards:
            return lambda *x: func.jvp(f, x, tuple(direction))[1]
        gradient = func.grad(f, tuple(range(5)))
        return lambda *x: sum((dV * tV).sum() for dV, tV in zip(gradient(*x), direction, strict=True))

    def third(backward):
        J = loss_of(p, backward)
        f = lambda *network: J(*network, p.Y)  # noqa: E731
        for level, direction in enumerate(directions):
            f = along(f, direction, forwards=level != backwards)
        return f(*p.network)

    assert_equal([third("streamed")], [third("autograd")])


@pytest.mark.parametrize("transforms", [(func.jacfwd, func.jacrev), (func.jacrev, func.jacfwd), (func.jacrev,) * 2])
def test_hessians_by_transforms(transforms):
    p = problem("sigmoid", "multiclass", m=M, soft=True)
    outer, inner = transforms

    def hessian(backward):
        J = loss_of(p, backward)
        return outer(inner(lambda W1, X: J(X, W1, *p.network[2:], p.Y), (0, 1)), (0, 1))(p.W1, p.X)

    for ours, theirs in zip(hessian("streamed"), hessian("autograd"), strict=True):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("moving", [("X",), ("W1",), ("b2", "Y"), ("X", "W2")], ids="-".join)
def test_forward_mode_along_some(moving):
    p = problem("tanh", "multilabel", m=M, soft=True)

    def tangent(J):
        with forward_ad.dual_level():
            tensors = {name: getattr(p, name) for name in (*NETWORK, "Y")}
            tensors |= {name: forward_ad.make_dual(tensors[name], random_like(tensors[name])) for name in moving}
            return forward_ad.unpack_dual(J(*tensors.values())).tangent

    assert_equal([tangent(loss_of(p))], [tangent(loss_of(p, "autograd"))])


def test_scaled_by_zero_and_not_asked_for():
    p = problem("tanh", "multiclass", m=M)
    net = p.net(backward="streamed", chunk_size=10)
    (0 * net.loss(p.X, p.Y)).backward()
    assert all(torch.equal(V.grad, torch.zeros_like(V)) for V in net.parameters())
    net.zero_grad()
    net.b1.requires_grad_(False)
    net.loss(p.X, p.Y).backward()
    assert net.b1.grad is None
    assert p.X.grad is None


def test_half_precision_gradients_are_scaled_before_they_are_rounded():
    # An error of 2⁻²⁴ at the input 2⁻⁴ makes a gradient of 2⁻²⁸, below the least float16. Scaled by 2¹⁴ it is above.
    net = TwoLayerNet(1, 1, 1, task="regression", backward="streamed", dtype=torch.float16)
    with torch.no_grad():
        for V, value in zip(net.parameters(), (1.0, 0.0, 1.0, 0.0), strict=True):
            V.fill_(value)
    X = torch.full((1024, 1), 2**-4, dtype=torch.float16)
    (2**14 * net.loss(X, X.float() - 2**-24)).backward()
    assert net.W1.grad.item() == 2**-14


def test_derivatives_of_what_is_refused():
    p = problem("tanh", "multiclass", m=M, soft=True)
    options = (Objective("tanh", "multiclass"), Plan())
    J, *_ = Gradients.apply(p.X, p.Y.requires_grad_(), *p.network[1:], None, None, *options)
    with pytest.raises(RuntimeError, match="targets and weights"):
        J.backward()


# One pass


@pytest.fixture
def passes(monkeypatch):
    """The passes over the examples, by name, as they are made."""
    made = []
    for name in ("logits", "loss_and_grads", "hvp"):
        whole = getattr(choice, f"run_{name}")
        monkeypatch.setattr(choice, f"run_{name}", lambda *a, name=name, whole=whole: made.append(name) or whole(*a))
    return made


def test_which_passes_are_made(passes):
    p = problem("tanh", "multiclass", m=M, soft=True)
    net = p.net(backward="streamed")

    def made(compute):
        passes.clear()
        compute()
        return passes.copy()

    v = {name: torch.ones_like(V) for name, V in net.named_parameters()}
    assert made(lambda: net.loss(p.X, p.Y).backward()) == ["loss_and_grads"]
    assert made(lambda: net(p.X, p.Y).backward()) == ["loss_and_grads"]
    assert made(lambda: net.hvp(p.X, p.Y, v)) == ["hvp"]
    assert made(lambda: net(p.X).sum().backward()) == ["logits", "loss_and_grads"]
    assert made(lambda: net.loss(p.X, p.Y, reduction="none").sum().backward()) == ["logits", "loss_and_grads"]
    with torch.no_grad():
        assert made(lambda: net.loss(p.X, p.Y)) == ["logits"]
    net.register_forward_hook(lambda net, inputs, Z2: None)
    assert made(lambda: net.loss(p.X, p.Y).backward()) == ["logits", "loss_and_grads"]


def test_pytorch_s_own_differentiation_takes_no_chunk_size():
    with pytest.raises(ValueError, match="chunk_size must be None for backward='autograd', got 5"):
        TwoLayerNet(2, 3, 1, backward="autograd", chunk_size=5)
    with pytest.raises(ValueError, match="kernel must be None for backward='autograd', got 'torch'"):
        functional.logits(torch.ones(2, 2), *TwoLayerNet(2, 3, 1).parameters(), backward="autograd", kernel="torch")
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        TwoLayerNet(2, 3, 1, backward="streamed", chunk_size=0)
    with pytest.raises(TypeError, match="chunk_size must be an integer"):
        functional.logits(torch.ones(2, 2), *TwoLayerNet(2, 3, 1).parameters(), backward="streamed", chunk_size=2.0)


# In a graph


@pytest.fixture
def fresh_dynamo():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def graphs_of(compute):
    """The graphs that AOTAutograd makes of a computation, forward and backward: each the operators in it."""
    seen = []

    def keep(graph, inputs):
        seen.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return make_boxed_func(graph)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    return torch.compile(compute, fullgraph=True, backend=backend, dynamic=True), seen


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_pass_is_one_operator_in_a_graph():
    net = problem("tanh", "multiclass").net(backward="streamed", chunk_size=2)
    cost, graphs = graphs_of(net.loss)
    for m in (7, 31, 100):
        p = problem("tanh", "multiclass", m=m)
        found, truth = (grad(J(p.X, p.Y), [*net.parameters()]) for J in (cost, net.loss))
        assert_equal(found, truth)
    assert len(graphs) == 2  # forward and backward, once
    ours = [name for graph in graphs for name in graph if "twolayer" in name]
    assert ours == ["twolayer.loss_and_grads.default"]
    assert sum(map(len, graphs)) < 30  # what else there is: views, the outputs of the operator, four products
    assert not any("mm" in name for graph in graphs for name in graph)


@pytest.mark.usefixtures("fresh_dynamo")
def test_hvp_is_one_operator_in_a_graph():
    p = problem("tanh", "multiclass", m=M)
    net = p.net(backward="streamed", chunk_size=4)
    v = {name: random_like(V) for name, V in net.named_parameters()}
    hvp, graphs = graphs_of(net.hvp)
    assert_equal(list(hvp(p.X, p.Y, v).values()), list(net.hvp(p.X, p.Y, v).values()))
    assert [name for name in graphs[0] if "twolayer" in name] == ["twolayer.hvp.default"]


@pytest.mark.parametrize("input_gradient", [False, True])
@pytest.mark.parametrize("task", ["multiclass", PAIRING])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_operators_are_what_they_claim(task, input_gradient, dtype):
    p = problem("tanh", "multiclass", m=M, soft=True, dtype=dtype)
    options = ("tanh", task, 0.0, "sum", 10, None, input_gradient)
    t = [random_like(V) for V in (p.X, p.Y, *p.network[1:])]
    tensors = (p.X, p.Y, random_like(p.X[:, 0]).abs(), None, *p.network[1:])
    utilities = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    check = partial(torch.library.opcheck, test_utils=utilities)
    check(torch.ops.twolayer.logits.default, (*p.network, "tanh", 10, None))
    check(torch.ops.twolayer.loss_and_grads.default, (*tensors, *options))
    t[:2] = t[0] if input_gradient else None, t[1] if task == PAIRING else None
    check(torch.ops.twolayer.hvp.default, (*tensors, *t, *options))


# Memory

MEMORY = """
import resource, sys
import torch
from torch.autograd import forward_ad
from twolayer import TwoLayerNet
torch.set_num_threads(1)
net = TwoLayerNet(8, 64, 1, activation="tanh", backward="streamed")
P = list(net.parameters())
v = {name: torch.rand_like(V) for name, V in net.named_parameters()}

def backward(X, Y):
    net.loss(X, Y).backward()

def hvp(X, Y):
    net.hvp(X, Y, v)

def create_graph(X, Y):
    dP = torch.autograd.grad(net.loss(X, Y), P, create_graph=True)
    torch.autograd.grad(sum(dV.square().sum() for dV in dP), P)

def logits(X, Y):
    net.cost(net(X), Y).backward()

def jvp(X, Y):
    torch.func.jvp(lambda P: torch.func.functional_call(net, P, (X, Y)), (dict(net.named_parameters()),), (v,))

compute = globals()[sys.argv[2]]
X, Y = torch.rand(int(sys.argv[1]), 8), torch.rand(int(sys.argv[1]))
compute(X[:20000], Y[:20000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
compute(X, Y)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("compute", ["backward", "hvp", "create_graph", "logits", "jvp"])
def test_memory_does_not_grow_with_the_examples(compute):
    # 10⁶ examples with 64 hidden units would be 256 MB an array. Logits, targets and errors are 4 MB an array.
    assert int(run(MEMORY, "1000000", compute)) < 64 * 1024
