"""What a run says is so, whatever Trainer, callback or DataModule it is combined with."""

import csv
import math
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

L = pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("sklearn")

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from twolayer import cli, data
from twolayer.loading import TensorLoader
from twolayer.training import LitTwoLayer
from twolayer.training.progress import RunProgressBar

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:.*smaller than the logging interval",
    "ignore:You are trying to `self.log",  # barebones
    "ignore:Precision bf16-mixed is not supported by the model summary",
    "ignore:Be aware that when using `ckpt_path`",
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(command, *arguments, config="moons"):
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    return cli.main([command, "--config", str(ROOT / f"configs/{config}.yaml"), *quiet, *arguments])


def fit(*arguments, epochs=2, config="moons"):
    return run("fit", f"--trainer.max_epochs={epochs}", *arguments, config=config)


@pytest.fixture
def train(tmp_path):
    """Fits a model to loaders in Python, and returns the trainer."""

    def train(model, *loaders, **options):
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        defaults = {"accelerator": "cpu", "max_epochs": 2, "enable_model_summary": False, **quiet}
        trainer = L.Trainer(**defaults | options, default_root_dir=tmp_path)
        torch.manual_seed(0)
        trainer.fit(model, *loaders)
        return trainer

    return train


def points(m=64, seed=0):
    X = torch.randn(m, 2, generator=torch.Generator().manual_seed(seed))
    return X, (X[:, 0] > 0).long()


# The end of a fit.


def score_of(path):
    return {k: v.item() for k, v in run("test", "--ckpt_path", str(path)).trainer.callback_metrics.items()}


@pytest.mark.parametrize("callback", [None, "EMAWeightAveraging", "WeightAveraging"])
def test_the_end_of_a_fit_tests_the_file_that_it_names(capsys, caplog, callback):
    caplog.set_level("INFO")
    command = fit(*([f"--trainer.callbacks+={callback}"] if callback else []), epochs=4)
    best = re.search(r"Best checkpoint: (\S+)", caplog.text)[1]
    assert score_of(best) == pytest.approx({k: v.item() for k, v in command.trainer.callback_metrics.items()})
    state = torch.load(best, weights_only=True)["state_dict"]
    assert_close(dict(command.model.state_dict()), state, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["another version", "another working directory", "a folder that was moved"])
def test_the_best_of_a_resumed_run_is_the_best_of_all_of_it(caplog, kind, tmp_path, monkeypatch):
    first = fit("--model.optimizer.lr=0.1", epochs=3)
    folder = Path(first.trainer.log_dir).absolute() / "checkpoints"
    score = first.trainer.checkpoint_callback.best_model_score
    if kind == "another working directory":
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    if kind == "a folder that was moved":
        folder = Path(shutil.move(folder.parent, tmp_path / "moved")) / "checkpoints"
    caplog.set_level("INFO")
    # Nothing is better with such a rate.
    fit("--model.optimizer.lr=100", "--ckpt_path", str(folder / "last.ckpt"), epochs=5)
    best = Path(re.findall(r"Best checkpoint: (\S+)", caplog.text)[-1])
    assert best.samefile(folder / "best.ckpt")
    saved = torch.load(sorted(Path("runs").rglob("last.ckpt"), key=os.path.getmtime)[-1], weights_only=True)[
        "callbacks"
    ]
    (state,) = [state for state in saved.values() if state.get("monitor") == "val_loss"]
    assert state["best_model_score"] == score
    assert Path(state["best_model_path"]).samefile(folder / "best.ckpt")


