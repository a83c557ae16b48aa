"""What UnitMonitor logs and says, against PyTorch's own gradients; and that it changes nothing of a run."""

import csv
import logging
import math
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

L = pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("sklearn")

from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import twolayer
from twolayer import TwoLayerNet, cli, data
from twolayer.callbacks import UnitMonitor
from twolayer.loading import TensorLoader
from twolayer.training import LitTwoLayer
from twolayer.training.unit_monitor import Look, look, sentences

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:.*smaller than the logging interval",
    "ignore:Be aware that when using `ckpt_path`",
    "ignore:You are trying to `self.log",  # barebones
    "ignore:.*overriding `LightningModule.optimizer_",
    "ignore:When using `Trainer.accumulate_grad_batches != 1.` and overriding",
)

COLUMNS = {"dead_units", "saturated_units", "twin_units", "grad_norm_ratio"}
STILL = partial(torch.optim.SGD, lr=0.0)


class Kept(Logger):
    """Keeps what is logged: metrics by step."""

    name, version = "kept", 0

    def __init__(self):
        super().__init__()
        self.rows = {}

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        if COLUMNS & metrics.keys():
            self.rows[step] = metrics


def points(m=100, n_x=3, seed=0):
    X = torch.randn(m, n_x, generator=torch.Generator().manual_seed(seed))
    return X, (X[:, 0] > 0.2).long()


def network(activation="tanh", n_x=3, n_h=8, **options):
    torch.manual_seed(0)
    return LitTwoLayer(n_x, n_h, 1, activation=activation, **{"standardize": False, "optimizer": STILL, **options})


@pytest.fixture
def train(tmp_path):
    """Fits a model to a loader or a DataModule, and returns the trainer."""

    def train(model, rows, **options):
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        defaults = {"accelerator": "cpu", "max_epochs": 2, "enable_model_summary": False, **quiet}
        options = {"callbacks": UnitMonitor(), **defaults, **options}
        ckpt_path = options.pop("ckpt_path", None)
        if options.get("barebones"):
            options = {name: options[name] for name in ("accelerator", "max_epochs", "callbacks", "barebones")}
        trainer = L.Trainer(**options, default_root_dir=tmp_path)
        torch.manual_seed(1)
        trainer.fit(model, rows, ckpt_path=ckpt_path)
        return trainer

    return train


def said(caplog):
    """What UnitMonitor said."""
    return [line for line in caplog.messages if line.startswith(("After step", "UnitMonitor"))]


@pytest.fixture(autouse=True)
def everything_said(caplog):
    caplog.set_level(logging.INFO)


# What it logs.


def test_ratio_of_gradients_whose_squares_float32_does_not_hold():
    net = TwoLayerNet(3, 4, 1, activation="tanh", generator=torch.Generator().manual_seed(0))
    X, T = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(5)
    usual = look(net, X, torch.full((5,), 0.5)).ratio
    with torch.no_grad():
        net.b2 -= 60.0  # errors of 1e-26
    exact = look(net.double(), X.double(), T).ratio
    assert look(net.float(), X, T).ratio == pytest.approx(exact, rel=1e-4)
    assert 0 < exact < 100 * usual


def test_shares_and_ratio_are_those_of_the_sample(train):
    X, Y = points(100)
    model, logger = network("relu"), Kept()
    with torch.no_grad():
        W1, b1 = model.net.W1, model.net.b1
        b1[[1, 4, 6]] = -100.0  # never reached
        W1[3], b1[3] = W1[0], b1[0]
        W1[7, :], b1[7] = torch.tensor([0.0, 0.0, 1.0]), -X[::4, 2].max()  # reached by rows outside of the sample alone
    assert (X[:, 2] > -b1[7]).any()
    monitor = UnitMonitor(every_n_steps=10, rows=25)  # every fourth row
    trainer = train(model, TensorLoader((X, Y), batch_size=7, shuffle=True), logger=logger, callbacks=monitor)
    assert trainer.global_step == 30
    # After 1, 10, 20 and 30 steps; Lightning's count begins at 0.
    assert list(logger.rows) == [0, 9, 19, 29]

    seq = TwoLayerNet.to_sequential(model.net)
    seq.zero_grad()
    torch.nn.functional.binary_cross_entropy_with_logits(seq(X[::4]).squeeze(-1), Y[::4].float()).backward()
    first, second = (math.hypot(layer.weight.grad.norm(), layer.bias.grad.norm()) for layer in (seq[0], seq[2]))
    for row in logger.rows.values():
        assert (row["dead_units"], row["saturated_units"], row["twin_units"]) == (4 / 8, 0, 2 / 8)
        assert row["grad_norm_ratio"] == pytest.approx(first / second, rel=1e-5)


