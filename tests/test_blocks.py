"""Several optimiser steps in one call of training_step: the same training as one at a time, with all of Lightning."""

import logging
import math
import subprocess
import sys
import warnings
from copy import deepcopy
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import TensorDataset

L = pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger

import twolayer
from twolayer import TwoLayerNet, data
from twolayer.loading import TensorLoader
from twolayer.training import LitTwoLayer, StepsInBlocks
from twolayer.training.progress import RunProgressBar

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*smaller than the logging interval",
    "ignore:When using `Trainer.accumulate_grad_batches != 1.` and overriding",
    "ignore:Be aware that when using `ckpt_path`",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)

SETS = {"binary": data.Moons, "multiclass": data.Blobs, "regression": data.Diabetes}
SHRINKS = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
SGD = partial(torch.optim.SGD, lr=0.3, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.03)


def module_of(task="binary", **options):
    return SETS[task](**{"batch_size": 13, "val_fraction": 0, "test_fraction": 0, **options})


@pytest.fixture
def fit(tmp_path):
    """Trains in double precision, and returns the trainer."""

    def fit(steps_per_call, module=None, loader=None, model=None, ckpt_path=None, **options):
        model = model or LitTwoLayer
        given = {
            name: options.pop(name)
            for name in ("optimizer", "lr_scheduler", "backward", "class_weight", "train_metrics", "standardize")
            if name in options
        }
        module = module or module_of()
        torch.manual_seed(0)
        model = model(
            module.in_features,
            5,
            module.out_features,
            task=module.task,
            activation="tanh",
            steps_per_call=steps_per_call,
            **given,
        )
        defaults = {
            "accelerator": "cpu",
            "max_epochs": 2,
            "precision": "64-true",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        trainer = L.Trainer(**defaults | options)
        trainer.fit(model, loader, datamodule=None if loader else module, ckpt_path=ckpt_path)
        return trainer

    return fit


def weights(trainer):
    return dict(trainer.lightning_module.net.state_dict())


def blocks_of(trainer):
    return trainer.fit_loop._combined_loader.flattened[0].steps_per_call


def assert_same(trainer, other):
    assert trainer.global_step == other.global_step
    assert trainer.current_epoch == other.current_epoch
    assert_close(weights(trainer), weights(other), rtol=1e-9, atol=1e-11)


# The same training.


@pytest.mark.parametrize("steps_per_call", [1, 4, 16])
@pytest.mark.parametrize("task", SETS)
def test_as_a_loop_by_hand(fit, task, steps_per_call):
    module = module_of(task)
    trainer = fit(steps_per_call, module, optimizer=ADAM)
    assert blocks_of(trainer) == steps_per_call

    torch.manual_seed(0)
    net = TwoLayerNet(module.in_features, 5, module.out_features, task=task, activation="tanh").double()
    seq, optimizer = net.to_sequential(), ADAM(net.parameters())
    loss_of = {
        "binary": lambda Z, Y: torch.nn.functional.binary_cross_entropy_with_logits(Z.squeeze(-1), Y.double()),
        "multiclass": torch.nn.functional.cross_entropy,
        "regression": lambda Z, Y: 0.5 * (Z - Y).square().sum(-1).mean(),
    }[task]
    X, Y = (tensor[module.splits["train"]] for tensor in module.tensors)
    X = X.double()
    X = (X - X.mean(0).float()) / X.std(0, correction=0).float()
    if task == "regression":
        Y = Y.double()
        Y = (Y - Y.mean(0).float()) / Y.std(0, correction=0).float()
    costs = []
    for epoch in range(2):
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(epoch))
        costs.append(0.0)
        for rows in order.split(13):
            optimizer.zero_grad()
            J = loss_of(seq(X[rows]), Y[rows])
            J.backward()
            optimizer.step()
            costs[-1] += J.item() * len(rows) / len(X)
    assert trainer.global_step == 2 * math.ceil(len(X) / 13)
    # The statistics are rounded to float32 in the model, and here.
    assert_close(weights(trainer), dict(net.state_dict()), rtol=1e-5, atol=1e-6)
    assert trainer.callback_metrics["train_loss"].item() == pytest.approx(costs[-1], rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": SGD},
        {"optimizer": ADAM, "class_weight": [1.0, 3.0]},
        {"optimizer": SGD, "gradient_clip_val": 0.05},
        {"optimizer": SGD, "gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"optimizer": SGD, "backward": "autograd"},
        {"optimizer": SGD, "lr_scheduler": partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5), "max_epochs": 4},
        {"optimizer": partial(torch.optim.LBFGS, max_iter=3)},
        {"optimizer": partial(torch.optim.Adam, lr=0.03, foreach=True)},
    ],
    ids=lambda options: "-".join(options),
)
def test_as_lightning_s_own_step(fit, options):
    assert_same(fit(4, **options), fit(None, **options))


