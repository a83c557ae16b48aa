"""Several optimiser steps in one call of ``training_step``: ``StepsInBlocks``.

For Lightning, a block of batches is a batch. It calls ``optimizer_step``, that calls a closure, and that
``training_step`` and ``backward``; and it counts one step. Here the steps of a block are in ``training_step``, so the
others stand aside, and the steps before the last one are counted by hand.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from twolayer.arguments import positive_int
from twolayer.loading import Block, TensorLoader
from twolayer.training import kernel_steps
from twolayer.training.conditions import aligned_steps, only_the_optimizer_s, tuner_of, why_not_in_blocks
from twolayer.training.finite import check_step, check_weights

Batch = tuple[Tensor, ...]

WHY_ALIGNED = "for blocks to end where max_steps and checkpoints ask"


class StepsInBlocks(L.LightningModule):
    """A LightningModule that takes an optimiser step for each batch of a :class:`~twolayer.loading.Block` by itself.

    It saves what Lightning does around a batch, which for a shallow network takes longer than the step. A subclass
    says what a batch costs, twice: ``batch_loss(batch)``, with a graph, for one batch at a time, and
    ``batch_gradients()``, without one, for those of a block. The training is the same. A DataModule of
    :mod:`twolayer.data` asks :meth:`block_size` how many batches to bring at once; in a loader of one's own, it is
    ``TensorLoader(…, steps_per_call=…)``.

    Args:
        steps_per_call: the most optimiser steps in a block; None for Lightning's own step, a batch at a time.

    Attributes:
        first_cost: of the fit; to be set to None before another one.
        why_no_kernel: what kept the steps of the last block from being one call of the CPU kernel, in words, or None.

    Raises:
        ValueError, TypeError: ``steps_per_call`` is no integer of at least one. Later, in a fit: a loader brings blocks
            where something asks for every single batch.
        FloatingPointError: in a fit, a cost or a weight is not finite; the message says at which step.

    >>> from twolayer import TwoLayerNet
    >>> class InBlocks(StepsInBlocks):
    ...     def __init__(self):
    ...         super().__init__(steps_per_call=16)
    ...         self.net = TwoLayerNet(2, 8, 1)
    ...     def batch_loss(self, batch):
    ...         return self.net.loss(*batch)
    ...     def batch_gradients(self):
    ...         def gradients(batch):
    ...             J, grads = self.net.loss_and_grads(*batch)
    ...             for name, V in self.net.named_parameters():
    ...                 V.grad = grads[name]
    ...             return J
    ...         return gradients
    ...     def configure_optimizers(self):
    ...         return torch.optim.Adam(self.parameters())
    """

    def __init__(self, steps_per_call: int | None = 32) -> None:
        super().__init__()
        self.steps_per_call = None if steps_per_call is None else positive_int("steps_per_call", steps_per_call)
        self.first_cost: Tensor | None = None
        self.why_no_kernel: str | None = "there was no block yet"
        self._tuner: str | None = None
        self._counting = False
        self._uncounted = 0  # batches that Lightning did not count, since they came in one block with the next
        self._evaluated: tuple[int, int] | None = None  # epoch and index of the last batch that has told its cost

    def batch_loss(self, batch: Any) -> Tensor:
        """The cost of a batch, which Lightning differentiates."""
        raise NotImplementedError(f"{type(self).__name__} must define batch_loss(batch)")

    def batch_gradients(self) -> Callable[[Any], Tensor]:
        """Asked once a block: what returns the cost of a batch, detached, and leaves its gradients in ``.grad``."""
        raise NotImplementedError(f"{type(self).__name__} must define batch_gradients()")

    def kernel_problem(self, block: Block) -> kernel_steps.Problem | str:
        """What the CPU kernel has to know to take the steps of a block by itself; or why it cannot, in words."""
        return f"{type(self).__name__} computes its gradients itself"

    def after_steps(self, cost: Tensor, examples: int) -> None:
        """Called with the mean cost of a batch, or of the batches of a block, and how many examples they had."""

    def block_size(self, steps: int) -> int | None:
        """How many batches a loader should bring at once; None for one at a time, and no block.

        It is ``steps_per_call``, or as much less as it takes for blocks to end where Lightning has to come in between,
        for ``max_steps`` or for a checkpoint. Where something asks for every single batch, such as the accumulation of
        gradients or a callback, it is None. The run says so.

        Args:
            steps: batches in an epoch.
        """
        if self.steps_per_call is None or self._counting:
            return None
        if reason := self._why_not():
            rank_zero_info(f"steps_per_call: None, since {reason} (configured: {self.steps_per_call})")
            return None
        unfinished = batches_of_an_unfinished_epoch(self.trainer.fit_loop)
        size = aligned_steps(self.trainer, self.steps_per_call, steps, self.trainer.global_step - unfinished)
        if size < self.steps_per_call:
            rank_zero_info(f"steps_per_call: {size}, {WHY_ALIGNED} (configured: {self.steps_per_call})")
        if steps >= self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            blocks = math.ceil(steps / size)  # which Lightning takes for batches, and warns that they are too few
            warnings.filterwarnings("ignore", message=rf"The number of training batches \({blocks}\) is smaller than")
        return size

    def total_steps(self) -> int | float:
        """Optimiser steps of the whole fit, for a scheduler; asked for while optimizers are configured."""
        trainer = self.trainer
        self._counting = True  # the rows are asked for, and thrown away: whether they come in blocks is told later
        there = trainer.fit_loop._combined_loader
        try:
            steps = trainer.estimated_stepping_batches
        finally:
            self._counting = False
        loader = self._loader()
        if loader is not None and loader.steps_per_call is not None and trainer.max_epochs not in (None, -1):
            steps = loader.steps * trainer.max_epochs  # Lightning counted blocks
            if trainer.max_steps != -1:
                steps = min(steps, trainer.max_steps)
        trainer.fit_loop._combined_loader = there  # or the one to come, which takes its place from the checkpoint
        return steps

    def setup(self, stage: str) -> None:
        self._tuner = tuner_of(self.trainer)

    def on_train_start(self) -> None:
        self._evaluated = None
        self._check_blocks()
        loader = self._loader()
        if loader is not None and loader.resumed_at is not None:
            counts_as_of(self.trainer.fit_loop.epoch_loop, loader.calls_before(loader.resumed_at))

    def on_train_epoch_start(self) -> None:
        if (loader := self._loader()) is not None:
            loader.begin_epoch()
        self._check_blocks(begun=True)

    def _check_blocks(self, begun: bool = False) -> None:
        """Callbacks may have changed what blocks depend on: then the rows are asked for anew, or it is an error."""
        if self._wrong_blocks(begun) is None:
            return
        ask_for_the_rows_again(self.trainer.fit_loop)
        if wrong := self._wrong_blocks(begun):
            raise ValueError(f"steps_per_call of the loader must be {wrong}")

    def _wrong_blocks(self, begun: bool) -> str | None:
        """What they should be, why, and what they are; None if they are right, or there are none."""
        loader = self._loader()
        if loader is None or loader.steps_per_call is None:
            return None
        if reason := self._why_not(begun):
            return f"None, since {reason}, got {loader.steps_per_call}"
        before = self.trainer.global_step - (loader.resumed_at or 0)
        size = aligned_steps(self.trainer, loader.steps_per_call, loader.steps, before)
        return f"{size}, {WHY_ALIGNED}, got {loader.steps_per_call}" if size < loader.steps_per_call else None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The checkpoint counts batches, so that a run can be resumed with other blocks, or with none.

        Raises:
            FloatingPointError: a weight is not finite.
        """
        check_weights(self.named_parameters(), self.trainer.global_step)
        loader, state = self._loader(), checkpoint["loops"]["fit_loop"]
        if state["epoch_loop.batch_progress"]["is_last_batch"]:
            for of_loader in state["state_dict"].get("combined_loader", ()):
                if isinstance(of_loader, dict) and of_loader.get("served"):
                    of_loader["finished"] = True  # it may have more batches than the trainer asks for
        if loader is not None:
            in_blocks = loader.steps_per_call is not None
            say_where_it_is(state, self.trainer, loader.served if in_blocks else None, self._uncounted)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._uncounted = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if isinstance(batch, Block):
            return self._take_steps(batch)
        J = self.batch_loss(batch)
        if J.device.type == "cpu":  # looking would make a GPU wait; there, on_train_epoch_end looks
            check_step(J.detach(), self.trainer.global_step + 1, batch)
        if self.first_cost is None:
            self.first_cost = J.detach()
        if self._evaluated != (self.current_epoch, batch_idx):  # an optimizer such as LBFGS asks several times
            self._evaluated = (self.current_epoch, batch_idx)
            self.after_steps(J.detach(), len(batch[0]))
        return J

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        if not self._in_blocks():
            return super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        assert optimizer_closure is not None
        model = self.trainer.model  # DDP's own averaging waits for a graph, and there is none
        with model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext():
            optimizer_closure()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        if not self._in_blocks():  # there, Lightning asks for it after the steps
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self._in_blocks():
            super().backward(loss, *args, **kwargs)

    def _take_steps(self, block: Block) -> Tensor:
        """An optimiser step for each batch of the block; returns their mean cost."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        step: Callable[..., Any] = optimizer.step
        if only_the_optimizer_s(self.trainer):
            step = optimizer.optimizer.step
        gradients = self.batch_gradients()
        if self.trainer.world_size > 1:
            gradients = partial(_averaged_over_processes, gradients, list(self.parameters()))
        convert = self.trainer.precision_plugin.convert_input
        optimizer.optimizer.zero_grad()  # of those that are frozen by now
        problem = self._kernel_problem(block)
        taken: list[tuple[Tensor, int]] = []
        while len(taken) < len(block):
            done = len(taken)
            if done:
                self._count_steps(1)
                self._step_schedulers()
            found = [] if isinstance(problem, str) else self._by_kernel(problem, block, done)
            if not found:
                batch = convert(block[done])
                found = [(step(partial(gradients, batch)), len(batch[0]))]
            self._count_steps(len(found) - 1)
            taken += found
        costs, sizes = zip(*taken, strict=True)
        if self.first_cost is None:
            self.first_cost = costs[0]
        if len(set(sizes)) == 1:
            mean = torch.stack(costs).mean()
        else:
            mean = torch.stack([J * size for J, size in zip(costs, sizes, strict=True)]).sum() / sum(sizes)
        if mean.device.type == "cpu" and not mean.isfinite():
            first = self.trainer.global_step + 2 - len(costs)
            for i, (J, batch) in enumerate(zip(costs, block, strict=True)):
                check_step(J, first + i, batch)
        self.after_steps(mean, sum(sizes))
        return mean

    def on_train_epoch_end(self) -> None:
        check_weights(self.named_parameters(), self.trainer.global_step)
        plateaus_look(self.trainer)

    def _kernel_problem(self, block: Block) -> kernel_steps.Problem | str:
        """That of the block, or why its steps go one by one, which the run says."""
        knows = next(cls for cls in type(self).__mro__ if "kernel_problem" in vars(cls))
        problem: kernel_steps.Problem | str | None = kernel_steps.why_not(self.trainer, self, knows)
        if problem is None:
            problem = self.kernel_problem(block)
        if not isinstance(problem, str):
            changes = kernel_steps.updates(self.trainer.optimizers[0], problem.parameters)
            if isinstance(changes, str) and changes != kernel_steps.NOT_BEGUN:
                problem = changes
        reason = problem if isinstance(problem, str) else None
        if reason not in (None, self.why_no_kernel):
            rank_zero_info(f"steps of a block: one by one, since {reason}")
        self.why_no_kernel = reason
        return problem

    def _by_kernel(self, problem: kernel_steps.Problem, block: Block, done: int) -> list[tuple[Tensor, int]]:
        """Steps that the kernel has taken on the batches after the first ``done``: costs and sizes; maybe none."""
        optimizer = self.trainer.optimizers[0]
        changes = kernel_steps.updates(optimizer, problem.parameters)
        if isinstance(changes, str):
            return []
        rows = kernel_steps.in_a_call(problem, block.rows[done:])
        if any(config.interval == "step" for config in self.trainer.lr_scheduler_configs):
            begun = self.first_cost is not None or done > 0  # before any step, a scheduler warns
            rows = rows if begun and kernel_steps.foreseeable(self.trainer, self) else rows[:1]
            for _ in rows[1:]:  # the schedulers are ahead only if a step is refused, which ends the fit
                self._step_schedulers()
                changes += kernel_steps.rescheduled(changes[-4:], optimizer, problem.parameters)
        found = kernel_steps.take(problem, optimizer, changes, rows, self.trainer.gradient_clip_val or math.inf)
        block.took(done + len(found))
        return found

    def _count_steps(self, steps: int) -> None:
        """For ``global_step``, and the step that loggers write down. Lightning itself counts the last of a block."""
        loop = self.trainer.fit_loop.epoch_loop
        counts = loop.automatic_optimization.optim_progress.optimizer
        counts.step.increment_by(steps)
        counts.zero_grad.increment_by(steps)
        loop._batches_that_stepped += steps
        self._uncounted += steps

    def _step_schedulers(self) -> None:
        """Those that are stepped after every step. After the last of a block, Lightning does it."""
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "step":
                self.lr_scheduler_step(config.scheduler, None)

    def _loader(self) -> TensorLoader | None:
        loader = self.trainer.train_dataloader
        return loader if isinstance(loader, TensorLoader) else None

    def _in_blocks(self) -> bool:
        loader = self._loader()
        return loader is not None and loader.steps_per_call is not None

    def why_no_blocks(self) -> str | None:
        """A reason of the module's own to take one batch at a time, in words."""
        return None

    def _why_not(self, begun: bool = False) -> str | None:
        if not self.trainer.optimizers:  # asked for steps, they may step a scheduler after each
            return "the rows were asked for before there were optimizers"
        if self._tuner is not None:
            return f"{self._tuner} runs trials of its own"
        return self.why_no_blocks() or why_not_in_blocks(self.trainer, self, begun)


