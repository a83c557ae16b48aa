"""The compiled kernel against PyTorch in float64, on every level that this processor runs; what it does not take."""

import re

import pytest
import torch
from problems import PARAMETERS, Problem, by_name, problem, relative_error, run_kernel
from test_streaming import run, truth
from torch.nn import functional as F

from twolayer import functional
from twolayer.activations import ACTIVATIONS
from twolayer.kernels import choice, cpu, library
from twolayer.tasks import PAIRING, TASKS, Plan

KERNEL = library.load()
pytestmark = pytest.mark.skipif(isinstance(KERNEL, str), reason=f"needs the CPU kernel: {KERNEL}")

EPS = torch.finfo(torch.float32).eps


@pytest.fixture(params=[] if isinstance(KERNEL, str) else KERNEL.levels)
def level(request, monkeypatch):
    """Each level that this processor runs."""
    monkeypatch.setenv("TWOLAYER_CPU_LEVEL", request.param)
    library.load.cache_clear()
    assert library.cpu_level() == request.param
    yield request.param
    library.load.cache_clear()


def assert_true(p, found, weights=None, **options):
    """Cost and gradients are those of autograd in float64, up to the roundings of float32."""
    J, grads = truth(p, weights=weights, **options)
    found_J, found = found
    # One rounding of the inputs and of each of some hundred products and sums, of which most cancel.
    allowed = 50 * EPS
    assert found_J.dtype == torch.float32
    assert relative_error(found_J, J) < allowed
    for name, dV in found.items():
        assert dV.dtype == torch.float32
        assert relative_error(dV, grads[name]) < allowed, name


def kernel(p, **options):
    return run_kernel(cpu, p, **options)


def of_size(activation, task, *, scale=1.0, **sizes):
    p = problem(activation, task, dtype=torch.float32, margin=0.0 if sizes["m"] > 500 else 1e-4, **sizes)
    p.W1 *= sizes["n_x"] ** -0.5  # units that are not all saturated
    p.W2 *= sizes["n_h"] ** -0.5
    return p


@pytest.mark.parametrize(
    ("task", "n_y"),
    [("binary", 1), ("regression", 1), *((task, n_y) for task in TASKS if task != "binary" for n_y in (3, 9, 40))],
)
@pytest.mark.parametrize(("n_x", "n_h"), [(5, 7), (1, 3), (70, 45)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_cost_and_gradients_are_those_of_torch(activation, task, n_x, n_h, n_y, threads, level):
    p = of_size(activation, task, m=53, n_x=n_x, n_h=n_h, n_y=n_y)
    assert_true(p, kernel(p, input_gradient=True))


# Rows that are copied; a wide network; X in groups of features, and of rows.
@pytest.mark.parametrize(("n_x", "n_h"), [(256, 45), (700, 400), (131, 259), (67, 1031), (5, 1031)])
def test_many_rows(n_x, n_h, threads, level):
    p = of_size("tanh", "multiclass", m=1501, n_x=n_x, n_h=n_h)
    assert_true(p, kernel(p, input_gradient=True))


# Of few rows without dX, each thread has some of the hidden units, if there are enough of them.
@pytest.mark.parametrize(("n_x", "n_h"), [(256, 45), (700, 400), (131, 259), (67, 1031), (3, 200)])
@pytest.mark.parametrize("m", [1, 31, 256])
@pytest.mark.parametrize(("task", "n_y"), [("binary", 1), ("multiclass", 10), ("multilabel", 64)])
def test_few_rows(m, n_x, n_h, task, n_y, threads, level):
    p = of_size("tanh", task, m=m, n_x=n_x, n_h=n_h, n_y=n_y)
    J, grads = kernel(p)
    assert_true(p, (J, grads))
    again = kernel(p)
    assert torch.equal(J, again[0])
    assert all(torch.equal(grads[name], again[1][name]) for name in PARAMETERS)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "binary"])
