"""The command line, run in process: each experiment, the files it leaves, and the traps around checkpoints."""

import csv
import gc
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("jsonargparse")
pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from twolayer import __main__, cli
from twolayer.answers import Answer

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(command, config="moons", *arguments):
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    return cli.main([command, "--config", str(ROOT / f"configs/{config}.yaml"), *quiet, *arguments])


def fit(*arguments, config="moons", epochs=2):
    return run("fit", config, f"--trainer.max_epochs={epochs}", *arguments)


def last_of(command):
    return Path(command.trainer.log_dir) / "checkpoints/last.ckpt"


# The experiments.


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_each_experiment_runs_and_leaves_its_files(config, capsys):
    epochs = 2
    every = ["--checkpoint.every_n_epochs=1", "--last_checkpoint.every_n_epochs=1"]  # the flower's: every 500
    command = fit(*every, config=config.stem, epochs=epochs)
    folder = Path(command.trainer.log_dir)
    assert folder == Path(f"runs/{config.stem}/version_0")
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == epochs
    for name in ("best", "last"):
        assert torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["epoch"] < epochs
    with (folder / "metrics.csv").open() as file:
        columns = csv.DictReader(file).fieldnames
    assert "train_loss" in columns
    assert ("test_loss" in columns) == (config.stem != "flower")
    assert command.model.net.backward == "manual"
    assert ("test_loss" in capsys.readouterr().out) == (config.stem != "flower")


@pytest.mark.slow
def test_flower_learns_its_own_points_as_in_the_course():
    command = run("fit", "flower")
    model, module = command.model, command.datamodule
    assert command.trainer.global_step == 10_000
    assert (model.net.hidden_features, model.net.activation, model.net.init) == (4, "tanh", "course")
    assert command.trainer.optimizers[0].param_groups[0]["lr"] == 1.2
    X, Y = module.tensors
    assert len(module.splits["train"]) == len(X) == 400
    assert ((model(X).squeeze(-1) >= 0.5) == Y).float().mean() >= 0.9


@pytest.mark.parametrize(
    ("config", "metric", "least"),
    [("moons", "accuracy", 0.95), ("breast_cancer", "accuracy", 0.93), ("digits", "accuracy", 0.95)],
)
def test_an_experiment_learns(config, metric, least):
    command = run("fit", config)
    assert command.trainer.callback_metrics[f"test_{metric}"] > least


def test_diabetes_beats_the_mean():
    assert run("fit", "diabetes").trainer.callback_metrics["test_r2"] > 0.1


def test_the_debug_preset_leaves_nothing_behind(tmp_path):
    run("fit", "digits", "--config", str(ROOT / "configs/presets/debug.yaml"))
    assert list(tmp_path.iterdir()) == []


