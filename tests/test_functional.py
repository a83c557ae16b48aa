"""The hand-written backward against PyTorch's layers, losses and automatic differentiation, and against differences."""

from functools import partial
from itertools import product
from math import inf, log

import pytest
import torch
from problems import (
    NETWORK,
    PARAMETERS,
    TRUE_LOSSES,
    Problem,
    assert_equal,
    problem,
    relative_error,
    value_and_gradients,
)
from torch.autograd import forward_ad
from torch.nn import functional as F

from twolayer import equations, functional
from twolayer.activations import ACTIVATIONS
from twolayer.functional import BACKWARDS, REDUCTIONS
from twolayer.tasks import TASKS

activations = pytest.mark.parametrize("activation", ACTIVATIONS)
tasks = pytest.mark.parametrize("task", TASKS)
backwards = pytest.mark.parametrize("backward", BACKWARDS)
on_a_cpu = pytest.mark.parametrize("device", ["cpu"], indirect=True)
"""Of shapes and derivatives, which say on a GPU what they say here: the operators are the same."""
reductions = pytest.mark.parametrize("reduction", REDUCTIONS)

SIZES = [(1, 1, 1, 1), (1, 5, 3, 2), (7, 1, 3, 2), (7, 5, 1, 2), (7, 5, 3, 1), (13, 11, 17, 3), (33, 2, 5, 7)]


def subsets(names):
    chosen = product([False, True], repeat=len(names))
    return [tuple(name for name, taken in zip(names, row, strict=True) if taken) for row in chosen if any(row)]


def logits_of(p, backward="manual", kernel=None):
    return partial(functional.logits, activation=p.activation, backward=backward, kernel=kernel)


def cost_of(p, backward="manual", kernel=None, **options):
    """The whole way as a function of ``X, W1, b1, W2, b2, Y``."""

    def J(*tensors):
        *network, Y = tensors
        Z2 = logits_of(p, backward, kernel=kernel)(*network)
        return functional.cost(Z2, Y, task=p.task, backward=backward, **options)

    return J


def true_cost_of(p, reduction="mean"):
    def J(*tensors):
        *network, Y = tensors
        L = TRUE_LOSSES[p.task](p.true_logits(*network), Y)
        return L if reduction == "none" else getattr(L, reduction)()

    return J