@pytest.mark.parametrize("n_y", [7, 16, 33, 1000])
def test_outputs_of_whole_registers_and_of_parts(task, n_y, threads, level):
    p = of_size("relu", task, m=70, n_x=5, n_h=45, n_y=n_y, soft=True)
    assert_true(p, kernel(p))
    p = of_size("relu", "multiclass", m=70, n_x=5, n_h=45, n_y=n_y)
    p.b2 += 40 * torch.randn(n_y, generator=torch.Generator().manual_seed(1))  # of which one stands out
    assert_true(p, kernel(p))


@pytest.mark.parametrize("at", [0, 15, 16, 32])
def test_a_logit_that_is_nan_is_no_smaller_one(at, threads, level):
    p = of_size("relu", "multiclass", m=70, n_x=5, n_h=45, n_y=33)
    p.b2[at] = torch.nan
    J, grads = kernel(p)
    assert J.isnan()
    assert grads["b2"].isnan().all()


@pytest.mark.parametrize("task", TASKS)
def test_weights_and_smoothing(task, threads, level):
    p = of_size("tanh", task, m=53, n_x=5, n_h=7, soft=True)
    weights = torch.rand(53, generator=torch.Generator().manual_seed(1))
    smoothing = 0.0 if task == "regression" else 0.1
    found = kernel(p, sample_weight=weights, label_smoothing=smoothing, input_gradient=True)
    assert_true(p, found, weights.double(), label_smoothing=smoothing)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_class_weights(task, soft, level):
    p = of_size("tanh", task, m=53, n_x=5, n_h=7, soft=soft)
    class_weight = torch.tensor([0.5, 2.0, 1.0, 3.0][: 2 if task == "binary" else 4], dtype=torch.float64)
    Y = p.Y.double() if p.Y.is_floating_point() else F.one_hot(p.Y, 4).double()
    by_class = torch.cat([1 - Y, Y], -1) if task == "binary" else Y
    assert_true(p, kernel(p, class_weight=class_weight), by_class @ class_weight)


@pytest.mark.parametrize("dtype", cpu.DTYPES)
def test_targets_of_every_dtype(dtype):
    p = of_size("relu", "multilabel", m=53, n_x=5, n_h=7)
    expected = kernel(p)
    p.Y = p.Y.to(dtype)
    for found, dV in zip(kernel(p)[1].values(), expected[1].values(), strict=True):
        assert torch.equal(found, dV)


@pytest.mark.parametrize(
    "dtype", [dtype for dtype in cpu.DTYPES if not dtype.is_floating_point and dtype != torch.bool]
)
def test_more_classes_than_a_byte_has_numbers(dtype):
    p = of_size("tanh", "multiclass", m=53, n_x=5, n_h=7, n_y=300)
    p.Y = torch.arange(53) % 41
    expected = truth(p)
    p.Y = p.Y.to(dtype)
    J, grads = kernel(p)
    assert relative_error(J, expected[0]) < 50 * EPS
    assert relative_error(grads["b2"], expected[1]["b2"]) < 50 * EPS


REFUSED_VALUES = {
    "Y must lie in [0, 3] for 4 classes, got values from 0 to 4": ("multiclass", torch.tensor([0, 4, 1])),
    "Y must lie in [0, 3] for 4 classes, got values from -1 to 2": ("multiclass", torch.tensor([2, -1, 1])),
    "Y must lie in [0, 1] for task 'multiclass', got values from 0.0 to 1.5": ("multiclass", torch.eye(4)[:3] * 1.5),
    "Y must lie in [0, 1] for task 'binary', got values from 0 to 2": ("binary", torch.tensor([0, 2, 1])),
    "Y must lie in [0, 1] for task 'binary', got values from nan to nan": ("binary", torch.tensor([0, torch.nan, 1])),
}


@pytest.mark.parametrize("words", REFUSED_VALUES)
def test_targets_out_of_range_are_refused_by_the_kernel_itself(words, threads):
    task, Y = REFUSED_VALUES[words]
    p = of_size("tanh", task, m=3, n_x=5, n_h=7)
    p.Y = Y
    with pytest.raises(ValueError, match="Y must lie in the range that the task asks for"):
        kernel(p)
    with pytest.raises(IndexError if "classes" in words else ValueError, match=re.escape(words)):
        p.net().loss_and_grads(p.X, p.Y)  # the door's words


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_a_rounding_beyond_their_range(dtype):
    Y = torch.zeros(3, 1, dtype=dtype)
    for _ in range(10):
        Y += 0.1
    p = of_size("tanh", "binary", m=3, n_x=5, n_h=7)
    p.Y = torch.cat([Y[:1], -Y[:1] * EPS, Y[:1] * (1 + 2 * EPS)])
    assert_true(p, kernel(p))