def test_the_gpu_preset_asks_for_a_gpu():  # parsed only: there may be none
    preset = str(ROOT / "configs/presets/gpu.yaml")
    out = subprocess.run(
        [
            sys.executable,
            str(ROOT / "train.py"),
            "fit",
            "--config",
            str(CONFIGS[0]),
            "--config",
            preset,
            "--print_config",
        ],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert yaml.safe_load(out)["trainer"]["accelerator"] == "gpu"
    assert yaml.safe_load(out)["data"]["init_args"]["on_device"] is True


# What a person sees.


def test_progress_bar_shows_the_loss_and_the_end_says_where_the_checkpoint_lies():
    out = subprocess.run(
        [
            *(sys.executable, str(ROOT / "train.py"), "fit", "--config", str(ROOT / "configs/breast_cancer.yaml")),
            "--trainer.max_epochs=2",
        ],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=True,
    )
    text = out.stdout + out.stderr
    assert "train_loss:" in text
    assert "TwoLayerNet" in text  # the model summary
    for metric in ("test_accuracy", "test_auroc", "test_f1", "test_loss"):
        assert metric in out.stdout
    best = re.search(r"Best checkpoint: (\S+)", text)[1]
    assert Path(best).is_file()
    assert "Warning" not in text
    assert "litlogger" not in text


def test_tensorboard_when_asked():
    pytest.importorskip("tensorboard")
    command = fit("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=boards")
    assert list(Path(command.trainer.log_dir).glob("events.out.tfevents.*"))


def test_without_a_logger_files_go_where_lightning_puts_them_and_a_second_run_does_not_die():
    for _ in range(2):
        command = fit("--trainer.logger=false")
    assert Path("config.yaml").is_file()
    assert Path(command.trainer.checkpoint_callback.best_model_path).is_file()


# Early stopping, the two checkpoints, resuming.


def test_training_stops_early_when_the_validation_loss_does_not_fall():
    command = fit("--model.optimizer.lr=0.0", "--early_stopping.patience=2", epochs=50)
    assert command.trainer.current_epoch == 3


def test_last_is_the_last_state_and_best_the_best_one():
    command = fit("--model.optimizer.lr=30", config="diabetes", epochs=8)
    best, last = (
        torch.load(last_of(command).with_name(f"{name}.ckpt"), weights_only=True) for name in ("best", "last")
    )
    assert last["epoch"] == 7
    assert best["epoch"] < 7


def test_a_resumed_run_ends_where_an_uninterrupted_one_does():
    # Full batches, so that no shuffling differs.
    options = ["--data.batch_size=null", "--model.lr_scheduler=ExponentialLR", "--model.lr_scheduler.gamma=0.9"]
    whole = fit(*options, epochs=6)
    half = fit(*options, epochs=3)
    resumed = fit(*options, "--ckpt_path", str(last_of(half)), epochs=6)
    expected, found = (torch.load(last_of(c), weights_only=True) for c in (whole, resumed))
    assert found["global_step"] == expected["global_step"]
    torch.testing.assert_close(found["state_dict"], expected["state_dict"])
    torch.testing.assert_close(found["optimizer_states"], expected["optimizer_states"])


@pytest.mark.parametrize("length", [["--trainer.max_epochs=4"], ["--trainer.max_epochs=-1", "--trainer.max_steps=70"]])
def test_a_schedule_that_counts_the_steps_of_the_fit_leaves_a_resumed_run_its_rows(length):
    """It asks for them when it is built, once more where the options are compared with the checkpoint's."""
    options = ["--data.batch_size=32", "--data.n_samples=600", "--model.lr_scheduler=OneCycleLR", *length]
    options += ["--model.lr_scheduler.max_lr=0.05", "--last_checkpoint.every_n_train_steps=6"]
    options += ["--last_checkpoint.filename={step}", "--last_checkpoint.save_top_k=-1"]
    whole = fit(*options)
    expected = whole.model.state_dict()
    folder = Path(whole.trainer.log_dir) / "checkpoints"
    for step in (6, 30, 48):
        resumed = fit(*options, "--ckpt_path", str(folder / f"step={step}.ckpt"))
        assert resumed.trainer.global_step == whole.trainer.global_step
        torch.testing.assert_close(resumed.model.state_dict(), expected, rtol=1e-6, atol=1e-7)


# --ckpt_path beside other options.


def test_the_network_of_a_checkpoint_needs_no_repetition(capsys):
    trained = fit("--model.hidden_features=5", "--model.activation=relu")
    command = run("test", "moons", "--ckpt_path", str(last_of(trained)))
    assert (command.model.net.hidden_features, command.model.net.activation) == (5, "relu")


def test_the_command_line_counts_more_than_the_checkpoint(caplog):
    trained = fit()
    command = run("test", "moons", "--ckpt_path", str(last_of(trained)), "--model.backward=autograd")
    assert command.model.net.backward == "autograd"
    with pytest.raises(Answer, match="size mismatch"):
        run("test", "moons", "--ckpt_path", str(last_of(trained)), "--model.hidden_features", "7")


def test_a_learning_rate_beside_a_checkpoint_is_used():
    checkpoint = shutil.copy(last_of(fit()), "two_epochs.ckpt")  # in a run's own folder, the run would go on
    kept = fit("--ckpt_path", checkpoint, epochs=3)
    assert kept.trainer.optimizers[0].param_groups[0]["lr"] == 0.01
    changed = fit("--ckpt_path", checkpoint, "--model.optimizer.lr=0.5", epochs=3)
    assert changed.trainer.optimizers[0].param_groups[0]["lr"] == 0.5
    spelt_out = fit("--ckpt_path", checkpoint, "--model.optimizer.init_args.lr", "0.25", epochs=3)
    assert spelt_out.trainer.optimizers[0].param_groups[0]["lr"] == 0.25


def test_patience_beside_a_checkpoint_is_used():
    trained = fit()
    command = fit("--ckpt_path", str(last_of(trained)), "--early_stopping.patience=7", epochs=3)
    assert command.trainer.early_stopping_callback.patience == 7


def test_a_scheduler_s_option_beside_a_checkpoint_is_used():
    options = ["--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=3"]
    trained = fit(*options)
    changed = fit(*options, "--model.lr_scheduler.gamma=0.5", "--ckpt_path", str(last_of(trained)), epochs=4)
    assert changed.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.5)


