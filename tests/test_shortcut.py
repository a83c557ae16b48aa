"""The shortcut lets through only what the door lets through, to the same kernel, and what comes out is the same."""

import pytest
import torch
from problems import problem
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import twolayer
from twolayer import arguments, functional, shortcut
from twolayer.equations import Parameters
from twolayer.kernels import choice, cpu
from twolayer.tasks import TASKS, Examples, Objective, Plan

pytestmark = pytest.mark.skipif(not cpu.is_there(), reason="no CPU kernel was built")


def parts(task="binary", **options):
    p = problem("tanh", task, m=13, dtype=torch.float32, margin=1e-4, **options)
    return Examples(p.X, p.Y), Parameters(p.W1, p.b1, p.W2, p.b2), Objective("tanh", task)


def freed(V):
    V = V.clone()
    V.untyped_storage().resize_(0)
    return V


def cut_short(V):
    V = V.clone()
    V.untyped_storage().resize_(V.nbytes - 4)
    return V


def negative(V):
    """The same numbers, kept as the negative of what stands in memory."""
    return torch._neg_view(-V)


def dead_wrapper(V):
    found = []
    torch.vmap(lambda row: found.append(row) or row)(torch.stack([V, V]))
    return found[0]


ODD = {
    "no tensor": lambda V: V.tolist(),
    "of another class": lambda V: V.as_subclass(type("Own", (torch.Tensor,), {})),
    "double": torch.Tensor.double,
    "half": torch.Tensor.half,
    "on another device": lambda V: V.to("meta"),
    "strided": lambda V: torch.stack([V, V], -1)[..., 0],
    "expanded": lambda V: V.flatten()[:1].expand(V.shape),
    "sparse": torch.Tensor.to_sparse,
    "negative": negative,
    "freed": freed,
    "cut short": cut_short,
    "a dead wrapper": dead_wrapper,
    "a dimension more": lambda V: V.unsqueeze(0),
    "a dimension less": lambda V: V.flatten()[0],
    "longer": lambda V: torch.cat([V, V], -1),
    "empty": lambda V: V[:0],
}


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("odd", ODD)
def test_whatever_is_odd_goes_to_the_door(odd, place):
    examples, parameters, objective = parts("multilabel", n_y=3)
    given = [examples.X, *parameters, examples.Y.float()]
    assert shortcut.loss_and_grads(Examples(given[0], given[5]), Parameters(*given[1:5]), objective) is not None
    if odd in ("double", "half") and place == 5:
        pytest.skip("targets may be of another dtype")
    given[place] = ODD[odd](given[place])
    if odd in ("strided", "expanded") and getattr(given[place], "is_contiguous", bool)():
        pytest.skip("one number has no strides")
    examples, parameters = Examples(given[0], given[5]), Parameters(*given[1:5])
    assert shortcut.loss_and_grads(examples, parameters, objective) is None
    assert shortcut.loss(examples, parameters._replace(W1=given[1]), objective) is None
    if place < 5:
        assert shortcut.logits(given[0], parameters, "tanh") is None


class Looks(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


ABOUT = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "forward mode": forward_ad.dual_level,
    "a dispatch mode": Looks,
    "no kernel": lambda: pytest.MonkeyPatch.context(),
}


@pytest.mark.parametrize("about", ABOUT)
def test_what_goes_on_around_a_call_leads_to_the_door(about):
    examples, parameters, objective = parts()
    with ABOUT[about]() as inside:
        if about == "no kernel":
            inside.setattr(cpu, "load", lambda: "none was built")
        assert shortcut.loss_and_grads(examples, parameters, objective) is None
        assert shortcut.logits(examples.X, parameters, "tanh") is None


def test_transforms_lead_to_the_door():
    examples, parameters, objective = parts()
    seen = []

    def look(b):
        seen.append(shortcut.loss_and_grads(examples, parameters, objective))
        return b

    torch.func.grad(look)(torch.zeros(()))
    torch.vmap(look)(torch.zeros(2))
    assert seen == [None, None]


@pytest.mark.parametrize("weight", ["sample_weight", "class_weight"])
def test_weights_lead_to_the_door(weight):
    examples, parameters, objective = parts()
    examples = examples._replace(**{weight: torch.ones(13 if weight == "sample_weight" else 2)})
    assert shortcut.loss_and_grads(examples, parameters, objective) is None


def as_dtype(Y, dtype):
    return Y if dtype is None else Y.to(dtype)


