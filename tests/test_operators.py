"""``torch.ops.twolayer``: each operator is what it claims to be, and known are its floating point operations."""

import pytest
import torch
from problems import problem
from torch.utils.flop_counter import FlopCounterMode

from twolayer.functional import BACKWARDS
from twolayer.tasks import PAIRING

M, N_X, N_H = 23, 5, 7


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("along_X", [False, True])
@pytest.mark.parametrize("task", ["multiclass", PAIRING])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_opcheck(dtype, task, along_X, requires_grad, device):
    multi = "multilabel" if task == PAIRING else task
    p = problem("tanh", multi, m=M, n_x=N_X, n_h=N_H, soft=True, dtype=dtype, device=device)
    parameters = [V.requires_grad_(requires_grad) for V in p.network[1:]]
    weights = torch.linspace(0.5, 2, M, dtype=dtype, device=device)
    tX, tY, *direction = (torch.full_like(V, 0.5).detach() for V in (p.X, p.Y, *parameters))
    options = ("tanh", task, 0.0, "sum", None, None, along_X)
    ops = torch.ops.twolayer
    torch.library.opcheck(ops.logits.default, (p.X, *parameters, "tanh", None, None))
    torch.library.opcheck(ops.loss_and_grads.default, (p.X, p.Y, weights, None, *parameters, *options))
    moving = (tX if along_X else None, tY if task == PAIRING else None, *direction)
    torch.library.opcheck(ops.hvp.default, (p.X, p.Y, weights, None, *parameters, *moving, *options))


def test_an_operator_s_own_derivative_is_that_of_the_plain_equations():
    p = problem("tanh", "multiclass", m=M)
    W1 = p.W1.requires_grad_()
    options = ("tanh", "multiclass", 0.0, "mean", None, None, False)
    J, dW1, *_ = torch.ops.twolayer.loss_and_grads(p.X, p.Y, None, None, *p.network[1:], *options)
    torch.testing.assert_close(torch.autograd.grad(J, W1, retain_graph=True)[0], dW1.detach())
    (found,) = torch.autograd.grad((dW1 * p.W1.detach()).sum(), W1)
    v = {name: torch.zeros_like(V).detach() for name, V in p.net().named_parameters()} | {"W1": p.W1.detach()}
    torch.testing.assert_close(found, p.net().hvp(p.X, p.Y, v)["W1"])


@pytest.mark.parametrize("backward", BACKWARDS)
def test_floating_point_operations(backward):
    """As PyTorch counts those of its own layers: two for each product of a matrix multiplication."""
    p = problem("tanh", "multilabel", m=M, n_x=N_X, n_h=N_H)
    net, layers = p.net(backward=backward), p.sequential()

    def counted(compute):
        with FlopCounterMode(display=False) as counter:
            compute()
        return counter.get_total_flops()

    def step():
        torch.nn.functional.binary_cross_entropy_with_logits(layers(p.X), p.Y).backward()

    assert counted(lambda: net(p.X)) == counted(lambda: layers(p.X)) > 0
    assert counted(lambda: net.loss(p.X, p.Y).backward()) == counted(step)
    assert counted(lambda: net.loss_and_grads(p.X, p.Y)) == counted(step)
    v = {name: torch.ones_like(V) for name, V in net.named_parameters()}
    assert counted(lambda: net.hvp(p.X, p.Y, v)) == 2 * M * (3 * net.W1.numel() + 8 * net.W2.numel())
