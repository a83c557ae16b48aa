"""The progress bar of a run: what it counts, and how seldom it is drawn."""

from functools import partial

import pytest
import torch

L = pytest.importorskip("lightning")
pytest.importorskip("rich")
pytest.importorskip("sklearn")

from lightning.pytorch.callbacks import ModelCheckpoint

from twolayer import data
from twolayer.training import LitTwoLayer, progress
from twolayer.training.progress import RunProgressBar

pytestmark = pytest.mark.filterwarnings(
    "ignore:When using `Trainer.accumulate_grad_batches != 1.` and overriding",
)


class Watched(RunProgressBar):
    """Remembers what was drawn."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def _draw(self, trainer, pl_module):
        super()._draw(trainer, pl_module)
        self.drawn.append((self.train_progress_bar.completed, self.train_progress_bar.total))


@pytest.fixture
def fit(tmp_path):
    def fit(ckpt_path=None, callbacks=(), batch_size=13, steps_per_call=4, **options):
        bar = Watched()
        module = data.Moons(batch_size=batch_size, val_fraction=0.2, test_fraction=0)  # 320 rows, 25 steps an epoch
        defaults = {"accelerator": "cpu", "max_epochs": 3, "logger": False, "enable_checkpointing": bool(callbacks)}
        trainer = L.Trainer(**defaults | options, callbacks=[bar, *callbacks], enable_model_summary=False)
        torch.manual_seed(0)
        trainer.fit(LitTwoLayer(2, 3, 1, steps_per_call=steps_per_call), module, ckpt_path=ckpt_path)
        return trainer, bar

    return fit


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({}, 75),
        ({"steps_per_call": None}, 75),
        ({"batch_size": None}, 3),
        ({"accumulate_grad_batches": 2}, 39),
        ({"limit_train_batches": 4}, 12),
        ({"max_steps": 60}, 60),
        ({"max_steps": 30, "max_epochs": -1}, 30),
    ],
)
def test_it_counts_optimiser_steps_of_the_whole_run(fit, options, total):
    trainer, bar = fit(**options)
    assert bar.drawn[0] == (0, total)
    assert bar.drawn[-1] == (total, total)
    assert trainer.global_step == total


def test_it_is_drawn_by_the_clock(fit, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", 1e9)
    _, bar = fit()
    assert bar.drawn == [(0, 75), (75, 75)]
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", -1)
    _, bar = fit()
    steps = [step for step, _ in bar.drawn]
    assert steps == sorted(steps)
    assert set(steps) >= {4, 8, 24, 25, 29, 75}


def test_validations_add_no_bars(fit):
    _, bar = fit(max_epochs=5)
    assert len(bar.progress.tasks) == 1


def test_a_run_resumed_within_an_epoch_has_its_bar(fit, tmp_path):
    checkpoint = partial(ModelCheckpoint, tmp_path, "{step}", save_top_k=-1, every_n_train_steps=5)
    fit(callbacks=[checkpoint()])
    _, bar = fit(callbacks=[checkpoint()], ckpt_path=tmp_path / "step=35.ckpt")
    assert bar.drawn[0][0] > 35
    assert bar.drawn[-1] == (75, 75)
