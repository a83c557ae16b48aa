import sys

import pytest
import torch
from problems import PARAMETERS, TRUE_LOSSES, assert_equal, problem

from twolayer import TwoLayerNet, gradient_descent
from twolayer.activations import ACTIVATIONS
from twolayer.descent import descent_kernel_for
from twolayer.functional import BACKWARDS
from twolayer.kernels import cpu, cpu_steps
from twolayer.kernels.library import load
from twolayer.tasks import TASKS

backwards = pytest.mark.parametrize("backward", BACKWARDS)
tasks = pytest.mark.parametrize("task", TASKS)

# Each step rounds as one gradient does, and the steps of so short and calm a descent do not magnify it.
TOLERANCE = 1e-11


def by_hand(p, learning_rate, iterations, sample_weight=None):
    """The same descent by PyTorch's layers, loss and optimiser: costs, gradients of each step, the layers."""
    layers = p.sequential()
    optimizer = torch.optim.SGD(layers.parameters(), lr=learning_rate)
    weights = torch.ones_like(p.X[:, 0]) if sample_weight is None else sample_weight
    costs, gradients = [], []
    for _ in range(iterations):
        optimizer.zero_grad()
        J = (weights * TRUE_LOSSES[p.task](layers(p.X), p.Y)).sum() / weights.sum()
        J.backward()
        optimizer.step()
        costs.append(J.detach())
        gradients.append([V.grad.clone() for V in layers.parameters()])
    return torch.stack(costs), gradients, layers


@pytest.mark.parametrize("weighted", [False, True])
@backwards
@tasks
def test_each_step_is_that_of_sgd(task, backward, weighted, device):
    p = problem("tanh", task, device=device)
    weights = torch.linspace(0, 2, len(p.X), dtype=p.X.dtype, device=device) if weighted else None
    net, seen = p.net(backward=backward), []
    costs = gradient_descent(
        net, p.X, p.Y, learning_rate=0.1, iterations=30, sample_weight=weights, callback=lambda *args: seen.append(args)
    )
    true_costs, true_gradients, layers = by_hand(p, 0.1, 30, weights)
    assert_equal([costs, *net.parameters()], [true_costs, *layers.parameters()], TOLERANCE)
    assert [i for i, _, _ in seen] == list(range(30))
    assert [J.item() for _, J, _ in seen] == costs.tolist()
    for (_, _, gradients), truth in zip(seen, true_gradients, strict=True):
        assert list(gradients) == list(PARAMETERS)
        assert_equal(list(gradients.values()), truth, TOLERANCE)