def test_a_best_checkpoint_that_is_gone_or_another_is_said(caplog):
    first = fit(epochs=3)
    best = Path(first.trainer.checkpoint_callback.best_model_path)
    another = Path(fit("--data.noise=0.4", epochs=1).trainer.checkpoint_callback.best_model_path)
    shutil.copy(another, best)
    caplog.set_level("INFO")
    command = fit("--ckpt_path", str(best.with_name("last.ckpt")), epochs=4)
    assert "is no more at" in caplog.text
    assert Path(command.trainer.checkpoint_callback.best_model_path).name == "best-v1.ckpt"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], r"after epoch 2, step 22: max_epochs is 2"),
        (["--trainer.max_steps=15"], r"step 15: max_steps is 15"),
        (["--trainer.max_steps=5"], r"step 5: max_steps is 5"),  # before any validation
        (["--trainer.max_time=00:00:00:00"], r"the time was up, after \d"),
        (
            ["--early_stopping.patience=1", "--model.optimizer.lr=0"],
            r"early stopping, val_loss was best, 0.\d+, 1 check ago",
        ),
        (["--early_stopping.stopping_threshold=100"], r"early stopping, Stopping threshold reached: val_loss = "),
    ],
)
@pytest.mark.filterwarnings("ignore:.ModelCheckpoint.monitor='val_loss'.. could not find")
def test_why_a_run_ended_stands_in_one_line(caplog, options, reason):
    caplog.set_level("INFO")
    fit(*options)
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Ended")]
    assert re.search(reason, line)


