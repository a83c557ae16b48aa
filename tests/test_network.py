import copy
import io
import pickle

import pytest
import torch
from problems import MODULES, OUTPUTS, PARAMETERS, TRUE_LOSSES, assert_equal, problem
from torch import nn

from twolayer import TwoLayerNet, functional
from twolayer.activations import ACTIVATIONS
from twolayer.functional import BACKWARDS
from twolayer.tasks import TASKS

activations = pytest.mark.parametrize("activation", ACTIVATIONS)
tasks = pytest.mark.parametrize("task", TASKS)
backwards = pytest.mark.parametrize("backward", BACKWARDS)

TRUE_OUTPUTS = {
    "binary": nn.Sigmoid(),
    "multilabel": nn.Sigmoid(),
    "multiclass": nn.Softmax(-1),
    "regression": nn.Identity(),
}


def with_options(**options):
    """A net with an option that its constructor does not take by default."""
    return TwoLayerNet(5, 3, 4, task="multiclass", generator=torch.Generator().manual_seed(0), **options)


# What it computes


@backwards
@tasks
@activations
def test_computes_what_layers_of_torch_compute(activation, task, backward, device):
    p = problem(activation, task, device=device)
    net, layers = p.net(backward=backward), p.sequential()
    assert_equal([net(p.X), net.predict(p.X)], [layers(p.X), TRUE_OUTPUTS[task](layers(p.X))])
    J, truth = net.loss(p.X, p.Y), TRUE_LOSSES[task](layers(p.X), p.Y).mean()
    J.backward()
    truth.backward()
    assert_equal([J, *[V.grad for V in net.parameters()]], [truth, *[V.grad for V in layers.parameters()]])


@backwards
@tasks
def test_loss_is_the_cost_of_its_logits(task, backward):
    p = problem("tanh", task)
    net = p.net(backward=backward)
    weights = torch.linspace(0, 1, len(p.X), dtype=p.X.dtype)
    for options in ({}, {"reduction": "sum"}, {"reduction": "none", "sample_weight": weights}):
        L = functional.cost(net(p.X), p.Y, task=task, backward=backward, **options)
        assert_equal([net.loss(p.X, p.Y, **options)], [L])
        assert torch.equal(net.cost(net(p.X), p.Y, **options), L)


@tasks
def test_output_of_logits_is_the_prediction(task):
    p = problem("tanh", task)
    net = p.net()
    assert torch.equal(net.output(net(p.X)), net.predict(p.X))


@pytest.mark.parametrize("lead", [(), (1,), (2, 1, 3)], ids=str)
@tasks
def test_predictions_have_the_leading_shape_of_the_inputs(task, lead):
    p = problem("tanh", task, m=torch.Size(lead).numel())
    net = p.net()
    assert_equal([net.predict(p.X.reshape(*lead, 5))], [net.predict(p.X).reshape(*lead, OUTPUTS[task])])


@backwards
@tasks
def test_predictions_can_be_differentiated(task, backward):
    p = problem("tanh", task)
    X = p.X.requires_grad_()
    prediction = p.net(backward=backward).predict(X)
    truth = TRUE_OUTPUTS[task](p.sequential()(X))
    incoming = torch.linspace(-1, 1, truth.numel(), dtype=truth.dtype).reshape(truth.shape)
    assert_equal(torch.autograd.grad(prediction, X, incoming), torch.autograd.grad(truth, X, incoming))


@backwards
@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("binary", {"class_weight": [1.0, 3.0], "label_smoothing": 0.1}),
        ("multilabel", {"label_smoothing": 0.1}),
        ("multiclass", {"class_weight": torch.tensor([1.0, 2.0, 0.5, 4.0]), "label_smoothing": 0.1}),
        ("regression", {}),
    ],
)
def test_loss_and_grads_equals_backward(task, options, backward, device):
    p = problem("relu", task, device=device)
    net = p.net(backward=backward, **options)
    weights = torch.linspace(0, 2, len(p.X), dtype=p.X.dtype, device=device)
    J, grads = net.loss_and_grads(p.X, p.Y, sample_weight=weights)
    assert all(V.grad is None for V in net.parameters())
    truth = net.loss(p.X, p.Y, sample_weight=weights)
    truth.backward()
    assert list(grads) == list(PARAMETERS)
    assert_equal([J, *grads.values()], [truth, *[V.grad for V in net.parameters()]])
    if "class_weight" in options:
        options["class_weight"] = torch.as_tensor(options["class_weight"], device=device)
    expected = functional.cost(net(p.X), p.Y, task=task, sample_weight=weights, **options)
    assert_equal([J], [expected])


