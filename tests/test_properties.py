"""Whatever comes in, in whatever layout, dtype and scale: every mode and kernel is right to a derived bound.

``TWOLAYER_EXAMPLES=20000 pytest tests/test_properties.py`` looks for longer, at other examples each time.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch

hypothesis = pytest.importorskip("hypothesis")
from bounds import Near, cost_and_gradients
from hypothesis import HealthCheck, given, settings
from problems import MODULES, PARAMETERS
from strategies import Call, calls
from torch import Tensor
from torch.nn import functional as F

from twolayer import functional

MORE = os.environ.get("TWOLAYER_EXAMPLES")
NETWORK = ("X", *PARAMETERS)
Results = dict[str, Tensor]


def examples(few: int) -> settings:
    return settings(
        max_examples=int(MORE or few),
        derandomize=MORE is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# The truth: PyTorch's layers, losses and differentiation.


def dense_targets(call: Call, Y: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Targets ``(m, n_y)``, before and after smoothing."""
    n_y = call.sizes[2]
    if call.task == "multiclass" and not Y.is_floating_point():
        hard = F.one_hot(Y.long(), n_y).to(dtype).reshape(-1, n_y)
    else:
        hard = Y.to(dtype).reshape(-1, n_y)
    classes = n_y if call.task == "multiclass" else 2
    return hard, hard if call.task == "regression" else hard + call.label_smoothing * (1 / classes - hard)


def shares(call: Call, hard: Tensor, tensors: dict[str, Tensor | None]) -> Tensor:
    """What each example's loss is multiplied by, ``(m, 1)``, in float64."""
    w = torch.ones(len(hard), dtype=torch.float64)
    if tensors["class_weight"] is not None:
        by_class = torch.cat([1 - hard, hard], -1) if call.task == "binary" else hard
        w = by_class.double() @ tensors["class_weight"].double()
    if tensors["sample_weight"] is not None:
        w = w * tensors["sample_weight"].double().reshape(-1)
    w = w / w.sum() if call.reduction == "mean" else w
    return (w * tensors["incoming"].reshape(-1) if call.reduction == "none" else w).unsqueeze(-1)


def plain(call: Call, tensors: dict[str, Tensor | None], dtype: torch.dtype, second: bool) -> Results:
    """Cost, gradients and, if asked for, the Hessian's product, by autograd in that dtype."""
    X, *parameters = (tensors[name].detach().to(dtype).requires_grad_() for name in NETWORK)
    hard, Y = dense_targets(call, tensors["Y"], dtype)
    share = shares(call, hard, tensors).to(dtype)
    W1, b1, W2, b2 = parameters
    Z2 = F.linear(MODULES[call.activation]()(F.linear(X, W1, b1)), W2, b2).reshape(Y.shape)
    if call.task == "multiclass":
        L = F.cross_entropy(Z2, Y, reduction="none")
    elif call.task == "regression":
        L = (Z2 - Y).square().sum(-1) / 2
    else:
        L = F.binary_cross_entropy_with_logits(Z2, Y, reduction="none").sum(-1)
    J = (share[:, 0] * L).sum()
    grads = torch.autograd.grad(J, [X, *parameters], create_graph=second)
    found = {"J": J.detach()} | {name: dV.detach() for name, dV in zip(NETWORK, grads, strict=True)}
    if second:
        along = sum(
            (dV * tensors[f"v{name}"].to(dtype)).sum() for name, dV in zip(NETWORK, grads, strict=True) if name != "X"
        )
        products = torch.autograd.grad(along, parameters, materialize_grads=True, allow_unused=True)
        found |= {f"v[{name}]": V for name, V in zip(PARAMETERS, products, strict=True)}
    return found


def bounds(call: Call, tensors: dict[str, Tensor | None], eps: float, tiny: float) -> dict[str, Near]:
    """Each result, with how far from it rounding may lead."""

    def rounded(V: Tensor) -> Near:
        return Near(V.double(), eps * V.double().abs() + tiny, eps, tiny)

    hard, Y = dense_targets(call, tensors["Y"], torch.float64)
    share = shares(call, hard, tensors)
    share = Near(share, 4 * eps * share.abs() + tiny, eps, tiny)
    X, *parameters = (rounded(tensors[name].detach()) for name in NETWORK)
    X.value, X.error = (V.reshape(-1, call.sizes[0]) for V in (X.value, X.error))
    v = {name: rounded(tensors[f"v{name}"]) for name in PARAMETERS} if call.reduction == "mean" else None
    network = dict(zip(PARAMETERS, parameters, strict=True))
    return cost_and_gradients(X, rounded(Y), share, network, call.activation, call.task, v)


# What is tried


