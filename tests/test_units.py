"""units.py: what counts as dead, saturated and twin."""

import pytest
import torch

from twolayer import TwoLayerNet, gradient_descent
from twolayer.data import flower
from twolayer.units import unit_faults


def flower_and_net(init="course", activation="tanh", hidden=7):
    X, Y = (torch.tensor(part) for part in flower())
    generator = torch.Generator().manual_seed(3)
    return X, Y, TwoLayerNet(2, hidden, 1, activation=activation, init=init, dtype=X.dtype, generator=generator)


def hidden_outputs(net, X):
    return net.to_sequential()[:2](X).detach()


def test_dead_are_those_that_are_zero_for_every_row():
    A1 = torch.rand(301, 5) + 0.5
    A1[:, 1] = 0
    A1[:, 3] = 0
    A1[300, 3] = 1e-30  # alive, on one row alone
    assert unit_faults(A1, "relu").dead.tolist() == [False, True, False, False, False]


def test_a_unit_that_is_zero_where_it_is_steepest_is_not_dead():
    zeros = torch.zeros(9, 2)
    assert not unit_faults(zeros, "tanh").dead.any()
    assert not unit_faults(zeros, "leaky_relu").dead.any()
    assert unit_faults(zeros, "relu").dead.all()
    assert unit_faults(zeros, "sigmoid").dead.all()  # underflow: its slope is 0 as well


@pytest.mark.parametrize(("activation", "inside", "outside"), [("tanh", -0.9899, -0.9901), ("sigmoid", 0.0101, 0.0099)])
def test_saturated_are_those_that_are_flat_for_nine_rows_in_ten(activation, inside, outside):
    A1 = torch.full((20, 4), outside, dtype=torch.float64)
    A1[:2, 1] = inside  # 18 of 20 are outside
    A1[:3, 2] = inside  # 17
    A1[:, 3] = inside
    assert unit_faults(A1, activation).saturated.tolist() == [True, True, False, False]
    assert unit_faults((1 if activation == "sigmoid" else 0) - A1, activation).saturated.tolist()[:3] == [
        True,
        True,
        False,
    ]
    assert not unit_faults(A1, "relu").saturated.any()


def test_nine_in_ten_units_with_weights_of_ten_are_saturated():
    """Of the flower, with weights of ±10; of 30 features, with 10 × normal ones."""
    X, _, net = flower_and_net(hidden=200)
    assert not unit_faults(hidden_outputs(net, X), "tanh").saturated.any()
    with torch.no_grad():
        net.W1 *= 10 / net.W1.abs()
    assert unit_faults(hidden_outputs(net, X), "tanh").saturated.double().mean() >= 0.9
    generator = torch.Generator().manual_seed(0)
    X, W1 = torch.randn(400, 30, generator=generator), 10 * torch.randn(200, 30, generator=generator)
    assert unit_faults(torch.tanh(X @ W1.T), "tanh").saturated.double().mean() >= 0.9


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_zeros_make_twins_that_stay_twins(activation):
    X, Y, net = flower_and_net("zeros", activation)
    gradient_descent(net, X, Y, learning_rate=1.2, iterations=100)
    assert unit_faults(hidden_outputs(net, X), activation).twin.all()
    X, Y, net = flower_and_net("course", activation)
    gradient_descent(net, X, Y, learning_rate=1.2, iterations=100)
    assert not unit_faults(hidden_outputs(net, X), activation).twin.any()


def pairwise(A1):
    """The definition: every pair, row by row."""
    alike = [[bool(((a - b).abs() <= 1e-6).all()) for b in A1.T] for a in A1.T]
    return torch.tensor([sum(row) > 1 for row in alike])


@pytest.mark.parametrize("seed", range(20))
def test_twins_are_those_of_all_pairs(seed):
    """Among units of ±1, many have the same mean; some twins differ by a little, one by too much."""
    generator = torch.Generator().manual_seed(seed)
    A1 = torch.randn(11, 23, generator=generator, dtype=torch.float64).sign()
    A1 = torch.cat([A1, A1[:, :4] + 0.9e-6, A1[:, 4:6] - 0.8e-6, A1[:, 4:6] + 0.8e-6, A1[:, 9:10]], 1)
    A1[5, 24] += 1e-5
    A1 = A1[:, torch.randperm(A1.shape[1], generator=generator)]
    assert unit_faults(A1, "tanh").twin.equal(pairwise(A1))
    assert pairwise(A1).any()
    assert not pairwise(A1).all()


def test_twins_are_found_beside_a_unit_with_the_same_mean():
    """The mean is the one by which units are sorted: weights from ½ to 1. The third unit comes between the twins."""
    a = torch.randn(11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.linspace(0.5, 1, 11, dtype=torch.float64)
    other = a + 1e-8
    other[:2] += torch.stack([weights[1], -weights[0]])
    A1 = torch.stack([a, other, a + 0.9e-6], 1)
    assert unit_faults(A1, "tanh").twin.tolist() == [True, False, True]


def test_no_number_is_no_fault():
    A1 = torch.full((5, 3), torch.nan)
    A1[:, 2] = torch.inf
    faults = unit_faults(A1, "relu")
    assert not torch.stack([faults.dead, faults.saturated, faults.twin]).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_dtype(dtype):
    A1 = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.5, 0.5]], dtype=dtype, requires_grad=True)
    faults = unit_faults(A1, "relu")
    assert faults.dead.tolist() == [True, False, False]
    assert faults.twin.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("A1", "error", "message"),
    [
        ([[1.0]], TypeError, "A1 must be a tensor, got list"),
        (torch.ones(3, dtype=torch.long).reshape(1, 3), TypeError, "A1 must be floating point, got torch.int64"),
        (torch.ones(3), ValueError, r"A1 must have shape \(m, n_h\), with rows and units, got \(3,\)"),
        (torch.ones(0, 3), ValueError, r"got \(0, 3\)"),
    ],
)
def test_what_is_refused(A1, error, message):
    with pytest.raises(error, match=message):
        unit_faults(A1, "relu")
    with pytest.raises(ValueError, match="activation must be one of"):
        unit_faults(torch.ones(2, 2), "selu")
