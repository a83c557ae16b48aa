"""Inputs that once went wrong in silence or ended the process, each in every entry point where it can come in."""

import copy
import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from problems import assert_equal, problem, relative_error
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from twolayer import TwoLayerNet, functional, gradient_descent
from twolayer.functional import BACKWARDS

EPS = torch.finfo(torch.float32).eps
modes = pytest.mark.parametrize("backward", BACKWARDS)


def calls(net, X, Y, **weights):
    """Every entry point, by name: what it computes, as tensors."""
    v = {name: torch.ones_like(V) for name, V in net.named_parameters()}
    found = {
        "net.loss": lambda: [J := net.loss(X, Y, **weights), *torch.autograd.grad(J, list(net.parameters()))],
        "loss_and_grads": lambda: [J_and := net.loss_and_grads(X, Y, **weights), *J_and[1].values()][1:],
        "hvp": lambda: list(net.hvp(X, Y, v, **weights).values()),
        "gradient_descent": lambda: [gradient_descent(copy.deepcopy(net), X, Y, iterations=3, **weights)],
    }
    if not weights:
        found["per_sample_grad_norms"] = lambda: [net.per_sample_grad_norms(X, Y)]
        found["net"] = lambda: [net(X)]
    return {name: [V.detach() for V in compute()] for name, compute in found.items()}


def assert_alike(found, truth, allowed=200 * EPS):
    for name, tensors in truth.items():
        for mine, true in zip(found[name], tensors, strict=True):
            assert relative_error(mine, true) < allowed, name


# 1. Memory is not the tensor


@modes
def test_negative_bits(backward):
    p = problem("tanh", "regression", n_y=1, dtype=torch.float32)
    net, Y = p.net(backward=backward), p.Y[:, 0]
    negative = torch.complex(torch.ones_like(Y), -Y).conj().imag
    assert negative.is_neg()
    assert_alike(calls(net, p.X, negative), calls(net, p.X, Y))
    assert_alike(calls(net, torch._neg_view(-p.X), Y), calls(net, p.X, Y))
    weights = torch.linspace(0.1, 1, 7)
    negative = torch.complex(weights, -weights).conj().imag
    assert_alike(calls(net, p.X, Y, sample_weight=negative), calls(net, p.X, Y, sample_weight=weights))
    parameters = [torch._neg_view(-V) for V in p.network[1:]]
    J, grads = functional.loss_and_grads(p.X, Y, *parameters, activation="tanh", task="regression")
    truth, true = functional.loss_and_grads(p.X, Y, *p.network[1:], activation="tanh", task="regression")
    assert_alike({"all": [J, *grads.values()]}, {"all": [truth, *true.values()]})


@pytest.mark.parametrize("backward", ["manual", "streamed"])
def test_parameters_of_other_dtypes_under_autocast(backward):
    p = problem("tanh", "regression", dtype=torch.float32)
    mixed = [p.W1, p.b1.double(), p.W2.double(), p.b2.double()]
    truth = functional.loss(p.X, p.Y, *p.network[1:], activation="tanh", task="regression")
    with torch.autocast("cpu"):
        J, grads = functional.loss_and_grads(p.X, p.Y, *mixed, activation="tanh", task="regression")
        by_mode = functional.loss(p.X, p.Y, *mixed, activation="tanh", task="regression", backward=backward)
    assert relative_error(J, truth) < 50 * EPS
    assert relative_error(by_mode, truth) < 0.05  # bfloat16's products, in mode manual
    assert all(dV.isfinite().all() for dV in grads.values())


@modes
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32, torch.uint64])
def test_class_indices_of_any_integer_dtype(dtype, backward):
    p = problem("tanh", "multiclass", n_y=300, dtype=torch.float32)
    net, Y = p.net(backward=backward), torch.arange(7)
    assert_alike(calls(net, p.X, Y.to(dtype)), calls(net, p.X, Y))
    with pytest.raises(IndexError, match=r"Y must lie in \[0, 299\] for 300 classes"):
        net.loss(p.X, torch.full((7,), 300))