def test_a_learning_rate_beside_a_checkpoint_is_used_with_reduce_on_plateau_too():
    options = ["--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.lr_scheduler.patience=30"]
    trained = fit(*options)
    changed = fit(*options, "--model.optimizer.lr=0.5", "--ckpt_path", str(last_of(trained)), epochs=3)
    assert changed.trainer.optimizers[0].param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    "options",
    [
        ["--model.optimizer=SGD", "--model.optimizer.lr=0.1"],
        ["--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=3"],
    ],
)
def test_another_optimizer_or_scheduler_than_the_checkpoint_s_is_refused(options):
    trained = fit()
    with pytest.raises(ValueError, match=r"must be \['Adam', 'NoneType'\], whose state is in the checkpoint, got"):
        fit("--ckpt_path", str(last_of(trained)), *options, epochs=3)


def test_another_learning_rate_beside_a_checkpoint_and_a_scheduler_is_refused():
    trained = fit(config="digits", epochs=1)
    with pytest.raises(ValueError, match=r"--model.optimizer.lr must be 0.003, as in the checkpoint, got 0.5"):
        fit("--ckpt_path", str(last_of(trained)), "--model.optimizer.lr=0.5", config="digits")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_commands_on_an_untrained_network_are_refused(command, capsys):
    with pytest.raises(SystemExit):
        run(command)
    assert f"{command} needs --ckpt_path" in capsys.readouterr().err


# Files of earlier runs.


def test_later_commands_leave_the_saved_configuration_of_a_fit_alone():
    # A fixed version puts all of them into one folder.
    here = "--trainer.logger.version=7"
    trained = fit(here)
    saved = Path(trained.trainer.log_dir) / "config.yaml"
    before = saved.read_text()
    for command in ("validate", "test", "predict"):
        run(command, "moons", here, "--ckpt_path", str(last_of(trained)), "--data.batch_size=9")
    assert saved.read_text() == before
    fit(here)  # a second run into the same folder does not die of it


@pytest.mark.parametrize(
    ("config", "header"),
    [
        ("moons", ["class", "probability_0"]),
        ("digits", ["class", *(f"probability_{k}" for k in range(10))]),
        ("diabetes", ["value_0"]),
    ],
)
def test_predict_writes_a_row_for_each_row_of_the_data(config, header):
    trained = fit(config=config)
    command = run("predict", config, "--ckpt_path", str(last_of(trained)))
    path = Path(command.trainer.log_dir) / "predictions.csv"
    with path.open(newline="") as file:
        found_header, *rows = csv.reader(file)
    assert found_header == header
    with torch.no_grad():
        expected = trained.model.eval()(command.datamodule.tensors[0])
    found = torch.tensor([[float(cell) for cell in row] for row in rows])
    if config == "diabetes":
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    else:
        classes = expected.argmax(-1) if config == "digits" else (expected[:, 0] >= 0.5).long()
        assert found[:, 0].tolist() == classes.tolist()
        torch.testing.assert_close(found[:, 1:], expected, rtol=1e-4, atol=1e-6)
    assert list(path.parent.glob("*.part")) == []


def test_multilabel_predictions_have_a_class_for_each_label(tmp_path):
    cli.write_predictions(tmp_path / "p.csv", torch.tensor([[0.25, 0.75]]), "multilabel")
    assert (tmp_path / "p.csv").read_text().split() == ["class_0,class_1,probability_0,probability_1", "0,1,0.25,0.75"]


# A DataModule of one's own.


def test_a_data_module_of_one_s_own_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "of_three_columns.py").write_text(
        "import numpy as np\n"
        "from twolayer.data import TabularDataModule\n"
        "class Mine(TabularDataModule):\n"
        "    task = 'regression'\n"
        "    def load(self):\n"
        "        X = np.arange(120.0).reshape(40, 3)\n"
        "        return X, X[:, :2]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = cli.main(
        [
            *("fit", "--data=of_three_columns.Mine", "--model.hidden_features=3", "--trainer.max_epochs=1"),
            *("--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"),
        ]
    )
    net = command.model.net
    assert (net.in_features, net.out_features, net.task) == (3, 2, "regression")


def test_a_wrong_option_is_named(capsys):
    with pytest.raises(SystemExit):
        fit("--model.activatoin=tanh")
    assert "activatoin" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        fit("--model.activation=gelu")
    said = capsys.readouterr().err
    assert all(word in said for word in ("activation", "'sigmoid', 'tanh', 'relu', 'leaky_relu'", "gelu"))


def test_the_console_script_is_the_same_main():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'twolayer = "twolayer.__main__:main"' in text
    assert "from twolayer.__main__ import main" in (ROOT / "train.py").read_text()


def test_garbage_is_collected_once_all_is_imported(monkeypatch):
    monkeypatch.setattr(cli, "main", gc.isenabled)
    assert __main__.main()
    gc.unfreeze()
