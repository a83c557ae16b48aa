"""Which kernel a call takes, and why not another; without a GPU, and with kernels interpreted in its place."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems import problem, relative_error
from test_streaming import truth

from twolayer import functional
from twolayer.equations import Parameters
from twolayer.kernels import choice, cpu, gpu
from twolayer.tasks import Examples, Objective


def test_on_a_cpu_they_cannot_run():
    p = problem(dtype=torch.float32)
    for kernel in gpu.KERNELS:
        with pytest.raises(RuntimeError, match=f"kernel '{kernel}' cannot run: it runs on CUDA, and W1 is on cpu"):
            functional.kernel_for(p.X, p.Y, p.W1, p.W2, kernel=kernel)
        with pytest.raises(RuntimeError, match=f"kernel '{kernel}' cannot run"):
            functional.loss_and_grads(p.X, p.Y, *p.network[1:], kernel=kernel)
        with pytest.raises(RuntimeError, match=f"kernel '{kernel}' cannot run"):
            p.net(backward="streamed", kernel=kernel).loss(p.X, p.Y).backward()


def test_without_triton_they_cannot_run(monkeypatch):
    pretend_cuda(monkeypatch)
    monkeypatch.setattr(gpu, "triton_is_installed", lambda: False)
    p = problem(dtype=torch.float32)
    assert gpu.why_not("triton_narrow", *on_cuda(p)) == "Triton is not installed"


def test_other_gpus_run_torch(monkeypatch):
    pytest.importorskip("triton")
    pretend_cuda(monkeypatch, capability=(8, 0))
    p = problem(dtype=torch.float32)
    reason = gpu.why_not("triton_narrow", *on_cuda(p))
    assert reason == "it is built for compute capability (9, 0), and cuda has (8, 0)"


class SimulatedOnCuda:
    """As much of a tensor as is asked before anything is computed."""

    device = torch.device("cuda")

    def __init__(self, tensor):
        self.dtype = tensor.dtype


def on_cuda(p):
    examples, parameters, objective = p.values()
    return examples, parameters._replace(W1=SimulatedOnCuda(p.W1)), objective


def pretend_cuda(monkeypatch, capability=gpu.COMPUTE_CAPABILITY):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def taken(n_x, n_h, n_y, dtype=torch.float32, parameters=torch.float32):
    X, Y = torch.empty(3, n_x, dtype=dtype), torch.empty(3, n_y)
    W1, W2 = torch.empty(n_h, n_x, dtype=parameters), torch.empty(n_y, n_h, dtype=parameters)
    values = (Examples(X, Y), Parameters(W1, W1[:, 0], W2, W2[:, 0]), Objective("tanh", "regression"))
    return [name for name in gpu.KERNELS if gpu.why_not_of_these(name, *values) is None]


@pytest.fixture
def precision():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_sizes(precision):
    pytest.importorskip("triton")
    chunked = ["triton_chunked"]
    wide = ["triton_wide", *chunked]
    narrow = ["triton_narrow", *wide]
    half = torch.bfloat16
    assert taken(32, 128, 1) == taken(32, 128, 16, half) == taken(64, 64, 16, half) == taken(2, 4, 1) == narrow
    assert taken(64, 64, 16) == taken(64, 129, 1) == taken(64, 10_000, 32) == taken(256, 16, 1, half) == wide
    assert taken(65, 10, 1) == taken(257, 10, 1, half) == taken(10, 100, 33, half) == chunked
    assert taken(10, 100, 4097) == []
    precision("high")
    assert taken(64, 64, 16) == narrow
    assert taken(128, 512, 1) == wide
    assert taken(129, 10, 1) == chunked


def test_dtypes():
    pytest.importorskip("triton")
    assert taken(5, 7, 1, torch.float64, torch.float64) == []
    assert taken(5, 7, 1, torch.float32, torch.bfloat16) == []
    assert taken(5, 7, 1, torch.bfloat16, torch.bfloat16) == list(gpu.KERNELS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled for the GPU here, not interpreted")
@pytest.mark.parametrize(("n_x", "n_h", "name"), [(5, 7, "narrow"), (5, 130, "wide"), (70, 7, "chunked")])
def test_the_streamed_mode_and_loss_and_grads_take_them(n_x, n_h, name, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(cpu, "why_not", lambda *_: "not this time")
    monkeypatch.setattr(gpu, "why_not", gpu.why_not_of_these)
    monkeypatch.setattr(choice, "DEVICES", dict.fromkeys(choice.DEVICES, "cpu"))
    p = problem("tanh", "multiclass", m=53, n_x=n_x, n_h=n_h, dtype=torch.float32, margin=1e-4)
    assert functional.kernel_for(p.X, p.Y, p.W1, p.W2) == f"triton_{name}"
    true_J, grads = truth(p)
    allowed = 50 * torch.finfo(torch.float32).eps

    def assert_true(J, found):
        assert relative_error(J, true_J) < allowed
        assert all(relative_error(dV, grads[name]) < allowed for name, dV in found.items())

    net = p.net(backward="streamed")
    assert_true(*net.loss_and_grads(p.X, p.Y))
    X = p.X.clone().requires_grad_()
    J = net.loss(X, p.Y)
    J.backward()
    assert_true(J, {"X": X.grad, **{name: V.grad for name, V in net.named_parameters()}})
    net.zero_grad()
    X.grad = None
    net.cost(net(X), p.Y).backward()
    assert_true(J, {"X": X.grad, **{name: V.grad for name, V in net.named_parameters()}})


def test_on_a_cpu_triton_is_not_even_imported():
    script = """
import sys, torch
from twolayer import TwoLayerNet
net = TwoLayerNet(5, 7, 1, backward="streamed")
net.loss(torch.ones(3, 5), torch.ones(3)).backward()
net.loss_and_grads(torch.ones(3, 5), torch.ones(3))
print([name for name in sys.modules if name.split(".")[0] == "triton" or name.startswith("twolayer.kernels.triton")])
"""
    path = str(Path(gpu.__file__).parents[2])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})\n{script}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_page_shows_what_happens():
    page = Path(__file__).parents[1] / "docs" / "gpu.md"
    session = "\n".join(
        re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    )
    test = doctest.DocTestParser().get_doctest(session, {}, page.name, page.name, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
