"""What the package's :class:`torch.autograd.Function` have in common: a light call, and a place in compiled graphs."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.autograd import Function

from twolayer import context

F = TypeVar("F", bound=Callable[..., Any])

WHOLE: list[Callable[..., Any]] = []
"""What torch.compile takes into its graph as a whole, see :mod:`twolayer.backward.in_graph`."""


def whole_in_graphs(function: F) -> F:
    """Decorates a Function, or a function around one, into which torch.compile must not look."""
    WHOLE.append(function)
    return function


_under_way = threading.local()


def keep(ctx: Any, *tensors: Tensor | None) -> None:
    """Keeps inputs and outputs for the backward pass and for forward mode."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)
    _under_way.ctx = ctx


class LightFunction(Function):
    """A Function whose call costs less: PyTorch's own binds its arguments to the signature of ``forward`` each time.

    That is for defaults and keywords, which the Functions here do not have. All else that it does outside
    ``torch.func`` is done here too.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if context.transforms_active():
            return super().apply(*args)
        try:
            return super(Function, cls).apply(*context.unwrap_dead_wrappers(args))  # type: ignore[misc]
        except BaseException:
            # A checkpoint that recomputes stops at the last tensor that is saved, by an exception out of the middle of
            # the saving. What was to be saved, outputs too, would then hold itself for good (pytorch/pytorch#161186).
            if (ctx := getattr(_under_way, "ctx", None)) is not None:
                ctx.to_save = ctx.saved_for_forward = None
            raise
        finally:
            _under_way.ctx = None

    apply_at_rest: Callable[..., Any]
    """``apply`` where :func:`twolayer.context.at_rest` holds, and no output is saved."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.apply_at_rest = super(Function, cls).apply  # type: ignore[misc]