def test_other_data_modules_may_have_test_rows_after_setup_alone(tmp_path, monkeypatch):
    (tmp_path / "late.py").write_text(
        "from twolayer.data import Moons\n"
        "class Late(Moons):\n"
        "    def setup(self, stage):\n"
        "        self.stage = stage\n"
        "    def test_dataloader(self):\n"
        "        assert self.stage == 'test'\n"
        "        return super().test_dataloader()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    command = cli.main(["fit", "--data=late.Late", "--model.hidden_features=3", "--trainer.logger=false", *quiet])
    assert "test_accuracy" in command.trainer.callback_metrics


# What is not finite.


def test_rows_that_are_not_finite_stop_the_run_and_are_named(train):
    X, Y = points()
    bad = X.clone()
    bad[7, 1] = math.nan
    loaders = {
        "step 1: X has nan in row 7, column 1": DataLoader(TensorDataset(bad, Y), batch_size=10),
        "step 2: X has nan in row 2, column 1": TensorLoader((bad, Y), batch_size=5, steps_per_call=4),
    }
    for message, loader in loaders.items():
        with pytest.raises(FloatingPointError, match=message):
            train(LitTwoLayer(2, 3, 1), loader)
    with pytest.raises(FloatingPointError, match="step 2: Y has nan in row 2, column 1"):
        train(LitTwoLayer(2, 3, 2, task="regression"), TensorLoader((X, bad), batch_size=5, steps_per_call=4))
    with pytest.raises(ValueError, match="rows of val must be finite, but X has nan in row 7, column 1 of a batch"):
        train(LitTwoLayer(2, 3, 1), *(DataLoader(TensorDataset(V, Y), batch_size=10) for V in (X, bad)))


@pytest.mark.parametrize("steps_per_call", [None, 4])
def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_is_saved(train, tmp_path, steps_per_call):
    class Explodes(torch.optim.Adam):
        """A weight is no number after a certain step."""

        taken = 0

        def __init__(self, parameters, when):
            super().__init__(parameters)
            self.when = when

        def step(self, closure=None):
            J = super().step(closure)
            self.taken += 1
            if self.taken == self.when:
                self.param_groups[0]["params"][0].data[0, 0] = math.nan
            return J

    def fitted(when):
        model = LitTwoLayer(2, 3, 1, optimizer=partial(Explodes, when=when), steps_per_call=steps_per_call)
        loader = TensorLoader(points(), batch_size=8, steps_per_call=steps_per_call)  # 8 steps an epoch
        held_out = TensorLoader(points(), batch_size=8)
        callback = ModelCheckpoint(tmp_path / f"{when}", "{step}", save_top_k=-1)
        train(model, loader, held_out, callbacks=callback, enable_checkpointing=True)

    with pytest.raises(
        FloatingPointError, match=r"cost is .* at step 7: its rows are finite, so the weights after step 6"
    ):
        fitted(6)
    with pytest.raises(FloatingPointError):  # after the last step of an epoch, validation or the checkpoint meets it
        fitted(8)
    with pytest.raises(FloatingPointError):
        fitted(16)
    assert sorted(path.name for path in tmp_path.rglob("*.ckpt")) == ["step=8.ckpt"]
    (path,) = tmp_path.rglob("*.ckpt")
    assert all(V.isfinite().all() for V in torch.load(path, weights_only=True)["state_dict"].values())


def test_a_run_that_diverges_keeps_its_checkpoints_and_ends_with_an_error():
    trained = fit(config="diabetes")
    folder = Path(trained.trainer.log_dir) / "checkpoints"
    with pytest.raises(FloatingPointError, match=r"at step 1\d"):
        fit("--model.optimizer.lr=1e30", "--ckpt_path", str(folder / "last.ckpt"), config="diabetes", epochs=9)
    for path in folder.iterdir():
        assert all(V.isfinite().all() for V in torch.load(path, weights_only=True)["state_dict"].values())


def test_a_loss_ten_orders_above_the_start_is_said(caplog):
    caplog.set_level("INFO")
    fit("--model.optimizer=SGD", "--model.optimizer.lr=0.01", config="diabetes")
    assert "orders above" not in caplog.text
    fit("--model.optimizer.lr=1e6", "--model.optimizer.weight_decay=0", config="diabetes", epochs=4)
    assert caplog.text.count("more than ten orders above the cost at the start") == 1


# Metrics.


@pytest.mark.parametrize(("offset", "outputs"), [(0.0, 1), (1e4, 1), (1e5, 3)])
def test_r2_is_right_far_from_zero(train, offset, outputs):
    from sklearn.metrics import r2_score

    generator = torch.Generator().manual_seed(0)
    X = torch.randn(300, 4, generator=generator)
    Y = offset + X[:, :1] + 0.3 * torch.randn(300, outputs, generator=generator)
    model = LitTwoLayer(4, 8, outputs, task="regression", optimizer=partial(torch.optim.Adam, lr=0.01))
    model.standardize_inputs.fit(X)
    model.standardize_targets.fit(Y)
    loader = TensorLoader((X, Y), batch_size=7)
    trainer = train(model, loader, loader, max_epochs=5)
    with torch.no_grad():
        expected = r2_score(Y.double(), model.eval()(X).double())
    assert trainer.callback_metrics["val_r2"].item() == pytest.approx(expected, abs=1e-4)
    assert 0.2 < expected < 1


@pytest.mark.parametrize("set_of", ["diabetes", "moons"])
def test_an_epoch_of_one_row_logs_nan_and_says_so_once(caplog, monkeypatch, set_of):
    caplog.set_level("INFO")
    monkeypatch.setattr("twolayer.data.tabular.EVALUATED_AT_ONCE", 1)
    command = fit(
        "--trainer.limit_val_batches=1", "--data.batch_size=1", "--trainer.limit_train_batches=3", config=set_of
    )
    metric = {"diabetes": "val_r2", "moons": "val_auroc"}[set_of]
    assert caplog.text.count(f"{metric} is NaN: there are too few rows for it") == 1
    with (Path(command.trainer.log_dir) / "metrics.csv").open() as file:
        found = [row[metric] for row in csv.DictReader(file) if row.get("val_loss")]
    assert found == ["nan", "nan"]


def test_metrics_of_labels_leave_out_a_label_of_one_class():
    from sklearn.metrics import roc_auc_score

    from twolayer.training.metrics import Evaluation

    generator = torch.Generator().manual_seed(0)
    A2 = torch.rand(40, 3, generator=generator)
    Y = torch.randint(2, (40, 3), generator=generator)
    Y[:, 1] = 0
    evaluation = Evaluation("", "multilabel", 3)
    for rows in torch.arange(40).split(7):
        evaluation.update(A2[rows], Y[rows])
    assert evaluation.compute()["auroc"].item() == pytest.approx(roc_auc_score(Y[:, [0, 2]], A2[:, [0, 2]]))


@pytest.mark.parametrize("task", ["binary", "multiclass", "soft"])
def test_val_loss_with_class_weights_does_not_depend_on_the_batch_size(train, task):
    X, Y = points(61)
    classes = 1 if task == "binary" else 3
    if task != "binary":
        Y = (Y + (X[:, 1] > 1)).long()
    if task == "soft":
        Y = torch.nn.functional.one_hot(Y, 3) * 0.7 + 0.1
    weight = [1.0, 5.0] if task == "binary" else [1.0, 5.0, 9.0]
    model = LitTwoLayer(2, 4, classes, task="binary" if task == "binary" else "multiclass", class_weight=weight)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    found = [
        trainer.validate(model, TensorLoader((X, Y), batch_size=size), verbose=False)[0]["val_loss"]
        for size in (None, 1, 7, 60)
    ]
    with torch.no_grad():
        expected = model.net.loss(X, Y).item()
    assert found == pytest.approx(4 * [expected], rel=1e-5)


def test_train_loss_is_there_for_callbacks_at_the_end_of_an_epoch(train):
    class Reads(Callback):
        def __init__(self):
            self.seen = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.seen.append(trainer.callback_metrics["train_loss"].item())

    def moons():
        return data.Moons(n_samples=130, batch_size=13, val_fraction=0, test_fraction=0)  # ten steps an epoch

    batches = {"": (10, 10), "max_steps": (10, 2), "limit_train_batches": (3, 3), "accumulate_grad_batches": (10, 10)}
    for option, numbers in batches.items():
        value = {"max_steps": 12}.get(option, 3)
        for k in (4, None):
            reads = Reads()
            model = LitTwoLayer(2, 3, 1, steps_per_call=k, optimizer=partial(torch.optim.SGD, lr=0.0))
            trainer = train(model, moons(), callbacks=reads, **({option: value} if option else {}))
            loader, expected = moons().train_dataloader(), []
            with torch.no_grad():
                for epoch, number in enumerate(numbers):
                    loader.sampler.set_epoch(epoch)
                    costs = [model.net.loss(model.standardize_inputs(X), Y).item() for X, Y in list(loader)[:number]]
                    expected.append(sum(costs) / number)
            assert reads.seen == pytest.approx(expected, rel=1e-5)
            assert trainer.callback_metrics["train_loss"].item() == pytest.approx(expected[-1], rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"max_steps": 12}, {"accumulate_grad_batches": 3}])