@pytest.mark.parametrize("values", [[1.0, -1.0, 2.0], [0.0, 0.0, 0.0], [1.0, torch.inf, 1.0], [1.0, torch.nan, 1.0]])
def test_wrong_weights_are_refused_by_the_kernel_itself(values, threads):
    p = of_size("tanh", "binary", m=3, n_x=5, n_h=7)
    with pytest.raises(ValueError, match="sample_weight must be finite, not negative and not all zero"):
        kernel(p, sample_weight=torch.tensor(values))
    if values[1] != 0:
        with pytest.raises(ValueError, match="class_weight must be finite and positive"):
            kernel(p, class_weight=torch.tensor(values[:2]))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("scale", [1e-40, 1e-37, 1e-30, 1e30, 1e38])
def test_the_scale_of_weights(scale, reduction, threads):
    p = of_size("tanh", "multiclass", m=53, n_x=5, n_h=7)
    weights = torch.rand(53, generator=torch.Generator().manual_seed(1)) + 0.5
    weights = (weights * scale).clamp(max=3e38)
    by_class = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=torch.float64)
    for options, w in (
        ({"sample_weight": weights}, weights.double()),
        ({"class_weight": by_class * scale}, by_class[p.Y] * scale),
        ({"sample_weight": weights.double(), "class_weight": by_class}, by_class[p.Y] * weights.double()),
    ):
        J, grads = kernel(p, input_gradient=True, reduction=reduction, **options)
        true_J, true_grads = truth(p, weights=w / w.sum())
        divisor = 1.0 if reduction == "mean" else w.sum()
        for found, true in [(J, true_J), *((grads[name], dV) for name, dV in true_grads.items())]:
            true = true * divisor
            # What is beyond the range of float is infinite or a denormal number.
            torch.testing.assert_close(found, true.float(), rtol=0, atol=50 * EPS * true.abs().max().item() + 2e-45)


def test_weights_that_grow_by_many_orders(threads):
    p = of_size("tanh", "binary", m=5003, n_x=5, n_h=7)
    weights = torch.logspace(-38, 38, 5003)
    assert_true(p, kernel(p, sample_weight=weights, input_gradient=False), weights.double())
    assert_true(p, kernel(p, sample_weight=weights.flip(0), input_gradient=False), weights.flip(0).double())


@pytest.mark.parametrize("scale", [1e-44, 1e-37, 1e-30, 1e30, 1e37])
def test_the_scale_of_what_comes_back_to_the_logits(scale):
    p = of_size("tanh", "regression", m=53, n_x=5, n_h=7, n_y=3)
    p.Y *= scale
    inputs = [V.double().requires_grad_() for V in p.network]
    grads = torch.autograd.grad(p.true_logits(*inputs), inputs, p.Y.double())
    p.task = PAIRING
    _, found = kernel(p, reduction="sum", input_gradient=True)
    for name, dV in zip(("X", *PARAMETERS), grads, strict=True):
        torch.testing.assert_close(found[name].double(), dV, rtol=0, atol=50 * EPS * dV.abs().max().item() + 1e-44)