def test_clipping_clips(fit):
    free, clipped = fit(4, optimizer=SGD), fit(4, optimizer=SGD, gradient_clip_val=0.05)
    assert (free.lightning_module.net.W1 - clipped.lightning_module.net.W1).abs().max() > 0.1


def test_bfloat16_goes_through_autocast(fit):
    blocks, plain, full = (
        fit(k, optimizer=SGD, precision=p) for k, p in ((4, "bf16-mixed"), (None, "bf16-mixed"), (4, 32))
    )
    assert_close(weights(blocks), weights(plain), rtol=1e-5, atol=1e-6)
    assert (weights(blocks)["W1"] - weights(full)["W1"]).abs().max() > 1e-4


def test_half_precision_converts_the_batches(fit):
    blocks, plain = (fit(k, optimizer=SGD, precision="bf16-true") for k in (4, None))
    assert weights(blocks)["W1"].dtype == torch.bfloat16
    assert_close(weights(blocks), weights(plain), rtol=0.05, atol=0.05)  # 62 steps, each rounded to 8 bits


def test_a_parameter_that_requires_no_gradient_stays(fit):
    class Frozen(LitTwoLayer):
        def configure_optimizers(self):
            self.net.b1.requires_grad_(False)
            return super().configure_optimizers()

    trainer = fit(4, model=Frozen, optimizer=SGD)
    assert blocks_of(trainer) == 4
    assert torch.equal(weights(trainer)["b1"], torch.zeros(5).double())
    assert_same(trainer, fit(None, model=Frozen, optimizer=SGD))


def test_a_plateau_is_watched_after_each_epoch(fit):
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1e9, factor=0.5)
    module = partial(module_of, val_fraction=0.2)
    runs = [fit(k, module(), optimizer=SGD, lr_scheduler=plateau, max_epochs=4) for k in (4, None)]
    assert 0 < runs[0].optimizers[0].param_groups[0]["lr"] < 0.1
    assert_same(*runs)


def test_a_module_s_own_clipping_is_called(fit):
    trainer = fit(4, model=Clips, optimizer=SGD)
    assert blocks_of(trainer) is None
    assert_same(trainer, fit(4, optimizer=SGD, gradient_clip_val=0.02))


# What the loop around counts.


def test_each_step_calls_its_hook_with_its_gradients_and_count(fit):
    class Watch(Callback):
        def __init__(self):
            self.seen = []

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.seen.append((trainer.global_step, pl_module.net.W1.grad.norm().item()))

    runs = [Watch(), Watch()]
    for watch, steps_per_call in zip(runs, (4, None), strict=True):
        trainer = fit(steps_per_call, optimizer=SGD, callbacks=watch)
        assert blocks_of(trainer) is None  # it might log, or stop the run
    assert [step for step, _ in runs[0].seen] == list(range(62))
    assert runs[0].seen == runs[1].seen


def test_global_step_is_right_at_each_step_of_a_block(fit):
    seen = []

    class Watched(LitTwoLayer):
        def configure_optimizers(self):
            model = self

            class Watches(torch.optim.SGD):
                def step(self, closure=None):
                    seen.append(model.trainer.global_step)
                    return super().step(closure)

            return Watches(self.net.parameters(), lr=0.3)

    trainer = fit(4, model=Watched)
    assert blocks_of(trainer) == 4
    assert seen == list(range(62))


@pytest.mark.parametrize("max_steps", [7, 31, 44])
def test_it_stops_at_max_steps(fit, max_steps):
    options = {"optimizer": SGD, "max_steps": max_steps, "max_epochs": -1}
    trainer = fit(16, **options)
    assert trainer.global_step == max_steps
    assert blocks_of(trainer) == {7: 7, 31: 16, 44: 13}[max_steps]  # 31 steps an epoch
    assert_same(trainer, fit(None, **options))


def test_checkpoints_come_at_the_steps_asked_for(fit, tmp_path):
    def steps(k, every=10):
        folder = tmp_path / f"{k}-{every}"
        callback = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=every)
        trainer = fit(k, module_of(n_samples=390), callbacks=callback, enable_checkpointing=True)  # 30 steps an epoch
        return blocks_of(trainer), sorted(int(path.stem.removeprefix("step=")) for path in folder.iterdir())

    assert steps(None) == (None, [10, 20, 30, 40, 50, 60])
    assert steps(16) == (10, [10, 20, 30, 40, 50, 60])
    assert steps(4) == (2, [10, 20, 30, 40, 50, 60])
    assert steps(20, every=20) == (10, [20, 40, 60])
    assert steps(16, every=60) == (16, [60])


def test_logs_stand_at_the_step_that_they_are_of(fit, tmp_path):
    def steps(k):
        trainer = fit(k, module_of(val_fraction=0.2), logger=CSVLogger(tmp_path / f"{k}"), log_every_n_steps=1)
        trainer.test(trainer.lightning_module, TensorLoader(module_of().tensors, batch_size=13), verbose=False)
        return (tmp_path / f"{k}/lightning_logs/version_0/metrics.csv").read_text().splitlines()

    def table(lines):
        header, *rows = [line.split(",") for line in lines]
        return [{name: float(cell) for name, cell in zip(header, row, strict=True) if cell} for row in rows]

    blocks, plain = table(steps(4)), table(steps(None))
    assert blocks == [pytest.approx(row, rel=1e-5) for row in plain]
    assert [row["step"] for row in blocks if "train_loss" in row] == [24, 49]


