"""The GPU's kernels against PyTorch in float64: on a GPU, or on a CPU in Triton's interpreter.

The interpreter has no bfloat16 and no TensorFloat32: these are tried on a GPU alone, in test_cuda.py.
"""

import traceback

import numpy as np
import pytest
import torch
from problems import OUTPUTS, PARAMETERS, Problem, problem, relative_error, run_kernel
from test_streaming import truth
from torch.nn import functional as F

triton = pytest.importorskip("triton")

import triton.language as tl
from triton.runtime.interpreter import TensorHandle, interpreter_builder

from twolayer.activations import ACTIVATIONS
from twolayer.kernels import gpu, triton_chunked, triton_equations, triton_narrow, triton_wide
from twolayer.kernels.triton_equations import Cost, Network, Tile
from twolayer.kernels.triton_launch import Pass
from twolayer.tasks import PAIRING, TASKS, Examples

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


@families
def test_one_example_for_all(family, kernel_device):
    p = of_size(family, "tanh", "binary", kernel_device, m=1)
    p.X, p.Y = p.X.expand(53, -1), p.Y.expand(53, 1)
    assert_true(p, run(family, p, input_gradient=True))


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_memory_that_16_bytes_do_not_divide(dtype, family, kernel_device):
    p = of_size(family, "tanh", "regression", kernel_device, n_x=16, n_h=48, dtype=dtype)
    for name in ("X", "Y", *PARAMETERS):
        V = getattr(p, name)
        moved = V.new_zeros(V.numel() + 1)[1:].view(V.shape).copy_(V)
        assert moved.data_ptr() % 16
        setattr(p, name, moved)
    assert_true(p, run(family, p, input_gradient=True), allowed=50 * EPS if dtype == torch.float32 else 5 * HALF)


@families
def test_results_may_be_changed_in_place(family, kernel_device):
    """None shares memory with another, nor with what the next call returns."""
    p = of_size(family, "tanh", "multiclass", kernel_device)
    (J, grads), (expected_J, expected) = run(family, p, input_gradient=True), run(family, p, input_gradient=True)
    for V in (J, *grads.values()):
        V /= 4
        V.add_(1)
    run(family, p, input_gradient=True)
    for V, W in zip((J, *grads.values()), (expected_J, *expected.values()), strict=True):
        assert torch.equal(V, W / 4 + 1)


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
@pytest.mark.parametrize(
    ("activation", "task"),
    [*((activation, "binary") for activation in ACTIVATIONS), *(("tanh", task) for task in TASKS)],
)
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


def test_masked_outputs_cost_nothing(kernel_device):
    """A logit of −∞, here by its bias, where the target is 0: cost and gradients are those without that output."""
    for task in ("multilabel", "multiclass"):
        p = of_size("triton_narrow", "tanh", task, kernel_device, n_y=4)
        masked = 3
        if task == "multiclass":
            p.Y = p.Y % masked
        else:
            p.Y[:, masked] = 0
        kept = Problem(p.activation, task, p.X, p.W1, p.b1, p.W2[:masked], p.b2[:masked], p.Y)
        if task == "multilabel":
            kept.Y = p.Y[:, :masked]
        p.b2 = p.b2.index_fill(0, torch.tensor(masked, device=kernel_device), -torch.inf)
        for family in ("triton_narrow", "triton_wide", "triton_chunked"):
            J, grads = run(family, p, input_gradient=True)
            for name in ("W2", "b2"):
                assert not grads[name][masked].any()
                grads[name] = grads[name][:masked].contiguous()
            assert_true(kept, (J, grads))


def test_a_certain_and_right_prediction_costs_nothing(kernel_device):
    p = of_size("triton_narrow", "tanh", "binary", kernel_device)
    for b, y in ((-torch.inf, 0.0), (torch.inf, 1.0)):
        p.b2, p.Y = torch.full_like(p.b2, b), torch.full_like(p.Y, y)
        J, grads = run("triton_narrow", p)
        assert J == 0
        assert not any(dV.any() for dV in grads.values())
        p.Y = 1 - p.Y
        assert run("triton_narrow", p)[0] == torch.inf