def test_infinite_logits_of_a_mask(threads):
    """Logits of −∞ where the target is 0: as PyTorch for class indices, and the limit where PyTorch has none."""
    inf = torch.inf
    for n_y, k in ((4, 2), (40, 17)):
        p = of_size("tanh", "multiclass", m=53, n_x=5, n_h=7, n_y=n_y)
        p.Y.masked_fill_(k == p.Y, 0)
        p.b2[k] = -inf
        with_mask = kernel(p, input_gradient=True)
        assert_true(p, with_mask)
        p.Y = F.one_hot(p.Y, n_y)
        p.Y = p.Y.float()
        for found, dV in zip(kernel(p, input_gradient=True)[1].values(), with_mask[1].values(), strict=True):
            assert torch.equal(found, dV)
    p = of_size("tanh", "multilabel", m=53, n_x=5, n_h=7)
    p.Y[:, 1], p.b2[1] = 0, -1e4
    near = kernel(p)
    for infinite, label in ((-inf, 0), (inf, 1)):
        p.Y[:, 1], p.b2[1] = label, infinite
        J, grads = kernel(p)
        assert torch.equal(J, near[0])
        assert all(torch.equal(grads[name], near[1][name]) for name in PARAMETERS)
    p.Y[3, 1] = 0
    assert kernel(p)[0] == inf


def test_rows_with_strides():
    p = of_size("relu", "regression", m=53, n_x=5, n_h=7)
    p.X = F.pad(p.X, (2, 3))[:, 2:-3]
    p.Y = F.pad(p.Y, (0, 1))[:, :-1]
    p.W1, p.W2 = p.W1.T.contiguous().T, p.W2.T.contiguous().T
    assert not any(V.is_contiguous() for V in (p.X, p.Y, p.W1, p.W2))
    examples, parameters, objective = p.values()
    plan = Plan(kernel="cpu", input_gradient=True)
    found = by_name(*choice.run_loss_and_grads(examples, parameters, objective, plan))
    assert_true(p, found)
    assert all(dV.is_contiguous() for dV in found[1].values())


def test_one_example_for_all(threads):
    p = of_size("tanh", "binary", m=1, n_x=5, n_h=7)
    p.X, p.Y = p.X.expand(53, 5), p.Y.expand(53, 1)
    assert_true(p, kernel(p))


def test_sums_do_not_get_worse_as_the_examples_get_more():
    m = 10**7
    generator = torch.Generator().manual_seed(0)
    p = of_size("tanh", "binary", m=1, n_x=3, n_h=4)
    p.X, p.Y = torch.randn(m, 3, generator=generator), torch.rand(m, generator=generator)
    J, grads = kernel(p)
    options = {"activation": "tanh", "task": "binary"}
    true_J, truth = functional.loss_and_grads(p.X.double(), p.Y, *(V.double() for V in p.network[1:]), **options)
    assert relative_error(J, true_J) < 1e-6
    for name, dV in truth.items():
        assert relative_error(grads[name], dV) < 1e-5


def test_it_is_bitwise_repeatable(threads, level):
    p = of_size("sigmoid", "multiclass", m=1501, n_x=33, n_h=45)
    first, second = kernel(p), kernel(p)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[1][name], second[1][name]) for name in PARAMETERS)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_activations_are_good_to_some_last_places(activation, level):
    """``g`` of one number at a time, which comes out as ``db2`` of a regression towards 0, and ``g'`` as ``db1``."""
    z = torch.cat([torch.linspace(-12, 12, 801), torch.logspace(-30, 2, 200), -torch.logspace(-30, 2, 200)])
    one, zero = torch.ones(1, 1), torch.zeros(1)
    for x in z:
        p = Problem(activation, "regression", x.view(1, 1), one, zero, one, zero, one * 0)
        _, grads = kernel(p)
        a = getattr(torch, activation)(x.double())
        if a.abs() > torch.finfo(torch.float32).tiny:  # less is flushed to zero
            assert abs(grads["b2"] - a) <= 2 * EPS * abs(a)


def test_the_cost_is_finite_and_exact_for_any_logits(level):
    z = torch.cat([torch.linspace(-110, 110, 401), torch.tensor([1e4, -1e4, 1e30, -1e30])])
    one, zero = torch.ones(1, 1), torch.zeros(1)
    for x in z:
        for y in (0.0, 0.3, 1.0):
            Y = torch.full((1, 1), y)
            J, grads = kernel(Problem("leaky_relu", "binary", x.view(1, 1), one, zero, one, zero, Y))
            logit = F.leaky_relu(x).double()
            torch.testing.assert_close(
                J.double(), F.binary_cross_entropy_with_logits(logit, Y.double()[0, 0]), rtol=4 * EPS, atol=1e-37
            )
            torch.testing.assert_close(grads["b2"][0].double(), logit.sigmoid() - Y[0, 0].double(), rtol=0, atol=EPS)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_no_number_stays_none(activation, task, level):
    p = of_size(activation, task, m=53, n_x=5, n_h=7)
    p.X[17, 2] = torch.nan
    J, grads = kernel(p)
    assert J.isnan()
    assert grads["W1"].isnan().any()
    assert grads["b2"].isnan().any()


