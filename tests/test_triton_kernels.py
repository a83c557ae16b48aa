"""The GPU's kernels against PyTorch in float64: on a GPU, or on a CPU in Triton's interpreter.

The interpreter has no bfloat16 and no TensorFloat32: these are tried on a GPU alone, in test_cuda.py.
"""

import pytest
import torch
from problems import OUTPUTS, PARAMETERS, Problem, problem, relative_error, run_kernel
from test_streaming import truth
from torch.nn import functional as F

triton = pytest.importorskip("triton")

import triton.language as tl

from twolayer.activations import ACTIVATIONS
from twolayer.kernels import gpu, triton_chunked, triton_equations
from twolayer.kernels.triton_equations import Cost, Network, Tile
from twolayer.tasks import PAIRING, TASKS

EPS = torch.finfo(torch.float32).eps
HALF = torch.finfo(torch.float16).eps

SIZES = {"triton_narrow": {"n_x": 5, "n_h": 7}, "triton_wide": {"n_x": 19, "n_h": 70}}  # wide: two slabs
SIZES["triton_chunked"] = {"n_x": 19, "n_h": 13}

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, of NaN and overflow that are meant
]

families = pytest.mark.parametrize("family", SIZES)


@pytest.fixture(autouse=True)
def chunks_of_some_rows(monkeypatch):
    monkeypatch.setattr(triton_chunked, "FEWEST_ROWS", 40)
    monkeypatch.setattr(triton_chunked, "CHUNK_BYTES", 0)


def of_size(family, activation, task, kernel_device, *, m=53, dtype=torch.float32, **options) -> Problem:
    p = problem(activation, task, m=m, dtype=dtype, device=kernel_device, margin=1e-4, **{**SIZES[family], **options})
    p.W1 *= p.W1.shape[1] ** -0.5  # units that are not all saturated
    p.W2 *= p.W2.shape[1] ** -0.5
    return p


def run(family, p, **options):
    return run_kernel(gpu.module(family), p, **options)


def assert_true(p, found, weights=None, allowed=50 * EPS, **options):
    """Cost and gradients are those of autograd in float64, up to the roundings of float32.

    That is one of the inputs and one of each of some hundred products and sums, of which most cancel.
    """
    J, grads = truth(p, weights=weights, **options)
    found_J, found = found
    assert found_J.dtype == torch.float32
    assert relative_error(found_J, J) < allowed
    for name, dV in found.items():
        assert dV.dtype == (p.X if name == "X" else p.W1).dtype
        assert dV.is_contiguous()
        assert relative_error(dV, grads[name]) < allowed, name


