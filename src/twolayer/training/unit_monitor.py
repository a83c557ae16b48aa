"""Whether the hidden units do their work while a network trains: ``UnitMonitor``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from twolayer import equations
from twolayer.activations import ACTIVATIONS
from twolayer.arguments import positive_int
from twolayer.loading import TensorLoader
from twolayer.network import TwoLayerNet
from twolayer.tasks import summing_dtype
from twolayer.training.batches import as_examples
from twolayer.units import unit_faults

# From where on it matters. A few dead units are usual. Trained tanh units are often saturated, once they have decided.
DEAD = TWIN = 0.25
SATURATED = 0.75
UNEVEN = 1000.0
"""How many times larger the gradient of one layer is than that of the other."""


class Look(NamedTuple):
    """What one look finds. Units are counted; a dead one is no twin, though all dead ones are alike."""

    dead: int
    saturated: int
    twin: int
    of: int
    ratio: float
    """Of the norm of the first layer's gradient, ``(dW1, db1)``, to that of the second's."""


class UnitMonitor(Callback):
    """Looks now and then at whether the hidden units of a :class:`LitTwoLayer` do their work, and says so if not.

    A network may train with half of its units dead, or with all of them computing the same, and its cost does not say
    so. This callback logs, on a fixed sample of the training rows, ``dead_units``, ``saturated_units`` and
    ``twin_units``, shares of the hidden units as :func:`twolayer.units.unit_faults` finds them (twins among those that
    are not dead), and ``grad_norm_ratio``, the norm of the first layer's gradient divided by that of the second's. It
    says each thing once, where it matters: a quarter of the units dead or twins, three quarters saturated, one
    gradient a thousand times the other. What a run has said is not said again when it is resumed.

    It looks after the steps 1, 10, 100 and so on, from ``every_n_steps`` on after that many, and at the end of the fit;
    where steps come in blocks, after the block. It changes nothing: the weights are the same, bit by bit, without
    it. Of several processes, the first one looks. What it cannot look at, such as a network with hooks, it names.

    Args:
        every_n_steps: the most optimiser steps from one look to the next; None for no looks.
        rows: how many there are in the sample, at most. They are spread evenly over the rows of a
            :class:`~twolayer.loading.TensorLoader`; of any other loader, they are the first of its first batch.

    Raises:
        ValueError, TypeError: an argument does not fit, or the module is no :class:`LitTwoLayer`; the message says so.

    >>> trainer = L.Trainer(callbacks=UnitMonitor(every_n_steps=100), accelerator="cpu", logger=False)
    """

    looks_between_blocks = True

    def __init__(self, every_n_steps: int | None = 5000, rows: int = 256) -> None:
        self.every_n_steps = None if every_n_steps is None else positive_int("every_n_steps", every_n_steps)
        self.rows = positive_int("rows", rows)
        self._said: set[str] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(getattr(pl_module, "net", None), TwoLayerNet) or not hasattr(pl_module, "prepared"):
            raise TypeError(f"UnitMonitor must watch a LitTwoLayer, got {type(pl_module).__name__}")
        if stage == "fit":
            self._said.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"said": sorted(self._said)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._said = set(state_dict["said"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._sample: tuple[Tensor, Tensor] | None = None
        self._looks = self.every_n_steps is not None and trainer.is_global_zero
        self._looked, self._next = trainer.global_step, self._after(trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._looks and (self._sample is None or trainer.global_step >= self._next):
            with self._looking_on():
                if self._sample is None:
                    self._sample = _sample(trainer, pl_module, batch, self.rows)
                if trainer.global_step >= self._next:
                    self._look(trainer, pl_module, trainer.global_step - 1)  # Lightning's number of the step just taken

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._looks and self._looked != trainer.global_step:
            with self._looking_on():
                self._look(trainer, pl_module, trainer.global_step)  # a row that a run that goes on from here drops

    @contextmanager
    def _looking_on(self) -> Iterator[None]:
        """Who looks on must not end a run that goes on without."""
        try:
            yield
        except (TypeError, ValueError, RuntimeError) as error:
            rank_zero_info(f"UnitMonitor looks no further: {error}")
            self._looks = False

    def _look(self, trainer: L.Trainer, module: Any, step: int) -> None:
        """Looks, logs that under this step, and says what matters and was not said yet."""
        self._looked, self._next = trainer.global_step, self._after(trainer.global_step)
        assert self._sample is not None
        found = look(module.net, *self._sample)
        values = {
            "dead_units": found.dead / found.of,
            "saturated_units": found.saturated / found.of,
            "twin_units": found.twin / found.of,
            "grad_norm_ratio": found.ratio,
        }
        for logger in trainer.loggers:  # not module.log, by which Lightning would repeat them in the steps between
            logger.log_metrics(values, step=step)
        for about, sentence in sentences(found, module.net.init):
            if about not in self._said:
                self._said.add(about)
                rank_zero_info(f"After step {trainer.global_step}, {sentence}")

    def _after(self, step: int) -> int:
        """The step after which it looks next. It follows from ``step`` alone, so that a resumed run has the same."""
        every = self.every_n_steps or 1
        if step < every:
            return min(10 ** len(str(step)) if step else 1, every)
        return step - step % every + every


@torch.no_grad()
def look(net: TwoLayerNet, X: Tensor, T: Tensor) -> Look:
    """What the hidden units of a network do with the inputs ``X``, and how large its gradients are with targets ``T``.

    Raises:
        TypeError, ValueError, RuntimeError: as :meth:`twolayer.TwoLayerNet.loss_and_grads`.

    >>> look(TwoLayerNet(2, 4, 1, activation="tanh", init="zeros"), torch.ones(3, 2), torch.tensor([0, 0, 1]))
    Look(dead=0, saturated=0, twin=4, of=4, ratio=0.0)
    """
    _, grads = net.loss_and_grads(X, T)
    A1 = equations.A1(equations.Z1(X.to(net.W1.dtype), net.W1, net.b1), ACTIVATIONS[net.activation])
    faults = unit_faults(A1.flatten(0, -2), net.activation)
    counts = torch.stack((faults.dead, faults.saturated, faults.twin & ~faults.dead)).sum(1)
    dtype = summing_dtype(X.device)  # in which squares of 1e-23 are something
    layers = ((grads["W1"], grads["b1"]), (grads["W2"], grads["b2"]))
    first, second = (torch.cat([dW.flatten(), db]).to(dtype).norm() for dW, db in layers)
    dead, saturated, twin = counts.tolist()
    return Look(dead, saturated, twin, net.hidden_features, (first / second).item())


def sentences(found: Look, init: str) -> Iterator[tuple[str, str]]:
    """What matters in a look, in plain words, each under a name of what it is about.

    Args:
        found: the look.
        init: by which rule the network was initialised.
    """
    of, zeros = f"of {found.of} hidden units", init == "zeros"
    if found.dead >= DEAD * found.of:
        remedy = "init='zeros' gives them no gradient" if zeros else "a smaller learning rate or leaky_relu"
        yield "dead", f"{found.dead} {of} are dead: {remedy}"
    if found.saturated >= SATURATED * found.of:
        yield "saturated", f"{found.saturated} {of} are saturated: smaller initial weights or a smaller learning rate"
    if found.twin >= TWIN * found.of:
        every = found.twin == found.of
        who = (
            f"all {found.of} hidden units compute the same" if every else f"{found.twin} {of} compute what another does"
        )
        remedy = "init='zeros' cannot part them" if zeros else "only different initial weights part them"
        yield "twin", f"{who}: {remedy}"
    if 0 < found.ratio * UNEVEN <= 1:
        yield "ratio", f"the gradient of the second layer is {1 / found.ratio:,.0f} times that of the first"
    if found.ratio >= UNEVEN:
        yield "ratio", f"the gradient of the first layer is {found.ratio:,.0f} times that of the second"


def _sample(trainer: L.Trainer, module: Any, batch: Any, most: int) -> tuple[Tensor, Tensor]:
    """Rows of the training data, by what the network takes and what its cost compares with."""
    loader = trainer.train_dataloader
    if isinstance(loader, TensorLoader):
        m = len(loader.dataset)
        rows = torch.arange(min(m, most), device="cpu") * m // min(m, most)
        batch = tuple(tensor[rows.to(tensor.device)] for tensor in loader.dataset.tensors)
        batch = trainer.precision_plugin.convert_input(batch)
    X, Y, _ = as_examples(batch)
    device = module.net.W1.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # a subclass may draw
        X, T, _ = module.prepared(X[:most].to(device), Y[:most].to(device))
    return X.clone(), T.clone()