@backwards
@pytest.mark.parametrize(
    ("dtype", "of_costs"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
@pytest.mark.parametrize("iterations", [1, 3])
def test_costs_are_one_number_an_iteration(iterations, dtype, of_costs, backward, device):
    p = problem(dtype=dtype, device=device)
    costs = gradient_descent(p.net(backward=backward), p.X, p.Y, learning_rate=0.1, iterations=iterations)
    assert costs.shape == (iterations,)
    assert costs.dtype == of_costs
    assert costs.device == p.X.device
    assert not costs.requires_grad


@backwards
def test_the_callback_sees_the_parameters_before_the_update(backward):
    p = problem()
    net, seen = p.net(backward=backward), []
    gradient_descent(net, p.X, p.Y, learning_rate=0.5, iterations=2, callback=lambda *_: seen.append(net.W1.tolist()))
    assert seen[0] == p.W1.tolist()
    assert seen[1] != p.W1.tolist()
    assert seen[1] != net.W1.tolist()


@backwards
def test_it_runs_on_from_where_it_ended(backward):
    p = problem()
    at_once, in_two = p.net(backward=backward), p.net(backward=backward)
    costs = gradient_descent(at_once, p.X, p.Y, learning_rate=0.3, iterations=10)
    halves = [gradient_descent(in_two, p.X, p.Y, learning_rate=0.3, iterations=5) for _ in range(2)]
    assert torch.equal(torch.cat(halves), costs)
    assert all(torch.equal(a, b) for a, b in zip(at_once.parameters(), in_two.parameters(), strict=True))


@backwards
def test_parameters_stay_the_same_objects_without_gradients(backward):
    p = problem()
    net = p.net(backward=backward)
    before = list(net.parameters())
    gradient_descent(net, p.X, p.Y, iterations=2)
    assert all(a is b for a, b in zip(net.parameters(), before, strict=True))
    assert all(V.requires_grad and V.is_leaf and V.grad is None for V in before)


@backwards
def test_frozen_parameters_are_left_as_they_are(backward):
    p = problem()
    net, names = p.net(backward=backward), []
    net.W1.requires_grad_(False)
    net.b1.requires_grad_(False)
    gradient_descent(net, p.X, p.Y, iterations=2, callback=lambda i, J, grads: names.append(list(grads)))
    assert torch.equal(net.W1, p.W1)
    assert torch.equal(net.b1, p.b1)
    assert not torch.equal(net.W2, p.W2)
    assert names == 2 * [["W2", "b2"]]


@backwards
def test_options_of_the_network_count(backward):
    p = problem("tanh", "binary")
    options = {"class_weight": [1.0, 3.0], "label_smoothing": 0.1}
    net = p.net(backward=backward, **options)
    start = net.loss(p.X, p.Y)
    assert_equal([gradient_descent(net, p.X, p.Y, iterations=1)[0]], [start])


@backwards
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be positive and finite, got 0.0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
        ({"learning_rate": float("inf")}, ValueError, "learning_rate"),
        ({"iterations": 0}, ValueError, "iterations must be at least 1, got 0"),
        ({"iterations": -3}, ValueError, "iterations"),
        ({"iterations": 2.0}, TypeError, "iterations must be an integer, got 2.0"),
        ({"iterations": True}, TypeError, "iterations"),
        ({"sample_weight": torch.ones(3)}, ValueError, "sample_weight must have shape"),
        ({"Y": torch.full((7, 1), 2.0)}, ValueError, "Y must lie in"),
        ({"X": torch.ones(7, 4, dtype=torch.float64)}, ValueError, "X must have shape"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(wrong, error, message, backward):
    p = problem()
    net = p.net(backward=backward)
    with pytest.raises(error, match=message):
        gradient_descent(net, **{"X": p.X, "Y": p.Y, **wrong})
    assert all(torch.equal(getattr(net, name), getattr(p, name)) for name in PARAMETERS)


@backwards
def test_a_network_with_nothing_to_train_is_refused(backward):
    p = problem()
    with pytest.raises(ValueError, match="net must have a parameter that requires a gradient"):
        gradient_descent(p.net(backward=backward).requires_grad_(False), p.X, p.Y)


@pytest.mark.parametrize("iterations", [1, 5, 402])
def test_progress_shows_how_far_it_is_and_the_cost(iterations, capsys):
    pytest.importorskip("rich")
    p = problem()
    costs = gradient_descent(p.net(), p.X, p.Y, learning_rate=0.1, iterations=iterations, progress=True)
    shown = capsys.readouterr().out
    assert "gradient descent" in shown
    assert f"{iterations}/{iterations}" in shown
    assert f"cost {costs[-1]:.6f}" in " ".join(shown.split())


def test_without_progress_nothing_is_printed(capsys):
    p = problem()
    gradient_descent(p.net(), p.X, p.Y, iterations=3)
    assert capsys.readouterr() == ("", "")


def test_progress_without_rich_is_refused_before_anything_changes(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    p = problem()
    net = p.net()
    with pytest.raises(ImportError, match="rich"):
        gradient_descent(net, p.X, p.Y, iterations=3, progress=True)
    assert torch.equal(net.W1, p.W1)


@pytest.mark.parametrize("backward", BACKWARDS)
def test_it_descends_inside_no_grad_too(backward):
    p = problem("tanh", "binary")
    nets = [p.net(backward=backward), p.net(backward=backward)]
    with torch.no_grad():
        inside = gradient_descent(nets[0], p.X, p.Y, iterations=3)
    assert torch.equal(inside, gradient_descent(nets[1], p.X, p.Y, iterations=3))


def test_weights_that_follow_from_others_are_refused_or_trained():
    p = problem("tanh", "binary")
    for backward in BACKWARDS:
        net = p.net(backward=backward)
        torch.nn.utils.parametrizations.weight_norm(net, "W1")
        if backward == "autograd":
            costs = gradient_descent(net, p.X, p.Y, learning_rate=0.1, iterations=5)
            assert costs[-1] < costs[0]
        else:
            with pytest.raises(ValueError, match=r"net must hold its weights itself, got \['parametrizations.W1"):
                gradient_descent(net, p.X, p.Y)


# All iterations in the compiled kernel for the CPU.

needs_kernel = pytest.mark.skipif(isinstance(load(), str), reason=f"needs the CPU kernel: {load()}")


@needs_kernel
@pytest.mark.parametrize("backward", ["manual", "streamed"])
@tasks
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_kernel_descends_as_sgd_in_float64(activation, task, backward):
    p = problem(activation, task)
    weights = torch.linspace(0, 2, len(p.X), dtype=p.X.dtype)
    net = p.net(backward=backward).float()
    X, Y = p.X.float(), p.Y.float() if p.Y.is_floating_point() else p.Y
    assert descent_kernel_for(net, X, Y) == "cpu_descent"
    costs = gradient_descent(net, X, Y, learning_rate=0.1, iterations=20, sample_weight=weights.float())
    true_costs, _, layers = by_hand(p, 0.1, 20, weights)
    # Twenty steps of float32, whose unit roundoff is 6e-8, over sums of some ten terms.
    assert_equal([costs, *net.parameters()], [true_costs, *layers.parameters()], 2e-5)


@needs_kernel
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 4, 1), (400, 2, 4, 1), (57, 31, 33, 5), (5000, 7, 17, 3)])
def test_the_kernel_descends_as_step_by_step(shape):
    m, n_x, n_h, n_y = shape
    torch.manual_seed(1)
    nets = [TwoLayerNet(n_x, n_h, n_y, activation="tanh", task="regression", init="xavier") for _ in range(3)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    X, Y = torch.randn(m, n_x), torch.randn(m, n_y)
    found, steps, shown = (
        gradient_descent(net, X, Y, learning_rate=0.05, iterations=101, **options)
        for net, options in zip(nets, ({"kernel": "cpu_descent"}, {"kernel": "steps"}, {"progress": True}), strict=True)
    )
    # An update may be rounded once, as a multiplication and addition in one, in place of twice: 6e-8 a step.
    assert_equal([found, *nets[0].parameters()], [steps, *nets[1].parameters()], 101 * 2 * 6e-8)
    assert torch.equal(found, shown)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[2].parameters(), strict=True))


