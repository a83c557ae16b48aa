"""Bad input: each error says which argument, what came and what is expected, before anything is computed."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import twolayer
import twolayer.functional as F2
from twolayer import TwoLayerNet, equations, gradient_descent, tasks

M, N_X, N_H, N_Y = 7, 5, 3, 4

OPTIONS = {"in_features": N_X, "hidden_features": N_H, "out_features": N_Y, "task": "multiclass"}


class Call(NamedTuple):
    """Arguments: those of the network, and those of its methods."""

    options: dict[str, Any]
    X: Any
    Y: Any
    given: dict[str, Any]

    @property
    def net(self) -> TwoLayerNet:
        return TwoLayerNet(**self.options)

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.net.named_parameters()}


def good(task: str = "multiclass") -> Call:
    n_y = 1 if task == "binary" else N_Y
    Y = {"binary": torch.ones(M), "multiclass": torch.arange(M) % N_Y}.get(task, torch.zeros(M, N_Y))
    return Call({**OPTIONS, "out_features": n_y, "task": task}, torch.randn(M, N_X), Y, {})


class Bad(NamedTuple):
    """One argument of an otherwise good call, and what its error must say."""

    argument: str
    came: Any
    error: type[Exception]
    says_expected: str
    says_came: str
    task: str = "multiclass"

    @property
    def id(self) -> str:
        return re.sub(r"[^\w.-]+", "_", f"{self.argument} {self.says_came} {self.task}")


def table(*rows: Bad) -> list[Any]:
    return [pytest.param(bad, id=bad.id) for bad in rows]


def check(bad: Bad, call: Callable[[Call], Any], where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the bad argument, and asserts its error."""
    at_first = good(bad.task)
    call(at_first)  # is right as it is
    parts = at_first._asdict()
    if where in parts and where == bad.argument:
        parts[where] = bad.came
    else:
        parts[where] = {**parts[where], bad.argument: bad.came}
    monkeypatch.setattr(equations, "Z1", computed)
    monkeypatch.setitem(tasks.TASKS, bad.task, tasks.TASKS[bad.task]._replace(loss=computed))
    with pytest.raises(bad.error) as raised:
        call(Call(**parts))
    for said in (bad.argument, bad.says_expected, bad.says_came):
        assert said in str(raised.value)


def computed(*_: Any) -> None:
    raise AssertionError("computed before all was checked")


@pytest.mark.parametrize(
    "bad",
    table(
        Bad("in_features", 0, ValueError, "at least 1", "0"),
        Bad("hidden_features", -3, ValueError, "at least 1", "-3"),
        Bad("out_features", 2.0, TypeError, "integer", "2.0"),
        Bad("out_features", 2, ValueError, "1", "2", task="binary"),
        Bad("in_features", True, TypeError, "integer", "True"),
        Bad("activation", "gelu", ValueError, "'leaky_relu'", "'gelu'"),
        Bad("task", "softmax", ValueError, "'multiclass'", "'softmax'"),
        Bad("init", "hee", ValueError, "'he'", "'hee'"),
        Bad("backward", "auto", ValueError, "'manual'", "'auto'"),
        Bad("activation", None, ValueError, "'relu'", "None"),
        Bad("label_smoothing", 1.0, ValueError, "[0, 1)", "1.0"),
        Bad("label_smoothing", -0.1, ValueError, "[0, 1)", "-0.1"),
        Bad("label_smoothing", float("nan"), ValueError, "[0, 1)", "nan"),
        Bad("label_smoothing", "0.1", TypeError, "number", "'0.1'"),
        Bad("label_smoothing", 0.1, ValueError, "0 for", "0.1", task="regression"),
        Bad("class_weight", [1.0, 2.0], ValueError, "(4,)", "(2,)"),
        Bad("class_weight", [1.0, 2.0, 0.0, 1.0], ValueError, "positive", "0"),
        Bad("class_weight", [1.0, 2.0, -1.0, 1.0], ValueError, "positive", "-1"),
        Bad("class_weight", [1.0, 2.0, 3.0, float("inf")], ValueError, "finite", "inf"),
        Bad("class_weight", [1.0, 2.0, 3.0, 4.0], ValueError, "None", "multilabel", task="multilabel"),
    ),
)
def test_constructor(bad, monkeypatch):
    check(bad, lambda call: call.net, "options", monkeypatch)


