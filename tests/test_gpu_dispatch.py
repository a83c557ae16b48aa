"""Which kernel a call takes, and why not another; without a GPU, and with kernels interpreted in its place."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from problems import problem, relative_error
from test_streaming import truth

from twolayer import descent, functional
from twolayer.equations import Parameters
from twolayer.kernels import choice, cpu, gpu
from twolayer.tasks import Examples, Objective

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gpu.md"


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
    monkeypatch.setattr(gpu, "triton_is_installed", lambda: False)
    assert gpu.why_not("triton_narrow", *problem(dtype=torch.float32).values()) == "Triton is not installed"


class Device(NamedTuple):
    """As much of a GPU as is asked before anything is computed."""

    type: str = "cuda"

    def __str__(self):
        return "cuda:0"


class SimulatedOnCuda:
    device = Device()

    def __init__(self, tensor):
        self.dtype = tensor.dtype


def why_not_on(monkeypatch, capability, hip=None):
    """What keeps the narrow kernel from a card that says this of itself, and ROCm's name of it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip and "6.4")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(gcnArchName=hip))
    monkeypatch.setattr(gpu, "why_triton_cannot_start", lambda device: None)
    examples, parameters, objective = problem(dtype=torch.float32).values()
    parameters = parameters._replace(W1=SimulatedOnCuda(parameters.W1))
    return gpu.why_not("triton_narrow", examples, parameters, objective)


def test_cards(monkeypatch):
    pytest.importorskip("triton")
    for capability in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)):
        assert why_not_on(monkeypatch, capability) is None
    for capability in ((7, 0), (11, 0), (13, 0)):
        assert "and cuda:0 is {}.{}".format(*capability) in why_not_on(monkeypatch, capability)


def test_an_amd_card_is_known_by_its_name_and_not_by_a_capability(monkeypatch):
    pytest.importorskip("triton")
    assert why_not_on(monkeypatch, (9, 4), "gfx942:sramecc+:xnack-") is None
    assert "and cuda:0 is gfx90a" in why_not_on(monkeypatch, (9, 0), "gfx90a:sramecc+:xnack-")


@pytest.fixture
def not_yet_tried():
    gpu.why_triton_cannot_start.cache_clear()
    yield
    gpu.why_triton_cannot_start.cache_clear()


@pytest.mark.usefixtures("not_yet_tried")
@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to find C compiler"), PermissionError(30, "Read-only file system")], ids=repr
)
def test_where_triton_cannot_start_torch_runs_and_that_is_said_once(error, monkeypatch):
    pytest.importorskip("triton")
    launch, tried = gpu.module("triton_launch"), []

    def fail(device):
        tried.append(device)
        raise error

    monkeypatch.setattr(launch, "start", fail)
    monkeypatch.setattr(cpu, "why_not", lambda *_: "not this time")
    monkeypatch.setattr(cpu, "is_there", lambda: False)
    monkeypatch.setattr(choice, "DEVICES", dict.fromkeys(choice.DEVICES, "cpu"))
    p = problem("tanh", "multiclass", m=53, dtype=torch.float32)
    with pytest.warns(UserWarning, match="PyTorch's operators run: Triton cannot start: .*(compiler|Read-only)"):
        J, _ = p.net().loss_and_grads(p.X, p.Y)
    assert relative_error(J, truth(p)[0]) < 1e-5
    p.net(backward="streamed").loss(p.X, p.Y).backward()
    assert functional.kernel_for(p.X, p.Y, p.W1, p.W2) == "torch"
    assert descent.descent_kernel_for(p.net(), p.X, p.Y) == "steps"
    with pytest.raises(RuntimeError, match="kernel 'triton_narrow' cannot run: Triton cannot start"):
        functional.kernel_for(p.X, p.Y, p.W1, p.W2, kernel="triton_narrow")
    assert len(tried) == 1