# 2. The scale of weights


@modes
@pytest.mark.parametrize("how", [{}, {"kernel": "torch"}, {"chunk_size": 10}], ids=["", "plain", "chunked"])
@pytest.mark.parametrize("scale", [1e-37, 1e37, 1e38])
def test_the_scale_of_weights_is_no_matter(scale, how, backward):
    p = problem("tanh", "multiclass", m=53, dtype=torch.float32)
    weights = torch.linspace(0.1, 1, 53)
    for options in ({}, {"class_weight": [1.0, 2.0, 3.0, 4.0]}):
        net = p.net(backward=backward, **({} if backward == "autograd" else how), **options)
        assert_alike(calls(net, p.X, p.Y, sample_weight=weights * scale), calls(net, p.X, p.Y, sample_weight=weights))


# 3. One parameter under two names


@modes
def test_shared_parameters(backward):
    p = problem("tanh", "regression", n_x=4, n_h=4, n_y=4)
    net, true = (p.net(backward=b) for b in (backward, "autograd"))
    for one in (net, true):
        one.W2, one.b2 = one.W1, one.b1
    _, grads = net.loss_and_grads(p.X, p.Y)
    true.loss(p.X, p.Y).backward()
    assert_equal([grads["W1"], grads["W2"], grads["b1"]], [true.W1.grad, true.W1.grad, true.b1.grad])
    v = {name: torch.full_like(V, 0.5) for name, V in net.named_parameters()}
    J = true.loss(p.X, p.Y)
    dV = torch.autograd.grad(J, list(true.parameters()), create_graph=True)
    truth = torch.autograd.grad(sum((d * 0.5).sum() for d in dV), list(true.parameters()))
    assert_equal([net.hvp(p.X, p.Y, v)[name] for name in v], truth)
    costs = [gradient_descent(one, p.X, p.Y, learning_rate=0.1, iterations=5) for one in (net, true)]
    assert_equal(costs[:1], costs[1:])
    with pytest.raises(RuntimeError, match="W1 and W2 must be two parameters"):
        net.per_sample_grad_norms(p.X, p.Y)


# 4. Numbers that are not real


def test_complex_networks_are_refused():
    with pytest.raises(TypeError, match=r"dtype must be of .* got torch\.complex64"):
        TwoLayerNet(2, 3, 1, dtype=torch.complex64)
    net = TwoLayerNet(2, 3, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.to(torch.complex64)
    X = torch.ones(5, 2, dtype=torch.complex64)
    for call in (net, *(lambda X, f=f: f(X, torch.ones(5)) for f in (net.loss, net.loss_and_grads))):
        with pytest.raises(TypeError, match="W1 must be of float64"):
            call(X)
    with pytest.raises(TypeError, match="logits must be of float64"):
        functional.cost(torch.ones(5, 1, dtype=torch.complex64), torch.ones(5))


# 5. What the call would have done


class Doubled(TwoLayerNet):
    def forward(self, X):
        return super().forward(2 * X)


def by_hook(p, backward):
    net = p.net(backward=backward)
    net.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return net


def by_subclass(p, backward):
    net = Doubled(
        *p.W1.shape[::-1], len(p.b2), activation=p.activation, task=p.task, backward=backward, dtype=p.X.dtype
    )
    net.load_state_dict(p.net().state_dict())
    return net


@modes
@pytest.mark.parametrize("changed", [by_hook, by_subclass])
def test_loss_is_the_cost_of_what_the_call_gives(changed, backward):
    p = problem("tanh", "multiclass")
    net = changed(p, backward)
    assert_equal([net.loss(p.X, p.Y)], [p.net().loss(2 * p.X, p.Y)])
    v = {name: torch.ones_like(V) for name, V in net.named_parameters()}
    for call in (net.loss_and_grads, net.per_sample_grad_norms, lambda X, Y: net.hvp(X, Y, v)):
        with pytest.raises(RuntimeError, match="use loss"):
            call(p.X, p.Y)
    if backward == "autograd":
        costs = gradient_descent(net, p.X, p.Y, iterations=1)
        assert_equal([costs[0]], [p.net().loss(2 * p.X, p.Y)])
    else:
        with pytest.raises(RuntimeError, match="backward='autograd'"):
            gradient_descent(net, p.X, p.Y, iterations=1)


@modes
def test_hooks_of_all_modules(backward):
    p = problem("tanh", "regression")
    net = p.net(backward=backward)
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, Z2: 3 * Z2 if module is net else None)
    try:
        assert_equal([net.loss(p.X, p.Y)], [functional.cost(3 * p.net()(p.X), p.Y, task="regression")])
        with pytest.raises(RuntimeError, match="a forward hook of all modules"):
            net.loss_and_grads(p.X, p.Y)
    finally:
        hook.remove()


