"""What the package's :class:`torch.autograd.Function` have in common: a light call, and a place in compiled graphs."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch.autograd import Function

from twolayer import context

F = TypeVar("F", bound=Callable[..., Any])

WHOLE: list[Callable[..., Any]] = []
"""What torch.compile takes into its graph as a whole, see :mod:`twolayer.backward.in_graph`."""


def whole_in_graphs(function: F) -> F:
    """Decorates a Function, or a function around one, into which torch.compile must not look."""
    WHOLE.append(function)
    return function


class LightFunction(Function):
    """A Function whose call costs less: PyTorch's own binds its arguments to the signature of ``forward`` each time.

    That is for defaults and keywords, which the Functions here do not have. All else that it does outside
    ``torch.func`` is done here too.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if context.transforms_active():
            return super().apply(*args)
        return super(Function, cls).apply(*context.unwrap_dead_wrappers(args))  # type: ignore[misc]