def test_inputs_and_targets_are_standardised_as_for_the_network(train):
    module = data.Diabetes(val_fraction=0, test_fraction=0)
    logger = Kept()
    model = network("sigmoid", module.in_features, standardize=True, task="regression")
    train(model, module, logger=logger, max_epochs=1, callbacks=UnitMonitor(rows=10_000))
    X, Y = module.tensors
    X, Y = X.double(), Y.double().reshape(len(X), 1)
    X, Y = ((V - V.mean(0)) / V.std(0, correction=0) for V in (X, Y))
    net = model.net.double()
    (0.5 * (net(X) - Y).square().mean()).backward()
    W1, b1, W2, b2 = (V.grad.norm() for V in net.parameters())
    (ratio,) = {row["grad_norm_ratio"] for row in logger.rows.values()}
    assert ratio == pytest.approx((math.hypot(W1, b1) / math.hypot(W2, b2)), rel=1e-4)


def test_the_table_of_a_run_has_them(train, tmp_path):
    trainer = train(network(), TensorLoader(points(), batch_size=10), logger=CSVLogger(tmp_path))
    with (Path(trainer.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dead_units"]]
    assert [row["step"] for row in rows] == ["0", "9", "20"]  # the last one at the end
    assert all(float(row["grad_norm_ratio"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [1, 2, 3, 4]), (3, [1, 3, 6]), (10, [1, 10, 20]), (250, [1, 10, 100, 250, 500])]
)
def test_when_it_looks(every, steps):
    monitor, step, found = UnitMonitor(every), 0, []
    while len(found) < len(steps):
        step = monitor._after(step)
        found.append(step)
    assert found == steps
    for before in range(steps[-1]):  # wherever a run is resumed
        assert monitor._after(before) == min(step for step in steps if step > before)


# It changes nothing.


class Draws(LitTwoLayer):
    """Adds noise, which is drawn from the generator that everything else draws from too."""

    def prepared(self, X, Y):
        X, T, Y = super().prepared(X, Y)
        return X + 0.1 * torch.randn_like(X), T, Y


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, lr=0.3, momentum=0.9), torch.optim.Adam])
@pytest.mark.parametrize("cls", [LitTwoLayer, Draws])
@pytest.mark.parametrize("steps_per_call", [None, 4, 32])
def test_the_run_is_bitwise_the_one_without_it(train, steps_per_call, cls, optimizer):
    found = []
    for callbacks in (None, UnitMonitor(every_n_steps=3)):
        torch.manual_seed(0)
        model = cls(2, 5, 1, activation="tanh", optimizer=optimizer, steps_per_call=steps_per_call)
        logger = Kept()
        trainer = train(model, data.Moons(n_samples=390, batch_size=13), callbacks=callbacks, logger=logger)
        state = [*model.net.state_dict().values()]
        state += [V for values in trainer.optimizers[0].state_dict()["state"].values() for V in values.values()]
        state.append(torch.get_rng_state())
        loader = trainer.fit_loop._combined_loader.flattened[0]
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        assert bool(logger.rows) == bool(callbacks)
        found.append((state, loader.steps_per_call, model.why_no_kernel, metrics, trainer.global_step))
    (state, *others), (of_other, *of_others) = found
    assert len(state) == len(of_other)
    assert all(torch.equal(V, other) for V, other in zip(state, of_other, strict=True))
    assert others == of_others
    assert others[0] == (None if cls is Draws else steps_per_call)