def test_hooks_run_in_loss():
    p, seen = problem(), []
    net = p.net()
    net.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    net.loss(p.X, p.Y)
    assert seen == [(7, 1)]


# To and from PyTorch's layers


@backwards
@activations
def test_sequential_shares_the_parameters(activation, backward, device):
    p = problem(activation, "regression", device=device)
    net = p.net(backward=backward)
    layers = net.to_sequential()
    assert [type(layer) for layer in layers] == [nn.Linear, MODULES[activation], nn.Linear]
    assert all(a is b for a, b in zip(layers.parameters(), net.parameters(), strict=True))
    assert_equal([layers(p.X)], [net(p.X)])

    before = net(p.X).detach()
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    TRUE_LOSSES["regression"](layers(p.X), p.Y).mean().backward()
    optimizer.step()
    assert not torch.equal(net(p.X), before)
    assert_equal([net(p.X)], [layers(p.X)])

    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = layers(p.X).detach()
    net.loss(p.X, p.Y).backward()
    optimizer.step()
    assert not torch.equal(layers(p.X), before)
    assert_equal([layers(p.X)], [net(p.X)])


@activations
def test_round_trip_through_sequential(activation, device):
    layers = problem(activation, "multiclass", device=device).sequential()
    net = TwoLayerNet.from_sequential(layers, task="multiclass", backward="autograd", label_smoothing=0.1)
    assert (net.in_features, net.hidden_features, net.out_features) == (5, 3, 4)
    assert (net.activation, net.task, net.backward, net.label_smoothing) == (activation, "multiclass", "autograd", 0.1)
    assert [name for name, _ in net.named_parameters()] == list(PARAMETERS)
    back = net.to_sequential()
    assert [type(layer) for layer in back] == [type(layer) for layer in layers]
    assert [str(layer) for layer in back] == [str(layer) for layer in layers]
    for a, b, c in zip(layers.parameters(), net.parameters(), back.parameters(), strict=True):
        assert a is b is c


@pytest.mark.parametrize("training", [True, False])
def test_training_flag_travels_along(training):
    net = problem().net().train(training)
    layers = net.to_sequential()
    assert all(module.training == training for module in layers.modules())
    assert TwoLayerNet.from_sequential(layers).training == training


def test_frozen_parameters_stay_frozen():
    layers = problem().sequential()
    layers[0].requires_grad_(False)
    net = TwoLayerNet.from_sequential(layers)
    assert [V.requires_grad for V in net.parameters()] == [False, False, True, True]


@pytest.mark.parametrize("class_weight", [[1.0, 3.0], torch.tensor([1.0, 3.0])], ids=["list", "tensor"])
def test_class_weight_follows_the_layers(class_weight, device):
    layers = problem(device=device, dtype=torch.float64).sequential()
    net = TwoLayerNet.from_sequential(layers, class_weight=class_weight)
    assert net.class_weight.dtype == torch.float64
    assert net.class_weight.device == layers[0].weight.device
    assert net.class_weight.tolist() == [1.0, 3.0]


def test_conversions_draw_no_random_numbers():
    net = problem().net()
    before = torch.get_rng_state()
    TwoLayerNet.from_sequential(net.to_sequential())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "must be Linear, then Sigmoid or Tanh or ReLU or LeakyReLU, then Linear"),
        ([nn.Linear(2, 3), nn.ReLU()], "got Linear, ReLU$"),
        ([nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 1)], "got Linear, GELU, Linear$"),
        ([nn.ReLU(), nn.Linear(2, 3), nn.Linear(3, 1)], "got ReLU, Linear, Linear$"),
        ([nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Sigmoid()], "got Linear, ReLU, Linear, Sigmoid$"),
        ([nn.Linear(2, 3), nn.ReLU(), nn.Bilinear(3, 3, 1)], "got Linear, ReLU, Bilinear$"),
        ([nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1)], "must have a bias in both linear layers"),
        ([nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False)], "must have a bias in both linear layers"),
        ([nn.Linear(2, 3), nn.LeakyReLU(0.2), nn.Linear(3, 1)], "negative_slope must be 0.01, got 0.2"),
        ([nn.Linear(2, 3), nn.ReLU(), nn.Linear(4, 1)], "3 hidden units, then 4"),
    ],
)
def test_other_layers_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        TwoLayerNet.from_sequential(nn.Sequential(*layers))


