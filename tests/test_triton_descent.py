"""All iterations of gradient descent in one launch, against steps in float64: on a GPU, or in Triton's interpreter."""

import pytest
import torch
from problems import PARAMETERS, problem, relative_error

pytest.importorskip("triton")

from twolayer import descent, gradient_descent
from twolayer.activations import ACTIVATIONS
from twolayer.kernels import choice, gpu
from twolayer.tasks import TASKS

pytestmark = pytest.mark.usefixtures("poisoned")

EPS = torch.finfo(torch.float32).eps
ITERATIONS = 7


def of_size(activation, task, kernel_device, *, m=53, n_x=3, n_h=5, **options):
    return problem(activation, task, m=m, n_x=n_x, n_h=n_h, dtype=torch.float32, device=kernel_device, **options)


def assert_descends_alike(p, weights=None, iterations=ITERATIONS, progress=False, allowed=50 * EPS, **options):
    """Costs and parameters are those of autograd's steps in float64, up to float32's roundings at each."""
    net = p.net(backward="manual", **options)
    true = p.net(backward="autograd", **options).double()
    found = gradient_descent(
        net,
        p.X,
        p.Y,
        learning_rate=0.3,
        iterations=iterations,
        sample_weight=weights,
        progress=progress,
        kernel="triton_descent",
    )
    Y = p.Y.double() if p.Y.is_floating_point() else p.Y
    expected = gradient_descent(
        true,
        p.X.double(),
        Y,
        learning_rate=0.3,
        iterations=iterations,
        sample_weight=None if weights is None else weights.double(),
    )
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < allowed
    for name in PARAMETERS:
        assert relative_error(getattr(net, name), getattr(true, name)) < allowed, name


@pytest.fixture(autouse=True)
def anywhere(monkeypatch):
    if not torch.cuda.is_available():
        monkeypatch.setattr(gpu, "why_not", gpu.why_not_of_these)
        monkeypatch.setitem(choice.DEVICES, "triton_descent", "cpu")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_descends_as_steps_do(activation, task, kernel_device):
    assert_descends_alike(of_size(activation, task, kernel_device))


@pytest.mark.parametrize(("m", "n_x", "n_h", "n_y"), [(1, 1, 1, 1), (400, 2, 4, 1), (64, 2, 9, 3), (33, 7, 16, 8)])
def test_other_sizes(m, n_x, n_h, n_y, kernel_device):
    assert_descends_alike(of_size("tanh", "multilabel", kernel_device, m=m, n_x=n_x, n_h=n_h, n_y=n_y))


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_weights_and_smoothing(task, kernel_device):
    p = of_size("tanh", task, kernel_device)
    weights = torch.rand(53, generator=torch.Generator().manual_seed(1)).to(kernel_device)
    class_weight = [0.5, 2.0] if task == "binary" else [0.5, 2.0, 1.0, 3.0]
    assert_descends_alike(p, weights, class_weight=class_weight, label_smoothing=0.1)


def test_progress(kernel_device, capsys):
    pytest.importorskip("rich")
    assert_descends_alike(of_size("tanh", "binary", kernel_device), iterations=401, progress=True, allowed=500 * EPS)
    assert "401/401" in capsys.readouterr().out


def test_what_it_does_not_take_goes_by_steps_and_raises_where_asked_for(kernel_device):
    p = of_size("tanh", "binary", kernel_device)
    net = p.net(backward="manual")
    on_gpu = kernel_device != "cpu"
    assert descent.descent_kernel_for(net, p.X, p.Y, kernel="triton_descent") == "triton_descent"
    if on_gpu:
        assert descent.descent_kernel_for(net, p.X, p.Y) == "triton_descent"
    frozen = p.net(backward="manual")
    frozen.b1.requires_grad_(False)
    refused = {
        "mode 'autograd'": (p.net(backward="autograd"), p.X, p.Y, {}),
        "callback waits": (net, p.X, p.Y, {"callback": print}),
        "all four parameters": (frozen, p.X, p.Y, {}),
        "X is torch.float64": (p.net(backward="manual").double(), p.X.double(), p.Y.double(), {}),
        "there are 1024": (p.net(backward="manual"), p.X.repeat(10, 1), p.Y.repeat(10, 1), {}),
    }
    for reason, (model, X, Y, options) in refused.items():
        if on_gpu:
            assert descent.descent_kernel_for(model, X, Y, **options) == "steps"
        with pytest.raises(RuntimeError, match=f"kernel 'triton_descent' cannot run: .*{reason}"):
            gradient_descent(model, X, Y, kernel="triton_descent", **options)
    with pytest.raises(ValueError, match="kernel must be one of 'steps', 'cpu_descent', 'triton_descent', got 'gpu'"):
        gradient_descent(net, p.X, p.Y, kernel="gpu")


def test_autograd_sees_that_the_parameters_changed(kernel_device):
    p = of_size("tanh", "binary", kernel_device)
    net = p.net(backward="manual")
    J = net.loss(p.X, p.Y)
    gradient_descent(net, p.X, p.Y, iterations=1, kernel="triton_descent")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        J.backward()