def test_it_looks_after_blocks(train):
    logger = Kept()
    options = {"logger": logger, "callbacks": UnitMonitor(every_n_steps=10)}
    train(network(n_x=2, steps_per_call=4), data.Moons(n_samples=390, batch_size=13, test_fraction=0), **options)
    ends = [4, 12, 20, 26 + 4, 26 + 16, 26 + 24]  # of blocks, for 1, 10, 20, 30, 40 and 50 steps
    assert list(logger.rows) == [*(step - 1 for step in ends), 52]


def test_a_subclass_with_a_hook_of_its_own_gets_every_batch(train, caplog):
    class Own(UnitMonitor):
        def on_train_batch_start(self, *args): ...

    train(network(n_x=2), data.Moons(), callbacks=Own())
    assert "steps_per_call: None, since Own has on_train_batch_start" in caplog.text


# What it says.


def test_zeros_are_all_alike(train, caplog):
    train(network(n_h=4, init="zeros", optimizer=torch.optim.SGD), TensorLoader(points(), batch_size=10))
    assert said(caplog) == ["After step 1, all 4 hidden units compute the same: init='zeros' cannot part them"]


def test_zeros_behind_relu_are_dead(train, caplog):
    train(network("relu", n_h=4, init="zeros"), TensorLoader(points(), batch_size=10))
    assert said(caplog) == ["After step 1, 4 of 4 hidden units are dead: init='zeros' gives them no gradient"]


def test_a_rate_too_large_kills_units(train, caplog):
    X, Y = points(200)
    optimizer = partial(torch.optim.SGD, lr=30.0)
    logger = Kept()
    model = network("relu", n_h=64, optimizer=optimizer)
    train(model, TensorLoader((X, Y), batch_size=200), max_epochs=16, logger=logger)
    dead = int((torch.relu(X @ model.net.W1.T + model.net.b1) == 0).all(0).sum())
    assert dead >= 16
    assert logger.rows[16]["dead_units"] == dead / 64
    (sentence,) = [line for line in said(caplog) if "dead" in line]
    assert re.fullmatch(
        r"After step \d+, \d\d of 64 hidden units are dead: a smaller learning rate or leaky_relu", sentence
    )


def test_large_weights_saturate(train, caplog):
    model = network(n_h=50)
    with torch.no_grad():
        model.net.W1.normal_(0, 30, generator=torch.Generator().manual_seed(0))
    train(model, TensorLoader(points(), batch_size=10))
    (sentence,) = said(caplog)
    assert re.fullmatch(
        r"After step 1, \d\d of 50 hidden units are saturated: smaller initial weights or a smaller learning rate",
        sentence,
    )


def test_each_thing_is_said_from_where_it_matters():
    healthy = Look(dead=3, saturated=11, twin=3, of=16, ratio=999.0)
    assert not list(sentences(healthy, "he"))
    assert not list(sentences(healthy._replace(ratio=0.0), "he"))
    assert not list(sentences(healthy._replace(ratio=math.nan), "he"))
    assert dict(sentences(Look(dead=4, saturated=12, twin=4, of=16, ratio=1234.5), "he")) == {
        "dead": "4 of 16 hidden units are dead: a smaller learning rate or leaky_relu",
        "saturated": "12 of 16 hidden units are saturated: smaller initial weights or a smaller learning rate",
        "twin": "4 of 16 hidden units compute what another does: only different initial weights part them",
        "ratio": "the gradient of the first layer is 1,234 times that of the second",
    }
    assert dict(sentences(healthy._replace(ratio=0.0004), "he")) == {
        "ratio": "the gradient of the second layer is 2,500 times that of the first"
    }


def test_dead_units_are_no_twins():
    net = TwoLayerNet(2, 5, 1, activation="relu")
    with torch.no_grad():
        net.b1[:3] = -100.0
    found = look(net, *points(n_x=2))
    assert (found.dead, found.twin, found.of) == (3, 0, 5)


@pytest.mark.parametrize("config", ["flower", "breast_cancer", "diabetes"])
def test_a_run_in_order_hears_nothing(caplog, tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    command = fit("--trainer.max_epochs=30", config=config)
    assert len(rows_of(command)) >= 3
    assert not said(caplog)


# With every Trainer.


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*points(100), strict=True)