def ways(call: Call, tensors: dict[str, Tensor | None]) -> Iterator[tuple[str, Callable[[], Results]]]:
    """Every mode, kernel and function that computes the call, by name."""
    given_ = [tensors[name] for name in ("X", "Y", *PARAMETERS)]
    weights = {name: tensors[name] for name in ("sample_weight", "class_weight")}

    def by_loss(**how: object) -> Results:
        X, Y, *parameters = (V.detach() for V in given_)
        leaves = [V.requires_grad_() for V in (X, *parameters)]
        if call.requires_grad and Y.is_floating_point():
            Y.requires_grad_()
        J = functional.loss(X, Y, *parameters, **call.options, **weights, reduction=call.reduction, **how)
        if call.reduction == "none":
            assert J.shape == call.lead
            J = (J.double() * tensors["incoming"]).sum()
        J.backward()
        return {"J": J.detach()} | {name: V.grad for name, V in zip(NETWORK, leaves, strict=True)}

    def by_hand(**how: object) -> Results:
        arguments = [V.detach().requires_grad_(call.requires_grad and V.is_floating_point()) for V in given_]
        J, grads = functional.loss_and_grads(*arguments, **call.options, **weights, **how)
        return {"J": J, **grads}

    def product(**how: object) -> Results:
        v = {name: tensors[f"v{name}"] for name in PARAMETERS}
        found = functional.hvp(*given_, v, **call.options, **weights, **how)
        return {f"v[{name}]": V for name, V in found.items()}

    modes = [{"backward": "autograd"}, *({"backward": mode} for mode in ("manual", "streamed"))]
    options = [{}, {"kernel": "torch"}, {"chunk_size": call.chunk_size}]
    for how in [*modes, *({"backward": "streamed"} | more for more in options[1:])]:
        yield f"loss {how}", lambda how=how: by_loss(**how)
    if call.reduction == "mean":
        for how in options:
            yield f"loss_and_grads {how}", lambda how=how: by_hand(**how)
        for how in (options[0], options[2]):
            yield f"hvp {how}", lambda how=how: product(**how)


def smallest(dtype: torch.dtype) -> float:
    """What may be lost at zero: chunks flush output errors whose products would be denormal, in float32 at least."""
    wide = torch.finfo(torch.promote_types(dtype, torch.float32))
    return max(wide.smallest_normal / wide.eps, 2.0**-24 if dtype == torch.float16 else 0.0)


def assert_within(call: Call, tensors: dict[str, Tensor | None], dtype: torch.dtype, how: str = "") -> None:
    """Each way is within the bound, and finite, wherever plain PyTorch in that dtype is."""
    second = call.reduction == "mean"
    truth, theirs = (plain(call, tensors, d, second) for d in (torch.float64, call.dtype))
    bound = bounds(call, tensors, torch.finfo(dtype).eps, smallest(dtype))
    # Passes scale by weights, X, W1 and W2 in an order of their own.
    scales = [1.0 + tensors[name].double().abs().max().item() for name in ("X", "Y", "W1", "W2", "b2")]
    hard, _ = dense_targets(call, tensors["Y"], torch.float64)
    early = math.prod(scales) * (1.0 + shares(call, hard, tensors).abs().sum().item())
    in_range = max(early, *(near.peak for near in bound.values())) < torch.finfo(torch.float32).max / 64
    # In a sum, weights stand beside their greatest, so what is lost at zero is lost in units of that.
    unit = max(
        1.0,
        *(tensors[name].max().item() for name in ("sample_weight", "class_weight") if tensors[name] is not None),
        1.0,
    )
    for way, compute in ways(call, tensors):
        with torch.autocast("cpu", dtype) if how == "autocast" else nullcontext():
            found = compute()
        for name, V in found.items():
            near = bound[name]
            value, error = (W.reshape(V.shape) for W in (truth[name], near.error))
            # The bound is for autograd's numbers too, in float64, where these are no better than ours.
            fits = (V.double() - value).abs() <= 2 * error + unit * smallest(V.dtype) + torch.finfo(
                V.dtype
            ).eps * value.abs()
            sure = value.abs() + error < torch.finfo(dtype).max / 16
            wrong = ~fits & theirs[name].reshape(V.shape).isfinite() & sure & in_range
            assert not wrong.any(), f"{way}, {name}: {V[wrong][0]} for {value[wrong][0]} ± {error[wrong][0]}"


@examples(150)
@given(calls())
def test_right_in_every_layout_and_dtype(call):
    assert_within(call, call.tensors(), call.dtype)


@examples(150)
@given(calls(scaled=True))
def test_right_at_every_scale(call):
    assert_within(call, call.tensors(), call.dtype)


@examples(100)
@given(calls(special=True))
def test_what_is_no_finite_number_is_shown_or_refused(call):
    """One NaN or infinity: where plain PyTorch's gradient is finite ours is, and none is hidden that it shows."""
    tensors = call.tensors()
    theirs = plain(call, tensors, call.dtype, False)
    for way, compute in ways(call, tensors):
        if way.startswith("hvp"):
            continue
        try:
            found = compute()
        except ValueError as error:
            if not str(error).startswith("Y must lie in"):  # targets alone have a range
                raise
            continue
        for name in set(found) & {"W2", "b2"}:
            shown = ~theirs[name].reshape(found[name].shape).isfinite()
            assert not (shown & found[name].isfinite()).any(), f"{way} hides what {name} should show"