def test_train_metrics_when_asked(fit):
    runs = [fit(k, optimizer=SGD, train_metrics=True) for k in (4, None)]
    found, expected = (trainer.callback_metrics for trainer in runs)
    assert {"train_accuracy", "train_auroc", "train_f1", "train_loss"} == set(found)
    assert_close(found, expected)
    assert "train_accuracy" not in fit(4).callback_metrics


# Resuming.


@pytest.mark.parametrize("step", [10, 20, 40, 60])
@pytest.mark.parametrize("steps_per_call", [None, 1, 5])
def test_a_run_resumed_within_an_epoch_ends_where_an_uninterrupted_one_does(fit, tmp_path, steps_per_call, step):
    module = partial(module_of, n_samples=390)  # 30 steps an epoch
    options = {"optimizer": ADAM, "max_epochs": 3, "enable_checkpointing": True, "precision": 32}
    checkpoint = partial(ModelCheckpoint, filename="{step}", save_top_k=-1, every_n_train_steps=10)
    whole = fit(steps_per_call, module(), callbacks=checkpoint(tmp_path / "whole"), **options)
    path = tmp_path / f"whole/step={step}.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == step
    resumed = fit(steps_per_call, module(), callbacks=checkpoint(tmp_path / "new"), ckpt_path=path, **options)
    assert resumed.global_step == 90
    assert_same(resumed, whole)
    assert_close(resumed.optimizers[0].state_dict(), whole.optimizers[0].state_dict())


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("at_the_end", [True, False])
@pytest.mark.parametrize("length", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 24}])
@pytest.mark.parametrize("short", [{"limit_train_batches": 7}, {"limit_train_batches": 0.25}, {"overfit_batches": 7}])
def test_a_run_resumed_between_epochs_that_are_cut_short(fit, tmp_path, short, length, at_the_end):
    """Of the 30 batches in an epoch, the trainer takes seven. Those left over are not the next ones."""
    module = partial(module_of, n_samples=390)
    options = {"optimizer": ADAM, "enable_checkpointing": True, "precision": 32, **short, **length}
    when = {"every_n_epochs": 1, "save_on_train_epoch_end": True} if at_the_end else {"every_n_train_steps": 7}
    checkpoint = partial(ModelCheckpoint, filename="{step}", save_top_k=-1, **when)
    whole = fit(16, module(), callbacks=checkpoint(tmp_path / "whole"), **options)
    assert whole.global_step > 21
    for path in (tmp_path / "whole").glob("step=*.ckpt"):
        if (step := torch.load(path, weights_only=True)["global_step"]) < whole.global_step:
            assert step % 7 == 0
            resumed = fit(16, module(), callbacks=checkpoint(tmp_path / "new"), ckpt_path=path, **options)
            assert_same(resumed, whole)


@pytest.mark.parametrize("lr_scheduler", [None, partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.05)])
def test_a_run_of_steps_resumed_between_epochs(fit, tmp_path, lr_scheduler):
    """Lightning counts the epoch twice, then and ever after."""
    module = partial(module_of, n_samples=130)
    options = {"optimizer": ADAM, "max_epochs": -1, "max_steps": 45, "precision": 32, "lr_scheduler": lr_scheduler}
    checkpoint = partial(ModelCheckpoint, filename="{step}", save_top_k=-1, save_on_train_epoch_end=True)
    options |= {"enable_checkpointing": True}
    whole = fit(16, module(), callbacks=checkpoint(tmp_path / "whole"), **options)
    for step in (10, 20, 30):
        path = tmp_path / f"whole/step={step}.ckpt"
        resumed = fit(16, module(), callbacks=checkpoint(tmp_path / "new"), ckpt_path=path, **options)
        assert_same(resumed, whole)


