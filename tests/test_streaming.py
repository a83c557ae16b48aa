"""The pass in chunks against PyTorch on all examples at once; its memory; its sums over many chunks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems import OUTPUTS, PARAMETERS, TRUE_LOSSES, assert_equal, by_name, problem, relative_error, run_kernel
from torch.autograd import forward_ad

from twolayer import TwoLayerNet, functional
from twolayer.activations import ACTIVATIONS
from twolayer.equations import Parameters
from twolayer.kernels import chunked, plain
from twolayer.tasks import TASKS, Examples, Objective

activations = pytest.mark.parametrize("activation", ACTIVATIONS)
tasks = pytest.mark.parametrize("task", TASKS)
chunk_sizes = pytest.mark.parametrize("chunk_size", [1, 10, 52, 53, 1000])


def truth(p, *, weights=None, label_smoothing=0.0):
    """``J`` and its gradients, ``X`` among them, by autograd through PyTorch's layers, in float64."""
    inputs = {name: getattr(p, name).double().requires_grad_() for name in ("X", *PARAMETERS)}
    Y = p.Y
    if label_smoothing:
        n = p.W2.shape[0] if p.task == "multiclass" else 2
        Y = (1 - label_smoothing) * Y.double() + label_smoothing / n
    Y = Y.double() if Y.is_floating_point() else Y
    L = TRUE_LOSSES[p.task](p.true_logits(*inputs.values()), Y)
    J = L.mean() if weights is None else (weights * L).sum() / weights.sum()
    J.backward()
    return J.detach(), {name: V.grad for name, V in inputs.items()}


def streamed(p, **options):
    return run_kernel(chunked, p, **options)


@pytest.mark.parametrize("n_y", [1, 3])
@pytest.mark.parametrize("n_x", [5, 130])  # on both sides of the width up to which chunks are copied
@tasks
@activations
def test_cost_and_gradients_are_those_of_torch(activation, task, n_x, n_y, device):
    if task == "binary" and n_y > 1:
        pytest.skip("a binary network has one output")
    p = problem(activation, task, m=53, n_x=n_x, n_h=7, n_y=n_y, soft=task == "multiclass", device=device)
    J, grads = truth(p)
    for chunk_size in (None, 1, 10, 53, 1000):
        found_J, found = streamed(p, chunk_size=chunk_size, input_gradient=True)
        assert set(found) == {"X", *PARAMETERS}
        if task == "multiclass" and n_y == 1:
            assert all(not V.any() for V in found.values())  # one class: nothing to learn
            continue
        assert_equal([found_J, *(found[name] for name in grads)], [J, *grads.values()])


@pytest.mark.parametrize("sample_weight", [None, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)])
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_infinite_logits_on_the_side_of_their_labels_cost_nothing(chunk_size, sample_weight):
    """PyTorch's formula, which comes first, has NaN there. The network is ``Z2 = relu(x) − relu(−x)``."""
    one = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    network = Parameters(one, torch.zeros(2).double(), one.mT, torch.zeros(1).double())
    x, Y = torch.tensor([[torch.inf], [-torch.inf], [0.5]], dtype=torch.float64), torch.tensor([1, 0, 1])
    J, _ = functional.loss_and_grads(x, Y, *network, sample_weight=sample_weight, chunk_size=chunk_size)
    share = 1 / 3 if sample_weight is None else 3 / 6
    assert_equal([J], [share * torch.nn.functional.softplus(-x[2, 0])])