@families
@pytest.mark.parametrize(
    ("task", "n_y"), [("binary", 1), ("regression", 1), *((task, n_y) for task, n_y in OUTPUTS.items() if n_y > 1)]
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_cost_and_gradients_are_those_of_torch(family, activation, task, n_y, kernel_device):
    p = of_size(family, activation, task, kernel_device, n_y=n_y)
    found = run(family, p, input_gradient=True)
    assert set(found[1]) == {"X", *PARAMETERS}
    assert_true(p, found)


@pytest.mark.parametrize(
    ("family", "n_x", "n_h", "n_y"),
    [
        ("triton_narrow", 1, 1, 16),
        ("triton_narrow", 16, 65, 2),
        ("triton_wide", 64, 129, 32),
        ("triton_wide", 1, 3, 1),
        ("triton_chunked", 40, 130, 40),
    ],
)
def test_other_sizes(family, n_x, n_h, n_y, kernel_device):
    p = of_size(family, "tanh", "multilabel", kernel_device, m=40, n_x=n_x, n_h=n_h, n_y=n_y)
    assert_true(p, run(family, p, input_gradient=True))


@families
@pytest.mark.parametrize("m", [1, 15, 16, 17, 97])
def test_tails_of_every_size(family, m, kernel_device):
    p = of_size(family, "relu", "multiclass", kernel_device, m=m)
    assert_true(p, run(family, p, input_gradient=True))


@families
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("parameters", [torch.float16, torch.float32])
def test_float16(family, task, parameters, kernel_device):
    p = of_size(family, "tanh", task, kernel_device, dtype=torch.float16)
    for name in PARAMETERS:
        setattr(p, name, getattr(p, name).to(parameters))
    rounded = Problem(**{**vars(p), **{name: getattr(p, name).half().to(parameters) for name in PARAMETERS}})
    # W1, A1, W2, dZ2 and dZ1 are rounded on their way into products; J sees three of these.
    assert_true(rounded, run(family, p, input_gradient=True), allowed=5 * HALF)


@families
@pytest.mark.parametrize("task", TASKS)
def test_weights_and_smoothing(family, task, kernel_device):
    p = of_size(family, "tanh", task, kernel_device, soft=True)
    weights = torch.rand(53, generator=torch.Generator().manual_seed(1)).to(kernel_device)
    smoothing = 0.0 if task == "regression" else 0.1
    for reduction in ("mean", "sum"):
        J, grads = run(
            family, p, sample_weight=weights, label_smoothing=smoothing, input_gradient=True, reduction=reduction
        )
        if reduction == "sum":
            J, grads = J / weights.sum(), {name: dV / weights.sum() for name, dV in grads.items()}
        assert_true(p, (J, grads), weights.double(), label_smoothing=smoothing)


@families
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_class_weights(family, task, soft, kernel_device):
    p = of_size(family, "tanh", task, kernel_device, soft=soft)
    class_weight = torch.tensor([0.5, 2.0, 1.0, 3.0][: 2 if task == "binary" else 4], device=kernel_device)
    Y = p.Y.double() if p.Y.is_floating_point() else F.one_hot(p.Y, 4).double()
    by_class = torch.cat([1 - Y, Y], -1) if task == "binary" else Y
    assert_true(p, run(family, p, class_weight=class_weight), by_class @ class_weight.double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool])
def test_targets_of_every_dtype(dtype, kernel_device):
    for task in ("multilabel", "multiclass"):
        p = of_size("triton_narrow", "relu", task, kernel_device, n_y=2)
        expected = run("triton_narrow", p)
        if task == "multiclass" and dtype.is_floating_point:
            p.Y = F.one_hot(p.Y, 2)
        elif task == "multiclass" and dtype == torch.bool:
            continue
        p.Y = p.Y.to(dtype)
        for found, dV in zip(run("triton_narrow", p)[1].values(), expected[1].values(), strict=True):
            assert torch.equal(found, dV)


@families
def test_rows_with_strides(family, kernel_device):
    p = of_size(family, "relu", "regression", kernel_device)
    p.X = F.pad(p.X, (2, 3))[:, 2:-3]
    p.Y = F.pad(p.Y, (0, 1))[:, :-1]
    p.W1, p.W2 = p.W1.T.contiguous().T, p.W2.T.contiguous().T
    assert not any(V.is_contiguous() for V in (p.X, p.Y, p.W1, p.W2))
    assert_true(p, run(family, p, input_gradient=True))


def test_one_example_for_all(kernel_device):
    p = of_size("triton_narrow", "tanh", "binary", kernel_device, m=1)
    p.X, p.Y = p.X.expand(53, 5), p.Y.expand(53, 1)
    assert_true(p, run("triton_narrow", p))


@families
def test_it_is_bitwise_repeatable(family, kernel_device):
    p = of_size(family, "sigmoid", "multiclass", kernel_device, m=150)
    first, second = run(family, p), run(family, p)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[1][name], second[1][name]) for name in PARAMETERS)


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_comes_back_to_the_logits(family, dtype, kernel_device):
    """The cost ``Σ Z2 ⊙ dZ2``, a sum, whose gradients are those along ``dZ2``, also if too small for float16."""
    p = of_size(family, "tanh", "regression", kernel_device, dtype=dtype)
    for name in ("W1", "b1", "W2", "b2", "Y"):
        setattr(p, name, getattr(p, name).float())
    p.task, p.Y = PAIRING, 1e-9 * p.Y
    inputs = [V.double().requires_grad_() for V in p.network]
    grads = torch.autograd.grad(p.true_logits(*inputs), inputs, p.Y.double())
    allowed = 50 * EPS if dtype == torch.float32 else 5 * HALF
    J, found = run(family, p, reduction="sum", input_gradient=dtype == torch.float32)
    terms = p.true_logits(*inputs) * p.Y
    assert abs(J - terms.sum()) < allowed * terms.abs().sum()
    for name, dV in zip(("X", *PARAMETERS), grads, strict=True):
        if name in found:
            assert relative_error(found[name], dV) < allowed
    p.X, p.Y = p.X[:0], p.Y[:0]
    assert not any(dV.any() for dV in run(family, p, reduction="sum", input_gradient=True)[1].values())


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_float16_and_weights_beyond_its_range(size, kernel_device):
    p = of_size("triton_narrow", "tanh", "binary", kernel_device, dtype=torch.float16)
    weights = size * torch.rand(53, generator=torch.Generator().manual_seed(1)).to(kernel_device)
    for name in PARAMETERS:
        setattr(p, name, getattr(p, name).float())
    J, grads = run("triton_narrow", p, sample_weight=weights)
    assert_true(p, (J, grads), weights.double(), allowed=5 * HALF)
    sum_J, sums = run("triton_narrow", p, sample_weight=weights, reduction="sum")
    torch.testing.assert_close(sum_J, J * weights.sum())
    torch.testing.assert_close(sums["W1"], grads["W1"] * weights.sum())


