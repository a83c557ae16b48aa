"""What leaves the process: exported programs, saved weights, copies."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import Problem, assert_equal, problem
from torch import Tensor, nn
from torch.export import Dim, export

from twolayer import TwoLayerNet

from .models import Ours, Theirs

contract = pytest.mark.contract
pytestmark = [
    # PyTorch's own, from inside its tracer and its exporter.
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning"),
]

BATCH = {0: Dim("m", min=2)}


def another_batch(example: Problem) -> tuple[Tensor, Tensor]:
    """Of another size than the one that was exported."""
    other = problem(example.activation, example.task, m=13, soft=True, device=example.X.device, seed=1)
    return other.X, other.Y


def through_bytes(save: Callable[..., None], load: Callable[..., Any], what: Any, **options: Any) -> Any:
    file = io.BytesIO()
    save(what, file)
    file.seek(0)
    return load(file, **options)


@contract("Leaving Python", "`torch.export` of the forward pass, dynamic batch, saved and loaded")
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_export_forward(example, backward, strict):
    X, _ = another_batch(example)
    program = export(example.net(backward=backward), (example.X,), dynamic_shapes=(BATCH,), strict=strict)
    loaded = through_bytes(torch.export.save, torch.export.load, program)
    truth = example.sequential()(X)
    assert_equal([program.module()(X), loaded.module()(X)], [truth, truth])


@contract("Leaving Python", "`torch.export` of the cost, dynamic batch, trained further")
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_export_cost(example, backward, strict):
    X, Y = another_batch(example)
    program = export(Ours(example, backward), (example.X, example.Y), dynamic_shapes=(BATCH, BATCH), strict=strict)

    def cost_and_gradients(model):
        J = model(X, Y)
        return [J, *torch.autograd.grad(J, list(model.parameters()))]

    assert_equal(cost_and_gradients(program.module()), cost_and_gradients(Theirs(example)))


@contract("Leaving Python", "ONNX, dynamic batch, in onnxruntime")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
def test_onnx(backward, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    example = problem("leaky_relu", "multiclass", dtype=torch.float32)
    X, _ = another_batch(example)
    net = example.net(backward=backward).eval()
    program = torch.onnx.export(net, (example.X,), dynamo=True, dynamic_shapes=(BATCH,), verbose=False)
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: X.float().numpy()})
    assert_equal([torch.from_numpy(got)], [example.sequential()(X.float())], 1e-6)


@pytest.fixture
def arrives(example: Problem, backward: str) -> Callable[[Callable[[TwoLayerNet], TwoLayerNet]], None]:
    """Asserts that a way to copy a network keeps all of it, and makes a network of its own, that trains."""

    def check(copied: Callable[[TwoLayerNet], TwoLayerNet]) -> None:
        classes = {"binary": 2, "multiclass": len(example.b2)}.get(example.task)
        net = example.net(backward=backward, class_weight=classes and [0.5 + k for k in range(classes)])
        copy = copied(net)
        assert repr(copy) == repr(net)
        assert list(copy.state_dict()) == list(net.state_dict())
        costs = [n.loss(example.X, example.Y) for n in (net, copy)]
        gradients = [torch.autograd.grad(J, list(n.parameters())) for J, n in zip(costs, (net, copy), strict=True)]
        assert_equal([costs[1], *gradients[1]], [costs[0], *gradients[0]], 0)
        before = copy.W1.clone()
        with torch.no_grad():
            net.W1.zero_()
        assert torch.equal(copy.W1, before)

    return check


def into_another(net: TwoLayerNet, state: dict[str, Tensor]) -> TwoLayerNet:
    """A network built alike, of other values, that loads a state."""
    other = copy.deepcopy(net)
    nn.init.zeros_(other.W1)
    nn.init.ones_(other.b2)
    assert other.load_state_dict(state).missing_keys == []
    return other


@contract("Leaving Python", "the meta device: built and run without values, filled later")
def test_meta(example, backward):
    options = {"activation": example.activation, "task": example.task, "backward": backward}
    (n_h, n_x), n_y = example.W1.shape, len(example.b2)
    net = TwoLayerNet(n_x, n_h, n_y, **options, device="meta", dtype=example.X.dtype)
    J = net.loss(example.X.to("meta"), example.Y.to("meta"))
    J.backward()
    assert [p.grad.shape for p in net.parameters()] == [p.shape for p in net.parameters()]
    net = net.to_empty(device=example.X.device)
    net.load_state_dict(example.net().state_dict())
    assert_equal([net(example.X)], [example.sequential()(example.X)])


@contract("Leaving Python", "`deepcopy`")
def test_deepcopy(arrives):
    arrives(copy.deepcopy)


@contract("Leaving Python", "`pickle`, `torch.save` of the module")
def test_pickle(arrives):
    arrives(lambda net: pickle.loads(pickle.dumps(net)))
    arrives(lambda net: through_bytes(torch.save, torch.load, net, weights_only=False))


@contract("Leaving Python", "`state_dict`, `torch.load(weights_only=True)`")
def test_state_dict(arrives):
    arrives(lambda net: into_another(net, copy.deepcopy(net.state_dict())))
    arrives(lambda net: into_another(net, through_bytes(torch.save, torch.load, net.state_dict(), weights_only=True)))


@contract("Leaving Python", "`state_dict` of `nn.Sequential`, loaded by `from_sequential`")
def test_from_sequential(example, backward):
    layers = example.sequential()
    layers.load_state_dict(through_bytes(torch.save, torch.load, layers.state_dict(), weights_only=True))
    net = TwoLayerNet.from_sequential(layers, task=example.task, backward=backward)
    assert_equal([net(example.X), net.to_sequential()(example.X)], [layers(example.X)] * 2)


@contract("Leaving Python", "safetensors")
def test_safetensors(arrives, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")

    def through_a_file(net):
        safetensors.save_model(net, tmp_path / "net.safetensors")
        other = into_another(net, net.state_dict())
        nn.init.zeros_(other.W2)
        safetensors.load_model(other, tmp_path / "net.safetensors")
        return other

    arrives(through_a_file)


class Steps(nn.Module):
    """Cost and gradients without a graph, as a module."""

    def __init__(self, net: TwoLayerNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, X: Tensor, Y: Tensor) -> tuple[Tensor, ...]:
        J, grads = self.net.loss_and_grads(X, Y)
        return J, *grads.values()


@contract(
    "Leaving Python", "`torch.jit.trace` of the forward pass, the cost, `loss_and_grads`; another batch size, saved"
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_jit_trace(example, backward, grad, dtype):
    """In float32, the CPU kernel would write where the trace does not see it."""
    X, Y = (V.to(dtype) if V.is_floating_point() else V for V in another_batch(example))
    given = [V.to(dtype) if V.is_floating_point() else V for V in (example.X, example.Y)]
    net, theirs, ours = example.net(backward=backward).to(dtype), Theirs(example).to(dtype), Ours(example, backward)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-7  # 1 / m is a float32 there
    with grad():
        forward = torch.jit.trace(net, given[0])
        cost = torch.jit.trace(ours.to(dtype), given)
        steps = torch.jit.trace(Steps(net), given)
        assert_equal([forward(X), through_bytes(torch.jit.save, torch.jit.load, forward)(X)], [net(X)] * 2, tolerance)
        assert_equal([cost(X, Y), *steps(X, Y)], [theirs(X, Y), *Steps(net)(X, Y)], tolerance)
    if grad is torch.enable_grad:
        found, truth = (torch.autograd.grad(of(X, Y), list(of.parameters())) for of in (cost, theirs))
        assert_equal(list(found), list(truth), tolerance)
    with pytest.raises(RuntimeError, match="Tensor that requires grad as a constant"), grad():
        torch.jit.trace(lambda X: net.predict(X), given[0])