# As a module


@backwards
def test_copies_are_equal_and_independent(backward):
    net = with_options(backward=backward, class_weight=[1.0, 2.0, 3.0, 4.0], label_smoothing=0.1).eval()
    X, Y = torch.ones(2, 5), torch.tensor([0, 3])
    J = net.loss(X, Y).detach()
    for clone in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(clone) == repr(net)
        assert not clone.training
        assert torch.equal(clone.loss(X, Y), J)
        with torch.no_grad():
            for V in clone.parameters():
                V.add_(1.0)
            clone.class_weight.mul_(torch.arange(4.0) + 1)
        assert torch.equal(net.loss(X, Y), J)
        assert not torch.equal(clone.loss(X, Y), J)


def test_state_dict_goes_round_through_a_file():
    net = with_options(class_weight=[1.0, 2.0, 3.0, 4.0])
    assert list(net.state_dict()) == [*PARAMETERS, "class_weight"]
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = with_options(init="zeros", class_weight=torch.ones(4))
    other.load_state_dict(torch.load(file, weights_only=True))
    for one, another in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, another)


def test_without_class_weight_the_state_is_the_parameters():
    assert list(with_options().state_dict()) == list(PARAMETERS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_class_weight_moves_with_the_module(dtype, device):
    net = with_options(class_weight=[1.0, 2.0, 3.0, 4.0]).to(device, dtype)
    assert {(V.dtype, V.device.type) for V in net.state_dict().values()} == {(dtype, device)}
    assert net.loss(torch.ones(2, 5, dtype=dtype, device=device), torch.tensor([0, 3], device=device)).isfinite()
    assert net.to("meta").class_weight.is_meta


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_constructor_takes_dtype_and_device(dtype, device):
    net = TwoLayerNet(5, 3, 1, dtype=dtype, device=device, class_weight=[1.0, 2.0])
    assert {(V.dtype, V.device.type) for V in net.state_dict().values()} == {(dtype, device)}


def test_constructor_keeps_no_hold_of_the_callers_class_weight():
    class_weight = torch.tensor([1.0, 2.0])
    net = TwoLayerNet(5, 3, 1, class_weight=class_weight)
    converted = TwoLayerNet.from_sequential(net.to_sequential(), class_weight=class_weight)
    class_weight.zero_()
    assert net.class_weight.tolist() == converted.class_weight.tolist() == [1.0, 2.0]


def test_repr_says_what_it_is():
    net = TwoLayerNet(5, 3, 2, activation="tanh", task="multilabel", init="xavier", backward="autograd")
    assert repr(net) == "TwoLayerNet(5, 3, 2, activation='tanh', task='multilabel', init='xavier', backward='autograd')"


@backwards
@tasks
@activations
def test_an_optimizer_brings_the_cost_down(activation, task, backward):
    p = problem(activation, task, n_h=16, dtype=torch.float32)
    net = TwoLayerNet(
        5,
        16,
        OUTPUTS[task],
        activation=activation,
        task=task,
        backward=backward,
        generator=torch.Generator().manual_seed(0),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    start = net.loss(p.X, p.Y).item()
    for _ in range(50):
        optimizer.zero_grad()
        net.loss(p.X, p.Y).backward()
        optimizer.step()
    assert net.loss(p.X, p.Y) < 0.1 * start


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@backwards
@tasks
def test_the_gradient_that_comes_in_scales_those_that_go_out(task, backward, reduction):
    p = problem("tanh", task)
    net, layers = p.net(backward=backward), p.sequential()
    L = TRUE_LOSSES[task](layers(p.X), p.Y)
    expected = torch.autograd.grad(-2.5 * getattr(L, reduction)(), list(layers.parameters()))
    for scale in (-2.5, 0.0):
        incoming = torch.tensor(scale, dtype=torch.float64)
        found = torch.autograd.grad(net.loss(p.X, p.Y, reduction=reduction), list(net.parameters()), incoming)
        if scale:
            assert_equal(found, expected)
        else:
            assert not any(dV.any() for dV in found)