@families
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_no_number_stays_none(family, activation, task, kernel_device):
    p = of_size(family, activation, task, kernel_device)
    p.X[17, 2] = torch.nan
    J, grads = run(family, p)
    assert J.isnan()
    assert grads["W1"].isnan().any()
    assert grads["b2"].isnan().any()


@families
@pytest.mark.parametrize("index", [-1, 4, 1 << 32])
def test_a_class_that_is_none_makes_the_cost_none(family, index, kernel_device):
    p = of_size(family, "tanh", "multiclass", kernel_device)
    p.Y[3] = index
    assert run(family, p)[0].isnan()


@families
def test_an_infinite_input_saturates(family, kernel_device):
    p = of_size(family, "tanh", "binary", kernel_device)
    p.X[17, 2] = torch.inf
    J, grads = run(family, p)
    assert relative_error(J, truth(p)[0]) < 50 * EPS
    assert grads["W2"].isfinite().all()


@triton.jit
def each_activation(Z, A, ACTIVATION: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(A + i, triton_equations.activation(tl.load(Z + i), ACTIVATION, True))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_activations_are_good_to_some_last_places(activation, kernel_device):
    z = torch.cat([torch.linspace(-12, 12, 1024), torch.logspace(-30, 2, 512), -torch.logspace(-30, 2, 512)]).to(
        kernel_device
    )
    found = z.new_empty(2048)
    each_activation[(1,)](z, found, activation, 2048)
    a = getattr(torch, activation)(z.double())
    normal = a.abs() > torch.finfo(torch.float32).tiny  # less may be flushed to zero
    assert ((found - a).abs() <= 4 * EPS * a.abs())[normal].all()


@triton.jit
def each_cost(Z2, Y, L, dZ2, m, network, cost, TILE: tl.constexpr):
    i, j = tl.arange(0, TILE.ROWS), tl.arange(0, TILE.N_Y)
    z = triton_equations.load_block(Z2, i, j, 1, 1, m, 1)
    loss, _, error = triton_equations.output(z, Y, 1, None, 0, m, network, cost, TILE)
    tl.store(L + i, loss, mask=i < m)
    triton_equations.store_block(dZ2, i, j, 1, m, 1, error)


def test_the_cost_is_finite_and_exact_for_any_logits(kernel_device):
    z = torch.cat([torch.linspace(-110, 110, 401), torch.tensor([1e4, -1e4, 1e30, -1e30])]).to(kernel_device)
    network = Network(None, None, None, None, 1, 1, 1, None, None)
    cost = Cost(tl.constexpr("binary"), None, None, 0.0)
    for y in (0.0, 0.3, 1.0):
        Y = torch.full_like(z, y)
        found, error = z.new_empty(405), z.new_empty(405)
        each_cost[(1,)](z, Y, found, error, 405, network, cost, Tile(512, N_Y=16))
        true = z.double().clamp_min(0) - z.double() * y + torch.log1p((-z.double().abs()).exp())
        torch.testing.assert_close(found.double(), true, rtol=4 * EPS, atol=1e-37)
        torch.testing.assert_close(error.double(), z.double().sigmoid() - Y, rtol=0, atol=EPS)
