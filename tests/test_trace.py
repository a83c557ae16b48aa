"""net.trace: every quantity of the pass, against what PyTorch's graph holds."""

import pytest
import torch
from problems import OUTPUTS, TRUE_LOSSES, assert_equal, problem

from twolayer import TwoLayerNet
from twolayer.activations import ACTIVATIONS
from twolayer.tasks import TASKS

KEPT = ("Z1", "A1", "Z2")
PARAMETERS = {"0.weight": "W1", "0.bias": "b1", "2.weight": "W2", "2.bias": "b2"}
OUTPUT = {"binary": torch.sigmoid, "multilabel": torch.sigmoid, "regression": lambda Z: Z}
WEIGHTS = {"binary": [0.5, 2.0], "multiclass": [0.5, 2.0, 1.5, 0.7]}


def by_graph(p, *, weights=None, smoothing=0.0):
    """The quantities of a pass through PyTorch's own layers and losses, with their gradients."""
    layers, Y = p.sequential(), p.Y
    X = p.X.clone().requires_grad_()
    found = {"Z1": layers[0](X)}
    found["A1"] = layers[1](found["Z1"])
    found["Z2"] = layers[2](found["A1"])
    for V in found.values():
        V.retain_grad()
    if p.task == "multiclass":
        Y = torch.nn.functional.one_hot(Y, 4).to(p.X.dtype) if Y.ndim == 1 else Y
    Y = (1 - smoothing) * Y + smoothing / (4 if p.task == "multiclass" else 2) if smoothing else Y
    L = TRUE_LOSSES[p.task](found["Z2"], Y)
    J = L.mean() if weights is None else (weights * L).sum() / weights.sum()
    J.backward()
    gradients = {f"d{name}": found[name].grad for name in KEPT}
    gradients |= {f"d{PARAMETERS[name]}": V.grad for name, V in layers.named_parameters()}
    A2 = OUTPUT.get(p.task, lambda Z: Z.softmax(-1))(found["Z2"])
    return found | gradients | {"A2": A2, "Y": Y, "L": L, "J": J, "dX": X.grad}


def check(trace, truth):
    trace = trace._asdict()
    slope = trace.pop("slope")
    assert trace.keys() == truth.keys()
    assert_equal([trace[name] for name in truth], [truth[name] for name in truth])
    assert_equal([slope * trace["dA1"]], [truth["dZ1"]])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("soft", [False, True])
def test_it_is_what_the_graph_holds(activation, task, soft):
    p = problem(activation, task, m=7, soft=soft)
    check(p.net().trace(p.X, p.Y), by_graph(p))


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_weights_and_smoothing(task):
    """By the definition: the sample's weight times that of its class, before smoothing."""
    p = problem("sigmoid", task, m=9)
    w, of_class = torch.rand(9, dtype=torch.float64) + 0.1, torch.tensor(WEIGHTS[task], dtype=torch.float64)
    net = p.net(class_weight=of_class, label_smoothing=0.2)
    truth = by_graph(p, weights=w * of_class[p.Y.long().flatten()], smoothing=0.2)
    check(net.trace(p.X, p.Y, sample_weight=w), truth)


def test_the_error_is_what_was_said_minus_what_is_true():
    p = problem("tanh", "multiclass", m=9)
    t = p.net(label_smoothing=0.1).trace(p.X, p.Y)
    assert_equal([t.dZ2], [(t.A2 - t.Y) / 9])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_slope_is_the_derivative(activation):
    p = problem(activation)
    t = p.net().trace(p.X, p.Y)
    h = 1e-6
    g = ACTIVATIONS[activation]
    assert_equal([t.slope], [(g(t.Z1 + h) - g(t.Z1 - h)) / (2 * h)], 1e-8)


@pytest.mark.parametrize("backward", ["manual", "streamed", "autograd"])
def test_nothing_else_changes(backward):
    p = problem("relu", "multilabel")
    net = p.net(backward=backward)
    before = {name: V.clone() for name, V in net.state_dict().items()}
    t = net.trace(p.X.requires_grad_(), p.Y)
    assert p.X.grad is None
    assert all(V.grad is None for V in net.parameters())
    assert not any(V.requires_grad for V in t)
    assert all(before[name].equal(V) for name, V in net.state_dict().items())
    J, grads = net.loss_and_grads(p.X.detach(), p.Y)
    assert_equal([t.J, t.dW1, t.db1, t.dW2, t.db2], [J, *grads.values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    """In that of the parameters, and cost and loss in at least float32."""
    p, truth = problem("tanh", "regression", dtype=dtype), problem("tanh", "regression")
    t = p.net().trace(p.X, p.Y)
    costs = {"Y", "L", "J"}
    assert {V.dtype for name, V in t._asdict().items() if name not in costs} == {dtype}
    assert {getattr(t, name).dtype for name in costs} == {torch.float32}
    for V, expected in zip(t, truth.net().trace(truth.X, truth.Y), strict=True):
        torch.testing.assert_close(V.double(), expected, rtol=0, atol=40 * torch.finfo(dtype).eps)


def test_autocast_has_no_say():
    p = problem("tanh", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        t = p.net().trace(p.X, p.Y)
    assert t.Z1.dtype == torch.float32
    assert_equal([*t], [*p.net().trace(p.X, p.Y)], 1e-6)


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_leading_shapes_are_rows(lead):
    net = TwoLayerNet(5, 4, OUTPUTS["multiclass"], task="multiclass")
    X, Y = torch.randn(*lead, 5), torch.randint(4, lead)
    t = net.trace(X, Y)
    m = X.shape[:-1].numel()
    assert t.Z1.shape == t.slope.shape == (m, 4)
    assert_equal([*t], [*net.trace(X.reshape(m, 5), Y.reshape(m))])


def test_where_the_parameters_are_not_all_of_it_it_stops():
    net = TwoLayerNet(2, 3, 1)
    net.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(RuntimeError, match="no more than its four parameters, got a forward hook"):
        net.trace(torch.ones(5, 2), torch.ones(5))
