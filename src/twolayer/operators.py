"""The passes of :mod:`twolayer.streaming` as the autograd Functions call them: tensors in, a list of tensors out.

What traces, such as torch.compile, meets each pass as one operator of PyTorch's, ``torch.ops.twolayer``, of which it
knows the shapes that come out, and neither looks inside nor unrolls the loop over the chunks. An operator costs tens of
microseconds a call, so it is called only there.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from twolayer import at_once, passes, streaming
from twolayer.checks import no_autocast
from twolayer.tasks import PAIRING

NETWORK = "Tensor X, Tensor Y, Tensor W1, Tensor b1, Tensor W2, Tensor b2"
WEIGHTS = "Tensor? sample_weight, Tensor? class_weight"
DIRECTION = "Tensor? tX, Tensor? tY, Tensor tW1, Tensor tb1, Tensor tW2, Tensor tb2"
OPTIONS = (
    "str activation, str task, float label_smoothing, str reduction, int? chunk_size, bool input_gradient, str? kernel"
)


class Options(NamedTuple):
    """What a pass is told that is no tensor."""

    activation: str
    task: str = PAIRING
    label_smoothing: float = 0.0
    reduction: str = "sum"
    chunk_size: int | None = None
    input_gradient: bool = False
    kernel: str | None = None
    """Of the pass for cost and gradients."""


class Pass:
    """A function ``(by, *arguments)``, ``by`` the module that computes: run as it is, as an operator, or at once.

    Args:
        name, arguments: of the operator.
        function: what runs.
        shapes: empty tensors like those that come out, from the same arguments.
        by: what computes, in constant memory.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        function: Callable[..., Any],
        shapes: Callable[..., Any],
        by: ModuleType = streaming,
    ) -> None:
        schema = f"({arguments}) -> Tensor[]"
        self.in_chunks, self.at_once = partial(function, by), partial(function, at_once)
        self.operator: Any = torch.library.custom_op(
            f"twolayer::{name}", self.in_chunks, mutates_args=(), schema=schema
        )
        self.operator.register_fake(shapes)

    def __call__(self, *arguments: Any) -> list[Tensor]:
        if any(isinstance(V, Tensor) and torch._C._functorch.is_legacy_batchedtensor(V) for V in arguments):
            return self.at_once(
                *arguments
            )  # autograd's own batches, as of is_grads_batched, know no in-place operators
        return (self.operator if _traced(arguments[0]) else self.in_chunks)(*arguments)


def _traced(tensor: Tensor) -> bool:
    return type(tensor) not in (Tensor, Parameter) or torch._C._len_torch_dispatch_stack() > 0


def _logits(
    by: ModuleType, X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, activation: str, chunk_size: int | None
) -> list[Tensor]:
    with no_autocast(X.device):
        return [by.logits(X, W1, b1, W2, b2, activation=activation, chunk_size=chunk_size)]


def _shape_of_logits(X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, *_: Any) -> list[Tensor]:
    return [_like(W1, X.shape[0], W2.shape[0])]


def _loss_and_grads(
    by: ModuleType,
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    *options: Any,
) -> list[Tensor]:
    """``J``, then ``dX`` if the options say so, then the gradients of the parameters."""
    named = {"sample_weight": sample_weight, "class_weight": class_weight, **_named(options)}
    if by is not passes:
        del named["kernel"]
    with no_autocast(X.device):
        J, grads = by.loss_and_grads(X, Y, W1, b1, W2, b2, **named)
    return [J, *_in_order(grads)]


def _shapes_of_loss_and_grads(X: Tensor, Y: Tensor, *others: Any) -> list[Tensor]:
    parameters, options = others[:4], Options(*others[6:])
    return [_like(parameters[0]), *([_empty(X)] if options.input_gradient else []), *map(_empty, parameters)]


def _hvp(
    by: ModuleType,
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    *others: Any,
) -> list[Tensor]:
    """The product, in the order of the arguments: along ``X`` and ``Y`` as the options say, and the parameters."""
    named = {"sample_weight": sample_weight, "class_weight": class_weight, **_named(others[6:])}
    del named["kernel"]
    with no_autocast(X.device):
        return _in_order(by.hvp(X, Y, W1, b1, W2, b2, *others[:6], **named))


def _shapes_of_hvp(X: Tensor, Y: Tensor, *others: Any) -> list[Tensor]:
    parameters, options = others[:4], Options(*others[12:])
    hX = [_empty(X)] if options.input_gradient else []
    hY = _shape_of_logits(X, *parameters) if options.task == PAIRING else []
    return [*hX, *hY, *map(_empty, parameters)]


def _named(options: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(Options._fields, options, strict=True))


def _in_order(by_name: dict[str, Tensor]) -> list[Tensor]:
    return [by_name[name] for name in ("X", "Y", "W1", "b1", "W2", "b2") if name in by_name]


def _empty(V: Tensor) -> Tensor:
    return V.new_empty(V.shape)


def _like(parameter: Tensor, *shape: int) -> Tensor:
    return parameter.new_empty(shape, dtype=torch.promote_types(parameter.dtype, torch.float32))


logits = Pass(
    "logits", NETWORK.replace("Tensor Y, ", "") + ", str activation, int? chunk_size", _logits, _shape_of_logits
)
loss_and_grads = Pass(
    "loss_and_grads", f"{NETWORK}, {WEIGHTS}, {OPTIONS}", _loss_and_grads, _shapes_of_loss_and_grads, passes
)
hvp = Pass("hvp", f"{NETWORK}, {WEIGHTS}, {DIRECTION}, {OPTIONS}", _hvp, _shapes_of_hvp)
