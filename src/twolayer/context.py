"""What runs around a call: autocast, transforms, forward mode, traces, export. PyTorch's private names stand here."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.utils import unwrap_dead_wrappers as unwrap_dead_wrappers
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

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


_is_wrapped, _is_batched = torch._C._functorch.is_functorch_wrapped_tensor, torch._C._functorch.is_legacy_batchedtensor


def is_transformed(V: Any) -> bool:
    """Whether ``V`` belongs to a transform, or to ``is_grads_batched``: it has no memory of its own then."""
    return isinstance(V, Tensor) and (_is_wrapped(V) or _is_batched(V))


PLAIN = (Tensor, Parameter)
"""The types of tensors that are no more than their numbers."""


def at_rest(*tensors: Tensor | None) -> bool:
    """Whether a call is an ordinary one: nothing compiles, traces or transforms it, forward mode is off, and its
    tensors are plain.

    It is the first look, and most often the only one: each of the others asks every tensor for itself.
    """
    if is_looked_at() or transforms_active() or torch._C._len_torch_dispatch_stack() or forward_ad._current_level >= 0:
        return False
    # Not by all(): that takes twice as long.
    for V in tensors:  # noqa: SIM110
        if V is not None and (type(V) not in PLAIN or _is_wrapped(V) or _is_batched(V)):
            return False
    return True


def undisturbed(*tensors: Tensor | None) -> bool:
    """Whether a call is an ordinary one, without autocast too, of numbers that all stand in the memory of the CPU one
    after the other. Whether :func:`is_looked_at` is asked before.

    Raises:
        RuntimeError: a tensor has no memory.
    """
    if (
        transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    ):
        return False
    for V in tensors:
        if V is not None and (
            type(V) not in PLAIN
            or not V.is_cpu
            or not V.is_contiguous()
            or V.is_neg()
            or V.untyped_storage().nbytes() < V.nbytes + (V.storage_offset() and V.storage_offset() * V.itemsize)
        ):
            return False
    return True


def is_expanded(V: Tensor) -> bool:
    """Whether ``V`` is one of the expanded weights of PyTorch, which only its own layers take: Opacus' ``"ew"``."""
    return type(V) not in PLAIN and not torch.compiler.is_compiling() and "_expanded_weights" in type(V).__module__


def may_move(*tensors: Tensor | None) -> bool:
    """Whether a derivative along one of the tensors may be asked for, in any of the ways that PyTorch has."""
    in_forward_mode, along_gradients = along_tangents(), torch.is_grad_enabled()
    for V in tensors:
        if V is not None and (
            (along_gradients and V.requires_grad) or (in_forward_mode and V.is_floating_point()) or _is_wrapped(V)
        ):
            return True
    return False


def along_tangents() -> bool:
    """Whether forward mode is on."""
    return forward_ad._current_level >= 0


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether forward mode takes a derivative along one of the tensors."""
    return along_tangents() and any(V is not None and forward_ad.unpack_dual(V).tangent is not None for V in tensors)


def is_last_backward(dJ: Tensor) -> bool:
    """Whether the backward pass that runs is the graph's last: what was kept for it may be given away."""
    return at_rest(dJ) and not torch._C._autograd._get_current_graph_task_keep_graph()


@contextmanager
def saved_for_jvp(ctx: Any) -> Iterator[tuple[Any, ...]]:
    """What was saved, for the block that computes a ``jvp``.

    PyTorch runs a ``jvp`` with forward mode switched off, so that the ``jvp`` of a ``jvp`` silently lacks terms
    (pytorch/pytorch#197867). In the block it is on; what was saved comes without the tangents of this very level.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        # Level 0, the only one: the default asks Python's record of it, which a compiled graph does not keep.
        yield tuple(V if V is None else forward_ad.unpack_dual(V, level=0).primal for V in ctx.saved_tensors)


# Modules


def parameters_of(module: nn.Module) -> dict[str, Any]:
    """A module's own parameters by name. As attributes, each takes a call of Python's."""
    found: dict[str, Any] = module.__dict__["_parameters"]
    return found


HOOKS = {
    "a forward pre-hook": "_forward_pre_hooks",
    "a forward hook": "_forward_hooks",
    "a backward pre-hook": "_backward_pre_hooks",
    "a backward hook": "_backward_hooks",
}
_OF_ALL_MODULES = {words: vars(torch.nn.modules.module)[f"_global{name}"] for words, name in HOOKS.items()}


ONLY_LOOK_ON = ("torch.utils.module_tracker",)
"""Where hooks come from that change nothing: PyTorch's counter of floating point operations has one for all modules."""


