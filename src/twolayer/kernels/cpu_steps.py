"""An optimizer's steps, one after another, in one call of the CPU kernel: ``steps`` in ``cpu.cpp``."""

import struct
from collections.abc import Iterator, Sequence
from ctypes import addressof, c_char
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from twolayer.activations import LEAKY_RELU_SLOPE
from twolayer.equations import Parameters
from twolayer.kernels import cpu
from twolayer.tasks import Examples, Objective

SGD, ADAM = range(2)
"""Their places in the enum of cpu_optimizers.h."""
STEPS = struct.Struct("=4q2qd2q")
UPDATE = struct.Struct("=7q4q7d")
IN_A_CALL = 2_000_000_000
"""Floating point operations after which a call should end, a fraction of a second: then an interrupt comes through."""


class Update(NamedTuple):
    """How an optimizer changes a parameter, in the words of :class:`torch.optim.SGD` and :class:`torch.optim.Adam`.

    What is a tensor is the optimizer's state, which is changed in place: float32, contiguous, on the CPU. It is None
    where there is none, as without momentum.
    """

    rule: int
    lr: float
    weight_decay: float = 0.0
    momentum_buffer: Tensor | None = None
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    exp_avg: Tensor | None = None
    exp_avg_sq: Tensor | None = None
    max_exp_avg_sq: Tensor | None = None
    step: Tensor | None = None
    betas: tuple[float, float] = (0.0, 0.0)
    eps: float = 0.0
    decoupled: bool = False

    @property
    def state(self) -> list[Tensor]:
        return [field for field in self if isinstance(field, Tensor)]


class Standard(NamedTuple):
    """By what examples are standardised, ``(x − mean) / std``: float32, contiguous; None where they are not."""

    X_mean: Tensor | None = None
    X_std: Tensor | None = None
    Y_mean: Tensor | None = None
    Y_std: Tensor | None = None


class Steps(NamedTuple):
    """What is to be done."""

    updates: Sequence[Update]
    """One for each parameter; or four for each step, where a schedule changes their numbers from step to step."""
    batches: Sequence[Tensor] | None = None
    """For each step, the numbers of its rows, int64; None for a ``number`` of steps on all rows."""
    number: int = 1
    standard: Standard = Standard()
    most_norm: float = float("inf")
    """Of the gradients, to which they are clipped."""


def take(examples: Examples, parameters: Parameters, objective: Objective, steps: Steps) -> tuple[Tensor, Parameters]:
    """Steps on the parameters, in place, each by the gradients of the cost of a batch.

    Args:
        examples: all there are, where :func:`twolayer.kernels.cpu.why_not` has nothing against them.
        parameters: contiguous.

    Returns:
        The cost before each step, fewer than were asked for where a row, target or weight of the next one is refused,
        and the gradients of the last one, clipped.

    Raises:
        ValueError: the kernel does not take these arguments.
        MemoryError: there is none.
    """
    others = tuple(map(_address, steps.standard))
    fields, (_, _, grads, alive) = cpu.prepared(cpu.GRADIENTS, examples, parameters, objective, others)
    m, *sizes = fields[cpu.SIZES]
    if steps.batches is None:
        plan, rows = _plan([m], sizes).repeat(steps.number, 1), None
    else:
        plan, rows = _plan(list(map(len, steps.batches)), sizes), torch.cat(list(steps.batches))
    costs = torch.empty(len(plan), dtype=torch.float32, device=plan.device)
    done = torch.zeros_like(plan[0, 0])
    four = len(parameters)
    of_each = len(steps.updates) // four
    if len(steps.updates) != four * of_each or of_each not in (1, len(plan)):
        raise ValueError(f"updates must be four, or four for each of {len(plan)} steps, got {len(steps.updates)}")
    of_one = zip(tuple(parameters) * of_each, tuple(grads) * of_each, steps.updates, strict=True)
    updates = bytearray().join(UPDATE.pack(*_fields(*one)) for one in of_one)
    packed = STEPS.pack(
        *map(_address, (plan, rows, costs, done)),
        *(len(plan), m, steps.most_norm),
        *(addressof(c_char.from_buffer(updates)), four if of_each > 1 else 0),
    )
    increment_version([*parameters, *(V for update in steps.updates[:four] for V in update.state)])
    arguments = cpu.OF_STEPS.pack(*fields, 1, objective.label_smoothing, LEAKY_RELU_SLOPE)
    failed = cpu.call("twolayer_steps", arguments, packed)
    del alive
    if failed == cpu.UNKNOWN:
        raise ValueError("the CPU kernel does not take these arguments")
    return costs[: int(done)], grads


def in_a_call(sizes: Sequence[int], parameters: Parameters) -> int:
    """How many of the first batches, which have so many rows, one call should take: at least one."""
    (n_h, n_x), n_y = parameters.W1.shape, len(parameters.b2)
    left = IN_A_CALL
    for count, m in enumerate(sizes):
        left -= cpu.work_of(m, n_x, n_h, n_y)
        if left < 0:
            return max(1, count)
    return len(sizes)


def gradient_descent(
    examples: Examples, parameters: Parameters, objective: Objective, *, learning_rate: float, costs: Tensor
) -> None:
    """``len(costs)`` iterations, in place, with the cost before each, in calls of a fraction of a second; see
    :func:`take`."""
    updates = [Update(SGD, learning_rate)] * 4
    work = cpu.work_of(*examples.X.shape, *parameters.W2.shape[::-1])
    for part in costs.split(max(1, IN_A_CALL // work)):
        found, _ = take(examples, parameters, objective, Steps(updates, number=len(part)))
        if len(found) < len(part):  # not after a first pass over the same examples
            raise ValueError("the CPU kernel does not take these arguments")
        part.copy_(found)


def _plan(of_batches: list[int], sizes: list[int]) -> Tensor:
    """For each batch: its first row among all of theirs, how many there are, and on how many threads."""
    first, plan = 0, []
    for m in of_batches:
        plan.append((first, m, cpu.threads_for(cpu.work_of(m, *sizes))))
        first += m
    return torch.tensor(plan, dtype=torch.int64, device="cpu")


def _address(V: Tensor | None) -> int:
    return 0 if V is None else V.data_ptr()


def _fields(V: Tensor, dV: Tensor, update: Update) -> Iterator[int | float]:
    """A parameter's update, as cpu_optimizers.h has it."""
    yield from map(_address, (V, dV, update.momentum_buffer))
    yield from map(_address, (update.exp_avg, update.exp_avg_sq, update.max_exp_avg_sq, update.step))
    yield from (V.numel(), update.rule, update.nesterov, update.decoupled)
    yield from (update.lr, update.weight_decay, update.momentum, update.dampening, *update.betas, update.eps)