@tasks
def test_weights_and_smoothing(task, device):
    p = problem("tanh", task, m=53, soft=True, device=device)
    weights = torch.rand(53, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    smoothing = 0.0 if task == "regression" else 0.1
    J, grads = truth(p, weights=weights, label_smoothing=smoothing)
    found_J, found = streamed(p, sample_weight=weights, label_smoothing=smoothing, chunk_size=10, input_gradient=True)
    assert_equal([found_J, *(found[name] for name in grads)], [J, *grads.values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@tasks
def test_low_precision_is_as_good_as_its_last_rounding(task, dtype, device):
    p = problem("tanh", task, m=53, dtype=dtype, device=device)
    J, grads = truth(p)
    found_J, found = streamed(p, chunk_size=10, input_gradient=True)
    assert found_J.dtype == torch.float32
    # Chunks are computed in float32, sums kept in float64: what is left is float32's arithmetic over at most 53 terms
    # and one rounding to the parameters' dtype (for dX, a second one by the share).
    allowed = 50 * torch.finfo(torch.float32).eps + 2 * torch.finfo(dtype).eps
    assert relative_error(found_J, J) < 50 * torch.finfo(torch.float32).eps
    for name, dV in grads.items():
        assert found[name].dtype == dtype
        assert relative_error(found[name], dV) < allowed


def test_sums_do_not_get_worse_as_the_examples_get_more():
    # A million times the same example, in chunks of 16: the rounding of each sum is the same too, and adds up.
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(1, 3, generator=generator).expand(10**6, 3)
    net = TwoLayerNet(3, 4, 1, activation="tanh", generator=generator)
    Y = torch.zeros(10**6)
    parameters = Parameters(*(V.detach() for V in net.parameters()))
    J, grads = by_name(*chunked.loss_and_grads(Examples(X, Y), parameters, Objective("tanh", "binary"), chunk_size=16))
    exact_J, exact = functional.loss_and_grads(
        X.double(), Y, *(V.double() for V in parameters), activation="tanh", task="binary"
    )
    # What is left are the roundings inside one block of 64 chunks: at most 1024 sums, each half an eps off, where the
    # matrix product adds one example after the other.
    assert relative_error(J, exact_J) < 1e-6
    for name, dV in exact.items():
        assert relative_error(grads[name], dV) < 1024 * torch.finfo(torch.float32).eps / 2


@activations
@tasks
def test_per_sample_norms_are_those_of_the_single_gradients(activation, task, device):
    for n_x in (5, 130):
        p = problem(activation, task, m=13, n_x=n_x, n_y=OUTPUTS[task], device=device)
        net = p.net()
        found = net.per_sample_grad_norms(p.X, p.Y)
        for i in range(13):
            grads = torch.autograd.grad(net.loss(p.X[i : i + 1], p.Y[i : i + 1]), list(net.parameters()))
            assert_equal([found[i]], [torch.cat([dV.flatten() for dV in grads]).norm()])
        assert_equal([net.per_sample_grad_norms(p.X, p.Y, chunk_size=4)], [found])


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e11, 1e16])
@pytest.mark.parametrize("kernel", ["in operators", "any"])
@pytest.mark.parametrize("n_x", [5, 130])
def test_norms_whose_squares_float32_cannot_hold(kernel, n_x, scale):
    p = problem("relu", "regression", m=13, n_x=n_x)
    net = p.net()
    net32, X = p.net().float(), (p.X * scale).float()
    truth = net.per_sample_grad_norms(X.double(), p.Y)
    found = net32.per_sample_grad_norms(X, p.Y.float(), chunk_size=4 if kernel == "in operators" else None)
    assert scale < 1e3 or truth.amax() ** 2 > torch.finfo(torch.float32).max
    assert_equal([found], [truth], 1e-5)


WAYS = pytest.mark.parametrize("chunk_size", [None, 4], ids=["any kernel", "in operators"])


@WAYS
@pytest.mark.parametrize(("n_h", "n_y"), [(3, 1), (37, 2)])
def test_norms_of_numbers_whose_squares_float32_cannot_hold(chunk_size, n_h, n_y):
    """Inputs of 1e20, and weights above them of 1e-20."""
    p = problem("relu", "regression", m=13, n_h=n_h, n_y=n_y)
    net, net32 = p.net(), p.net().float()
    with torch.no_grad():
        net.W2 *= 1e-20
        net32.W2 *= 1e-20
    X = (p.X * 1e20).float()
    truth = net.per_sample_grad_norms(X.double(), p.Y)
    assert 1e19 < truth.amax() < 1e30
    found = net32.per_sample_grad_norms(X, p.Y.float(), chunk_size=chunk_size)
    assert_equal([found], [truth], 1e-5)


@WAYS
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_norms_of_what_the_network_is_sure_of(activation, chunk_size):
    """Errors of 1e-20 and below, whose squares are nothing in float32, in all of the norm."""
    p = problem(activation, "binary", m=13)
    net, net32 = p.net(), p.net().float()
    X, Y = (3 * p.X).float(), torch.zeros(13)
    with torch.no_grad():
        for one in (net, net32):
            one.b2 -= 50.0
    truth = net.per_sample_grad_norms(X.double(), Y)
    assert 1e-30 < truth.amin() < truth.amax() < 1e-10
    found = net32.per_sample_grad_norms(X, Y, chunk_size=chunk_size)
    assert_equal([found], [truth], 1e-4)  # a logit of −50 is off by 4e-6 at most, of which the error is an exponential


def test_norms_and_gradients_in_forward_mode():
    """Norms have no derivative there, and say so; gradients move as the Hessian says."""
    p = problem("tanh", "regression", m=13)
    net, direction = p.net(), torch.ones_like(p.X)
    _, truth = torch.func.jvp(lambda X: net.loss_and_grads(X, p.Y)[1]["W1"], (p.X,), (direction,))
    with forward_ad.dual_level():
        X = forward_ad.make_dual(p.X, direction)
        J, grads = net.loss_and_grads(X, p.Y)
        assert_equal([forward_ad.unpack_dual(grads["W1"]).tangent], [truth])
        slope = (torch.autograd.grad(net.loss(leaf := p.X.clone().requires_grad_(), p.Y), leaf)[0] * direction).sum()
        assert_equal([forward_ad.unpack_dual(J).tangent], [slope])
        with pytest.raises(RuntimeError, match=r"norms goes in chunks, which .* forward mode"):
            net.per_sample_grad_norms(X, p.Y)
        assert_equal([net.per_sample_grad_norms(p.X, p.Y)], [net.per_sample_grad_norms(p.X, p.Y)])


@chunk_sizes
def test_net_and_functional_hand_the_chunk_size_on(chunk_size):
    p = problem("relu", "multiclass", m=53)
    net = p.net(class_weight=[1.0, 2.0, 3.0, 4.0], label_smoothing=0.1)
    weights = torch.rand(53, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    J, grads = net.loss_and_grads(p.X, p.Y, sample_weight=weights)
    found_J, found = net.loss_and_grads(p.X, p.Y, sample_weight=weights, chunk_size=chunk_size)
    assert_equal([found_J, *found.values()], [J, *grads.values()])


def test_many_examples_go_in_chunks_unasked(monkeypatch):
    seen = []
    whole = plain.loss_and_grads
    monkeypatch.setattr(plain, "loss_and_grads", lambda *args, **options: seen.append(args) or whole(*args, **options))
    net = TwoLayerNet(2, 3, 1, kernel="torch")
    few = chunked.default_chunk_size(2, 3, 1)
    net.loss_and_grads(torch.zeros(few + 1, 2), torch.zeros(few + 1))
    assert not seen
    net.loss_and_grads(torch.zeros(few, 2), torch.zeros(few))
    assert len(seen) == 1


@pytest.mark.parametrize("size", [0, -3])
def test_a_bad_chunk_size_is_named(size):
    net = TwoLayerNet(2, 3, 1)
    with pytest.raises(ValueError, match=f"chunk_size must be at least 1, got {size}"):
        net.loss_and_grads(torch.zeros(4, 2), torch.zeros(4), chunk_size=size)


def run(script, *arguments):
    """What a script prints in a process of its own."""
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


MEMORY = """
import resource, sys
import torch
from twolayer import TwoLayerNet
torch.set_num_threads(1)
net = TwoLayerNet(8, 64, 1, activation="tanh")
m = int(sys.argv[1])
X, Y = torch.rand(m, 8), torch.rand(m)
net.loss_and_grads(X[:20000], Y[:20000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
net.loss_and_grads(X, Y)
net.per_sample_grad_norms(X[:20000], Y[:20000])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_examples():
    # 10⁶ examples with 64 hidden units would be 256 MB an array; one chunk's buffers are 2.
    assert int(run(MEMORY, "1000000")) < 16 * 1024


MAPPED = """
import resource, sys
import torch
from twolayer import TwoLayerNet, gradient_descent
torch.set_num_threads(1)
m, path, kernel = int(sys.argv[1]), sys.argv[2], None if sys.argv[3] == "None" else sys.argv[3]
X = torch.from_file(path, shared=True, size=m * 8).view(m, 8)
Y = torch.zeros(m)
net = TwoLayerNet(8, 4, 1, activation="tanh", kernel=kernel)
net.loss_and_grads(X[:1], Y[:1])  # compiled, if need be
used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
limit = used + (200 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    X.clone()
except RuntimeError:
    costs = gradient_descent(net, X, Y, iterations=2)
    print((costs[1] < costs[0]).item())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the data segment, as Linux counts it")
@pytest.mark.parametrize("kernel", ["torch", None])
def test_descent_on_a_file_larger_than_the_memory(tmp_path, kernel):
    m = 20_000_000  # 640 MB, where 200 more can be had
    path = tmp_path / "X.bin"
    with path.open("wb") as file:
        file.truncate(m * 8 * 4)  # sparse: zeros that take no disk
    assert run(MAPPED, str(m), str(path), str(kernel)) == "True\n"