WITHOUT_A_GPU = """
import torch
from twolayer import TwoLayerNet, functional
from twolayer.kernels import choice, cpu
choice.DEVICES = dict.fromkeys(choice.DEVICES, "cpu")
cpu.why_not, cpu.is_there = lambda *_: "not this time", lambda: False
net = TwoLayerNet(5, 7, 1)
X, Y = torch.ones(3, 5), torch.ones(3, 1)
for _ in range(2):
    net.loss_and_grads(X, Y)
print(functional.kernel_for(X, Y, net.W1, net.W2))
"""
WITH_A_DRIVER = """
import triton
from ahead_of_time import Absent, target_of
driver = Absent()
driver.target = target_of("9.0")
triton.runtime.driver.set_active(driver)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
@pytest.mark.parametrize(
    ("before", "cache", "reason"),
    [("", None, "driver"), (WITH_A_DRIVER, "/dev/null/kept", r"Not a directory: '/dev/null/kept")],
    ids=["no driver", "nowhere to write"],
)
def test_triton_itself_does_not_start(before, cache, reason):
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(gpu.__file__).parents[2]), str(Path(__file__).parent)])
    if cache is not None:
        environment["TRITON_CACHE_DIR"] = cache
    command = [sys.executable, "-c", before + WITHOUT_A_GPU]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch"]
    assert re.findall(f"Triton cannot start: .*{reason}", done.stderr)
    assert done.stderr.count("Triton cannot start") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="in the interpreter, Triton starts on a CPU")
def test_a_kernel_that_does_nothing_shows_that_triton_starts():
    pytest.importorskip("triton")
    assert gpu.why_triton_cannot_start(torch.device("cpu")) is None


def values(n_x, n_h, n_y, dtype=torch.float32, parameters=torch.float32, device="cpu"):
    X, Y = torch.empty(3, n_x, dtype=dtype, device=device), torch.empty(3, n_y, device=device)
    W1, W2 = (torch.empty(n, k, dtype=parameters, device=device) for n, k in ((n_h, n_x), (n_y, n_h)))
    b1, b2 = W1.new_empty(n_h), W1.new_empty(n_y)
    return Examples(X, Y), Parameters(W1, b1, W2, b2), Objective("tanh", "regression")


def taken(*sizes, **options):
    return [name for name in gpu.KERNELS if gpu.why_not_of_these(name, *values(*sizes, **options)) is None]


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
    assert (
        taken(32, 128, 1) == taken(32, 128, 16, dtype=half) == taken(64, 64, 16, dtype=half) == taken(2, 4, 1) == narrow
    )
    assert taken(64, 64, 16) == taken(64, 129, 1) == taken(64, 10_000, 32) == taken(256, 16, 1, dtype=half) == wide
    assert taken(65, 10, 1) == taken(257, 10, 1, dtype=half) == taken(10, 100, 33, dtype=half) == chunked
    assert taken(10, 100, 4097) == []
    precision("high")
    assert taken(64, 64, 16) == narrow
    assert taken(128, 512, 1) == wide
    assert taken(129, 10, 1) == chunked


def test_sizes_by_card(monkeypatch, precision):
    pytest.importorskip("triton")
    wide = {
        "8.0": (128, 32),
        "8.9": (128, 32),
        "9.0": (256, 64),
        "10.0": (256, 64),
        "12.0": (128, 32),
        "gfx942": (128, 32),
    }
    for name, (half, full) in wide.items():
        monkeypatch.setattr(gpu, "architecture", lambda device, name=name: name)
        for n_x, dtype in ((half, torch.bfloat16), (full, torch.float32)):
            assert "triton_wide" in taken(n_x, 200, 32, dtype=dtype)
            assert taken(n_x + 1, 200, 32, dtype=dtype) == ["triton_chunked"]
        precision("high")
        assert "triton_wide" in taken(128, 200, 32)
        assert taken(129, 200, 32) == ["triton_chunked"]
        precision("highest")
    monkeypatch.setattr(gpu, "architecture", lambda device: "7.5")
    assert taken(2, 4, 1) == taken(2, 4, 1, dtype=torch.float16) == ["triton_chunked"]


def test_dtypes():
    pytest.importorskip("triton")
    assert taken(5, 7, 1, dtype=torch.float64, parameters=torch.float64) == []
    assert taken(5, 7, 1, parameters=torch.bfloat16) == []
    assert taken(5, 7, 1, dtype=torch.bfloat16, parameters=torch.bfloat16) == list(gpu.KERNELS)
    examples, parameters, objective = values(5, 7, 1)
    reason = gpu.why_not_of_these("triton_narrow", examples, parameters._replace(b2=parameters.b2.double()), objective)
    assert reason.endswith("and b2 is torch.float64")


def test_indices_of_32_bits_are_enough_or_it_is_refused():
    pytest.importorskip("triton")
    assert taken(5, 0, 1) == taken(0, 7, 1) == []
    assert taken(100, 1 << 24, 20, device="meta") == ["triton_chunked"]
    assert taken(100, 1 << 25, 20, device="meta") == []
    (X, Y, *_), *others = values(5, 7, 1)
    for m, count in ((1 << 33, 3), (1 << 34, 0)):
        examples = Examples(X[:1].expand(m, 5), Y[:1].expand(m, 1))
        assert sum(gpu.why_not_of_these(name, examples, *others) is None for name in gpu.KERNELS) == count
    far = torch.empty(3, 1 << 23, device="meta")[:, :5]
    assert gpu.why_not_of_these("triton_narrow", Examples(far, Y), *others).endswith("4194304 elements apart")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled for the GPU here, not interpreted")
@pytest.mark.parametrize(("n_x", "n_h", "name"), [(5, 7, "narrow"), (5, 130, "wide"), (70, 7, "chunked")])
def test_the_streamed_mode_and_loss_and_grads_take_them(n_x, n_h, name, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(cpu, "why_not", lambda *_: "not this time")
    monkeypatch.setattr(cpu, "is_there", lambda: False)
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


def test_the_page_s_table_of_cards_is_that_of_the_code():
    _, rest = PAGE.read_text(encoding="utf-8").split("| card | kernels |", 1)
    table, _ = rest.split("| others |", 1)
    found = {}
    for cells in (line.split("|")[1:-1] for line in table.splitlines()[2:]):
        for name in re.findall(r"gfx\w+|\d+\.\d", re.sub(r"\(.*?\)", "", cells[0])):
            found[name] = [int(width) for width in re.findall(r"\d+", cells[2])]
    kinds = ("half", "tf32", "float32")
    assert found == {name: [max(card.wide[kind]) for kind in kinds if card.wide] for name, card in gpu.CARDS.items()}


def test_the_page_shows_what_happens():
    session = "\n".join(
        re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    )
    test = doctest.DocTestParser().get_doctest(session, {}, PAGE.name, PAGE.name, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