@pytest.mark.parametrize("steps_per_call", [None, 1])
@pytest.mark.parametrize("first", [7, 31, 44])
def test_a_run_stopped_by_max_steps_goes_on(fit, tmp_path, first, steps_per_call):
    options = {"optimizer": ADAM, "max_epochs": -1, "precision": 32}
    whole = fit(steps_per_call, max_steps=75, **options)
    half = fit(steps_per_call, max_steps=first, **options)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = fit(steps_per_call, max_steps=75, ckpt_path=tmp_path / "half.ckpt", **options)
    assert resumed.global_step == whole.global_step == 75
    assert_close(weights(resumed), weights(whole), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("max_epochs", [-1, 9])
@pytest.mark.parametrize(("first", "then", "blocks"), [(5, 13, 3), (5, 16, 16), (7, 62, 2), (13, 31, 1)])
@pytest.mark.parametrize("others", [(16, 16), (16, None), (None, 16), (3, 5)])
def test_a_run_that_max_steps_ended_goes_on_with_others_and_other_blocks(
    fit, tmp_path, first, then, blocks, max_epochs, others
):
    """Ten steps an epoch. The first ends within one, as do the second and its checkpoints."""
    rows = partial(module_of, n_samples=130, val_fraction=0)
    options = {"optimizer": ADAM, "max_epochs": max_epochs, "precision": 32, "lr_scheduler": SHRINKS}
    whole = fit(None, rows(), max_steps=then, **options)
    half = fit(others[0], rows(), max_steps=first, **options)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = fit(others[1], rows(), max_steps=then, ckpt_path=tmp_path / "half.ckpt", **options)
    assert resumed.global_step == then
    if others[1] == 16:
        assert blocks_of(resumed) == {3: 3, 6: 6, 2: 2, 1: 1}[then % 10]
    assert resumed.current_epoch == whole.current_epoch
    assert_close(weights(resumed), weights(whole), rtol=1e-6, atol=1e-7)
    assert resumed.fit_loop.epoch_loop.batch_progress.is_last_batch == (then % 10 == 0)
    lr = [trainer.optimizers[0].param_groups[0]["lr"] for trainer in (resumed, whole)]
    assert lr[0] == pytest.approx(lr[1])


@pytest.mark.parametrize("steps_per_call", [None, 5])
def test_a_plateau_looks_at_the_end_of_an_epoch_within_which_a_run_was_resumed(fit, tmp_path, steps_per_call):
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1e9, factor=0.5)
    saves = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=10)
    options = {"optimizer": SGD, "lr_scheduler": plateau, "max_epochs": 3}
    rows = partial(module_of, val_fraction=0.2)  # 25 steps an epoch
    whole = fit(steps_per_call, rows(), callbacks=saves, enable_checkpointing=True, **options)
    for step in (10, 30, 70):
        resumed = fit(steps_per_call, rows(), ckpt_path=tmp_path / f"step={step}.ckpt", **options)
        states = [trainer.lr_scheduler_configs[0].scheduler.state_dict() for trainer in (whole, resumed)]
        assert states[0] == states[1]
        assert_same(resumed, whole)


@pytest.mark.parametrize("after", [None, 16, 4])
@pytest.mark.parametrize("step", [4, 8, 10, 12, 20])
def test_checkpoints_at_other_steps_and_other_blocks_after_a_resume(fit, tmp_path, step, after):
    rows = partial(module_of, n_samples=130)  # ten steps an epoch
    options = {"optimizer": ADAM, "max_epochs": 4, "precision": 32, "enable_checkpointing": True}

    def checkpoint(folder, every):
        return ModelCheckpoint(tmp_path / folder, "{step}", save_top_k=-1, every_n_train_steps=every)

    whole = fit(16, rows(), callbacks=checkpoint("whole", 4 if step % 4 == 0 else 5), **options)
    path = tmp_path / f"whole/step={step}.ckpt"
    resumed = fit(after, rows(), callbacks=checkpoint("new", 3), ckpt_path=path, **options)
    assert (resumed.global_step, resumed.current_epoch) == (40, 4)
    assert_close(weights(resumed), weights(whole), rtol=1e-5, atol=1e-6)  # float32: one sums in chunks, one in a graph
    found = sorted(int(path.stem.removeprefix("step=")) for path in (tmp_path / "new").iterdir())
    assert found == [step for step in range(step + 1, 41) if step % 3 == 0]


def test_a_checkpoint_in_blocks_says_of_itself_what_one_without_says(fit, tmp_path):
    def state(k, name):
        options = {"max_steps": 24, "max_epochs": -1, "enable_checkpointing": True}
        callback = ModelCheckpoint(tmp_path / name, "{step}", save_top_k=-1, every_n_train_steps=6)
        fit(k, module_of(n_samples=130), callbacks=callback, **options)
        loops = [torch.load(path, weights_only=True)["loops"] for path in sorted((tmp_path / name).iterdir())]
        progress = ("epoch_loop.batch_progress", "epoch_progress", "epoch_loop.automatic_optimization.optim_progress")
        return [{name: loop["fit_loop"][name] for name in ("state_dict", *progress)} for loop in loops]

    assert state(16, "blocks") == state(None, "plain")


# On several processes, and on a GPU.

IN_TWO_PROCESSES = """
import sys
from functools import partial
import lightning as L
import torch
from twolayer import data
from twolayer.training import LitTwoLayer, StepsInBlocks

steps_per_call, strategy, path = sys.argv[1:]
module = data.Moons(n_samples=199, batch_size=13, val_fraction=0, test_fraction=0)
torch.manual_seed(0)
optimizer = partial(torch.optim.SGD, lr=0.3)  # not Adam, to which twice the gradient is the same
model = LitTwoLayer(2, 5, 1, activation="tanh", optimizer=optimizer, steps_per_call=int(steps_per_call) or None)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
options = {"accelerator": "cpu", "devices": 2, "strategy": strategy, "max_epochs": 2, **quiet}
trainer = L.Trainer(**options)
trainer.fit(model, module)
loader = trainer.train_dataloader
found = {"weights": dict(model.net.state_dict()), "blocks": loader.steps_per_call, "steps": trainer.global_step}
found |= {"train_loss": trainer.callback_metrics["train_loss"], "rows": len(loader.sampler)}
torch.save(found, f"{path}-{trainer.global_rank}.pt")
"""