# 6. Deferred initialisation


def test_class_weights_come_back():
    net = nn.utils.skip_init(TwoLayerNet, 3, 4, 1, class_weight=[1.0, 3.0])
    with torch.no_grad():
        net.class_weight.fill_(torch.nan)
    net.reset_parameters()
    assert net.class_weight.tolist() == [1.0, 3.0]
    net = TwoLayerNet(3, 4, 1, class_weight=[1.0, 3.0], device="meta").to_empty(device="cpu")
    net.reset_parameters()
    assert net.class_weight.tolist() == [1.0, 3.0]


# 7. Infinite logits


@modes
@pytest.mark.parametrize("kernel", [None, "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_masked_output(task, dtype, kernel, backward):
    p = problem("tanh", task, dtype=dtype, n_y=4)
    p.Y = p.Y % 3 if task == "multiclass" else p.Y * torch.tensor([1, 1, 1, 0])
    net, without = p.net(backward=backward, kernel=None if backward == "autograd" else kernel), p.net(backward=backward)
    with torch.no_grad():
        net.b2[3] = -torch.inf
        without.b2[3] = -1e4  # next to nothing, and finite
    for name, tensors in calls(without, p.X, p.Y).items():
        if name != "net":
            mine = calls(net, p.X, p.Y)[name]
            assert all(relative_error(a, b) < 1e-5 for a, b in zip(mine, tensors, strict=True)), name


# 9, 10. The process ends


@modes
def test_another_default_device(backward):
    p = problem("tanh", "binary", dtype=torch.float32)
    net = p.net(backward=backward)
    truth = calls(net, p.X, p.Y)
    torch.set_default_device("meta")
    try:
        found = calls(net, p.X, p.Y)
        weighted = TwoLayerNet(5, 3, 1, class_weight=[1.0, 3.0], device="cpu")
        assert weighted.class_weight.tolist() == [1.0, 3.0]
        weighted.loss_and_grads(p.X, p.Y)
    finally:
        torch.set_default_device(None)
    assert_alike(found, truth)


@modes
def test_another_default_dtype(backward):
    p = problem("tanh", "binary", dtype=torch.float32)
    net = p.net(backward=backward)
    truth = calls(net, p.X, p.Y)
    torch.set_default_dtype(torch.float64)
    try:
        found = calls(net, p.X, p.Y)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_alike(found, truth)


@pytest.mark.parametrize(("n_x", "n_h", "n_y"), [(0, 3, 1), (2, 0, 1), (2, 3, 0)])
def test_no_features_units_or_outputs(n_x, n_h, n_y):
    P = [torch.ones(shape) for shape in ((n_h, n_x), (n_h,), (n_y, n_h), (n_y,))]
    for call in (functional.logits, lambda X, *P: functional.loss_and_grads(X, torch.ones(4, n_y), *P)):
        with pytest.raises(ValueError, match="n_x, n_h, n_y must be at least 1"):
            call(torch.ones(4, n_x), *P)


@modes
@pytest.mark.parametrize("name", ["X", "Y"])
def test_freed_memory(name, backward):
    p = problem("tanh", "regression", dtype=torch.float32)
    getattr(p, name).untyped_storage().resize_(0)
    net = problem("tanh", "regression", dtype=torch.float32).net(backward=backward)
    for call in (net.loss, net.loss_and_grads, net.per_sample_grad_norms):
        with pytest.raises(RuntimeError, match=f"{name} must have its memory"):
            call(p.X, p.Y)


# 11. No examples at all


@modes
def test_empty_batches_under_vmap(backward):
    net = TwoLayerNet(6, 5, 1, backward=backward)
    P = dict(net.named_parameters())

    def cost(P, x, y):
        return torch.func.functional_call(net, P, (x.unsqueeze(0), y.unsqueeze(0)))

    assert torch.vmap(net)(torch.ones(0, 6)).shape == (0, 1)
    assert torch.vmap(net)(torch.ones(0, 4, 6)).shape == (0, 4, 1)
    grads = torch.vmap(torch.func.grad(cost), (None, 0, 0))(P, torch.ones(0, 6), torch.ones(0))
    assert grads["W1"].shape == (0, 5, 6)


# 12. Memory that stays


@modes
@pytest.mark.parametrize("by_logits", [False, True])
def test_a_checkpoint_keeps_nothing(by_logits, backward):
    net, kept = TwoLayerNet(5, 7, 1, backward=backward), []
    for _ in range(3):
        X, Y = torch.ones(9, 5), torch.ones(9)
        compute = (lambda X: net(X).square().sum()) if by_logits else (lambda X, Y=Y: net.loss(X, Y))
        checkpoint(compute, X, use_reentrant=False).backward()
        kept.append(weakref.ref(X))
        del X, Y, compute
    gc.collect()
    assert not any(reference() is not None for reference in kept)


# 13, 14. Valid input


@modes
def test_targets_a_rounding_above_one(backward):
    p = problem("tanh", "binary", dtype=torch.float32)
    Y = torch.zeros(7)
    for _ in range(10):
        Y += 0.1
    assert Y.max() > 1
    net = p.net(backward=backward)
    assert_alike(calls(net, p.X, Y), calls(net, p.X, torch.ones(7)))
    with pytest.raises(ValueError, match="Y must lie in"):
        net.loss(p.X, Y + 1e-5)


def test_numbers_of_numpy():
    net = TwoLayerNet(np.int64(4), np.int32(3), np.int16(1), label_smoothing=np.float32(0.5), chunk_size=np.int64(2))
    assert (net.in_features, net.label_smoothing, net.chunk_size) == (4, 0.5, 2)
    assert type(net.in_features) is int
    net.loss(torch.ones(5, 4), torch.ones(5)).backward()


@modes
def test_sparse_tensors(backward):
    net, X, Y = TwoLayerNet(2, 3, 1, backward=backward), torch.ones(5, 2), torch.ones(5)
    for call in (net.loss, net.loss_and_grads, net.per_sample_grad_norms, lambda X, Y: net(X)):
        with pytest.raises(TypeError, match=r"X must be dense, got torch\.sparse_coo"):
            call(X.to_sparse(), Y)
    with pytest.raises(TypeError, match="Y must be dense"):
        net.loss(X, Y.to_sparse())
    with pytest.raises(TypeError, match="sample_weight must be dense"):
        net.loss(X, Y, sample_weight=Y.to_sparse())


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=1)


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        pruned,
        lambda layer: layer.register_forward_hook(lambda *_: None),
        lambda layer: layer.register_full_backward_hook(lambda *_: None),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_layers_that_do_more_than_a_plain_one(place, change):
    layers = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    change(layers[place])
    with pytest.raises(ValueError, match=rf"sequential\[{place}\] must be a plain layer"):
        TwoLayerNet.from_sequential(layers)