def hooks_of(module: nn.Module) -> str | None:
    """In words, a hook that runs when the module is called, or None: its own, or one of all modules."""
    of_module = module.__dict__
    for words, name in HOOKS.items():
        if of_module[name]:
            return words
    for words, hooks in _OF_ALL_MODULES.items():
        if hooks and any(getattr(hook, "__module__", None) not in ONLY_LOOK_ON for hook in hooks.values()):
            return f"{words} of all modules"
    return None


def runs_otherwise(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """In words, what runs when the module is called beside what ``kind`` does, or None."""
    for name in ("forward", "__call__"):
        if getattr(type(module), name) is not getattr(kind, name) or name in module.__dict__:
            return f"a {name} of its own"
    return hooks_of(module)


def hooks_of_optimizer(optimizer: torch.optim.Optimizer) -> str | None:
    """In words, what an optimizer calls at each step beside the ``step`` of its class, or None."""
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    if any((*hooks, _global_optimizer_pre_hooks, _global_optimizer_post_hooks)):
        return "a hook"
    step = vars(optimizer).get("step")  # a scheduler wraps it, to know whether it was called
    return None if step is None or getattr(step, "__wrapped__", None) is type(optimizer).step else "a step of its own"


def has_hook(V: Tensor) -> bool:
    """Whether a backward pass that reaches a parameter calls something: ``register_hook`` and its like."""
    return bool(V._backward_hooks) or bool(getattr(V, "_post_accumulate_grad_hooks", None))


# Traces and export


def is_jit_traced() -> bool:
    """Whether ``torch.jit.trace`` looks on, which writes down even that a shape is asked for."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


def is_looked_at() -> bool:
    """Whether torch.compile reads the code, or ``torch.jit.trace`` looks on."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def is_traced(V: Tensor) -> bool:
    """Whether something looks on, such as a trace, for which a pass should be one operator."""
    return type(V) not in PLAIN or torch._C._len_torch_dispatch_stack() > 0 or is_jit_traced()


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


def is_exporting() -> bool:
    """Whether ``torch.export`` or ``torch.jit.trace`` writes down which of PyTorch's operators are called."""
    return torch.compiler.is_exporting() or is_jit_traced()


def is_freed(V: Tensor) -> bool:
    """Whether ``V`` should have memory, and has less than its numbers take, as after ``untyped_storage().resize_``.

    PyTorch's own operators may end the process then.
    """
    if torch.compiler.is_compiling():
        return False
    try:
        there = V.untyped_storage().nbytes()
    except RuntimeError:  # a transform's
        return False
    needed = V.nbytes
    if needed and not V.is_contiguous():
        needed = V.itemsize * (sum((n - 1) * stride for n, stride in zip(V.shape, V.stride(), strict=True)) + 1)
    missing = needed > 0 and there < needed + V.storage_offset() * V.itemsize
    return missing and not is_traced(V) and not is_transformed(V)


def can_look_at(V: Tensor) -> bool:
    """Whether values can be read at no cost: there are some, no GPU to wait for, no trace or transform to break."""
    return (
        V.is_cpu
        and V.numel() > 0
        and type(V) in PLAIN
        and not is_looked_at()
        and not torch._C._len_torch_dispatch_stack()
        and not is_transformed(V)
    )