@pytest.mark.parametrize("n_h", [7, 3, 1])
def test_an_infinite_input_saturates(n_h, level):
    p = of_size("tanh", "binary", m=53, n_x=5, n_h=n_h)
    p.X[17, 2] = torch.inf
    J, grads = kernel(p)
    assert relative_error(J, truth(p)[0]) < 50 * EPS
    assert grads["W2"].isfinite().all()


def test_numbers_below_the_smallest_are_zero_and_the_mode_of_the_processor_stays():
    p = of_size("relu", "binary", m=53, n_x=5, n_h=7)
    p.X.fill_(1e-40)
    kernel(p)
    assert torch.tensor([1e-40]).mul(0.5).item() > 0


@pytest.mark.parametrize("n_y", [1, 9])
def test_what_comes_back_to_the_logits(n_y, level):
    """The cost ``Σ Z2 ⊙ dZ2``, a sum, whose gradients are those along ``dZ2``; also of no examples at all."""
    p = of_size("tanh", "regression", m=53, n_x=5, n_h=7, n_y=n_y)
    inputs = [V.double().requires_grad_() for V in p.network]
    grads = torch.autograd.grad(p.true_logits(*inputs), inputs, p.Y.double())
    p.task = PAIRING
    J, found = kernel(p, reduction="sum", input_gradient=True)
    assert relative_error(J, (p.true_logits(*p.network).double() * p.Y).sum()) < 50 * EPS
    for name, dV in zip(("X", *PARAMETERS), grads, strict=True):
        assert relative_error(found[name], dV) < 50 * EPS
    p.X, p.Y = p.X[:0], p.Y[:0]
    assert not any(dV.any() for dV in kernel(p, reduction="sum")[1].values())


@pytest.mark.parametrize("task", TASKS)
def test_the_streamed_mode_and_loss_and_grads_take_it(task, monkeypatch):
    calls = []
    original = cpu.loss_and_grads
    monkeypatch.setattr(cpu, "loss_and_grads", lambda *args, **options: calls.append(1) or original(*args, **options))
    p = of_size("tanh", task, m=53, n_x=5, n_h=7)
    for options in ({}, {"kernel": "cpu"}):
        net = p.net(backward="streamed", **options)
        assert_true(p, net.loss_and_grads(p.X, p.Y))
        J = net.loss(p.X, p.Y)
        (3 * J).backward()
        assert_true(p, (J, {name: V.grad / 3 for name, V in net.named_parameters()}))
        net.zero_grad()
        net.cost(net(p.X), p.Y).backward()
        assert_true(p, (J, {name: V.grad for name, V in net.named_parameters()}))
    assert len(calls) == 6
    net = p.net(backward="streamed", kernel="torch")
    net.loss(p.X, p.Y).backward()
    net.cost(net(p.X), p.Y).backward()
    net.loss_and_grads(p.X, p.Y)
    assert len(calls) == 6


