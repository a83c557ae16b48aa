"""Every kind of derivative that PyTorch's autograd knows, and every place where it lets a user reach in."""

from collections.abc import Callable

import pytest
import torch
from problems import PARAMETERS, Problem, assert_equal, problem
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from .models import Ours

contract = pytest.mark.contract


def gradients(model, X, Y, **options):
    return grad(model(X, Y), list(model.parameters()), **options)


@pytest.fixture(params=["logits", "cost"])
def function(request: pytest.FixtureRequest, example: Problem, backward: str) -> tuple[Callable[..., Tensor], tuple]:
    """The logits or the cost as a function of all that they depend on, and where to differentiate it."""
    # Of few numbers, for each of them is a column of finite differences.
    example = problem(example.activation, example.task, m=3, n_x=2, n_h=3, soft=True, device=example.X.device)
    model = Ours(example, backward)

    def logits(X, *parameters):
        return functional_call(model.net, dict(zip(PARAMETERS, parameters, strict=True)), (X,))

    def cost(X, W1, b1, W2, b2, Y):
        return model.net.cost(logits(X, W1, b1, W2, b2), Y)

    inputs = [*example.network, example.Y][: 5 if request.param == "logits" else 6]
    return {"logits": logits, "cost": cost}[request.param], tuple(V.detach().requires_grad_() for V in inputs)


@contract("Derivatives", "`gradcheck`, batched gradients")
def test_gradcheck(function):
    assert gradcheck(*function, check_batched_grad=True)


@contract("Derivatives", "`gradcheck`, forward mode, batched forward mode")
def test_forward_mode(function):
    assert gradcheck(*function, check_backward_ad=False, check_forward_ad=True, check_batched_forward_grad=True)


@contract("Derivatives", "`gradgradcheck`, batched gradients")
def test_gradgradcheck(function):
    assert gradgradcheck(*function, check_batched_grad=True)


@contract("Derivatives", "`gradgradcheck`, forward over reverse")
def test_forward_over_reverse(function):
    only = {"check_rev_over_rev": False, "check_undefined_grad": False}
    assert gradgradcheck(*function, check_fwd_over_rev=True, **only)


@contract("Derivatives", "`create_graph=True`: a penalty on the gradient")
def test_create_graph(same):
    def penalised(model, X, Y):
        X.requires_grad_()
        J = model(X, Y)
        (dX,) = grad(J, X, create_graph=True)
        (J + dX.square().sum()).backward()
        return [p.grad for p in model.parameters()]

    same(penalised)


@contract("Derivatives", "`create_graph=True`, three derivatives deep")
def test_third_derivative(same):
    def third(model, X, Y):
        X.requires_grad_()
        (dX,) = grad(model.net(X).pow(3).sum(), X, create_graph=True)
        (ddX,) = grad(dX.pow(2).sum(), X, create_graph=True)
        return grad(ddX.pow(2).sum(), [X, *model.parameters()], allow_unused=True, materialize_grads=True)

    same(third)


@contract("Derivatives", "gradients with respect to `X` and `Y`")
def test_gradients_of_inputs(same):
    def gradients_of_inputs(model, X, Y):
        X.requires_grad_()
        Y.requires_grad_()
        model(X, Y).backward()
        return X.grad, Y.grad

    same(gradients_of_inputs)


@contract("Derivatives", "frozen parameters")
@pytest.mark.parametrize("trained", range(4))
def test_frozen_parameters(same, trained):
    def gradients_of_the_rest(model, X, Y):
        for i, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(i == trained)
        model(X, Y).backward()
        assert [p.grad is None for p in model.parameters()] == [i != trained for i in range(4)]
        return list(model.parameters())[trained].grad

    same(gradients_of_the_rest)


@contract("Derivatives", "`retain_graph=True`: two backward calls accumulate")
def test_two_backward_calls(same):
    def accumulated(model, X, Y):
        J = model(X, Y)
        J.backward(retain_graph=True)
        J.backward()
        with pytest.raises(RuntimeError, match="second time"):
            J.backward()
        return [p.grad for p in model.parameters()]

    same(accumulated)


@contract("Derivatives", "`autograd.grad` with unused inputs")
def test_unused_inputs(same):
    def with_unused(model, X, Y):
        W1, _, W2, b2 = model.parameters()
        unused = torch.ones(2, requires_grad=True, device=X.device)
        with pytest.raises(RuntimeError, match="allow_unused"):
            grad(model(X, Y), [W1, unused])
        dW2, nothing = grad(model(X, Y), [W2, unused], allow_unused=True)
        assert nothing is None
        # Of the logits alone, one part of the network.
        (db2,) = grad(model.net(X).sum(), [b2])
        return dW2, db2

    same(with_unused)


@contract("Derivatives", "`autograd.grad` with `is_grads_batched=True`")
def test_batched_gradients(same):
    def jacobian(model, X, Y):
        Z2 = model.net(X)
        rows = torch.eye(Z2.numel(), dtype=Z2.dtype, device=X.device).reshape(-1, *Z2.shape)
        return grad(Z2, list(model.parameters()), rows, is_grads_batched=True)

    same(jacobian)