def _averaged_over_processes(
    gradients: Callable[[Any], Tensor], parameters: list[torch.nn.Parameter], batch: Any
) -> Tensor:
    """Takes the mean of the gradients, as DDP does of those that come through a graph; in one message."""
    J = gradients(batch)
    grads = [V.grad for V in parameters if V.grad is not None]
    flat = torch.cat([dV.reshape(-1) for dV in grads])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for dV, mean in zip(grads, flat.split([dV.numel() for dV in grads]), strict=True):
        dV.copy_(mean.view_as(dV))
    return J


# Lightning's loops have no public names for where they are.


def batches_of_an_unfinished_epoch(fit_loop: Any) -> int:
    """How many batches of the epoch in which a run is resumed lie before that; 0 at the start of one."""
    epochs = fit_loop.epoch_progress.current
    return fit_loop.epoch_loop.batch_progress.current.ready if epochs.processed < epochs.started else 0


def ask_for_the_rows_again(fit_loop: Any) -> None:
    """Where a fit or an epoch begins: other blocks, or none, of the same rows."""
    former = fit_loop.trainer.train_dataloader
    fit_loop._combined_loader = None
    fit_loop.setup_data()
    loader = fit_loop.trainer.train_dataloader
    if isinstance(loader, TensorLoader) and loader is not former:
        loader.take_over(former)