# What is read is what the tensors say


@families
@pytest.mark.parametrize("name", ["X", "Y", *PARAMETERS])
def test_negative_bits(name, family, kernel_device):
    p = of_size(family, "tanh", "regression", kernel_device)
    expected_J, expected = run(family, p, input_gradient=True)
    setattr(p, name, torch._neg_view(-getattr(p, name)))
    assert getattr(p, name).is_neg()
    J, grads = run(family, p, input_gradient=True)
    assert torch.equal(J, expected_J)
    assert all(torch.equal(dV, expected[name]) for name, dV in grads.items())


@families
def test_weights_with_negative_bits_and_strides(family, kernel_device):
    p = of_size(family, "tanh", "multiclass", kernel_device)
    weights = [torch.rand(n, 2, generator=torch.Generator().manual_seed(n)).to(kernel_device)[:, 0] for n in (53, 4)]
    expected, found = (
        run(family, p, sample_weight=sample_weight, class_weight=class_weight)[0]
        for sample_weight, class_weight in (weights, [torch._neg_view(-w) for w in weights])
    )
    assert torch.equal(expected, found)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_class_indices_of_small_integers(dtype, kernel_device):
    """Compared in 64 bits: class 300 is no class 44, and class 0 no class 256."""
    p = of_size("triton_chunked", "tanh", "multiclass", kernel_device, n_y=300, m=41)
    p.Y = (p.Y % 100).to(dtype)
    expected = Problem(**{**vars(p), "Y": p.Y.long()})
    assert_true(expected, run("triton_chunked", p))


# Scales


@families
@pytest.mark.parametrize(
    ("size", "dtype"),
    [*((size, torch.float32) for size in (1e-37, 1e-40, 1e38)), (1e-300, torch.float64), (1e300, torch.float64)],
)
def test_the_scale_of_weights_does_not_matter(size, dtype, family, kernel_device):
    p = of_size(family, "tanh", "multiclass", kernel_device)
    generator = torch.Generator().manual_seed(1)
    sample_weight, class_weight = ((1 + torch.rand(n, generator=generator, dtype=torch.float64)) for n in (53, 4))
    if size == 1e-40:  # of which float32 keeps few digits
        sample_weight, class_weight = sample_weight.round(), class_weight.round()
    by_class = class_weight[p.Y.cpu()].to(kernel_device)
    sample_weight, class_weight = (w.to(kernel_device) for w in (sample_weight, class_weight))
    scaled = (size * sample_weight).to(dtype)
    assert_true(p, run(family, p, sample_weight=scaled, input_gradient=True), scaled.double() / size)
    scaled = (size * class_weight).to(dtype)
    by_class = (scaled.double() / size)[p.Y]
    assert_true(p, run(family, p, class_weight=scaled, input_gradient=True), by_class)


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_weight_and_nothing_from_behind(dtype, family, kernel_device):
    p = of_size(family, "tanh", "regression", kernel_device, dtype=dtype)
    J, grads = run(family, p, sample_weight=torch.zeros_like(p.X[:, 0]), reduction="sum", input_gradient=True)
    assert J == 0
    assert not any(dV.any() for dV in grads.values())
    p.task, p.Y = PAIRING, torch.zeros_like(p.Y, dtype=torch.float32)
    grads = run(family, p, reduction="sum", input_gradient=True)[1]
    assert not any(dV.any() for dV in grads.values())


@families
def test_the_share_is_not_rounded_to_half_precision(family, kernel_device):
    """It is 1e-7 here, of which float16 makes 1.19e-7. With as many examples, 1/m would be so small."""
    p = of_size(family, "tanh", "binary", kernel_device, dtype=torch.float16)
    p.W2 *= 3e3 / p.W2.abs().max()
    weights = torch.full((53,), 1e-7, device=kernel_device)
    found = run(family, p, sample_weight=weights, reduction="sum", input_gradient=True)[1]["X"]
    true = truth(p)[1]["X"] * 53e-7
    assert 1e-4 < true.abs().max() < 1
    assert relative_error(found, true) < 5 * HALF


