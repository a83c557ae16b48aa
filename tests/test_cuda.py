"""What only a GPU can show: how precise the kernels are there, their memory, and that nothing waits for the GPU."""

import warnings

import pytest
import torch
from problems import PARAMETERS, Problem, problem, relative_error
from test_streaming import truth

from twolayer import TwoLayerNet, functional

pytest.importorskip("triton")
pytestmark = pytest.mark.cuda

# dtype, precision, and what a result may deviate from float64's, relative to its largest entry
PRECISIONS = {
    "float32": (torch.float32, "highest", 1e-5),
    "tf32": (torch.float32, "high", 1e-3),
    "bfloat16": (torch.bfloat16, "highest", 1e-2),
    "float16": (torch.float16, "highest", 2e-3),
}
SIZES = {(32, 128, 1): "triton_narrow", (5, 7, 3): "triton_narrow", (64, 300, 10): "triton_wide"}
SIZES[300, 130, 40] = "triton_chunked"


@pytest.fixture(params=PRECISIONS)
def precision(request):
    dtype, precision, allowed = PRECISIONS[request.param]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    yield dtype, allowed
    torch.set_float32_matmul_precision(before)


def of_size(n_x, n_h, n_y, dtype, m=10_007) -> Problem:
    task = "binary" if n_y == 1 else "multiclass"
    p = problem("tanh", task, m=m, n_x=n_x, n_h=n_h, n_y=n_y, dtype=dtype, device="cuda", margin=0.0)
    p.W1 *= n_x**-0.5
    p.W2 *= n_h**-0.5
    return p


@pytest.mark.parametrize("sizes", SIZES)
def test_kernels_are_as_precise_as_they_say_and_no_worse_than_eager(sizes, precision):
    dtype, allowed = precision
    p = of_size(*sizes, dtype)
    assert functional.kernel_for(p.X, p.Y, p.W1, p.W2) == SIZES[sizes]
    J, grads = truth(p)
    found_J, found = p.net().loss_and_grads(p.X, p.Y)
    net = p.net(backward="autograd")
    eager_J = net.loss(p.X, p.Y)
    eager_J.backward()
    assert relative_error(found_J, J) < allowed
    for name in PARAMETERS:
        error = relative_error(found[name], grads[name])
        assert error < allowed, name
        # Twice eager's own, and one rounding of the result: both round operands, neither sees the other's.
        eager = relative_error(getattr(net, name).grad, grads[name])
        assert error < 2 * eager + torch.finfo(dtype).eps + allowed / 10, name


def sync_debug_mode(mode):
    with warnings.catch_warnings():  # it warns that it may change
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.parametrize("sizes", SIZES)
def test_no_step_waits_for_the_gpu(sizes):
    p = of_size(*sizes, torch.float32)
    net = p.net(backward="streamed")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        net.loss(p.X, p.Y).backward()
        optimizer.step()

    step()  # compiles
    torch.cuda.synchronize()
    sync_debug_mode("error")
    try:
        step()
    finally:
        sync_debug_mode("default")


@pytest.mark.parametrize("sizes", SIZES)
def test_a_cuda_graph_holds_the_pass(sizes):
    p = of_size(*sizes, torch.float32)
    net = p.net()
    expected_J, expected = net.loss_and_grads(p.X, p.Y)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        J, grads = net.loss_and_grads(p.X, p.Y)
    for V in (J, *grads.values()):
        V.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(J, expected_J)
    assert all(torch.equal(grads[name], expected[name]) for name in PARAMETERS)


def test_memory_does_not_grow_with_the_examples():
    peaks = []
    net = TwoLayerNet(32, 128, 1, activation="tanh", device="cuda", dtype=torch.bfloat16)
    for m in (1 << 18, 1 << 22):
        X = torch.randn(m, 32, device="cuda", dtype=torch.bfloat16)
        Y = (X[:, 0] > 0).to(torch.bfloat16)
        net.loss_and_grads(X, Y)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        net.loss_and_grads(X, Y)
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] == peaks[1] < 20e6


def test_more_examples_than_an_index_of_32_bits_counts():
    """All the same, so that they need no memory: their mean is the one. Float32 adds up 10⁵ equal numbers a program."""
    net = TwoLayerNet(5, 7, 1, activation="tanh", device="cuda")
    x, y = torch.randn(1, 5, device="cuda"), torch.ones(1, 1, device="cuda")
    expected_J, expected = net.loss_and_grads(x, y)
    m = (1 << 31) + 77
    J, grads = net.loss_and_grads(x.expand(m, 5), y.expand(m, 1), kernel="triton_narrow")
    torch.testing.assert_close(J, expected_J, rtol=1e-2, atol=0)
    torch.testing.assert_close(grads["W1"], expected["W1"], rtol=1e-2, atol=1e-6)


def test_more_examples_than_an_index_of_32_bits_counts_numbers():
    m = (1 << 31) // 16 + 1000
    net = TwoLayerNet(16, 16, 1, activation="tanh", device="cuda", dtype=torch.bfloat16)
    X = torch.zeros(m, 16, device="cuda", dtype=torch.bfloat16)
    Y = torch.zeros(m, device="cuda", dtype=torch.bfloat16)
    X[-1000:], Y[-1000:] = 1, 1
    weights = torch.zeros(m, device="cuda")
    weights[-1000:] = 1
    J, grads = net.loss_and_grads(X, Y, sample_weight=weights)
    expected_J, expected = net.loss_and_grads(X[-1000:].clone(), Y[-1000:].clone())
    torch.testing.assert_close(J, expected_J)
    torch.testing.assert_close(grads["W1"], expected["W1"])