def in_two_processes(folder, steps_per_call, strategy):
    """What each of them has at the end."""
    script = folder / "script.py"
    script.write_text(IN_TWO_PROCESSES)
    path = folder / f"{steps_per_call}-{strategy}"
    subprocess.run(
        [sys.executable, str(script), str(steps_per_call), strategy, str(path)],
        env={"PYTHONPATH": str(Path(twolayer.__file__).parents[1]), "PATH": "", "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    return [torch.load(f"{path}-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_average_their_gradients(tmp_path):
    plain, _ = in_two_processes(tmp_path, 0, "ddp")
    assert plain["blocks"] is None
    assert plain["steps"] == 2 * math.ceil(100 / 13)
    for strategy in ("ddp", "ddp_find_unused_parameters_true"):
        first, second = in_two_processes(tmp_path, 4, strategy)
        assert first["blocks"] == 4
        assert plain["steps"] == first["steps"]
        assert first["rows"] == 100
        assert_close(first["weights"], second["weights"], rtol=0, atol=0)
        assert_close(first["weights"], plain["weights"])
        assert_close(first["train_loss"], plain["train_loss"])


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_on_a_gpu_waits_for_nothing(fit, precision):
    class Forbids(Callback):
        """Any wait, from the second step of an epoch to its last."""

        def on_train_epoch_end(self, trainer, pl_module):
            torch.cuda.set_sync_debug_mode("default")

    class Counts(torch.optim.Adam):
        steps = 0

        def step(self, closure=None):
            torch.cuda.set_sync_debug_mode("error")
            self.steps += 1
            return super().step(closure)

    on_the_gpu = {"accelerator": "gpu", "devices": 1, "precision": precision, "callbacks": Forbids()}
    try:
        trainer = fit(4, module_of(on_device=True), optimizer=Counts, **on_the_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert blocks_of(trainer) == 4
    assert trainer.optimizers[0].steps == trainer.global_step
    assert trainer.train_dataloader.dataset.tensors[0].is_cuda


# What asks for every single batch gets it.


class CountsBatches(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pass


class ComesBetween(Callback):
    looks_between_blocks = True

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pass


class SaysNothingOfIts(ComesBetween):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pass


class OwnStep(LitTwoLayer):
    def training_step(self, batch, batch_idx):
        X, _ = batch
        assert isinstance(X, torch.Tensor)
        return super().training_step(batch, batch_idx)


class Clips(LitTwoLayer):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        self.clip_gradients(optimizer, gradient_clip_val=0.02, gradient_clip_algorithm="norm")


class Logs(LitTwoLayer):
    """As Lightning's documentation logs the norm of the gradients."""

    def on_before_optimizer_step(self, optimizer):
        self.log("norm", self.net.W1.grad.norm(), on_step=True, on_epoch=True)


class Penalised(LitTwoLayer):
    def batch_loss(self, batch):
        return super().batch_loss(batch) + self.net.W1.square().sum()


class StepsItsScheduler(LitTwoLayer):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 2}}


class AsksForItsSteps(LitTwoLayer):
    """As Lightning's documentation fills in the steps of a scheduler."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class OptimizerHook(LitTwoLayer):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.register_step_post_hook(self.after)
        return optimizer

    def after(self, *_):
        self.trainer.should_stop = self.trainer.global_step >= 20


class OptimizerStep(LitTwoLayer):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        step = optimizer.step
        optimizer.step = lambda closure=None: step(closure)
        return optimizer


class ParameterHook(LitTwoLayer):
    def configure_optimizers(self):
        self.net.W1.register_hook(lambda dW1: dW1.clamp(-0.01, 0.01))
        return super().configure_optimizers()


class HookAfterwards(LitTwoLayer):
    def configure_optimizers(self):
        self.net.b2.register_post_accumulate_grad_hook(lambda b2: b2.grad.clamp_(-0.01, 0.01) and None)
        return super().configure_optimizers()


class LearnsItsInputs(LitTwoLayer):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.mixes = torch.nn.Linear(2, 2)

    def prepared(self, X, Y):
        X, T, Y = super().prepared(X, Y)
        return self.mixes(X.to(self.mixes.weight.dtype)), T, Y

    def configure_optimizers(self):
        return SGD(self.parameters())


class LogsCosts(LitTwoLayer):
    def after_steps(self, cost, examples):
        super().after_steps(cost, examples)
        self.log("cost", cost, on_step=True, batch_size=examples)


class NotAutomatic(LitTwoLayer):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.automatic_optimization = False


class ComputesAndClips(LitTwoLayer):
    """Its gradients of a block are its own, and its hooks know of no block."""

    def batch_gradients(self):
        return super().batch_gradients()

    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        self.clip_gradients(optimizer, gradient_clip_val=0.02, gradient_clip_algorithm="norm")


class WatchesRates(LearningRateMonitor):
    def on_train_batch_end(self, *args):
        pass


class Doubles(data.Moons):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        X, Y = batch
        return 2 * X, Y


HELD_OUT = {"module": {"val_fraction": 0.2}}
ONE_AT_A_TIME = {
    "accumulate_grad_batches is 3": {"accumulate_grad_batches": 3},
    "StochasticWeightAveraging may look at every batch": {"callbacks": StochasticWeightAveraging(0.1, 1)},
    "GradientAccumulationScheduler may look at every batch": {"callbacks": GradientAccumulationScheduler({0: 1, 1: 3})},
    "limit_train_batches is 4, which counts batches": {"limit_train_batches": 4},
    "limit_train_batches is 1, which counts batches": {"limit_train_batches": 1},
    "limit_train_batches is 0.5, which counts batches": {"limit_train_batches": 0.5},
    "val_check_interval is 5, which counts batches": {"val_check_interval": 5, **HELD_OUT},
    "val_check_interval is 0.25, which counts batches": {"val_check_interval": 0.25, **HELD_OUT},
    "val_check_interval is a time, which may end at every batch": {"val_check_interval": "00:00:00:02", **HELD_OUT},
    "min_steps is 40, where a stop may come between batches": {"min_steps": 40},
    "LambdaCallback has on_after_backward": {"callbacks": LambdaCallback(on_after_backward=lambda *_: None)},
    "LambdaCallback has on_before_optimizer_step": {
        "callbacks": LambdaCallback(on_before_optimizer_step=lambda *_: None)
    },
    "CountsBatches has on_train_batch_end": {"callbacks": CountsBatches()},
    "SaysNothingOfIts has on_train_batch_start": {"callbacks": SaysNothingOfIts()},
    "LearningRateMonitor may look at every batch": {"callbacks": LearningRateMonitor(), "logger": True},
    "OwnStep has a training_step of its own": {"model": OwnStep},
    "Clips has a configure_gradient_clipping of its own": {"model": Clips},
    "Logs has a on_before_optimizer_step of its own": {"model": Logs},
    "Penalised has a batch_loss of its own": {"model": Penalised},
    "ExponentialLR counts batches by itself": {"model": StepsItsScheduler},
    "the rows were asked for before there were optimizers": {"model": AsksForItsSteps},
    "train_time_interval is 0:01:00, which may end at every batch": {
        "callbacks": ModelCheckpoint(train_time_interval=timedelta(minutes=1)),
        "enable_checkpointing": True,
    },
    "Doubles has a on_after_batch_transfer of its own": {"data": Doubles},
    "WatchesRates has on_train_batch_end": {"callbacks": WatchesRates("epoch"), "logger": True},
    "the optimizer has a hook": {"model": OptimizerHook},
    "the optimizer has a step of its own": {"model": OptimizerStep},
    "net.W1 has a hook": {"model": ParameterHook},
    "net.b2 has a hook": {"model": HookAfterwards},
    "LearnsItsInputs has a prepared of its own": {"model": LearnsItsInputs},
    "LogsCosts has a after_steps of its own": {"model": LogsCosts},
    "automatic_optimization is off": {"model": NotAutomatic},
    "ComputesAndClips has a configure_gradient_clipping of its own": {"model": ComputesAndClips},
    "detect_anomaly looks at every backward pass": {"detect_anomaly": True},
}


@pytest.mark.parametrize("max_steps", [-1, 45])
def test_a_schedule_of_steps_runs_within_blocks(fit, max_steps):
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, pct_start=0.05)
    options = {"optimizer": SGD, "lr_scheduler": one_cycle, "max_steps": max_steps}
    trainer, other = fit(4, **options), fit(None, **options)
    assert blocks_of(trainer) is not None
    assert_same(trainer, other)
    (config,), (of_other,) = trainer.lr_scheduler_configs, other.lr_scheduler_configs
    assert config.scheduler.state_dict() == of_other.scheduler.state_dict()
    assert config.scheduler.total_steps == trainer.global_step


@pytest.mark.parametrize("reason", ONE_AT_A_TIME)
def test_what_counts_batches_gets_one_at_a_time_and_the_run_says_so(fit, caplog, reason, tmp_path):
    options = {"optimizer": SGD, **ONE_AT_A_TIME[reason]}
    module = options.pop("module", {})
    module_of = partial(
        options.pop("data", data.Moons), batch_size=13, **{"val_fraction": 0, "test_fraction": 0, **module}
    )
    if options.pop("logger", False):
        options["logger"] = CSVLogger(tmp_path)
    with caplog.at_level(logging.INFO):
        trainer = fit(4, module_of(), **deepcopy(options))
    assert f"steps_per_call: None, since {reason} (configured: 4)" in caplog.text
    assert blocks_of(trainer) is None
    other = fit(None, module_of(), **deepcopy(options))
    assert_same(trainer, other)
    assert_close(dict(trainer.callback_metrics), dict(other.callback_metrics), equal_nan=True)


def accumulates(trainer, model):
    trainer.accumulate_grad_batches = 4


def looks_at_batches(trainer, model):
    trainer.callbacks.append(CountsBatches())


def clamps_gradients(trainer, model):
    model.net.W1.register_hook(lambda dW1: dW1.clamp(-0.01, 0.01))


def ends_within_an_epoch(trainer, model):
    trainer.fit_loop.epoch_loop.max_steps = 70


@pytest.mark.parametrize(
    "case",
    [
        (accumulates, "accumulate_grad_batches is 4", None),
        (looks_at_batches, "CountsBatches has on_train_batch_end", None),
        (clamps_gradients, "net.W1 has a hook", None),
        (ends_within_an_epoch, "for blocks to end where max_steps", 8),
    ],
    ids=lambda case: case[0].__name__,
)
@pytest.mark.parametrize("when", ["on_train_start", "on_train_epoch_start"])
@pytest.mark.parametrize("resumed", [False, True])
def test_what_changes_when_an_epoch_begins_changes_the_blocks(fit, caplog, case, when, resumed):
    change, said, blocks = case

    class Changes(Callback):
        def on_train_start(self, trainer, pl_module):
            if when == "on_train_start":
                change(trainer, pl_module)

        def on_train_epoch_start(self, trainer, pl_module):
            if when == "on_train_epoch_start" and trainer.current_epoch == 1:
                change(trainer, pl_module)

    options = {"optimizer": SGD, "max_epochs": 4}
    if resumed:  # within the first epoch
        saves = ModelCheckpoint(filename="{step}", save_top_k=-1, every_n_train_steps=16)
        fit(16, **options, callbacks=saves, enable_checkpointing=True)
        options["ckpt_path"] = Path(saves.dirpath) / "step=16.ckpt"
    with caplog.at_level(logging.INFO):
        trainer = fit(16, **options, callbacks=Changes())
    assert said in caplog.text
    assert blocks_of(trainer) == blocks
    assert_same(trainer, fit(None, **options, callbacks=Changes()))


def test_a_parameter_frozen_on_the_way_stays_where_it_is(fit):
    class Freezes(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.net.b1.requires_grad_(trainer.current_epoch != 1)

    runs = [fit(k, optimizer=SGD, callbacks=Freezes(), max_epochs=3) for k in (4, None)]
    assert blocks_of(runs[0]) == 4
    assert_same(*runs)


def test_a_scheduler_within_a_block_sees_the_step_that_was_taken(fit):
    class BySteps(LitTwoLayer):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            shrinks = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1 / (1 + self.trainer.global_step))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": shrinks, "interval": "step"}}

    runs = [fit(k, model=BySteps, optimizer=SGD) for k in (4, None)]
    assert blocks_of(runs[0]) == 4
    assert_same(*runs)


def test_the_gradients_of_the_last_step_are_there_at_the_end_of_an_epoch(fit):
    class Looks(Callback):
        def __init__(self):
            self.norms = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.norms.append(pl_module.net.W1.grad.norm().item())

    blocks, plain = Looks(), Looks()
    options = {"optimizer": SGD, "limit_val_batches": 0}  # before a validation, Lightning removes them
    assert blocks_of(fit(4, **options, callbacks=blocks)) == 4
    fit(None, **options, callbacks=plain)
    assert blocks.norms == pytest.approx(plain.norms)


def test_an_optimizer_that_asks_several_times_for_a_cost_tells_one_a_step(fit):
    """That before the step, in blocks and without."""
    lbfgs = partial(torch.optim.LBFGS, lr=2.0, max_iter=4)
    runs = [fit(k, optimizer=lbfgs, max_epochs=1) for k in (4, None)]
    (found, expected) = (trainer.callback_metrics["train_loss"] for trainer in runs)
    assert_close(found, expected)
    one = fit(None, module_of(batch_size=None), optimizer=lbfgs, max_epochs=1)
    assert_close(one.callback_metrics["train_loss"], one.lightning_module.first_cost)


def test_few_blocks_are_not_few_batches(fit, tmp_path, recwarn):
    options = {"logger": CSVLogger(tmp_path), "max_epochs": 1}
    warnings.resetwarnings()
    fit(16, log_every_n_steps=32, **options)
    said = [found for found in recwarn if "smaller than the logging interval" in str(found.message)]
    assert said
    assert blocks_of(fit(16, log_every_n_steps=31, **options)) == 16
    assert said == [found for found in recwarn if "smaller than the logging interval" in str(found.message)]


@pytest.mark.parametrize("interval", [0.25, 0.5, timedelta(seconds=0), {"seconds": 3600}])
def test_validations_come_when_they_are_asked_for(fit, interval):
    seen = []
    callback = LambdaCallback(on_validation_end=lambda trainer, _: seen.append(trainer.global_step))
    rows = partial(module_of, n_samples=1040, val_fraction=0.2)  # 64 steps an epoch
    options = {"val_check_interval": interval, "callbacks": callback, "max_epochs": 1, "num_sanity_val_steps": 0}
    fit(32, rows(), **options)
    steps = {0.25: [16, 32, 48, 64], 0.5: [32, 64]}
    if isinstance(interval, float):
        assert seen == steps[interval]
    elif isinstance(interval, timedelta):
        assert seen == list(range(1, 65))
    else:
        assert seen == []


def test_a_callback_that_says_it_looks_between_blocks_leaves_them_alone(fit):
    assert blocks_of(fit(4, callbacks=ComesBetween())) == 4


def test_what_looks_on_between_epochs_leaves_the_blocks_alone(fit, tmp_path):
    class Prints(Callback):
        def on_train_epoch_start(self, trainer, pl_module): ...
        def on_validation_batch_end(self, *args): ...

    class OwnEnds(LitTwoLayer):
        def on_train_epoch_end(self):
            super().on_train_epoch_end()

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)

        def something_of_its_own(self): ...

    callbacks = [
        *(EarlyStopping("val_loss", patience=99), LearningRateMonitor("epoch"), ModelCheckpoint(tmp_path), Prints()),
        *(Timer(timedelta(hours=1)), RunProgressBar(), LambdaCallback(on_train_epoch_end=lambda *_: None)),
    ]
    options = {"enable_progress_bar": True, "enable_checkpointing": True, "logger": CSVLogger(tmp_path)}
    trainer = fit(4, module_of(val_fraction=0.2), model=OwnEnds, callbacks=callbacks, **options)
    assert blocks_of(trainer) == 4


def test_blocks_where_they_cannot_be_right_are_refused(fit):
    loader = TensorLoader(TensorDataset(*module_of().tensors), batch_size=13, steps_per_call=4)
    assert fit(None, loader=loader, standardize=False).global_step == 2 * 31
    with pytest.raises(
        ValueError, match="steps_per_call of the loader must be None, since accumulate_grad_batches is 2"
    ):
        fit(None, loader=loader, accumulate_grad_batches=2)
    with pytest.raises(ValueError, match=r"steps_per_call of the loader must be 3, for .* max_steps .* ask, got 4"):
        fit(None, loader=loader, max_steps=9)


def test_a_fused_optimizer_unless_told_otherwise(fit):
    def fused(optimizer):
        return fit(4, optimizer=optimizer, max_epochs=1).optimizers[0].param_groups[0].get("fused")

    assert fused(torch.optim.Adam) is fused(torch.optim.SGD) is fused(torch.optim.AdamW) is True
    assert fused(partial(torch.optim.Adam, fused=False)) is False
    assert fused(partial(torch.optim.Adam, foreach=True)) is None
    assert fused(torch.optim.Rprop) is None


@pytest.mark.parametrize("steps_per_call", [0, -1])
def test_bad_steps_per_call_is_named(steps_per_call):
    with pytest.raises(ValueError, match=f"steps_per_call must be at least 1, got {steps_per_call}"):
        LitTwoLayer(2, 3, 1, steps_per_call=steps_per_call)


# A LightningModule of one's own.


class InBlocks(StepsInBlocks):
    def __init__(self, steps_per_call):
        super().__init__(steps_per_call)
        torch.manual_seed(0)
        self.net = TwoLayerNet(2, 5, 1, activation="tanh")

    def batch_loss(self, batch):
        X, Y = batch
        return self.net.loss(X, Y)

    def batch_gradients(self):
        def gradients(batch):
            J, grads = self.net.loss_and_grads(*batch)
            for name, V in self.net.named_parameters():
                V.grad = grads[name]
            return J

        return gradients

    def configure_optimizers(self):
        return SGD(self.parameters())


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")
def test_a_module_of_one_s_own_takes_its_steps_in_blocks(tmp_path):
    def trained(module, **options):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = L.Trainer(accelerator="cpu", max_epochs=2, logger=False, precision="64-true", **quiet, **options)
        trainer.fit(module, module_of())
        return trainer

    trainer = trained(InBlocks(4))
    assert blocks_of(trainer) == 4
    assert trainer.global_step == 62
    assert_same(trainer, trained(InBlocks(None)))
    accumulated = trained(InBlocks(4), accumulate_grad_batches=2)
    assert blocks_of(accumulated) is None
    assert accumulated.global_step == 32


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")
def test_the_hooks_of_a_module_of_one_s_own_see_every_step(tmp_path):
    class Looks(InBlocks):
        seen = 0

        def on_before_optimizer_step(self, optimizer):
            self.seen += 1

    module = Looks(4)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, logger=False, precision="64-true", **quiet)
    trainer.fit(module, module_of())
    assert blocks_of(trainer) is None
    assert module.seen == 62