def test_the_share_of_chunks_multiplies_in_float32(kernel_device):
    """On a GPU, PyTorch rounds a number to the dtype of the array that it multiplies, and not so on a CPU."""
    p = of_size("triton_chunked", "tanh", "binary", kernel_device, dtype=torch.float16)
    passed = Pass(*p.values(), input_gradient=True)
    *_, scaled = triton_chunked.plan(passed)
    assert torch.result_type(passed.dX, *scaled.args) == torch.float32


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("dtype_of_weights", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision(dtype_of_weights, dtype, family, kernel_device):
    p = of_size(family, "tanh", "multiclass", kernel_device, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    w, c = ((1e-4 * torch.rand(n, generator=generator)).to(kernel_device, dtype_of_weights) for n in (53, 4))
    allowed = 50 * EPS if dtype == torch.float32 else 5 * HALF
    found = run(family, p, sample_weight=w, class_weight=c, input_gradient=True)
    assert_true(p, found, w.double() * c.double()[p.Y], allowed=allowed)


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("weights", [torch.bool, torch.int64, torch.uint8])
def test_weights_of_integers(weights, dtype, family, kernel_device):
    p = of_size(family, "tanh", "binary", kernel_device, dtype=dtype)
    w = torch.arange(53, device=kernel_device).remainder(3).to(weights)
    allowed = 50 * EPS if dtype == torch.float32 else 5 * HALF
    assert_true(p, run(family, p, sample_weight=w), w.double(), allowed=allowed)


# Sizes


@pytest.mark.skipif(torch.cuda.is_available(), reason="in the interpreter, the number of programs can be made up")
@pytest.mark.parametrize("m", [(1 << 31) - 1, 1 << 31, (1 << 32) + 5, 1 << 34])
@pytest.mark.parametrize(
    "kernel",
    [
        triton_narrow.narrow_pass,
        triton_wide.output_errors,
        triton_wide.slab_gradients,
        triton_wide.input_gradients,
    ],
    ids=lambda kernel: kernel.__name__,
)
def test_rows_are_counted_in_64_bits(kernel, m, monkeypatch):
    """The first program of very many, whose share is the first tile: it is full, however many rows there are."""
    p = of_size("triton_narrow", "tanh", "regression", "cpu", n_y=2, m=16)

    def first_tile(m):
        rows = p.X[:1].expand(m, -1), p.Y[:1].expand(m, -1)
        passed = Pass(Examples(*rows), *p.values()[1:], input_gradient=False)
        passed.allocate(1, 1, errors=False)
        passed.errors, passed.dX = torch.ones(16, 2), torch.zeros(16, 5)
        passed.sums.zero_()
        passed.costs.zero_()
        passed.share.fill_(1.0)
        passed.launch(kernel, (1, 1), warps=4, TILE=Tile(16, 16, 64, 16))()
        return passed.errors, passed.dX, passed.sums, passed.costs

    expected = first_tile(16)
    assert any(V.any() for V in expected[1:])
    many = TensorHandle(np.array([1 << 30], dtype=np.int32), tl.int32)
    monkeypatch.setattr(interpreter_builder, "create_get_num_programs", lambda axis: many)
    assert all(map(torch.equal, first_tile(m), expected))


def test_no_unknown_activation_is_taken_for_another(kernel_device):
    for family in SIZES:
        p = of_size(family, "tanh", "binary", kernel_device)
        p.activation = "gelu"
        with pytest.raises(Exception) as raised:  # noqa: PT011, Triton's, which differ with what runs
            run(family, p)
        assert "no such activation" in "".join(traceback.format_exception(raised.value))
        assert gpu.why_not_of_these(family, *p.values()) == "it knows no activation 'gelu'"