@contract("Derivatives", "hooks on tensors")
def test_tensor_hooks(same):
    def doubled(model, X, Y):
        W1, b1, W2, b2 = model.parameters()
        seen = []
        handle = W1.register_hook(lambda dW1: 2 * dW1)
        b2.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
        Z2 = model.net(X)
        Z2.register_hook(lambda dZ2: dZ2 - 1)
        Z2.retain_grad()
        Z2.square().sum().backward()
        handle.remove()
        return W1.grad, b1.grad, W2.grad, Z2.grad, *seen

    same(doubled)


@contract("Derivatives", "hooks on modules, forward and full backward")
def test_module_hooks(same):
    def hooked(model, X, Y):
        seen = []
        model.net.register_forward_pre_hook(lambda net, inputs: (inputs[0] + 1,))
        model.net.register_forward_hook(lambda net, inputs, Z2: Z2 * 2)
        model.net.register_full_backward_pre_hook(lambda net, dZ2: (dZ2[0] * 3,))
        model.net.register_full_backward_hook(lambda net, dX, dZ2: seen.extend([*dX, *dZ2]))
        X.requires_grad_()
        J = model(X, Y)
        J.backward()
        return J, X.grad, *seen, *(p.grad for p in model.parameters())

    same(hooked)


@contract("Derivatives", "a gradient edge in the graph")
def test_gradient_edge(same):
    def of_the_edge(model, X, Y):
        Z2 = model.net(X)
        edge = torch.autograd.graph.get_gradient_edge(Z2)
        return grad(Z2.square().sum(), [edge])

    same(of_the_edge)


@contract("Derivatives", "anomaly mode")
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled", "ignore:Error detected in")
def test_anomaly_mode(same):
    def under_anomaly_mode(model, X, Y):
        with torch.autograd.detect_anomaly():
            found = gradients(model, X, Y)
            X[0, 0] = torch.nan
            with pytest.raises(RuntimeError, match="returned nan values"):
                gradients(model, X, torch.zeros_like(Y))
        return found

    same(under_anomaly_mode)


@contract("Derivatives", "saved-tensor hooks")
def test_saved_tensor_hooks(same):
    def through_lists(model, X, Y):
        kept = []

        def pack(V):
            kept.append(V)
            return V.tolist(), V.dtype, V.device

        with saved_tensors_hooks(pack, lambda packed: torch.tensor(packed[0], dtype=packed[1], device=packed[2])):
            J = model(X, Y)
        assert kept
        return grad(J, list(model.parameters()))

    same(through_lists)


@contract("Derivatives", "`save_on_cpu`")
def test_save_on_cpu(same):
    def saved_on_cpu(model, X, Y):
        with save_on_cpu():
            J = model(X, Y)
        return grad(J, list(model.parameters()))

    same(saved_on_cpu)


@contract("Derivatives", "activation checkpointing")
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing(same, use_reentrant):
    def checkpointed(model, X, Y):
        X.requires_grad_()
        J = checkpoint(model, X, Y, use_reentrant=use_reentrant)
        J.backward()
        return J, X.grad, *(p.grad for p in model.parameters())

    same(checkpointed)


@contract("Derivatives", "`no_grad` and `inference_mode`")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(same, mode):
    def without(model, X, Y):
        with mode():
            J, Z2 = model(X, Y), model.net(X)
        assert J.grad_fn is None
        assert Z2.grad_fn is None
        assert not Z2.requires_grad
        return J.clone(), Z2.clone()

    same(without)


@contract("Derivatives", "`torch.autograd.functional`: `jacobian`, `hvp`, `vhp`")
def test_autograd_functional(same):
    def of_the_cost(model, X, Y):
        V = torch.linspace(-1, 1, X.numel(), dtype=X.dtype, device=X.device).reshape(X.shape)

        def cost(X):
            return model(X, Y)

        F = torch.autograd.functional
        vectorized = F.jacobian(model.net, X, vectorize=True)
        forward = F.jacobian(model.net, X, vectorize=True, strategy="forward-mode")
        return F.jacobian(model.net, X), vectorized, forward, F.hvp(cost, X, V), F.vhp(cost, X, V)

    same(of_the_cost)


@contract("Derivatives", "a kept tensor changed in place: raises, or uses what it was")
@pytest.mark.parametrize("changed", ["X", "W1", "W2", "Z2"])
def test_changed_in_place(example, backward, changed):
    def change(model, X, Y, change_it):
        X = X.clone().requires_grad_() * 1
        W1, _, W2, _ = model.parameters()
        Z2 = model.net(X)
        J = model.net.cost(Z2, Y)
        with torch.no_grad():
            if change_it:
                {"X": X, "W1": W1, "W2": W2, "Z2": Z2}[changed].mul_(2)
        return grad(J, [X, *model.parameters()])

    before = change(Ours(example, backward), example.X, example.Y, False)
    try:
        after, error = change(Ours(example, backward), example.X, example.Y, True), None
    except RuntimeError as raised:
        after, error = before, str(raised)
    assert error is None or "modified by an inplace operation" in error
    assert_equal(after, before)
