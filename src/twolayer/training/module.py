"""Training with Lightning: ``LitTwoLayer``."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from typing import Any, Literal, Self

import torch
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from twolayer.arguments import one_of, positive_int
from twolayer.loading import Block
from twolayer.names import ActivationName, BackwardName, InitName, TaskName
from twolayer.network import TwoLayerNet, gradients_by_autograd
from twolayer.sealing import read_checkpoint, sealed
from twolayer.training.batches import as_examples
from twolayer.training.checkpoints import hyper_parameters, use_local_files
from twolayer.training.finite import of_a_batch
from twolayer.training.kernel_problem import problem
from twolayer.training.kernel_steps import Problem
from twolayer.training.metrics import Evaluation
from twolayer.training.standardization import Standardize
from twolayer.training.steps import StepsInBlocks
from twolayer.training.weights import class_weights

Batch = tuple[Tensor, ...]


class LitTwoLayer(StepsInBlocks):
    """A :class:`~twolayer.TwoLayerNet` with its training loop, metrics and standardisation, for Lightning's Trainer.

    A batch is ``(X, Y)``, or ``(X, Y, sample_weight)``, in raw units: weights count in the cost, its gradients and the
    metrics, as for :func:`twolayer.functional.cost`. Inputs, and the targets of a regression, are standardised with
    the statistics of the DataModule's training split (its ``train_inputs`` and ``train_targets``; a DataModule without
    them, or a plain DataLoader, means none); they travel in the checkpoint, so that a loaded model takes raw rows and
    predicts in raw units. The cost of a regression is that of standardised targets; RMSE is in the targets' units.

    Args:
        in_features, hidden_features, out_features, task, activation, init, backward, label_smoothing: as for
            :class:`~twolayer.TwoLayerNet`.
        class_weight: likewise; or ``"balanced"``, or weights by the names of classes, for which a fit looks at the
            training split, see :func:`~twolayer.training.weights.class_weights`.
        standardize: whether to.
        optimizer: called with the parameters: a class of :mod:`torch.optim`, a ``functools.partial`` of one, or, in a
            YAML file, its ``class_path`` and ``init_args``. The fused form, where there is one, unless it is told how.
            Where ``LearningRateFinder`` has set the attribute ``lr``, with that learning rate.
        lr_scheduler: called with the optimizer, likewise.
        steps_per_call: optimiser steps in one call of ``training_step``, for which the loader of a
            :class:`~twolayer.data.TabularDataModule` then brings a :class:`~twolayer.loading.Block` of batches, see
            :class:`~twolayer.training.StepsInBlocks`. None for Lightning's own step, a batch at a time.
        scheduler_monitor, scheduler_interval, scheduler_frequency: which metric ``ReduceLROnPlateau`` watches, whether
            a scheduler is stepped after every ``"epoch"`` or every ``"step"``, and after how many of them. None for
            ``"step"`` with the schedulers that are made for it, ``OneCycleLR`` (whose ``total_steps`` are filled in)
            and ``CyclicLR``, and ``"epoch"`` with all others.
        train_metrics: whether to compute the metrics of the task on the training batches as well, each before its step,
            which costs about as much as the step itself.

    Logs ``train_loss``, the mean over the epoch's examples, ``val_loss``, ``test_loss`` and the metrics of the task
    with the same prefixes, over the rows of all loaders. Of an epoch within which a run was resumed, ``train_loss`` is
    the mean over what was left.

    >>> model = LitTwoLayer(2, 4, 1, task="binary", activation="tanh")
    >>> model(torch.zeros(3, 2)).shape
    torch.Size([3, 1])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        task: TaskName = "binary",
        activation: ActivationName = "relu",
        init: InitName = "he",
        backward: BackwardName = "manual",
        class_weight: list[float] | dict[str, float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        standardize: bool = True,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        lr_scheduler: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau] | None = None,
        steps_per_call: int | None = 32,
        train_metrics: bool = False,
        scheduler_monitor: str = "val_loss",
        scheduler_interval: str | None = None,
        scheduler_frequency: int = 1,
    ) -> None:
        super().__init__(steps_per_call)
        others = ("scheduler_monitor", "scheduler_interval", "scheduler_frequency")
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler", "steps_per_call", "train_metrics", *others])
        if scheduler_interval is not None:
            one_of("scheduler_interval", scheduler_interval, ("epoch", "step"))
        self.scheduler_monitor = scheduler_monitor
        self.scheduler_interval = scheduler_interval
        self.scheduler_frequency = positive_int("scheduler_frequency", scheduler_frequency)
        self.standardize = standardize
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr: float | None = None
        self._optimizer_names: list[str] | None = None
        self._resumed_names: list[str] | None = None
        self._named_weight = class_weight if isinstance(class_weight, str | dict) else None
        if isinstance(class_weight, dict) and not all(0 < weight < math.inf for weight in class_weight.values()):
            raise ValueError(f"class_weight must be finite, positive, got {class_weight}")
        if isinstance(class_weight, str | dict):  # until a fit knows the classes
            class_weight = [1.0] * (2 if task == "binary" else out_features)
        self.net = TwoLayerNet(
            in_features,
            hidden_features,
            out_features,
            activation=activation,
            task=task,
            init=init,
            backward=backward,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
        )
        self.standardize_inputs = Standardize(in_features)
        self.standardize_targets = Standardize(out_features) if task == "regression" else None
        stages = ["train", "val", "test"] if train_metrics else ["val", "test"]
        self._evaluations = {stage: Evaluation(f"{stage}_", task, out_features) for stage in stages}
        self._costs: Tensor | float = 0.0  # of the epoch's examples so far, their sum
        self._examples = 0
        self._logged = False

    @property
    def example_input_array(self) -> Any:
        """A row for the summary, which counts sizes and operations by it."""
        given = self._example_input_array
        W1 = self.net.W1
        return torch.zeros(1, self.net.in_features, dtype=W1.dtype, device=W1.device) if given is None else given

    @example_input_array.setter
    def example_input_array(self, example: Any) -> None:
        self._example_input_array = example

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """A trained model, from a local file that holds data alone.

        As Lightning's, but what is damaged, has an address, or is no checkpoint of such a model is refused, and of its
        hyperparameters no more is taken than the options of the network and those of a subclass.

        Raises:
            ValueError, OSError: see :func:`~twolayer.training.checkpoints.read_checkpoint`.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location, weights_only)
        checkpoint["hyper_parameters"] = hyper_parameters(checkpoint, checkpoint_path, TwoLayerNet, cls, LitTwoLayer)
        data = BytesIO(sealed(checkpoint))
        return super().load_from_checkpoint(data, map_location, hparams_file, strict, True, **kwargs)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        use_local_files(self.trainer.strategy)
        if isinstance(self.trainer.precision_plugin, DoublePrecision):
            self.double()  # Lightning does so after it has loaded a checkpoint, whose weights it would round
        data = getattr(self.trainer, "datamodule", None)
        if getattr(data, "streams", False):
            for evaluation in self._evaluations.values():
                evaluation.in_constant_memory()
        if stage != "fit":
            return
        self.first_cost = None
        if self._named_weight is not None and self.net.class_weight is not None:
            self.net.class_weight.copy_(self._weights_of_classes(self._named_weight, data))
        if self.standardize:
            if (rows := getattr(data, "train_inputs", None)) is not None:
                self.standardize_inputs.fit(rows, "train_inputs")
            if self.standardize_targets is not None and (targets := getattr(data, "train_targets", None)) is not None:
                self.standardize_targets.fit(targets, "train_targets")

    def _weights_of_classes(self, given: str | dict[str, float], data: Any) -> Tensor:
        Y = getattr(data, "train_targets", None)
        if Y is None:
            raise ValueError(f"class_weight {given!r} needs a DataModule with train_targets, got {type(data).__name__}")
        numbers = list(map(str, range(2 if self.net.task == "binary" else self.net.out_features)))
        return class_weights(given, Y, getattr(data, "class_names", numbers))

    def forward(self, X: Tensor) -> Tensor:
        """Predictions for raw rows, ``(..., out_features)``: probabilities, or values in raw units."""
        return self._predictions(self.net(self.standardize_inputs(X)))

    def build_optimizer(self) -> tuple[Optimizer, LRScheduler | ReduceLROnPlateau | None]:
        """A fresh optimizer and its scheduler, if there is one, as configured."""
        optimizer = self.optimizer(self.net.parameters())
        _fuse(optimizer)
        if self.lr is not None:
            for options in (optimizer.defaults, *optimizer.param_groups):
                options["lr"] = self.lr
        if self.lr_scheduler is None:
            return optimizer, None
        try:
            return optimizer, self.lr_scheduler(optimizer)
        except ValueError:
            if _class_of(self.lr_scheduler) is not OneCycleLR:
                raise
        steps: Any = self.total_steps()
        if steps == math.inf:
            raise ValueError("OneCycleLR must have total_steps where neither max_epochs nor max_steps ends the fit")
        try:
            return optimizer, self.lr_scheduler(optimizer, total_steps=steps)  # type: ignore[call-arg]
        except Exception as error:
            if not isinstance(error.__cause__ or error, ZeroDivisionError):
                raise
            shorter = (1 - 1e-9) / steps  # a warm-up of one step begins and ends at once: there shall be none
            return optimizer, self.lr_scheduler(optimizer, total_steps=steps, pct_start=shorter)  # type: ignore[call-arg]

    def _interval(self) -> str:
        """After what the scheduler is stepped."""
        by_step = _class_of(self.lr_scheduler) in (OneCycleLR, CyclicLR)
        return self.scheduler_interval or ("step" if by_step else "epoch")

    def on_train_start(self) -> None:
        super().on_train_start()
        for logger in self.trainer.loggers:
            logger.log_hyperparams(self._settings())

    def _settings(self) -> dict[str, Any]:
        """What a run is compared by, beside the hyperparameters of the network: optimizer, learning rate, data."""
        optimizer, data = self.trainer.optimizers[0], getattr(self.trainer, "datamodule", None)
        schedulers = [type(config.scheduler).__name__ for config in self.trainer.lr_scheduler_configs]
        options = {f"optimizer.{name}": value for name, value in optimizer.param_groups[0].items() if name != "params"}
        options |= {f"data.{name}": value for name, value in vars(data or object).items() if not name.startswith("_")}
        return {
            "optimizer": type(optimizer).__name__,
            "learning_rate": options.pop("optimizer.lr"),
            "lr_scheduler": ", ".join(schedulers) or None,
            "batch_size": getattr(self.trainer.train_dataloader, "batch_size", None),
            "data": type(data or self.trainer.train_dataloader).__name__,
            **{name: value for name, value in options.items() if isinstance(value, bool | int | float | str)},
        }

    def why_no_blocks(self) -> str | None:
        counts = self.scheduler_frequency != 1 or _class_of(self.lr_scheduler) is ReduceLROnPlateau
        if self.lr_scheduler is not None and self._interval() == "step" and counts:
            return "the scheduler counts batches by itself"
        return None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, scheduler = self.build_optimizer()
        self._optimizer_names = [type(optimizer).__name__, type(scheduler).__name__]
        if self._resumed_names not in (None, self._optimizer_names):
            raise ValueError(
                f"optimizer and lr_scheduler must be {self._resumed_names}, whose state is in the checkpoint, "
                f"got {self._optimizer_names}"
            )
        if scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "monitor": getattr(scheduler, "monitor", self.scheduler_monitor),
                "interval": self._interval(),
                "frequency": self.scheduler_frequency,
            },
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["optimizer_names"] = self._optimizer_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._resumed_names = checkpoint.get("optimizer_names")

    def batch_loss(self, batch: Batch) -> Tensor:
        X, Y, w = as_examples(batch)
        X, T, Y = self.prepared(X, Y)
        self._evaluate_training(X, Y, w)
        return self.net.loss(X, T, sample_weight=w)

    def batch_gradients(self) -> Callable[[Batch], Tensor]:
        net = self.net
        parameters = {name: V for name, V in net.named_parameters() if V.requires_grad}
        by_equations = (
            net.backward != "autograd"
            and net.called_otherwise() is None
            and {name for name, _ in net.named_parameters()} == {"W1", "b1", "W2", "b2"}
            and not torch.is_autocast_enabled(self.device.type)  # it has no say in what builds no graph
        )

        def gradients(batch: Batch) -> Tensor:
            X, Y, w = as_examples(batch)
            X, T, Y = self.prepared(X, Y)
            self._evaluate_training(X, Y, w)
            if by_equations:
                J, grads = net.loss_and_grads(X, T, sample_weight=w)
            else:
                J, grads = gradients_by_autograd(net, X, T, w)
            for name, V in parameters.items():
                V.grad = grads[name]
            return J

        return gradients

    def kernel_problem(self, block: Block) -> Problem | str:
        if "train" in self._evaluations:
            return "train_metrics look at every batch"
        return problem(self.net, block.tensors, self.standardize_inputs, self.standardize_targets)

    def after_steps(self, cost: Tensor, examples: int) -> None:
        self._costs = self._costs + cost * examples
        self._examples += examples

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the last steps of an epoch, so that callbacks find the values at its end."""
        trainer = self.trainer
        if self._examples and (trainer.is_last_batch or trainer.global_step == trainer.max_steps):
            self._log_training()

    # Once an epoch: logged in every step, the loss and the metrics cost more time than the step itself.

    def _log_training(self) -> None:
        J = torch.as_tensor(self._costs) / self._examples
        self.log(
            "train_loss", J, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True, batch_size=self._examples
        )
        if "train" in self._evaluations:
            values = self._evaluations["train"].compute()
            self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=self._examples)
        self._logged = True

    def on_train_epoch_end(self) -> None:
        if self._examples:
            if not self._logged:
                self._log_training()
            self._check_training((torch.as_tensor(self._costs) / self._examples).item())
        self._costs, self._examples, self._logged = 0.0, 0, False
        super().on_train_epoch_end()

    def _check_training(self, J: float) -> None:
        if not math.isfinite(J):  # on a GPU; elsewhere each step is looked at
            raise FloatingPointError(f"train_loss is {J} after epoch {self.trainer.current_epoch}")
        if self.first_cost is not None and J > 1e10 * self.first_cost.item() > 0:
            rank_zero_info(
                f"train_loss is {J:.3g} after epoch {self.trainer.current_epoch}, more than ten orders above the cost "
                f"at the start, {self.first_cost.item():.3g}: the learning rate may be too large"
            )
            self.first_cost = None

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self(batch if isinstance(batch, Tensor) else batch[0])

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    @torch.no_grad()
    def _evaluate_training(self, X: Tensor, Y: Tensor, w: Tensor | None) -> None:
        if "train" in self._evaluations:
            self._evaluations["train"].update(self._predictions(self.net(X)), Y, sample_weight=w)

    def _step(self, batch: Batch, stage: str) -> None:
        X, Y, w = as_examples(batch)
        X, T, Y = self.prepared(X, Y)
        logits = self.net(X)
        J = self.net.cost(logits, T, sample_weight=w)
        if J.device.type == "cpu" and not J.isfinite() and (found := of_a_batch(batch)):
            raise ValueError(f"rows of {stage} must be finite, but {found} of a batch")
        weight: Tensor | float = len(X)
        if self.net.class_weight is not None:  # all logits alike, every example costs the same, times its weight
            even = torch.zeros_like(logits)
            costs = self.net.cost(even, T, sample_weight=w, reduction="sum")
            weight = costs / math.log(max(2, self.net.out_features))
        elif w is not None:
            weight = w.sum()
        self._evaluations[stage].update(self._predictions(logits), Y, (J, weight), w)

    def _log_metrics(self, stage: str) -> None:
        values = self._evaluations[stage].compute()
        for name, value in values.items():
            self.log(name, value, prog_bar=name.endswith("_loss"), sync_dist=True)
        J = values.get("val_loss")
        if J is not None and not J.isfinite() and self.trainer.state.fn == "fit":
            raise FloatingPointError(f"val_loss is {J.item()} after step {self.trainer.global_step}")

    def prepared(self, X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the network takes and what its cost compares with, standardised, and the targets in raw units.

        Raises:
            ValueError: the rows have another width than the network.
        """
        if self.standardize_targets is None:
            return self.standardize_inputs(X), Y, Y
        n_y = self.net.out_features
        if Y.shape != (len(X), n_y) and not (n_y == 1 and Y.shape == (len(X),)):
            raise ValueError(f"Y must have shape ({len(X)}, {n_y}) for X of {len(X)} rows, got {tuple(Y.shape)}")
        Y = Y.reshape(len(X), n_y)
        return self.standardize_inputs(X), self.standardize_targets(Y), Y

    def _predictions(self, logits: Tensor) -> Tensor:
        A2 = self.net.output(logits)
        return A2 if self.standardize_targets is None else self.standardize_targets.inverse(A2)


def _class_of(factory: Any) -> type | None:
    """The class that a factory makes instances of, if it is one or a ``functools.partial`` of one."""
    if isinstance(factory, type):
        return factory
    parts = (factory.func, *factory.args) if isinstance(factory, partial) else ()
    return next((found for part in parts if (found := _class_of(part)) is not None), None)


def _fuse(optimizer: Optimizer) -> None:
    """Makes the optimizer update all parameters in one call, if it can and was not told how to."""
    devices = {V.device.type for group in optimizer.param_groups for V in group["params"]}
    told = optimizer.defaults.get("foreach") is not None or optimizer.defaults.get("differentiable")
    if optimizer.defaults.get("fused", False) is None and not told and devices <= {"cpu", "cuda"}:
        for options in (optimizer.defaults, *optimizer.param_groups):
            options["fused"] = True
