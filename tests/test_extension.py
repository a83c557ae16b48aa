"""What the design promises to who extends the package: an activation is one row."""

import pytest
import torch
from problems import MODULES, assert_equal, problem, value_and_gradients
from torch import nn

from twolayer import TwoLayerNet, functional
from twolayer.activations import ACTIVATIONS, Activation
from twolayer.functional import BACKWARDS
from twolayer.kernels import cpu, gpu
from twolayer.tasks import TASKS

SOFTPLUS = Activation(
    torch.nn.functional.softplus,  # A = log(1 + eᶻ), so that g'(Z) = σ(Z) = 1 − e⁻ᴬ
    lambda A: -torch.expm1(-A),
    nn.Softplus,
    lambda A: -torch.expm1(-A) * torch.exp(-A),
)


@pytest.fixture(autouse=True)
def softplus(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "softplus", SOFTPLUS)
    monkeypatch.setitem(MODULES, "softplus", nn.Softplus)


@pytest.mark.parametrize("chunk_size", [None, 10], ids=["plain", "chunked"])
@pytest.mark.parametrize("task", TASKS)
def test_cost_gradients_and_their_gradients(task, chunk_size):
    p = problem("softplus", task, m=23)

    def J(*network, backward):
        size = None if backward == "autograd" else chunk_size
        return functional.loss(network[0], p.Y, *network[1:], activation="softplus", task=task, backward=backward,
                               chunk_size=size)  # fmt: skip

    def penalised(*network, backward):
        J1 = J(*network, backward=backward)
        return J1 + sum(dV.square().sum() for dV in torch.autograd.grad(J1, network, create_graph=True))

    for compute in (J, penalised):
        truth = value_and_gradients(lambda *n, compute=compute: compute(*n, backward="autograd"), p.network)
        for backward in BACKWARDS:
            found = value_and_gradients(lambda *n, compute=compute, b=backward: compute(*n, backward=b), p.network)
            assert_equal(found, truth)


@pytest.mark.parametrize("backward", BACKWARDS)
def test_the_network_knows_it(backward):
    p = problem("softplus", "multiclass")
    net = p.net(backward=backward)
    assert_equal([net(p.X)], [p.sequential()(p.X)])
    assert isinstance(net.to_sequential()[1], nn.Softplus)
    assert TwoLayerNet.from_sequential(net.to_sequential(), task="multiclass").activation == "softplus"
    with pytest.raises(ValueError, match=r"beta must be 1\.0, got 2"):
        TwoLayerNet.from_sequential(nn.Sequential(nn.Linear(2, 3), nn.Softplus(beta=2), nn.Linear(3, 1)))


def test_kernels_that_do_not_know_it_say_so():
    p = problem("softplus", "regression", dtype=torch.float32)
    assert functional.kernel_for(p.X, p.Y, p.W1, p.W2, activation="softplus") == "torch"
    reason = "it knows no activation 'softplus'"
    with pytest.raises(RuntimeError, match=f"kernel 'cpu' cannot run: {reason}"):
        p.net(kernel="cpu").loss_and_grads(p.X, p.Y)
    for kernel in (cpu.why_not, *(lambda *v, name=name: gpu.why_not_of_these(name, *v) for name in gpu.KERNELS)):
        assert kernel(*p.values()) == reason
