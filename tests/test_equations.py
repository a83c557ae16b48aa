"""The equations as the notes write them, one example a column, against the rows of ``twolayer.equations``."""

import pytest
import torch
from problems import PARAMETERS, assert_equal, problem, value_and_gradients

from twolayer import equations, functional
from twolayer.activations import ACTIVATIONS
from twolayer.tasks import TASKS, dense_targets

G_PRIME = {
    "sigmoid": lambda z: torch.exp(-z) / (1 + torch.exp(-z)) ** 2,
    "tanh": lambda z: 1 / torch.cosh(z) ** 2,
    "relu": lambda z: torch.where(z > 0, 1.0, 0.0).to(z),
    "leaky_relu": lambda z: torch.where(z > 0, torch.ones_like(z), torch.full_like(z, 0.01)),
}
"""``g'`` from ``z``, where the package has it from ``a``."""


def output(z2, task):
    """``a2`` of one column."""
    if task == "multiclass":
        return torch.exp(z2) / torch.exp(z2).sum()
    return z2 if task == "regression" else 1 / (1 + torch.exp(-z2))


def loss(a2, y, task):
    """``L(a2, y)`` of one column."""
    if task == "multiclass":
        return -(y * torch.log(a2)).sum()
    if task == "regression":
        return ((a2 - y) ** 2).sum() / 2
    return (-y * torch.log(a2) - (1 - y) * torch.log(1 - a2)).sum()


def one_example(x, y, W1, b1, W2, b2, activation, task):
    """The notes' six lines for a single column ``x``: its loss, then its ``dW1, db1, dW2, db2, dx``."""
    z1 = W1 @ x + b1
    a1 = ACTIVATIONS[activation](z1)
    z2 = W2 @ a1 + b2
    a2 = output(z2, task)
    dz2 = a2 - y
    dW2 = dz2 @ a1.T
    dz1 = W2.T @ dz2 * G_PRIME[activation](z1)
    dW1 = dz1 @ x.T
    return loss(a2, y, task), dW1, dz1[:, 0], dW2, dz2[:, 0], (W1.T @ dz1)[:, 0]


def loop(p, Y):
    """Each example on its own: a list of their losses, one of their ``dW1``, and so on."""
    b1, b2 = p.b1.unsqueeze(1), p.b2.unsqueeze(1)
    columns = zip(p.X.unsqueeze(2), Y.unsqueeze(2), strict=True)
    return zip(*[one_example(x, y, p.W1, b1, p.W2, b2, p.activation, p.task) for x, y in columns], strict=True)


def all_at_once(p, Y):
    """The rows: ``J``, ``dW1, db1, dW2, db2`` and ``dX``, by the functions of ``twolayer.equations``."""
    g, m = ACTIVATIONS[p.activation], len(p.X)
    Z1 = equations.Z1(p.X, p.W1, p.b1)
    A1 = equations.A1(Z1, g)
    Z2 = equations.Z2(A1, p.W2, p.b2)
    dZ2 = equations.dZ2(TASKS[p.task].output(Z2), Y) / m
    dZ1 = equations.dZ1(equations.dA1(dZ2, p.W2), A1, g)
    return [
        TASKS[p.task].loss(Z2, Y).mean(),
        equations.dW1(dZ1, p.X),
        equations.db1(dZ1),
        equations.dW2(dZ2, A1),
        equations.db2(dZ2),
        equations.dX(dZ1, p.W1),
    ]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_at_once_is_the_mean_of_the_loop(activation, task, device):
    p = problem(activation, task, device=device)
    Y = dense_targets(p.Y, p.X.new_empty(len(p.X), len(p.b2)), task)
    *losses_and_gradients, dx = [torch.stack(parts) for parts in loop(p, Y)]
    truth = [part.mean(0) for part in losses_and_gradients]
    assert_equal(all_at_once(p, Y), [*truth, dx / len(p.X)])
    J, grads = functional.loss_and_grads(p.X, p.Y, p.W1, p.b1, p.W2, p.b2, activation=activation, task=task)
    assert_equal([J, *[grads[name] for name in PARAMETERS]], truth)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_example_is_its_own_mean(activation, task):
    p = problem(activation, task, m=1)
    Y = dense_targets(p.Y, p.X.new_empty(1, len(p.b2)), task)
    *truth, dx = [part for (part,) in loop(p, Y)]
    assert_equal(all_at_once(p, Y), [*truth, dx.unsqueeze(0)])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_columns_are_the_transpose_of_rows(activation):
    p = problem(activation, "binary")
    X, Y, m = p.X.T, p.Y.T, len(p.X)
    Z1 = p.W1 @ X + p.b1.unsqueeze(1)
    A1 = ACTIVATIONS[activation](Z1)
    dZ2 = torch.sigmoid(p.W2 @ A1 + p.b2.unsqueeze(1)) - Y
    dZ1 = p.W2.T @ dZ2 * G_PRIME[activation](Z1)
    columns = [dZ1 @ X.T / m, dZ1.sum(1) / m, dZ2 @ A1.T / m, dZ2.sum(1) / m]
    assert_equal(all_at_once(p, p.Y)[1:5], columns)


def test_output_error_equals_the_chain_through_the_output():
    z = torch.linspace(-6, 6, 25, dtype=torch.float64).unsqueeze(1)
    for y in (torch.zeros_like(z), torch.ones_like(z), torch.full_like(z, 0.3)):
        a = torch.sigmoid(z)
        da = -y / a + (1 - y) / (1 - a)
        # Cancellation in 1 − a: near a = 1 its relative error is eps / (1 − a), here at most 400 eps.
        assert_equal([equations.dZ2(a, y)], [da * a * (1 - a)])
        # and da is the derivative of L(a, y), not L itself
        assert_equal([da], value_and_gradients(lambda a, y=y: loss(a, y, "binary"), [a])[1:])