CALLS_OF_X = {
    "forward": lambda call: call.net(call.X),
    "predict": lambda call: call.net.predict(call.X),
    "loss": lambda call: call.net.loss(call.X, call.Y, **call.given),
    "loss_and_grads": lambda call: call.net.loss_and_grads(call.X, call.Y, **call.given),
    "trace": lambda call: call.net.trace(call.X, call.Y, **call.given),
    "functional.logits": lambda call: F2.logits(call.X, **call.parameters),
    "gradient_descent": lambda call: twolayer.gradient_descent(call.net, call.X, call.Y, iterations=1, **call.given),
}


@pytest.mark.parametrize("call", CALLS_OF_X)
@pytest.mark.parametrize(
    "bad",
    table(
        Bad("X", torch.tensor(1.0), ValueError, "(..., 5)", "()"),
        Bad("X", torch.randn(M, 6), ValueError, "(..., 5)", "(7, 6)"),
        Bad("X", torch.randn(N_X, M), ValueError, "(..., 5)", "(5, 7)"),
        Bad("X", torch.randn(M, N_X, dtype=torch.float64), TypeError, "torch.float32", "torch.float64"),
        Bad("X", torch.ones(M, N_X, dtype=torch.int64), TypeError, "torch.float32", "torch.int64"),
        Bad("X", torch.ones(M, N_X, dtype=torch.bool), TypeError, "torch.float32", "torch.bool"),
        Bad("X", torch.ones(M, N_X, device="meta"), ValueError, "cpu", "meta"),
        Bad("X", [[0.0] * N_X] * M, TypeError, "tensor", "list"),
    ),
)
def test_inputs(bad, call, monkeypatch):
    check(bad, CALLS_OF_X[call], "X", monkeypatch)


# `loss` is missing here: it calls the network as a module, whose hooks may give logits of any shape, before it
# can say whether Y fits them.
CALLS_OF_Y = {
    "functional.cost": lambda call: F2.cost(
        torch.zeros(M, call.options["out_features"]), call.Y, task=call.options["task"], **call.given
    ),
    "loss_and_grads": CALLS_OF_X["loss_and_grads"],
    "trace": CALLS_OF_X["trace"],
}


@pytest.mark.parametrize("call", CALLS_OF_Y)
@pytest.mark.parametrize(
    "bad",
    table(
        Bad("Y", torch.zeros(M + 1, dtype=torch.int64), ValueError, "(7,)", "(8,)"),
        Bad("Y", torch.zeros(M, 1, dtype=torch.int64), ValueError, "(7,)", "(7, 1)"),
        Bad("Y", torch.zeros(M, N_Y + 1), ValueError, "(7, 4)", "(7, 5)"),
        Bad("Y", torch.zeros(M), TypeError, "integers", "torch.float32"),
        Bad("Y", torch.tensor([0, 1, 2, 3, 4, 0, 0]), IndexError, "[0, 3]", "4"),
        Bad("Y", torch.tensor([0, 1, 2, 3, -1, 0, 0]), IndexError, "[0, 3]", "-1"),
        Bad("Y", torch.zeros(M, dtype=torch.bool), TypeError, "integer", "torch.bool"),
        Bad("Y", torch.full((M, N_Y), 1.5), ValueError, "[0, 1]", "1.5"),
        Bad("Y", torch.full((M, N_Y), torch.nan), ValueError, "[0, 1]", "nan"),
        Bad("Y", torch.zeros(M, dtype=torch.int64, device="meta"), ValueError, "cpu", "meta"),
        Bad("Y", [0] * M, TypeError, "tensor", "list"),
        Bad("Y", torch.zeros(M, 2), ValueError, "(7, 1) or (7,)", "(7, 2)", task="binary"),
        Bad("Y", torch.tensor([0, 1, 2, 0, 0, 0, 0]), ValueError, "[0, 1]", "2", task="binary"),
        Bad("Y", torch.full((M,), -0.5), ValueError, "[0, 1]", "-0.5", task="binary"),
        Bad("Y", torch.zeros(M, dtype=torch.complex64), TypeError, "floating point", "torch.complex64", task="binary"),
        Bad("Y", torch.zeros(M), ValueError, "(7, 4)", "(7,)", task="multilabel"),
        Bad("Y", torch.full((M, N_Y), 2), ValueError, "[0, 1]", "2", task="multilabel"),
        Bad("Y", torch.zeros(M), ValueError, "(7, 4)", "(7,)", task="regression"),
        Bad("Y", torch.zeros(M, N_Y).long(), TypeError, "floating point", "torch.int64", task="regression"),
    ),
)
def test_targets(bad, call, monkeypatch):
    check(bad, CALLS_OF_Y[call], "Y", monkeypatch)