REFUSED = {
    "X and W1 are torch.float32 and torch.float64": lambda p: [p.X, p.Y, p.W1.double()],
    "X and W1 are torch.float64 and torch.float64": lambda p: [p.X.double(), p.Y, p.W1.double()],
    "X has strides": lambda p: [p.X.T.contiguous().T, p.Y, p.W1],
    "Y has strides": lambda p: [p.X, p.Y.T.contiguous().T, p.W1],
    "no targets of torch.float16": lambda p: [p.X, p.Y.half(), p.W1],
    "W1 is on meta": lambda p: [p.X, p.Y, p.W1.to("meta")],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_it_does_not_take_goes_to_torch_and_raises_where_asked_for(reason):
    p = of_size("relu", "regression", m=53, n_x=5, n_h=7)
    assert functional.kernel_for(p.X, p.Y, p.W1, p.W2) == "cpu"
    arguments = REFUSED[reason](p)
    assert functional.kernel_for(*arguments, p.W2) == "torch"
    with pytest.raises(RuntimeError, match=f"kernel 'cpu' cannot run: .*{reason}"):
        functional.kernel_for(*arguments, p.W2, kernel="cpu")


def test_weights_that_it_does_not_read():
    p = of_size("relu", "regression", m=53, n_x=5, n_h=7)
    assert functional.kernel_for(p.X, p.Y, p.W1, p.W2, sample_weight=torch.rand(53).bfloat16()) == "torch"


def test_weights_with_strides():
    p = of_size("relu", "regression", m=53, n_x=5, n_h=7)
    weights = torch.rand(106)
    for sample_weight in (weights[::2], weights.double()[::2], weights[:1].expand(53)):
        assert_true(p, kernel(p, sample_weight=sample_weight), sample_weight.double())


@pytest.mark.parametrize(("n_x", "n_h", "n_y"), [(0, 2, 1), (2, 0, 1), (2, 2, 0)])
def test_no_features_units_or_outputs_are_an_error(n_x, n_h, n_y):
    p = of_size("relu", "regression", m=3, n_x=2, n_h=2)
    p.X, p.Y = torch.ones(3, n_x), torch.ones(3, n_y)
    p.W1, p.b1, p.W2, p.b2 = torch.ones(n_h, n_x), torch.ones(n_h), torch.ones(n_y, n_h), torch.ones(n_y)
    with pytest.raises(ValueError, match="the CPU kernel does not take these arguments"):
        kernel(p)


def test_inside_a_transform_there_is_no_memory_to_read():
    p = of_size("relu", "regression", m=53, n_x=5, n_h=7)
    seen = []
    torch.func.vmap(lambda X: seen.append(functional.kernel_for(X, p.Y, p.W1, p.W2)) or X)(p.X.expand(2, 53, 5))
    torch.func.grad(lambda W1: seen.append(functional.kernel_for(p.X, p.Y, W1, p.W2)) or W1.sum())(p.W1)
    assert seen == ["torch", "torch"]


def test_chunks_are_obeyed():
    p = of_size("relu", "regression", m=53, n_x=5, n_h=7)
    assert functional.kernel_for(p.X, p.Y, p.W1, p.W2, chunk_size=10) == "torch"
    with pytest.raises(ValueError, match=r"chunk_size must be None for kernel 'cpu', .* got 10"):
        functional.kernel_for(p.X, p.Y, p.W1, p.W2, chunk_size=10, kernel="cpu")
    with pytest.raises(ValueError, match=r"kernel must be one of 'torch', 'cpu', .*, got 'gpu'"):
        functional.kernel_for(p.X, p.Y, p.W1, p.W2, kernel="gpu")


MEMORY = """
import resource, sys
import torch
from twolayer.equations import Parameters
from twolayer.kernels import cpu
from twolayer.tasks import Examples, Objective
m = int(sys.argv[1])
X, Y = torch.rand(m, 8), torch.rand(m)
parameters = Parameters(torch.rand(64, 8), torch.rand(64), torch.rand(1, 64), torch.rand(1))
cpu.loss_and_grads(Examples(X[:20000], Y[:20000]), parameters, Objective("tanh", "binary"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cpu.loss_and_grads(Examples(X, Y), parameters, Objective("tanh", "binary"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_examples():
    assert int(run(MEMORY, "1000000")) < 4 * 1024


def test_the_fields_are_those_that_the_kernel_reads():
    source = (library.FOLDER / "cpu.cpp").read_text(encoding="utf-8")
    (body,) = re.findall(r"struct Args \{(.*?)\n\};", source, re.DOTALL)
    lines = [line.split("//")[0] for line in body.splitlines()]
    assert re.findall(r"(\w+)[,;]", "".join(lines)) == list(cpu.FIELDS)
    assert re.findall(r"double (\w+), (\w+);", "".join(lines)) == [cpu.FIELDS[-2:]]