@needs_kernel
def test_autograd_knows_that_the_kernel_changed_the_parameters():
    net, X, Y = TwoLayerNet(2, 4, 1), torch.randn(9, 2), torch.ones(9)
    J = net.loss(X, Y)
    gradient_descent(net, X, Y, iterations=2, kernel="cpu_descent")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        J.backward()


@needs_kernel
@pytest.mark.parametrize(
    ("reason", "change", "options"),
    [
        ("callback waits for each", {}, {"callback": lambda *_: None}),
        ("mode 'autograd' by PyTorch", {"backward": "autograd"}, {}),
        ("all four parameters", {"freeze": "b1"}, {}),
        ("float32", {"dtype": torch.float64}, {}),
        ("all four parameters, contiguous", {"transpose": True}, {}),
    ],
)
def test_the_kernel_says_why_it_does_not_descend_and_steps_do(reason, change, options):
    dtype = change.get("dtype", torch.float32)
    net = TwoLayerNet(3, 4, 1, backward=change.get("backward", "manual"), dtype=dtype)
    if "freeze" in change:
        getattr(net, change["freeze"]).requires_grad_(False)
    if "transpose" in change:
        net.W1 = torch.nn.Parameter(net.W1.detach().T.contiguous().T)
    X, Y = torch.randn(9, 3, dtype=dtype), torch.ones(9, dtype=dtype)
    before = net.W2.clone()
    with pytest.raises(RuntimeError, match=f"kernel 'cpu_descent' cannot run: .*{reason}"):
        gradient_descent(net, X, Y, iterations=3, kernel="cpu_descent", **options)
    assert torch.equal(net.W2, before)
    assert descent_kernel_for(net, X, Y, **options) == "steps"
    gradient_descent(net, X, Y, iterations=3, **options)
    assert not torch.equal(net.W2, before)


@needs_kernel
def test_a_network_that_asks_for_a_kernel_steps_with_it():
    X, Y = torch.randn(9, 3), torch.ones(9)
    assert descent_kernel_for(TwoLayerNet(3, 4, 1, kernel="torch"), X, Y) == "steps"
    assert descent_kernel_for(TwoLayerNet(3, 4, 1, chunk_size=4), X, Y) == "steps"


@needs_kernel
def test_an_interrupt_comes_between_calls(monkeypatch):
    """A long descent is several calls; Python looks for signals between two of them."""
    calls = []
    original = cpu.call

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(cpu, "call", interrupted)
    monkeypatch.setattr(cpu_steps, "IN_A_CALL", 100_000)
    net = TwoLayerNet(3, 40, 1)
    before, version = net.W1.clone(), net.W1._version
    X, Y = torch.randn(90, 3), torch.ones(90)
    with pytest.raises(KeyboardInterrupt):
        gradient_descent(net, X, Y, iterations=1000, kernel="cpu_descent")
    assert not torch.equal(net.W1, before)
    assert net.W1._version > version


def test_where_no_library_was_built_it_descends_by_steps(monkeypatch):
    monkeypatch.setattr(cpu, "load", lambda: "none was built in a folder")
    net, X, Y = TwoLayerNet(3, 4, 1), torch.randn(9, 3), torch.ones(9)
    assert descent_kernel_for(net, X, Y) == "steps"
    before = net.W2.clone()
    with pytest.raises(RuntimeError, match="kernel 'cpu_descent' cannot run: none was built"):
        gradient_descent(net, X, Y, iterations=3, kernel="cpu_descent")
    assert torch.equal(net.W2, before)
    costs = gradient_descent(net, X, Y, iterations=3)
    assert costs[2] < costs[0]