@pytest.mark.parametrize("call", CALLS_OF_Y)
@pytest.mark.parametrize(
    "bad",
    table(
        Bad("sample_weight", torch.ones(M + 1), ValueError, "(7,)", "(8,)"),
        Bad("sample_weight", torch.ones(M, 1), ValueError, "(7,)", "(7, 1)"),
        Bad("sample_weight", -torch.ones(M), ValueError, "not negative", "-1"),
        Bad("sample_weight", torch.zeros(M), ValueError, "not all zero", "0"),
        Bad("sample_weight", torch.full((M,), torch.nan), ValueError, "finite", "nan"),
        Bad("sample_weight", torch.full((M,), torch.inf), ValueError, "finite", "inf"),
        Bad("sample_weight", torch.ones(M, dtype=torch.complex64), TypeError, "real", "torch.complex64"),
        Bad("sample_weight", torch.ones(M, device="meta"), ValueError, "cpu", "meta"),
        Bad("sample_weight", [1.0] * M, TypeError, "tensor", "list"),
    ),
)
def test_weights(bad, call, monkeypatch):
    check(bad, CALLS_OF_Y[call], "given", monkeypatch)


@pytest.mark.parametrize("call", ["loss", "loss_and_grads", "trace"])
def test_empty_batch(call):
    empty = good()._replace(X=torch.ones(0, N_X), Y=torch.ones(0, dtype=torch.int64))
    assert empty.net(empty.X).shape == (0, N_Y)  # as nn.Linear
    with pytest.raises(ValueError, match=r"X .* at least one example, got .*\(0, 4\)"):
        CALLS_OF_X[call](empty)


@pytest.mark.parametrize(
    "bad",
    table(
        Bad("reduction", "avg", ValueError, "'mean'", "'avg'"),
        Bad("task", "softmax", ValueError, "'multiclass'", "'softmax'"),
        Bad("backward", "auto", ValueError, "'manual'", "'auto'"),
        Bad("label_smoothing", 1.5, ValueError, "[0, 1)", "1.5"),
        Bad("class_weight", [1.0] * N_Y, TypeError, "tensor", "list"),
        Bad("class_weight", torch.ones(2), ValueError, "(4,)", "(2,)"),
        Bad("class_weight", torch.zeros(N_Y), ValueError, "positive", "0"),
        Bad("class_weight", torch.ones(N_Y, device="meta"), ValueError, "cpu", "meta"),
    ),
)
def test_functional_cost(bad, monkeypatch):
    def cost(call):
        return F2.cost(torch.zeros(M, N_Y), call.Y, **{"task": "multiclass", **call.given})

    check(bad, cost, "given", monkeypatch)


@pytest.mark.parametrize(
    "bad",
    table(
        Bad("W1", torch.ones(N_H), ValueError, "(n_h, n_x)", "(3,)"),
        Bad("b1", torch.ones(N_H + 1), ValueError, "(n_h,)", "(4,)"),
        Bad("W2", torch.ones(N_H, N_Y), ValueError, "(n_y, n_h)", "(3, 4)"),
        Bad("b2", torch.ones(1, N_Y), ValueError, "(n_y,)", "(1, 4)"),
        Bad("W2", torch.ones(N_Y, N_H, dtype=torch.float64), TypeError, "torch.float32", "torch.float64"),
        Bad("b1", torch.ones(N_H, device="meta"), ValueError, "cpu", "meta"),
        Bad("activation", "gelu", ValueError, "'leaky_relu'", "'gelu'"),
        Bad("backward", "auto", ValueError, "'manual'", "'auto'"),
    ),
)
def test_functional_logits(bad, monkeypatch):
    check(bad, lambda call: F2.logits(call.X, **{**call.parameters, **call.given}), "given", monkeypatch)