LOADERS = {
    "TensorLoader": lambda: TensorLoader(points(), batch_size=10),
    "DataLoader": lambda: DataLoader(TensorDataset(*points()), batch_size=10, shuffle=True),
    "IterableDataset": lambda: DataLoader(Stream(), batch_size=10),
    "with weights": lambda: TensorLoader((*points(), torch.ones(100)), batch_size=10),
}
TRAINERS = {
    "as it comes": {},
    "no epoch's end": {"max_steps": 5},
    "barebones": {"barebones": True},
    "fast_dev_run": {"fast_dev_run": True},
    "accumulating": {"accumulate_grad_batches": 3},
    "doubles": {"precision": "64-true"},
    "bfloat16": {"precision": "bf16-true"},
    "autocast": {"precision": "bf16-mixed"},
    "deterministic": {"deterministic": True},
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("options", TRAINERS)
def test_it_says_what_it_sees(train, caplog, options, loader):
    train(network(n_h=4, init="zeros"), LOADERS[loader](), **TRAINERS[options])
    assert said(caplog) == ["After step 1, all 4 hidden units compute the same: init='zeros' cannot part them"]


def test_of_another_loader_the_first_rows_are_kept(train):
    X, Y = points()
    logger, model = Kept(), network()
    train(model, DataLoader(Stream(), batch_size=10), logger=logger, callbacks=UnitMonitor(rows=6))
    expected = look(model.net, X[:6], Y[:6]).ratio
    assert [row["grad_norm_ratio"] for row in logger.rows.values()] == [expected] * 3


@pytest.mark.parametrize("steps_per_call", [None, 4])
def test_what_it_cannot_read_ends_the_looks_and_not_the_run(train, caplog, steps_per_call):
    def fit(**options):
        model = network(n_x=2, n_h=4, init="zeros", steps_per_call=steps_per_call)
        model.net.register_forward_pre_hook(lambda net, args: None)
        return train(model, data.Moons(), **options)

    assert fit().global_step == 10
    (sentence,) = said(caplog)
    assert sentence.startswith("UnitMonitor looks no further: the network must be no more than its four parameters")
    assert fit(callbacks=None).global_step == 10


def test_it_can_be_off(train, caplog):
    logger = Kept()
    monitor = UnitMonitor(every_n_steps=None)
    train(network(init="zeros"), TensorLoader(points()), logger=logger, callbacks=monitor)
    assert not logger.rows
    assert not said(caplog)


def test_a_second_fit_says_it_anew(train, caplog):
    monitor = UnitMonitor()
    for _ in range(2):
        train(network(init="zeros"), TensorLoader(points()), callbacks=monitor)
    assert len(said(caplog)) == 2


def test_bad_use_is_named(train):
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        UnitMonitor(0)
    with pytest.raises(ValueError, match="rows must be at least 1, got -3"):
        UnitMonitor(rows=-3)
    with pytest.raises(TypeError, match="UnitMonitor must watch a LitTwoLayer, got BoringModel"):
        L.Trainer(max_epochs=1, callbacks=UnitMonitor(), accelerator="cpu", logger=False).fit(BoringModel())


IN_TWO_PROCESSES = """
import logging, sys
import lightning as L
import torch
from twolayer import data
from twolayer.callbacks import UnitMonitor
from twolayer.training import LitTwoLayer

logging.getLogger("lightning.pytorch.utilities.rank_zero").addHandler(logging.FileHandler(sys.argv[1]))
module = data.Moons(n_samples=199, batch_size=13, val_fraction=0, test_fraction=0)
model = LitTwoLayer(2, 4, 1, activation="tanh", init="zeros", steps_per_call=4)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
options = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": 2, **quiet}
trainer = L.Trainer(callbacks=UnitMonitor(), **options)
trainer.fit(model, module)
assert trainer.train_dataloader.steps_per_call == 4
assert trainer.callbacks[0]._looks == (trainer.global_rank == 0)
"""


@pytest.mark.slow
def test_of_two_processes_the_first_one_looks_and_says(tmp_path):
    script, heard = tmp_path / "script.py", tmp_path / "heard"
    script.write_text(IN_TWO_PROCESSES)
    environment = {"PYTHONPATH": str(Path(twolayer.__file__).parents[1]), "PATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(heard)], env=environment, check=True, timeout=300)
    assert heard.read_text().count("After step 4, all 4 hidden units compute the same") == 1


# On the command line.


def fit(*arguments, config="moons", quiet=True):
    path = str(ROOT / f"configs/{config}.yaml")
    options = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"] if quiet else []
    return cli.main(["fit", "--config", path, "--trainer.accelerator=cpu", *options, *arguments])


def rows_of(command):
    with (Path(command.trainer.log_dir) / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row.get("dead_units")]


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_a_folder")
def test_the_command_line_has_it(caplog):
    command = fit("--trainer.max_epochs=4", "--model.init=zeros", "--data.val_fraction=0")
    # An epoch of 14 steps is one block.
    assert said(caplog) == ["After step 14, all 16 hidden units compute the same: init='zeros' cannot part them"]
    assert rows_of(command)[0]["twin_units"] == "1.0"

    caplog.clear()
    command = fit("--trainer.max_epochs=4", "--model.init=zeros", "--unit_monitor.every_n_steps=null")
    assert not said(caplog)
    assert not rows_of(command)

    one = ["--trainer.callbacks+=twolayer.callbacks.UnitMonitor", "--trainer.callbacks.every_n_steps=1"]
    command = fit("--trainer.max_epochs=4", *one)
    (monitor,) = [one for one in command.trainer.callbacks if isinstance(one, UnitMonitor)]
    assert monitor.every_n_steps == 1

    command = fit("--trainer.max_epochs=2", "--trainer.barebones=true", quiet=False)
    assert not [one for one in command.trainer.callbacks if isinstance(one, UnitMonitor)]

    assert fit("--trainer.fast_dev_run=true").trainer.global_step == 1


@pytest.mark.usefixtures("in_a_folder")
def test_a_run_that_had_it_goes_on_without(caplog):
    """And Lightning does not ask for the callback whose state is in the checkpoint."""
    last = Path(fit("--trainer.max_epochs=2").trainer.log_dir) / "checkpoints" / "last.ckpt"
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        command = fit("--trainer.max_epochs=3", f"--ckpt_path={last}", "--unit_monitor.every_n_steps=null")
    assert command.trainer.current_epoch == 3
    assert not [str(one.message) for one in warned if "callbacks used to create the checkpoint" in str(one.message)]


@pytest.mark.usefixtures("in_a_folder")
@pytest.mark.parametrize("steps_per_call", [3, "null"])
def test_a_resumed_run_says_nothing_again_and_has_the_same_rows(caplog, steps_per_call):
    options = ["--model.init=zeros", "--unit_monitor.every_n_steps=10", f"--model.steps_per_call={steps_per_call}"]
    options += ["--data.batch_size=60"]  # 12 steps an epoch
    every = ["--last_checkpoint.every_n_train_steps=6", "--last_checkpoint.save_top_k=-1"]
    whole = fit("--trainer.max_epochs=3", *options, *every, "--last_checkpoint.filename={step}")
    assert len(said(caplog)) == 1
    expected = rows_of(whole)
    ends = [1, 10, 20, 30] if steps_per_call == "null" else [3, 12, 21, 30]
    assert [int(row["step"]) for row in expected] == [*(step - 1 for step in ends), 36]
    half = fit("--trainer.max_epochs=2", *options)
    assert [int(row["step"]) for row in rows_of(half)] == [*(step - 1 for step in ends[:-1]), 24]
    folders = [Path(command.trainer.log_dir) / "checkpoints" for command in (whole, half)]
    for checkpoint in (folders[0] / "step=6.ckpt", folders[0] / "step=30.ckpt", folders[1] / "last.ckpt"):
        caplog.clear()
        resumed = fit("--trainer.max_epochs=3", *options, "--trainer.logger.version=9", "--ckpt_path", str(checkpoint))
        assert not said(caplog)
        assert rows_of(resumed) == expected