def test_a_subclass_may_log_its_own_train_loss(train, options):
    class Own(LitTwoLayer):
        def training_step(self, batch, batch_idx):
            J = super().training_step(batch, batch_idx)
            self.log("train_loss", J, on_step=True, prog_bar=True)
            return J

    rows = data.Moons(n_samples=130, batch_size=13, val_fraction=0, test_fraction=0)
    metrics = train(Own(2, 3, 1), rows, **options).callback_metrics
    assert metrics["train_loss"].isfinite()


# Rows that do not fit.


def test_rows_of_another_width_are_refused(train):
    model = LitTwoLayer(30, 4, 1)
    X, Y = points()
    message = r"X must have shape \(\.\.\., 30\), got "
    for wrong in (torch.ones(2, 1), torch.ones(1), torch.ones(()), torch.ones(3, 29)):
        with pytest.raises(ValueError, match=message):
            model(wrong)
    for k in (None, 4):
        with pytest.raises(ValueError, match=message):
            train(LitTwoLayer(30, 4, 1), TensorLoader((X[:, :1], Y), batch_size=8, steps_per_call=k))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(ValueError, match=message):
        trainer.predict(model, TensorLoader((X[:, :1], Y), batch_size=8))
    model = LitTwoLayer(2, 4, 2, task="regression")
    for k in (None, 4):
        with pytest.raises(ValueError, match=r"Y must have shape \(8, 2\) for X of 8 rows, got \(8, 1\)"):
            train(model, TensorLoader((X, X[:, :1]), batch_size=8, steps_per_call=k))