@pytest.mark.parametrize("backward", F2.BACKWARDS)
def test_checks_cost_nothing_when_compiled(backward):
    """The graph has no operator of a check, and is one."""
    seen = []

    def keep(graph, inputs):
        seen.append(graph)
        return graph.forward

    call = good()
    net = TwoLayerNet(**call.options, backward=backward, class_weight=[1.0, 2.0, 3.0, 4.0])
    compiled = torch.compile(net.loss, fullgraph=True, backend=keep)
    assert torch.isfinite(compiled(call.X, call.Y, sample_weight=torch.ones(M)))
    (graph,) = seen
    assert not {"aminmax", "item", "_assert_async"} & {str(node.target).split(".")[-1] for node in graph.graph.nodes}
    # Dynamo puts the error, when one whole graph is asked for, into one of its own.
    with pytest.raises((ValueError, torch._dynamo.exc.Unsupported), match="X must have shape"):
        compiled(torch.ones(M, 6), call.Y)
    torch.compiler.reset()


@pytest.mark.parametrize("backward", F2.BACKWARDS)
def test_checks_break_no_transform(backward):
    """What is mapped over has no value to look at."""
    call = good()
    net = TwoLayerNet(**call.options, backward=backward)

    def cost(parameters, x, y, w):
        logits = torch.func.functional_call(net, parameters, (x[None],))
        return net.cost(logits, y[None], sample_weight=w[None])

    mapped = torch.func.vmap(torch.func.grad(cost), (None, 0, 0, 0))
    gradients = mapped(dict(net.named_parameters()), call.X, call.Y, torch.ones(M))
    assert gradients["W1"].shape == (M, N_H, N_X)


@pytest.mark.parametrize("task", tasks.TASKS)
@pytest.mark.parametrize("backward", F2.BACKWARDS)
def test_no_value_is_read_but_on_a_cpu(task, backward):
    """A meta tensor has no values, and raises when one is read."""
    call = good(task)
    net = TwoLayerNet(**call.options, backward=backward, device="meta")
    X, Y, w = (V.to("meta") for V in (call.X, call.Y, torch.ones(M)))
    net.loss(X, Y, sample_weight=w).backward()
    J, grads = net.loss_and_grads(X, Y, sample_weight=w)
    assert J.shape == ()
    assert [dV.shape for dV in grads.values()] == [p.grad.shape for p in net.parameters()]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("task", tasks.TASKS)
@pytest.mark.parametrize("backward", F2.BACKWARDS)
def test_no_synchronisation(task, backward):
    """CUDA itself raises when the CPU waits for the GPU."""
    call = good(task)
    net = TwoLayerNet(**call.options, backward=backward, device="cuda")
    X, Y, w = (V.cuda() for V in (call.X, call.Y, torch.ones(M)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        net.loss(X, Y, sample_weight=w).backward()
        net.loss_and_grads(X, Y, sample_weight=w)
        net.trace(X, Y, sample_weight=w)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# What else is refused.


def forward_of_its_own() -> nn.Sequential:
    class Twice(nn.Sequential):
        def forward(self, X: Tensor) -> Tensor:
            return 2 * super().forward(X)

    return Twice(nn.Linear(N_X, N_H), nn.ReLU(), nn.Linear(N_H, N_Y))


def layers_with(change: Callable[[nn.Sequential], Any]) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(N_X, N_H), nn.ReLU(), nn.Linear(N_H, N_Y))
    change(layers)
    return layers


@pytest.mark.parametrize(
    ("sequential", "error", "said"),
    [
        (nn.Linear(N_X, N_Y), TypeError, "sequential must be an nn.Sequential, got Linear"),
        (None, TypeError, "got NoneType"),
        (forward_of_its_own(), ValueError, "got a forward of its own"),
        (layers_with(lambda layers: setattr(layers, "forward", abs)), ValueError, "got a forward of its own"),
        (
            layers_with(lambda layers: setattr(layers[1], "forward", abs)),
            ValueError,
            r"sequential\[1\].*forward of its",
        ),
        (
            layers_with(lambda layers: setattr(layers[0], "scale", nn.Parameter(torch.ones(1)))),
            ValueError,
            r"sequential\[0\] must be a plain layer, got Linear: it has the parameter 'scale' too",
        ),
    ],
)
def test_a_sequential_that_is_more_than_its_layers(sequential, error, said):
    with pytest.raises(error, match=said):
        TwoLayerNet.from_sequential(sequential, task="multiclass")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda net: net.register_forward_hook(lambda module, args, Z2: 2 * Z2), "got a forward hook"),
        (lambda net: nn.utils.parametrizations.weight_norm(net, "W1"), "W1 must be a parameter, got a tensor that is"),
        (lambda net: setattr(net, "forward", abs), "got a forward of its own"),
    ],
)
def test_a_network_that_is_more_than_its_layers(change, said):
    net = TwoLayerNet(N_X, N_H, N_Y, task="multiclass")
    change(net)
    with pytest.raises(RuntimeError, match=said):
        net.to_sequential()


