"""What runs around a call: autocast, transforms, forward mode, traces, export. PyTorch's private names stand here."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.utils import unwrap_dead_wrappers as unwrap_dead_wrappers
from torch.autograd import forward_ad
from torch.nn import Parameter

# Autocast


def autocast_enabled(device: torch.device) -> bool:
    """Whether autocast converts what is on this device. PyTorch has no answer for meta tensors."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Nothing is converted inside."""
    return torch.autocast(device.type, enabled=False) if autocast_enabled(device) else nullcontext()


def autocast_dtype(V: Tensor) -> torch.dtype:
    """What a matrix product takes of ``V``: its own dtype, or what autocast makes of it."""
    convert = autocast_enabled(V.device) and V.dtype != torch.float64
    return torch.get_autocast_dtype(V.device.type) if convert else V.dtype


# Transforms of torch.func, and what autograd does like them


def transforms_active() -> bool:
    """Whether the call stands inside a transform of ``torch.func``."""
    return torch._C._are_functorch_transforms_active()


def in_graph_or_transform() -> bool:
    """Whether the call is traced by torch.compile or stands inside a transform."""
    return torch.compiler.is_compiling() or transforms_active()


def is_transformed(V: Any) -> bool:
    """Whether ``V`` belongs to a transform, or to ``is_grads_batched``: it has no memory of its own then."""
    return isinstance(V, Tensor) and (
        torch._C._functorch.is_functorch_wrapped_tensor(V) or torch._C._functorch.is_legacy_batchedtensor(V)
    )


def is_expanded(V: Tensor) -> bool:
    """Whether ``V`` is one of the expanded weights of PyTorch, which only its own layers take: Opacus' ``"ew"``."""
    return not torch.compiler.is_compiling() and "_expanded_weights" in type(V).__module__


def may_move(*tensors: Tensor | None) -> bool:
    """Whether a derivative along one of the tensors may be asked for, in any of the ways that PyTorch has."""
    along_tangents, along_gradients = forward_ad._current_level >= 0, torch.is_grad_enabled()
    return any(
        (along_gradients and V.requires_grad)
        or (along_tangents and V.is_floating_point())
        or torch._C._functorch.is_functorch_wrapped_tensor(V)
        for V in tensors
        if V is not None
    )


@contextmanager
def saved_for_jvp(ctx: Any) -> Iterator[tuple[Any, ...]]:
    """What was saved, for the block that computes a ``jvp``.

    PyTorch runs a ``jvp`` with forward mode switched off, so that the ``jvp`` of a ``jvp`` silently lacks terms
    (pytorch/pytorch#197867). In the block it is on; what was saved comes without the tangents of this very level.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        # Level 0, the only one: the default asks Python's record of it, which a compiled graph does not keep.
        yield tuple(V if V is None else forward_ad.unpack_dual(V, level=0).primal for V in ctx.saved_tensors)


# Hooks of modules

HOOKS = {
    "a forward pre-hook": "_forward_pre_hooks",
    "a forward hook": "_forward_hooks",
    "a backward pre-hook": "_backward_pre_hooks",
    "a backward hook": "_backward_hooks",
}


ONLY_LOOK_ON = ("torch.utils.module_tracker",)
"""Where hooks come from that change nothing: PyTorch's counter of floating point operations has one for all modules."""


def hooks_of(module: nn.Module) -> str | None:
    """In words, a hook that runs when the module is called, or None: its own, or one of all modules."""
    for words, name in HOOKS.items():
        if getattr(module, name):
            return words
        for hook in getattr(torch.nn.modules.module, f"_global{name}").values():
            if getattr(hook, "__module__", None) not in ONLY_LOOK_ON:
                return f"{words} of all modules"
    return None


# Traces and export


def is_traced(V: Tensor) -> bool:
    """Whether something looks on, such as a trace, for which a pass should be one operator."""
    return type(V) not in (Tensor, Parameter) or torch._C._len_torch_dispatch_stack() > 0


FLOPS: dict[str, Callable[..., int]] = {}
"""What counts the floating point operations of each of the package's operators, from its arguments."""


def operator(name: str) -> Any:
    """The package's operator of that name, of which whoever counts operations knows the number.

    PyTorch's registry of such numbers would have to be imported first, and Triton with it.
    """
    found = getattr(torch.ops.twolayer, name)
    for mode in torch.utils._python_dispatch._get_current_dispatch_mode_stack():
        registry = getattr(getattr(mode, "counter", mode), "flop_registry", None)
        if registry is not None:
            registry.setdefault(found, FLOPS[name])
    return found


def written_down() -> bool:
    """Whether the operators of this call go into a graph: torch.compile's, which reads the code, or an export's."""
    return torch.compiler.is_dynamo_compiling() or is_exporting()


is_exporting = torch.compiler.is_exporting  # before PyTorch 2.11, Dynamo took this for true in torch.compile too


def is_freed(V: Tensor) -> bool:
    """Whether ``V`` should have memory, and has none any more: PyTorch's own operators may end the process then."""
    return (
        not torch.compiler.is_compiling()
        and not is_traced(V)
        and not is_transformed(V)
        and V.untyped_storage().nbytes() == 0
        and V.numel() > 0
    )


def can_look_at(V: Tensor) -> bool:
    """Whether values can be read at no cost: there are some, no GPU to wait for, no trace or transform to break."""
    return (
        not torch.compiler.is_compiling()
        and V.device.type == "cpu"
        and V.numel() > 0
        and not is_traced(V)
        and not is_transformed(V)
    )