def random_like(V, seed=1):
    return torch.randn(V.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(V)


# Against PyTorch


@pytest.mark.parametrize("soft", [False, True])
@backwards
@tasks
@activations
def test_gradients_are_those_of_torch(activation, task, backward, soft, device):
    p = problem(activation, task, soft=soft, device=device)
    tensors = (*p.network, p.Y)
    assert_equal(
        value_and_gradients(cost_of(p, backward), tensors),
        value_and_gradients(true_cost_of(p), tensors),
    )


@backwards
@tasks
@activations
def test_in_float32_the_error_is_that_of_torch(activation, task, backward, device):
    p = problem(activation, task, m=33, n_x=11, n_h=17, soft=True, dtype=torch.float32, device=device)
    tensors = (*p.network, p.Y)
    got = value_and_gradients(cost_of(p, backward), tensors)
    plain = value_and_gradients(true_cost_of(p), tensors)
    truth = value_and_gradients(true_cost_of(p), [V.double() for V in tensors])
    for value, by_torch, exact in zip(got, plain, truth, strict=True):
        assert value.dtype == torch.float32
        # Both make the same three sums, of 11, 17 and 33 terms, in an order of their own. A random walk through so many
        # roundings of eps / 2 ends about sqrt(61) / 2 = 4 eps away; so far apart may two correct results be.
        allowed = 2 * relative_error(by_torch, exact) + 4 * torch.finfo(torch.float32).eps
        assert relative_error(value, exact) <= allowed


@on_a_cpu
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@tasks
@activations
def test_any_sizes(activation, task, sizes, device):
    m, n_x, n_h, n_y = sizes
    n_y = 1 if task == "binary" else n_y
    p = problem(activation, task, m=m, n_x=n_x, n_h=n_h, n_y=n_y, soft=True, device=device)
    tensors = (*p.network, p.Y)
    assert_equal(value_and_gradients(cost_of(p), tensors), value_and_gradients(true_cost_of(p), tensors))


@on_a_cpu
@reductions
@tasks
@activations
def test_any_incoming_gradient(activation, task, reduction, device):
    p = problem(activation, task, soft=True, device=device)
    tensors = (*p.network, p.Y)
    incoming = random_like(true_cost_of(p, reduction)(*tensors))
    assert_equal(
        value_and_gradients(cost_of(p, reduction=reduction), tensors, incoming),
        value_and_gradients(true_cost_of(p, reduction), tensors, incoming),
    )


@activations
def test_any_incoming_gradient_at_the_logits(activation, device):
    p = problem(activation, "multilabel", device=device)
    truth = p.true_logits(*p.network)
    dense = random_like(truth)
    for dZ2 in (dense, dense.T.contiguous().T, dense[:, :1].expand_as(dense), torch.zeros_like(dense)):
        assert_equal(
            value_and_gradients(logits_of(p), p.network, dZ2), value_and_gradients(p.true_logits, p.network, dZ2)
        )


@pytest.mark.parametrize("requiring", subsets((*NETWORK, "Y")), ids="-".join)
@tasks
def test_what_requires_a_gradient_gets_it_and_nothing_else_does(task, requiring):
    p = problem("tanh", task, soft=True)
    tensors = {name: getattr(p, name).clone().requires_grad_(name in requiring) for name in (*NETWORK, "Y")}
    cost_of(p)(*tensors.values()).backward()
    true = value_and_gradients(true_cost_of(p), tuple(tensors.values()))[1:]
    for name, truth in zip(tensors, true, strict=True):
        if name in requiring:
            assert_equal([tensors[name].grad], [truth])
        else:
            assert tensors[name].grad is None


def test_nothing_requires_a_gradient_and_there_is_no_graph():
    p = problem()
    assert not cost_of(p)(*p.network, p.Y).requires_grad


@pytest.mark.parametrize(
    ("requiring", "unneeded"),
    [
        (("W2",), ("db2", "dA1", "dZ1", "dW1", "db1", "dX")),
        (("b2",), ("dW2", "dA1", "dZ1", "dW1", "db1", "dX")),
        (("W1",), ("dW2", "db2", "db1", "dX")),
        (("b1",), ("dW2", "db2", "dW1", "dX")),
        (("X",), ("dW2", "db2", "dW1", "db1")),
        (("Y",), ("dW2", "db2", "dA1", "dZ1", "dW1", "db1", "dX")),
    ],
)
def test_what_is_not_needed_is_not_computed(requiring, unneeded, monkeypatch):
    p = problem(task="multilabel", soft=True)
    for name in unneeded:
        monkeypatch.delattr(equations, name)
    tensors = {name: getattr(p, name).clone().requires_grad_(name in requiring) for name in (*NETWORK, "Y")}
    cost_of(p)(*tensors.values()).backward()


M = 7
LAYOUTS = {
    "transposed": lambda V: V.mT.contiguous().mT if V.ndim == 2 else V,
    "every other column": lambda V: torch.stack([V, -V], -1).flatten(-2)[..., ::2],
    "every other row": lambda V: torch.stack([V, -V], 1).flatten(0, 1)[::2],
    "one example expanded to all": lambda V: V[:1].expand_as(V) if len(V) == M else V,
    "one column expanded to all": lambda V: V[..., :1].expand_as(V),
    "an offset into a larger one": lambda V: F.pad(V, (2, 1))[..., 2:-1],
    "lazily negated": lambda V: torch.complex(V, -V).conj().imag,
}


@on_a_cpu
@pytest.mark.parametrize("layout", LAYOUTS)
@tasks
@activations
def test_any_memory_layout(activation, task, layout, device):
    p = problem(activation, task, m=M, soft=True, device=device)
    strided = [LAYOUTS[layout](V) for V in (*p.network, p.Y)]
    contiguous = [V.contiguous() for V in strided]

    def gradients(J, tensors):
        tensors = [V.detach().requires_grad_() for V in tensors]
        return torch.autograd.grad(J(*tensors), tensors)

    assert any(not V.is_contiguous() or V.storage_offset() or V.is_neg() for V in strided)
    assert_equal(gradients(cost_of(p), strided), gradients(true_cost_of(p), contiguous))


@on_a_cpu
@pytest.mark.parametrize("lead", [(), (1,), (4, 2), (2, 1, 4), (0,), (2, 0, 3)], ids=str)
@backwards
@activations
def test_logits_of_any_leading_shape(activation, backward, lead, device):
    p = problem(activation, "multilabel", m=8, device=device)
    count = torch.Size(lead).numel()
    tensors = (p.X[:count].reshape(*lead, p.X.shape[1]), *p.network[1:])
    incoming = random_like(p.true_logits(*tensors))
    got = value_and_gradients(logits_of(p, backward), tensors, incoming)
    assert got[0].shape == (*lead, len(p.b2))
    assert_equal(got, value_and_gradients(p.true_logits, tensors, incoming))


@pytest.mark.parametrize("lead", [(), (1,), (4, 2), (2, 1, 4)], ids=str)
@reductions
@backwards
@tasks
def test_cost_of_any_leading_shape(task, backward, reduction, lead):
    p = problem("tanh", task, m=torch.Size(lead).numel())
    Z2 = p.true_logits(*p.network)
    sample_weight = random_like(Z2[:, 0]).exp()
    options = {"task": task, "backward": backward, "reduction": reduction}
    truth = functional.cost(Z2, p.Y, sample_weight=sample_weight, **options)
    Y = p.Y.reshape((*lead, *p.Y.shape[1:]))
    J = functional.cost(Z2.reshape(*lead, Z2.shape[1]), Y, sample_weight=sample_weight.reshape(lead), **options)
    assert J.shape == (lead if reduction == "none" else ())
    assert_equal([J], [truth.reshape(J.shape)])


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_gradients_at_the_kink_are_those_of_torch(name, device):
    p = problem(name, "regression", device=device)
    p.X[:4], p.b1[:] = 0.0, 0.0
    assert (F.linear(p.X, p.W1, p.b1) == 0).sum() == 4 * len(p.b1)
    tensors = (*p.network, p.Y)
    assert_equal(value_and_gradients(cost_of(p), tensors), value_and_gradients(true_cost_of(p), tensors))


# Second order, and the forward mode


@backwards
@tasks
@activations
def test_second_derivatives_are_those_of_torch(activation, task, backward, device):
    p = problem(activation, task, soft=True, device=device)
    tensors = (*p.network, p.Y)
    directions = [random_like(V, seed) for seed, V in enumerate(tensors)]

    def gradient_along_directions(J, *tensors):
        gradients = torch.autograd.grad(J(*tensors), tensors, create_graph=True)
        return sum((dV * direction).sum() for dV, direction in zip(gradients, directions, strict=True))

    assert_equal(
        value_and_gradients(partial(gradient_along_directions, cost_of(p, backward)), tensors),
        value_and_gradients(partial(gradient_along_directions, true_cost_of(p)), tensors),
    )


def assert_differences_agree(function, tensors):
    """First and second derivatives, in reverse, forward and mixed mode, batched and not, against finite differences."""
    tensors = [V.detach().requires_grad_() for V in tensors]
    assert torch.autograd.gradcheck(
        function, tensors, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(function, tensors, check_fwd_over_rev=True, check_batched_grad=True)


@activations
def test_differences_of_the_logits(activation, device):
    p = problem(activation, "multilabel", m=3, n_x=2, n_h=3, n_y=2, device=device, margin=0.05)
    assert_differences_agree(logits_of(p), p.network)


@reductions
@tasks
def test_differences_of_the_cost(task, reduction, device):
    p = problem("tanh", task, m=3, soft=True, device=device)
    Z2 = p.true_logits(*p.network)
    weights = [random_like(Z2[:, 0]).exp()]
    if task in ("binary", "multiclass"):
        weights.append(torch.linspace(0.5, 2, max(2, len(p.b2)), dtype=torch.float64, device=device))

    def J(Z2, Y, sample_weight, class_weight=None):
        return functional.cost(
            Z2, Y, task=task, sample_weight=sample_weight, class_weight=class_weight, reduction=reduction
        )

    assert_differences_agree(J, [Z2, p.Y, *weights])


@tasks
@activations
def test_differences_of_the_whole(activation, task):
    p = problem(activation, task, m=2, n_x=2, n_h=2, soft=True, margin=0.05)
    assert_differences_agree(cost_of(p), (*p.network, p.Y))


@pytest.mark.parametrize("moving", subsets(NETWORK), ids="-".join)
def test_forward_mode_along_any_inputs(moving):
    p = problem("tanh", "multilabel")

    def tangent_of(logits):
        with forward_ad.dual_level():
            tensors = {name: getattr(p, name) for name in NETWORK}
            tensors |= {name: forward_ad.make_dual(tensors[name], random_like(tensors[name])) for name in moving}
            return forward_ad.unpack_dual(logits(*tensors.values())).tangent

    assert_equal([tangent_of(logits_of(p))], [tangent_of(p.true_logits)])


# Logits of any size

EXTREME = [
    ("binary", [1e4], [1.0], 0.0, [0.0]),
    ("binary", [1e4], [0.0], 1e4, [1.0]),
    ("binary", [1e4], [0.25], 7500.0, [0.75]),
    ("binary", [-1e4], [1.0], 1e4, [-1.0]),
    ("binary", [-1e4], [0.0], 0.0, [0.0]),
    ("binary", [-1e4], [0.25], 2500.0, [-0.25]),
    ("multilabel", [1e4, -1e4, 0.0], [0.0, 1.0, 1.0], 2e4 + log(2), [1.0, -1.0, -0.5]),
    ("multiclass", [1e4, -1e4, 0.0], [1.0, 0.0, 0.0], 0.0, [0.0, 0.0, 0.0]),
    ("multiclass", [1e4, -1e4, 0.0], [0.0, 1.0, 0.0], 2e4, [1.0, -1.0, 0.0]),
    ("multiclass", [1e4, -1e4, 0.0], [0.5, 0.25, 0.25], 7500.0, [0.5, -0.25, -0.25]),
    ("multiclass", [1e4, 1e4, 1e4], [0.0, 0.0, 1.0], log(3), [1 / 3, 1 / 3, -2 / 3]),
    ("multiclass", [-1e4, -1e4, -1e4], [0.0, 0.0, 1.0], log(3), [1 / 3, 1 / 3, -2 / 3]),
    ("regression", [1e4, -1e4], [0.0, 1.0], (1e4**2 + 10001**2) / 2, [1e4, -10001.0]),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("way", [*BACKWARDS, "loss_and_grads"])
@pytest.mark.parametrize(("task", "logits", "Y", "J", "dZ2"), EXTREME)
def test_huge_logits_have_the_right_cost_and_gradient(task, logits, Y, J, dZ2, way, dtype, device):
    like = {"dtype": dtype, "device": device}
    logits, Y, J = torch.tensor(logits, **like), torch.tensor([Y], **like), torch.tensor(J, dtype=torch.float64)
    one, nothing = torch.ones(1, 1, **like), torch.zeros(len(logits), 1, **like)
    # W2 = 0, so b2 is the logits and db2 is dZ2; A1 = 1, so dW2 = dZ2 too.
    p = Problem("relu", task, X=one, W1=one, b1=0 * one[0], W2=nothing, b2=logits, Y=Y)
    if way == "loss_and_grads":
        cost, grads = p.net().loss_and_grads(p.X, Y)
    else:
        net = p.net(backward=way)
        cost = net.loss(p.X, Y)
        cost.backward()
        grads = {name: parameter.grad for name, parameter in net.named_parameters()}
    eps = torch.finfo(dtype).eps
    assert all(dV.isfinite().all() for dV in grads.values())
    # Right to a rounding or two; 0 exactly, since e^(−1e4) underflows in every dtype.
    torch.testing.assert_close(cost.double().cpu(), J, rtol=2 * max(eps, 2**-52), atol=0)
    truth = torch.tensor(dZ2, dtype=torch.float64)
    torch.testing.assert_close(grads["b2"].double().cpu(), truth, rtol=2 * eps, atol=0)
    torch.testing.assert_close(grads["W2"].squeeze(1), grads["b2"], rtol=0, atol=0)


INFINITE = [
    ("binary", [inf], [1.0], 0.0, [0.0]),
    ("binary", [-inf], [0.0], 0.0, [0.0]),
    ("binary", [-inf], [1.0], inf, [-1.0]),
    ("binary", [inf], [0.0], inf, [1.0]),
    ("binary", [-inf], [0.25], inf, [-0.25]),
    ("multilabel", [inf, -inf, 0.0], [1.0, 0.0, 1.0], log(2), [0.0, 0.0, -0.5]),
    ("multilabel", [inf, -inf, 0.0], [0.5, 1.0, 1.0], inf, [0.5, -1.0, -0.5]),
    ("multiclass", [-inf, 0.0, 0.0], [0.0, 1.0, 0.0], log(2), [0.0, -0.5, 0.5]),
    ("multiclass", [-inf, 0.0, 0.0], [0.0, 0.25, 0.75], log(2), [0.0, 0.25, -0.25]),
    ("multiclass", [-inf, 0.0, 0.0], [1.0, 0.0, 0.0], inf, None),
]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@backwards
@pytest.mark.parametrize(("task", "logits", "Y", "J", "dZ2"), INFINITE)
def test_what_an_infinite_logit_costs(task, logits, Y, J, dZ2, backward, reduction):
    """Nothing where it is right, so that the cost is that of the other examples; a masked class likewise."""
    ordinary = [0.5, -0.25, 1.0][: len(logits)]
    Z2 = torch.tensor([logits, ordinary], dtype=torch.float64, requires_grad=True)
    Y = torch.tensor([Y, [1.0, 0.0, 0.0][: len(Y)]], dtype=torch.float64)
    alone = torch.tensor([ordinary], dtype=torch.float64, requires_grad=True)
    options = {"task": task, "backward": backward}
    cost_alone = functional.cost(alone, Y[1:], **options)
    (of_alone,) = torch.autograd.grad(cost_alone, alone)
    found = functional.cost(Z2, Y, **options, reduction=reduction)
    divisor = 2 if reduction == "mean" else 1
    torch.testing.assert_close(found, (J + cost_alone) / divisor)
    if dZ2 is not None:
        (grad,) = torch.autograd.grad(found, Z2)
        truth = torch.stack([torch.tensor(dZ2, dtype=torch.float64), of_alone[0]])
        torch.testing.assert_close(grad, truth / divisor)


@backwards
@tasks
def test_a_logit_that_is_no_number_is_shown(task, backward):
    """In the cost, and in its own derivative."""
    n_y = 1 if task == "binary" else 3
    Z2 = torch.full((2, n_y), 0.5, dtype=torch.float64)
    Z2[0, 0] = torch.nan
    Y = torch.tensor([[1.0, 0.0, 0.0][:n_y]] * 2, dtype=torch.float64)
    J = functional.cost(Z2.requires_grad_(), Y, task=task, backward=backward)
    assert J.isnan()
    assert torch.autograd.grad(J, Z2)[0][0, 0].isnan()


@pytest.mark.parametrize("lead", [(), (3,), (2, 4), (2, 1, 3)])
@backwards
@tasks
def test_the_mean_cost_is_the_mean_of_the_losses(task, backward, lead):
    n_y = 1 if task == "binary" else 3
    generator = torch.Generator().manual_seed(0)
    Z2 = torch.randn(*lead, n_y, dtype=torch.float64, generator=generator, requires_grad=True)
    Y = torch.rand(*lead, n_y, dtype=torch.float64, generator=generator)
    Y = Y / Y.sum(-1, keepdim=True) if task == "multiclass" else Y
    options = {"task": task, "backward": backward}
    mean = functional.cost(Z2, Y, **options)
    losses = functional.cost(Z2, Y, **options, reduction="none")
    torch.testing.assert_close(mean, losses.mean())
    of_mean, of_losses = (torch.autograd.grad(J, Z2)[0] for J in (mean, losses.mean()))
    torch.testing.assert_close(of_mean, of_losses)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@backwards
@pytest.mark.parametrize(("task", "logits", "Y"), [row[:3] for row in EXTREME])
def test_huge_logits_have_finite_second_derivatives(task, logits, Y, backward, dtype):
    J = partial(functional.cost, task=task, backward=backward)
    Z2, Y = torch.tensor([logits], dtype=dtype, requires_grad=True), torch.tensor([Y], dtype=dtype)
    (dZ2,) = torch.autograd.grad(J(Z2, Y), Z2, create_graph=True)
    (second,) = torch.autograd.grad(dZ2.square().sum(), Z2)
    assert second.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@tasks
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_saturated_hidden_units_pass_nothing_back(activation, task, dtype, device):
    p = problem(activation, task, dtype=dtype, device=device, margin=0.1)
    tensors = [1e4 * p.X, p.W1, 1e4 * p.b1, p.W2, p.b2, p.Y]
    J, dX, dW1, db1, dW2, db2, *_ = value_and_gradients(cost_of(p), tensors)
    truth = value_and_gradients(true_cost_of(p), [V.double() if V.is_floating_point() else V for V in tensors])
    assert not any(dV.any() for dV in (dX, dW1, db1))
    # Each entry sums products of 7 examples or 3 units.
    assert_equal([J, dW2, db2], [truth[0], *truth[4:6]], 10 * torch.finfo(dtype).eps)


# Weights and smoothing


def weighted_truth(L, weights, reduction):
    return {"mean": (weights * L).sum() / weights.sum(), "sum": (weights * L).sum(), "none": weights * L}[reduction]


@on_a_cpu
@reductions
@backwards
@tasks
def test_weights_of_one_equal_none(task, backward, reduction, device):
    p = problem("tanh", task, device=device)
    tensors = (*p.network, p.Y)
    unweighted = cost_of(p, backward, reduction=reduction)
    weighted = cost_of(p, backward, reduction=reduction, sample_weight=torch.ones(len(p.X), device=device))
    incoming = random_like(unweighted(*tensors))
    assert_equal(value_and_gradients(weighted, tensors, incoming), value_and_gradients(unweighted, tensors, incoming))


@pytest.mark.parametrize("weight_dtype", [torch.int64, torch.float32, torch.float64])
@backwards
@tasks
def test_a_weight_is_that_many_copies_of_an_example(task, backward, weight_dtype):
    p = problem("tanh", task)
    copies = torch.tensor([1, 2, 0, 3, 1, 0, 5])
    weighted = cost_of(p, backward, sample_weight=copies.to(weight_dtype))

    def repeated(X, W1, b1, W2, b2, Y):
        return true_cost_of(p)(X.repeat_interleave(copies, 0), W1, b1, W2, b2, Y.repeat_interleave(copies, 0))

    tensors = (*p.network, p.Y)
    assert_equal(value_and_gradients(weighted, tensors), value_and_gradients(repeated, tensors))


@on_a_cpu
@reductions
@backwards
@tasks
def test_gradient_along_the_sample_weights(task, backward, reduction, device):
    p = problem("tanh", task, soft=True, device=device)
    sample_weight = random_like(p.X[:, 0]).exp()

    def J(Z2, Y, sample_weight):
        return functional.cost(Z2, Y, task=task, sample_weight=sample_weight, reduction=reduction, backward=backward)

    def truth(Z2, Y, sample_weight):
        return weighted_truth(TRUE_LOSSES[task](Z2, Y), sample_weight, reduction)

    tensors = [p.true_logits(*p.network), p.Y, sample_weight]
    incoming = random_like(truth(*tensors))
    assert_equal(value_and_gradients(J, tensors, incoming), value_and_gradients(truth, tensors, incoming))


@reductions
@backwards
def test_class_weights_are_those_of_cross_entropy(backward, reduction, device):
    p = problem("tanh", "multiclass", m=15, device=device)
    class_weight = torch.tensor([0.5, 1.0, 2.0, 7.0], dtype=torch.float64, device=device)
    Z2 = p.true_logits(*p.network)
    J = partial(functional.cost, task="multiclass", class_weight=class_weight, reduction=reduction, backward=backward)
    truth = partial(F.cross_entropy, weight=class_weight, reduction=reduction)
    incoming = random_like(truth(Z2, p.Y))
    assert_equal(value_and_gradients(J, [Z2, p.Y], incoming), value_and_gradients(truth, [Z2, p.Y], incoming))


def two_classes(Z2):
    """A label as two classes: the logits ``0`` and ``z``."""
    return torch.cat([torch.zeros_like(Z2), Z2], 1)


@pytest.mark.parametrize(
    ("option", "of_torch", "value"),
    [("class_weight", "weight", torch.tensor([1.0, 3.0]).double()), ("label_smoothing", "label_smoothing", 0.2)],
    ids=["class_weight", "label_smoothing"],
)
@reductions
@backwards
def test_binary_is_multiclass_of_two(backward, reduction, option, of_torch, value, device):
    p = problem("tanh", "binary", device=device)
    value = value.to(device) if option == "class_weight" else value

    def J(Z2):
        return functional.cost(Z2, p.Y, task="binary", reduction=reduction, backward=backward, **{option: value})

    def truth(Z2):
        return F.cross_entropy(two_classes(Z2), p.Y[:, 0].long(), reduction=reduction, **{of_torch: value})

    Z2 = p.true_logits(*p.network)
    incoming = random_like(truth(Z2))
    assert_equal(value_and_gradients(J, [Z2], incoming), value_and_gradients(truth, [Z2], incoming))


@pytest.mark.parametrize("soft", [False, True])
@reductions
@backwards
def test_label_smoothing_is_that_of_cross_entropy(backward, reduction, soft, device):
    p = problem("tanh", "multiclass", soft=soft, device=device)
    J = partial(functional.cost, task="multiclass", label_smoothing=0.3, reduction=reduction, backward=backward)
    truth = partial(F.cross_entropy, label_smoothing=0.3, reduction=reduction)
    tensors = [p.true_logits(*p.network), p.Y]
    incoming = random_like(truth(*tensors))
    assert_equal(value_and_gradients(J, tensors, incoming), value_and_gradients(truth, tensors, incoming))


@backwards
def test_each_of_several_labels_is_smoothed_like_a_single_one(backward):
    p = problem("tanh", "multilabel")
    Z2 = p.true_logits(*p.network)
    options = {"label_smoothing": 0.2, "reduction": "none", "backward": backward}
    together = functional.cost(Z2, p.Y, task="multilabel", **options)
    one_by_one = [
        functional.cost(z.unsqueeze(1), y, task="binary", **options) for z, y in zip(Z2.T, p.Y.T, strict=True)
    ]
    assert_equal([together], [sum(one_by_one)])


@reductions
@backwards
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_all_weights_and_smoothing_at_once(task, backward, reduction):
    """A soft label weighs as the mean of its classes, and smoothing moves no weight."""
    p = problem("tanh", task, soft=True)
    rows = p.Y if task == "multiclass" else torch.cat([1 - p.Y, p.Y], 1)
    class_weight = torch.arange(1.0, rows.shape[1] + 1, dtype=torch.float64)
    sample_weight = random_like(p.X[:, 0]).exp()
    options = {"task": task, "class_weight": class_weight, "sample_weight": sample_weight, "label_smoothing": 0.1}

    def truth(Z2):
        scores = Z2 if task == "multiclass" else two_classes(Z2)
        L = F.cross_entropy(scores, rows, label_smoothing=0.1, reduction="none")
        weights = sample_weight * (class_weight * rows).sum(1)
        return weighted_truth(L, weights, reduction)

    Z2 = p.true_logits(*p.network)
    incoming = random_like(truth(Z2))
    assert_equal(
        value_and_gradients(
            lambda Z2: functional.cost(Z2, p.Y, reduction=reduction, backward=backward, **options), [Z2], incoming
        ),
        value_and_gradients(truth, [Z2], incoming),
    )


FORMS = {
    "binary": lambda Y: [Y, Y[:, 0], Y.bool(), Y[:, 0].bool(), Y.int(), Y[:, 0].to(torch.uint8), Y.half()],
    "multilabel": lambda Y: [Y, Y.bool(), Y.long(), Y.float()],
    "multiclass": lambda Y: [Y, Y.to(torch.uint8), F.one_hot(Y, 4).double(), F.one_hot(Y, 4).half()],
    "regression": lambda Y: [Y, Y.clone().requires_grad_()],
}


@backwards
@tasks
def test_targets_in_every_form_cost_the_same(task, backward):
    p = problem("tanh", task)
    Z2 = p.true_logits(*p.network)
    truth = TRUE_LOSSES[task](Z2, p.Y).mean()
    for Y in FORMS[task](p.Y):
        assert_equal([functional.cost(Z2, Y, task=task, backward=backward)], [truth])


# The cost and its gradients at once


def loss_and_grads(p, **options):
    J, grads = functional.loss_and_grads(*[p.X, p.Y, *p.network[1:]], activation=p.activation, task=p.task, **options)
    assert list(grads) == list(PARAMETERS)
    return [J, *grads.values()]


def every_weight(p):
    """Options of the cost that its task has, all of them."""
    options = {"sample_weight": random_like(p.X[:, 0]).abs()}
    if p.task in ("binary", "multiclass"):
        options["class_weight"] = torch.linspace(0.5, 2, max(2, len(p.b2)), dtype=p.X.dtype, device=p.X.device)
    if p.task != "regression":
        options["label_smoothing"] = 0.1
    return options


@pytest.mark.parametrize("weighted", [False, True])
@tasks
@activations
def test_loss_and_grads_equals_backward(activation, task, weighted, device):
    p = problem(activation, task, device=device)
    options = every_weight(p) if weighted else {}
    J, _, *gradients = value_and_gradients(cost_of(p, **options), (*p.network, p.Y))
    assert_equal(loss_and_grads(p, **options), [J, *gradients[:4]])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@tasks
def test_loss_and_grads_equals_backward_in_low_precision(task, dtype, weighted, device):
    p = problem("tanh", task, dtype=dtype, device=device)
    options = every_weight(p) if weighted else {}
    J, _, *gradients = value_and_gradients(cost_of(p, kernel="torch", **options), (*p.network, p.Y))
    got = loss_and_grads(p, kernel="torch", **options)
    assert [V.dtype for V in got] == [torch.float32, *4 * [dtype]]
    # The same operations on the same numbers; only the scale w / Σ w may be rounded otherwise, which moves dZ2 by a
    # rounding. A gradient sums 7 products of those, and is at its largest entry not much smaller than they are.
    assert_equal(got, [J, *gradients[:4]], 8 * torch.finfo(dtype).eps)


@tasks
def test_loss_and_grads_ignores_autocast(task, device):
    p = problem("tanh", task, dtype=torch.float32, device=device)
    outside = loss_and_grads(p)
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = loss_and_grads(p)
        p.X = p.X.bfloat16()
        rounded = loss_and_grads(p)
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
    assert [V.dtype for V in rounded] == 5 * [torch.float32]
    assert_equal(rounded, outside, 0.1)  # X rounded to 8 bits: near, for that is all that is asked of it here


@tasks
def test_loss_and_grads_leaves_no_trace(task):
    p = problem("tanh", task)
    tensors = [getattr(p, name).requires_grad_() for name in NETWORK]
    before = [V.detach().clone() for V in tensors]
    assert not any(V.requires_grad or V.grad_fn for V in loss_and_grads(p))
    assert all(V.grad is None for V in tensors)
    assert all(torch.equal(V, was) for V, was in zip(tensors, before, strict=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lead", [(), (1,), (4, 2), (2, 1, 4)], ids=str)
@tasks
def test_loss_and_grads_of_any_leading_shape(task, lead, weighted):
    p = problem("tanh", task, m=torch.Size(lead).numel())
    weights = random_like(p.X[:, 0]).exp() if weighted else None
    truth = loss_and_grads(p, sample_weight=weights)
    p.X, p.Y = p.X.reshape(*lead, p.X.shape[1]), p.Y.reshape((*lead, *p.Y.shape[1:]))
    assert_equal(loss_and_grads(p, sample_weight=weights.reshape(lead) if weighted else None), truth)


@backwards
@tasks
def test_examples_in_permuted_dimensions(task, backward):
    p = problem("tanh", task, m=8)
    weights = random_like(p.X[:, 0]).exp()

    def permuted(V):
        """Examples in a grid of 2 × 4, strided such that no view puts them in a row."""
        return V.reshape((2, 4, *V.shape[1:])).transpose(0, 1).contiguous().transpose(0, 1)

    J, _, *gradients = value_and_gradients(cost_of(p, backward, sample_weight=weights), (*p.network, p.Y))
    p.X, p.Y = permuted(p.X), permuted(p.Y)
    options = {"sample_weight": permuted(weights)}
    assert_equal(loss_and_grads(p, **options), [J, *gradients[:4]])
    got = value_and_gradients(cost_of(p, backward, **options), (*p.network, p.Y))
    assert_equal([got[0], *got[2:6]], [J, *gradients[:4]])