def test_a_call_of_ones_own_counts_in_the_loss():
    class Twice(TwoLayerNet):
        def __call__(self, X: Tensor, *args: Any, **options: Any) -> Tensor:
            return 2 * super().__call__(X, *args, **options)

    net, call = Twice(**OPTIONS), good()
    torch.testing.assert_close(net.loss(call.X, call.Y), net.cost(net(call.X), call.Y), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="got a __call__ of its own"):
        net.loss_and_grads(call.X, call.Y)


@pytest.mark.parametrize(
    ("Y", "said"),
    [(torch.ones(M).to(torch.float8_e5m2), "of float64.* got torch.float8_e5m2"), (torch.ones(M) + 0j, ".*complex64")],
)
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_targets_of_a_dtype_that_is_not_among_the_known_ones(task, Y, said):
    with pytest.raises(TypeError, match=f"Y must be .* {said}"):
        TwoLayerNet(N_X, N_H, 1, task=task).loss(torch.ones(M, N_X), Y)
    weights = Y
    with pytest.raises(TypeError, match="sample_weight must hold real numbers, of float64"):
        TwoLayerNet(N_X, N_H, 1, task=task).loss(torch.ones(M, N_X), torch.ones(M), sample_weight=weights)


@pytest.mark.parametrize(
    ("class_weight", "error", "said"),
    [
        (torch.ones(2, device="meta"), ValueError, "must hold numbers, got a meta tensor for a network on cpu"),
        (torch.ones(2) + 0j, TypeError, "must be real, got torch.complex64"),
        ([1.0, "a"], TypeError, r"must be a tensor or a list of numbers, got \[1.0, 'a'\]"),
        ("ab", TypeError, "must be a tensor or a list of numbers, got 'ab'"),
    ],
)
def test_class_weights_that_are_none(class_weight, error, said):
    with pytest.raises(error, match=f"class_weight {said}"):
        TwoLayerNet(N_X, N_H, 1, class_weight=class_weight)


def test_options_of_the_cost_without_targets():
    net = TwoLayerNet(**OPTIONS)
    for options in ({"reduction": "sum"}, {"sample_weight": torch.ones(M)}):
        with pytest.raises(ValueError, match="Y must be given"):
            net(good().X, **options)


def test_logits_of_another_number_of_outputs():
    net, X, Y = TwoLayerNet(N_X, N_H, 1, task="regression"), torch.ones(M, N_X), torch.zeros(M)
    with pytest.raises(ValueError, match=r"logits must have shape \(..., 1\), got \(7,\)"):
        net.cost(net(X).squeeze(-1), Y)
    for cost in (net.cost, F2.cost):
        with pytest.raises(ValueError, match=r"logits must have shape \(..., .*\), got \(\)"):
            cost(torch.tensor(0.0), Y)


@pytest.mark.parametrize("backward", ["manual", "streamed", "autograd"])
def test_gradient_descent_and_a_hook_of_a_parameter(backward):
    net = TwoLayerNet(**OPTIONS, backward=backward)
    net.W1.register_hook(torch.zeros_like)
    before, other = net.W1.detach().clone(), net.W2.detach().clone()
    if backward == "autograd":
        gradient_descent(net, good().X, good().Y, iterations=2)
        assert torch.equal(net.W1, before)
        assert not torch.equal(net.W2, other)
    else:
        with pytest.raises(ValueError, match="W1 must have no hook, which only backward='autograd' calls"):
            gradient_descent(net, good().X, good().Y, iterations=2)
