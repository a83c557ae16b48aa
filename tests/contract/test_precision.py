"""Every floating point type, alone and under autocast.

The rule for low precision: against the truth in float64, the error may be at most ``MARGIN`` times that of
``nn.Sequential`` in the same precision. Errors are of whole tensors, over several problems, so that no lucky rounding
decides.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from problems import Problem, problem
from torch import Tensor

from .models import Ours, Theirs

contract = pytest.mark.contract

MARGIN = 1.25
SEEDS = 10
LOW = [torch.bfloat16, torch.float16]

Context = Callable[[], AbstractContextManager]
Prepared = Callable[[torch.nn.Module], torch.nn.Module]


def example(dtype: torch.dtype, device: str, seed: int = 0) -> Problem:
    return problem("tanh", "multiclass", m=129, n_x=33, n_h=65, n_y=5, soft=True, dtype=dtype, device=device, seed=seed)


def results(model: torch.nn.Module, X: Tensor, Y: Tensor, context: Context = nullcontext) -> list[Tensor]:
    """Logits, cost, and the gradients of the cost."""
    X = X.clone().requires_grad_()
    with context():
        Z2, J = model.net(X), model(X, Y)
    return [Z2.detach(), J.detach(), *torch.autograd.grad(J, [X, *model.parameters()])]


def as_it_is(model: torch.nn.Module) -> torch.nn.Module:
    return model


def assert_as_precise(
    backward: str, dtype: torch.dtype, device: str, context: Context = nullcontext, prepared: Prepared = as_it_is
) -> None:
    """Holds our network, ``prepared`` in some way, to the rule."""
    squares, sizes = [], 0.0
    for seed in range(SEEDS):
        given, true = example(dtype, device, seed), example(torch.float64, device, seed)
        truth = results(Theirs(true), true.X, true.Y)
        ours = results(prepared(Ours(given, backward)), given.X, given.Y, context)
        theirs = results(Theirs(given), given.X, given.Y, context)
        # The cost may be of a better type than theirs, all else is of the same.
        assert [V.dtype for V in ours if V.ndim] == [V.dtype for V in theirs if V.ndim]
        sizes = sizes + torch.stack([T.square().sum() for T in truth])
        squares.append([[(V - T).square().sum() for V, T in zip(Vs, truth, strict=True)] for Vs in (ours, theirs)])
    our_errors, their_errors = torch.tensor(squares).sum(0).sqrt()
    # Where theirs is exact, or nearly: the last digits of results of order one, in the type that the cost is taken in.
    floor = 8 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    # In float64 theirs is the truth itself; who sums in another order is a few roundings of it away.
    floor = floor + 4 * torch.finfo(torch.float64).eps * sizes.cpu().sqrt()
    assert (our_errors <= MARGIN * their_errors + floor).all(), (our_errors / their_errors).tolist()


@contract("Precision", "parameters in float64, float32, bfloat16, float16")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *LOW], ids=str)
def test_dtypes(backward, device, dtype):
    assert_as_precise(backward, dtype, device)


@contract("Precision", "autocast to bfloat16 and float16")
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_autocast(backward, device, dtype):
    assert_as_precise(backward, torch.float32, device, lambda: torch.autocast(device, dtype))


@contract("Precision", "autocast under `torch.compile`")
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_compiled_autocast(backward, device, dtype):
    def compiled(model):
        model.net.compile(fullgraph=True, backend="aot_eager")
        return model

    assert_as_precise(backward, torch.float32, device, lambda: torch.autocast(device, dtype), compiled)


@contract("Precision", "autocast leaves float64 as it is")
def test_autocast_of_float64(backward, device):
    assert_as_precise(backward, torch.float64, device, lambda: torch.autocast(device, torch.bfloat16))


@contract("Precision", "`GradScaler`: scaled steps, and a step skipped for infinite gradients")
def test_gradient_scaler(backward, device):
    given = example(torch.float32, device)

    def trained(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler(device, init_scale=2.0**12, growth_interval=2)
        scales = []
        for step in range(4):
            optimizer.zero_grad()
            with torch.autocast(device, torch.float16):
                J = model(given.X, given.Y) * (torch.inf if step == 1 else 1)
            scaler.scale(J).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        return scales, [p.detach().clone() for p in model.parameters()]

    ours, theirs = trained(Ours(given, backward)), trained(Theirs(given))
    assert ours[0] == theirs[0] == [4096, 2048, 2048, 4096]
    for p, q, start in zip(ours[1], theirs[1], given.network[1:], strict=True):
        assert not torch.equal(p, start)
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-3)