TARGETS = [None, *cpu.DTYPES, torch.float16, torch.bfloat16, torch.complex64]
SHAPES = [lambda Y: Y, lambda Y: Y.flatten(), lambda Y: Y.unsqueeze(-1), lambda Y: Y[:-1], lambda Y: Y.repeat(2, 1)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", TARGETS, ids=str)
@pytest.mark.parametrize("n_y", [1, 3])
def test_targets_are_let_through_as_by_the_door(task, dtype, n_y):
    taken = 0
    for soft in (False, True):
        for shape in SHAPES:
            examples, parameters, objective = parts(task, n_y=n_y, soft=soft and task != "regression")
            if soft and not (dtype is None or dtype.is_floating_point):
                continue
            examples = examples._replace(Y=as_dtype(shape(examples.Y), dtype))
            found = shortcut.loss_and_grads(examples, parameters, objective)
            if found is None:
                continue
            taken += 1
            checked, _, _ = arguments.call(examples, parameters, task)
            J, _, grads = choice.run_loss_and_grads(checked, parameters, objective, Plan(kernel="cpu"))
            assert all(map(torch.equal, (J, *grads), (found[0], *found[1])))
    if dtype is None and not (task == "binary" and n_y == 3):
        assert taken  # or nothing is tested


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("of", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.complex64], ids=str)
@pytest.mark.parametrize("n_y", [1, 3])
def test_the_first_look_lets_through_what_the_door_lets_through(task, of, n_y, monkeypatch):
    taken, before = 0, arguments.are_ordinary
    for dtype in TARGETS:
        for shape in SHAPES:
            examples, parameters, _ = parts(task, n_y=n_y)
            examples = Examples(examples.X.to(of), as_dtype(shape(examples.Y), dtype))
            parameters = Parameters(*(V.to(of) for V in parameters))
            if before(examples, parameters, task):
                taken += 1
                first = arguments.call(examples, parameters, task)
                with monkeypatch.context() as patched:
                    patched.setattr(arguments, "are_ordinary", lambda *_: False)
                    of_door = arguments.call(examples, parameters, task)
                assert first[2] == of_door[2]
                assert all(a is b for a, b in zip((*first[0], *first[1]), (*of_door[0], *of_door[1]), strict=True))
    assert bool(taken) == (of.is_floating_point and not (task == "binary" and n_y == 3))


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass"])
def test_targets_out_of_range_are_named_with_their_values(task):
    examples, parameters, _ = parts(task)
    net = twolayer.TwoLayerNet(5, 3, len(parameters.b2), task=task)
    for value in (-3, 7, *([] if task == "multiclass" else [float("nan")])):
        Y = examples.Y.clone()
        Y.view(-1)[4] = value
        error = IndexError if task == "multiclass" else ValueError
        for call in (net.loss_and_grads, net.loss):
            with pytest.raises(error, match=rf"Y must lie in \[0, \d\] for .*got values from .*{value}"):
                call(examples.X, Y)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mode", ["manual", "streamed"])
def test_the_results_are_those_of_the_kernel_called_by_its_name(task, mode):
    examples, parameters, _ = parts(task)
    X, found = examples.X.requires_grad_(), []
    for kernel in (None, "cpu"):  # one that is asked for goes through the door
        leaves = [V.clone().requires_grad_() for V in parameters]
        J = functional.loss(X, examples.Y, *leaves, activation="tanh", task=task, backward=mode, kernel=kernel)
        found.append([J, *torch.autograd.grad(J, [X, *leaves])])
        Z2 = functional.logits(X, *leaves, activation="tanh", backward=mode, kernel=kernel)
        found[-1] += [Z2, *torch.autograd.grad(Z2.square().sum(), [X, *leaves])]
        with torch.no_grad():
            found[-1].append(functional.logits(X, *leaves, activation="tanh", backward=mode, kernel=kernel))
    assert all(map(torch.equal, *found))


def test_ordinary_calls_are_let_through(monkeypatch):
    """Or all of the above says nothing."""
    examples, _, _ = parts()
    net = problem("tanh", "binary", m=13, dtype=torch.float32, margin=1e-4).net()
    monkeypatch.setattr(arguments, "checked", None)  # the door's
    net.loss(examples.X, examples.Y).backward()
    net.loss_and_grads(examples.X, examples.Y)
    net(examples.X).sum().backward()
    with torch.no_grad():
        net(examples.X)
    torch.testing.assert_close(net.b2.grad.isfinite(), torch.tensor([True]))
