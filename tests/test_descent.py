import sys

import pytest
import torch
from problems import PARAMETERS, TRUE_LOSSES, assert_equal, problem

from twolayer import gradient_descent
from twolayer.functional import BACKWARDS
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