def plateaus_look(trainer: L.Trainer) -> None:
    """At the end of an epoch within which a run was resumed, too, which Lightning lets them miss."""
    watched = [config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
    if watched and trainer.callback_metrics.keys() >= set(watched):
        trainer.fit_loop._restarting = False


def counts_as_of(loop: Any, calls: int) -> None:
    """Tells the loop of an epoch, which goes on where a checkpoint was, how many calls of the loader lie before."""
    current = loop.batch_progress.current
    current.ready = current.started = current.processed = calls
    current.completed = calls - loop.restarted_on_train_batch_end  # then it adds that itself


def say_where_it_is(state: dict[str, Any], trainer: L.Trainer, served: int | None, uncounted: int) -> None:
    """Corrects what Lightning's loop is about to save of itself.

    Args:
        state: of the fit loop, as in the checkpoint; changed in place.
        trainer: whose state it is.
        served: batches of this epoch, where Lightning counted blocks.
        uncounted: how many more batches than blocks there were, in all epochs.
    """
    batches, epochs = state["epoch_loop.batch_progress"], state["epoch_progress"]
    current = batches["current"]
    if current["ready"] < trainer.num_training_batches and not batches["is_last_batch"]:
        for count in epochs.values():  # where something stops within an epoch, Lightning counts it as a whole one
            if current["ready"] and count["processed"] == count["started"]:
                count["processed"] -= 1
                count["completed"] = count["processed"]
    if served is not None:
        for count, more in ((current, served - current["ready"]), (batches["total"], uncounted)):
            for name in count:
                count[name] += more