def test_a_nan_among_the_targets_is_one_of_the_targets(train):
    class Bad(data.Diabetes):
        @property
        def train_targets(self):
            Y = super().train_targets.clone()
            Y[3] = math.nan
            return Y

    with pytest.raises(ValueError, match="train_targets must be finite, but train_targets has nan in row 3, column 0"):
        train(LitTwoLayer(10, 4, 1, task="regression"), Bad())


def test_predictions_go_by_the_classes_of_the_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "new.py").write_text(
        "from twolayer.data import Digits\n"
        "import numpy as np\n"
        "class Few(Digits):\n"
        "    def load(self):\n"
        "        X, Y = super().load()\n"
        "        keep = (Y == 3) | (Y == 7)\n"
        "        return X[keep], Y[keep]\n"
        "class Unknown(Digits):\n"
        "    def load(self):\n"
        "        X, Y = super().load()\n"
        "        return X[:50], np.full(50, -1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = Path(fit(config="digits").trainer.log_dir) / "checkpoints/last.ckpt"
    for name, rows in (("Few", 362), ("Unknown", 50)):
        command = run("predict", f"--data=new.{name}", "--ckpt_path", str(checkpoint), config="digits")
        with (Path(command.trainer.log_dir) / "predictions.csv").open() as file:
            header, *lines = csv.reader(file)
        assert header == ["class", *(f"probability_{k}" for k in range(10))]
        assert len(lines) == rows
    found = run("test", "--data=new.Few", "--data.test_fraction=0.5", "--ckpt_path", str(checkpoint), config="digits")
    assert found.trainer.callback_metrics["test_accuracy"] > 0.5


# The run's folder.


def test_the_folder_says_what_the_run_was_computed_with(train, tmp_path):
    command = fit(
        "--model.optimizer.lr=0.02",
        "--data.batch_size=32",
        "--model.lr_scheduler=ExponentialLR",
        "--model.lr_scheduler.gamma=0.5",
    )
    folder = Path(command.trainer.log_dir)
    found = yaml.safe_load((folder / "environment.yaml").read_text())
    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["lightning"] == L.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    assert found["kernel"] in ("cpu", "torch")
    hparams = yaml.safe_load((folder / "hparams.yaml").read_text())
    said = {name: hparams[name] for name in ("optimizer", "learning_rate", "batch_size", "data", "lr_scheduler")}
    assert said == {
        "optimizer": "Adam", "learning_rate": 0.02, "batch_size": 32, "data": "Moons", "lr_scheduler": "ExponentialLR",
    }  # fmt: skip
    assert hparams["hidden_features"] == 16
    logger = CSVLogger(tmp_path / "in_python")
    train(LitTwoLayer(2, 3, 1), data.Moons(), logger=logger)
    assert logger.experiment.hparams["data.n_samples"] == 400


@pytest.mark.parametrize("precision", ["32", "64-true", "bf16-true", "bf16-mixed"])
def test_the_summary_is_that_of_the_network(train, capsys, precision):
    train(
        LitTwoLayer(30, 16, 1),
        TensorLoader((torch.randn(20, 30), torch.ones(20)), batch_size=10),
        enable_model_summary=True,
        precision=precision,
    )
    text = capsys.readouterr().out
    assert "Metric" not in text
    assert re.search(r"Total FLOPs: +992", text)  # 2 · (30 · 16 + 16 · 1)


# Whatever a Trainer takes.


@pytest.mark.parametrize("options", [["--data.val_fraction=0"], ["--trainer.limit_val_batches=0"]])
def test_without_validation_the_training_is_followed(caplog, options):
    caplog.set_level("INFO")
    plateau = ["--model.lr_scheduler=ReduceLROnPlateau", "--model.lr_scheduler.patience=1"]
    command = fit(*options, *plateau, "--early_stopping.patience=3", "--model.optimizer.lr=0", epochs=9)
    assert "There is no validation: early stopping, the best checkpoint and plateaus follow train_loss" in caplog.text
    assert re.search("early stopping, train_loss was best, .*, 3 checks ago", caplog.text)
    best = command.trainer.checkpoint_callback
    assert best.monitor == "train_loss"
    assert Path(best.best_model_path).is_file()
    with pytest.raises(ValueError, match="monitor must be train_loss where there is no validation, got val_accuracy"):
        fit(*options, "--checkpoint.monitor=val_accuracy", "--checkpoint.mode=max")


def test_no_checkpoints_where_none_are_wanted():
    command = fit("--trainer.enable_checkpointing=false")
    assert command.trainer.checkpoint_callback is None
    assert "test_accuracy" in command.trainer.callback_metrics


def test_barebones():
    arguments = ["fit", "--config", str(ROOT / "configs/moons.yaml"), "--trainer.barebones=true"]
    command = cli.main([*arguments, "--trainer.max_epochs=2", "--trainer.accelerator=cpu"])
    assert command.trainer.global_step == 22


@pytest.mark.parametrize(("given", "batches"), [("true", 1), ("3", 3)])
def test_fast_dev_run_takes_its_batches(given, batches):
    assert run("fit", f"--trainer.fast_dev_run={given}").trainer.global_step == batches


def test_one_cycle_has_its_steps_filled_in():
    one_cycle = ["--model.lr_scheduler=OneCycleLR", "--model.lr_scheduler.max_lr=0.1", "--model.optimizer=SGD"]
    command = fit(*one_cycle, "--model.optimizer.lr=0.01")
    (config,) = command.trainer.lr_scheduler_configs
    assert (config.interval, config.scheduler.total_steps, config.scheduler.last_epoch) == ("step", 22, 22)
    half = fit(
        *one_cycle, "--model.optimizer.lr=0.01", "--last_checkpoint.every_n_train_steps=5", "--trainer.max_steps=15"
    )
    with pytest.raises(ValueError, match="OneCycleLR must have total_steps where neither"):
        fit(*one_cycle, "--model.optimizer.lr=0.01", epochs=-1)
    assert half.trainer.lr_scheduler_configs[0].scheduler.total_steps == 15


def test_a_plateau_by_its_short_name_with_what_it_watches_and_when(train):
    options = [
        "--model.lr_scheduler",
        "ReduceLROnPlateau",
        "--model.lr_scheduler.patience=0",
        "--model.lr_scheduler.mode=max",
    ]
    command = fit(*options, "--model.scheduler_monitor=val_accuracy", "--model.scheduler_frequency=2")
    (config,) = command.trainer.lr_scheduler_configs
    assert isinstance(config.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    assert (config.monitor, config.interval, config.frequency) == ("val_accuracy", "epoch", 2)
    assert config.scheduler.best > 0.5
    with pytest.raises(ValueError, match="scheduler_interval must be one of 'epoch', 'step', got 'batch'"):
        LitTwoLayer(2, 3, 1, scheduler_interval="batch")


def test_the_learning_rate_finder_finds_one():
    command = fit("--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.num_training_steps=20")
    assert (
        command.trainer.optimizers[0].param_groups[0]["lr"] == command.trainer.lightning_module.lr
        or command.model.lr is None
    )
    assert yaml.safe_load((Path(command.trainer.log_dir) / "hparams.yaml").read_text())["learning_rate"] != 0.01


def test_the_batch_size_finder_finds_one():
    command = fit("--trainer.callbacks+=BatchSizeFinder", "--trainer.callbacks.max_trials=2")
    assert command.datamodule.batch_size == 4
    assert command.trainer.global_step == 2 * math.ceil(700 / 4)


def test_a_prediction_of_nothing_is_refused():
    checkpoint = Path(fit().trainer.log_dir) / "checkpoints/last.ckpt"
    with pytest.raises(ValueError, match="limit_predict_batches must leave rows, got 0"):
        run("predict", "--trainer.limit_predict_batches=0", "--ckpt_path", str(checkpoint))


def test_each_early_stopping_keeps_its_patience_on_resume():
    def options(first, second):
        other = ["EarlyStopping", f"patience={second}", "monitor=val_accuracy", "mode=max"]
        return [
            f"--early_stopping.patience={first}",
            f"--trainer.callbacks+={other[0]}",
            *(f"--trainer.callbacks.{o}" for o in other[1:]),
        ]

    trained = fit(*options(7, 11))
    checkpoint = Path(trained.trainer.log_dir) / "checkpoints/last.ckpt"
    command = fit(*options(8, 12), "--ckpt_path", str(checkpoint), epochs=3)
    assert {one.monitor: one.patience for one in command.trainer.early_stopping_callbacks} == {
        "val_loss": 8,
        "val_accuracy": 12,
    }


@pytest.mark.parametrize("interval", ["00:00:00:02", "0.25"])
def test_validations_at_a_time_or_a_fraction(interval):
    assert fit(f"--trainer.val_check_interval={interval}").trainer.global_step == 22


# Other people's parts.


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*points(100), strict=True)


def test_a_stream_of_rows_has_no_end_that_a_bar_could_know(train):
    loader = DataLoader(Stream(), batch_size=10)
    for steps, options in ((20, {}), (6, {"limit_train_batches": 3}), (5, {"max_steps": 5})):
        trainer = train(
            LitTwoLayer(2, 3, 1), loader, loader, callbacks=RunProgressBar(), enable_progress_bar=True, **options
        )
        assert trainer.global_step == steps
        assert trainer.callback_metrics["train_loss"].isfinite()
        assert ("val_loss" in trainer.callback_metrics) == (steps != 5)


def test_a_batch_of_another_kind_is_refused_with_a_sentence(train):
    X, Y = points()
    with pytest.raises(TypeError, match=r"a batch must be \(X, Y\), two tensors, or \(X, Y, sample_weight\), got dict"):
        train(LitTwoLayer(2, 3, 1), DataLoader([{"x": x, "y": y} for x, y in zip(X, Y, strict=True)], batch_size=8))
    with pytest.raises(TypeError, match="got list of Tensor, Tensor, Tensor, Tensor"):
        train(LitTwoLayer(2, 3, 1), DataLoader(TensorDataset(X, Y, Y, Y), batch_size=8))


def test_a_subclass_may_validate_in_a_way_of_its_own(train):
    class Own(LitTwoLayer):
        def validation_step(self, batch, batch_idx):
            self.log("val_mine", 1.0)

    loader = TensorLoader(points(), batch_size=8)
    metrics = train(Own(2, 3, 1), loader, loader).callback_metrics
    assert set(metrics) == {"val_mine", "train_loss"}


def test_several_loaders_are_evaluated_together(train):
    parts = [TensorLoader(points(m, seed=m), batch_size=7) for m in (20, 33)]
    X, Y = (torch.cat(part) for part in zip(points(20, seed=20), points(33, seed=33), strict=True))
    trainer = train(model := LitTwoLayer(2, 3, 1), TensorLoader(points(), batch_size=8), parts)
    with torch.no_grad():
        expected = model.net.loss(X, Y).item()
    assert trainer.callback_metrics["val_loss"].item() == pytest.approx(expected, rel=1e-5)
    trainer.test(model, parts, verbose=False)
    assert trainer.callback_metrics["test_loss"].item() == pytest.approx(expected, rel=1e-5)
    predictions = trainer.predict(model, parts)
    assert [sum(map(len, part)) for part in predictions] == [20, 33]


# What load() returns.


def module_with(X, Y, of="binary"):
    class Mine(data.TabularDataModule):
        task = of

        def load(self):
            return X, Y

    return Mine(val_fraction=0.2, test_fraction=0.2)


def test_soft_labels_stay_soft(train):
    random = np.random.default_rng(0)
    X = random.normal(size=(50, 2))
    for task, Y in {
        "binary": random.random(50),
        "multilabel": random.random((50, 3)),
        "multiclass": random.dirichlet(np.ones(3), 50),
    }.items():
        module = module_with(X, Y, task)
        assert_close(module.tensors[1], torch.tensor(Y, dtype=torch.float32))
        model = LitTwoLayer(2, 3, module.out_features, task=task)
        trainer = train(model, module)
        assert trainer.callback_metrics["val_loss"].isfinite()
        assert module.out_features == (1 if task == "binary" else 3)


def test_hard_labels_in_any_dtype():
    X = np.zeros((4, 2))
    for Y in (np.array([0, 1, 1, 0], dtype=dtype) for dtype in (bool, np.uint8, np.int32, np.float32)):
        assert module_with(X, Y).tensors[1].tolist() == [0, 1, 1, 0]
        assert module_with(X, Y).tensors[1].dtype == torch.int64
    assert module_with(X, np.array([0.0, 1.0, 2.0, 1.0]), "multiclass").out_features == 3


X4 = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("X", "Y", "task", "error", "message"),
    [
        (X4, np.array([0, 1, np.nan, 1]), "binary", ValueError, "Y must be finite, got nan in row 2"),
        (X4, np.array([-1, 1, 1, -1]), "binary", ValueError, r"Y must hold 0 and 1, .* got values from -1 to 1"),
        (X4, np.array([1, 2, 2, 1]), "binary", ValueError, "got values from 1 to 2"),
        (X4, np.array([1, 2, 3, 1]), "multiclass", ValueError, "got 1 to 3 without 0"),
        (X4, np.array([0, 2, 2, 0]), "multiclass", ValueError, "got 0 to 2 without 1"),
        (X4, np.array([0.5, 1, 2, 1]), "multiclass", ValueError, "class indices from 0 .* got values from 0.5 to 2"),
        (X4, np.full((4, 2), 0.6), "multiclass", ValueError, "sum to 1 in each row, got 1.2 in row 0"),
        (X4, np.array(list("abba")), "binary", TypeError, "Y must hold numbers, got an array of <U1"),
        (X4, ["a", "b", "b", "a"], "binary", TypeError, "Y must be a NumPy array or a tensor, got list"),
        (X4, np.zeros(3), "binary", ValueError, r"a target for each of the 4 rows of X, got shape \(3,\)"),
        (
            np.array([[0, np.inf]] * 4),
            np.zeros(4),
            "binary",
            ValueError,
            "X must be finite, got inf in row 0, column 1",
        ),
        (np.full((4, 2), 1e300), np.zeros(4), "binary", ValueError, "X must be finite, got inf"),
        (X4[:, 0], np.zeros(4), "binary", ValueError, r"X must have shape \(m, features\), got \(4,\)"),
        (X4, np.array([[0.0], [np.nan], [0], [0]]), "regression", ValueError, "got nan in row 1, column 0"),
    ],
)
def test_what_load_may_not_return_is_refused_with_a_sentence(X, Y, task, error, message):
    with pytest.raises(error, match=message):
        _ = module_with(X, Y, task).out_features


def test_a_data_frame_is_refused():
    class DataFrame:
        pass

    with pytest.raises(TypeError, match="X must be a NumPy array or a tensor, got DataFrame"):
        _ = module_with(DataFrame(), np.zeros(4)).in_features


# The console script.


def test_the_installed_script_ends_with_0(tmp_path):
    script = Path(sys.executable).with_name("twolayer")
    if not script.is_file():
        pytest.skip("the package is not installed")
    config = ["--config", str(ROOT / "configs/moons.yaml"), "--trainer.max_epochs=1"]
    found = subprocess.run(
        [str(script), "fit", *config],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0
    assert "object at 0x" not in found.stdout + found.stderr
    wrong = subprocess.run(
        [str(script), "fit", *config, "--nonsense=1"],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        check=False,
    )
    assert wrong.returncode != 0
