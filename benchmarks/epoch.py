"""An epoch of training: scikit-learn, a loop over tensors, Lightning as its users write it, and ours in Lightning.

``python benchmarks/epoch.py`` prints the tables and writes them to ``results/epoch.md`` beside this file.
"""

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import sklearn
import torch
from machine import machine
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from twolayer import TwoLayerNet
from twolayer.data import TabularDataModule
from twolayer.loading import Block, TensorLoader
from twolayer.training import LitTwoLayer

RESULTS = Path(__file__).parent / "results" / "epoch.md"
ROWS, FEATURES, HIDDEN = 100_000, 28, 100
BATCH_SIZES = [64, 200, 1024, 4096]
ROUNDS = 5
SEEDS, EPOCHS, VALIDATION_ROWS = 5, 3, 20_000

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Fitted(NamedTuple):
    """What came of a training: the seconds of its last epoch, and probabilities of class 1 for rows."""

    seconds: float
    predict: Callable[[NDArray[np.float32]], NDArray[np.float64]]


def rows(m: int, seed: int) -> Rows:
    random = np.random.default_rng(seed)
    X = random.standard_normal((m, FEATURES), dtype=np.float32)
    logits = 2 * X[:, 0] * X[:, 1] + X[:, 2] - np.abs(X[:, 3])
    return X, (random.random(m) < 1 / (1 + np.exp(-logits))).astype(np.int64)


class Timer(L.Callback):
    """Not of validation, nor of what a fit does before its first epoch."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.start


# The peers. Adam with rate 0.001, no regularisation, and the same start, except that scikit-learn draws one like it.


def scikit_learn(data: Rows, batch_size: int, epochs: int, seed: int) -> Fitted:
    model = MLPClassifier((HIDDEN,), batch_size=batch_size, alpha=0, random_state=seed)
    for _ in range(epochs):
        start = time.perf_counter()
        model.partial_fit(*data, classes=[0, 1])
        seconds = time.perf_counter() - start
    return Fitted(seconds, lambda X: model.predict_proba(X)[:, 1])


def network(seed: int) -> TwoLayerNet:
    return TwoLayerNet(FEATURES, HIDDEN, 1, init="xavier", generator=torch.Generator().manual_seed(seed))


def probabilities(net: Callable[[torch.Tensor], torch.Tensor], X: NDArray[np.float32]) -> NDArray[np.float64]:
    with torch.no_grad():
        return net(torch.from_numpy(X)).squeeze(-1).double().numpy()


def loop(data: Rows, batch_size: int, epochs: int, seed: int) -> Fitted:
    X, Y = torch.from_numpy(data[0]), torch.from_numpy(data[1]).float()
    net = network(seed).to_sequential()
    optimizer = torch.optim.Adam(net.parameters())
    for epoch in range(epochs):
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(seed + epoch)
        for batch in torch.randperm(len(X), generator=generator).split(batch_size):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(net(X[batch]).squeeze(-1), Y[batch]).backward()
            optimizer.step()
        seconds = time.perf_counter() - start
    return Fitted(seconds, partial(probabilities, nn.Sequential(net, nn.Sigmoid())))


class Usual(L.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        X, Y = batch
        loss = F.binary_cross_entropy_with_logits(self.net(X).squeeze(-1), Y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def usual_lightning(data: Rows, batch_size: int, epochs: int, seed: int) -> Fitted:
    L.seed_everything(seed, verbose=False)
    dataset = TensorDataset(torch.from_numpy(data[0]), torch.from_numpy(data[1]).float())
    model, timer = Usual(network(seed).to_sequential()), Timer()
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=timer, **QUIET)
    trainer.fit(model, DataLoader(dataset, batch_size=batch_size, shuffle=True))
    return Fitted(timer.seconds, partial(probabilities, nn.Sequential(model.net, nn.Sigmoid())))


class Arrays(TabularDataModule):
    task = "binary"

    def __init__(self, data: Rows, **options: Any) -> None:
        super().__init__(val_fraction=0, test_fraction=0, **options)
        self.data = data

    def load(self) -> Rows:
        return self.data


def ours(data: Rows, batch_size: int, epochs: int, seed: int) -> Fitted:
    model, timer = LitTwoLayer(FEATURES, HIDDEN, 1), Timer()
    model.net.load_state_dict(network(seed).state_dict())
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=timer, **QUIET)
    trainer.fit(model, datamodule=Arrays(data, batch_size=batch_size, seed=seed))
    return Fitted(timer.seconds, partial(probabilities, model.eval()))


PEERS = {"scikit-learn": scikit_learn, "loop": loop, "Lightning, as usual": usual_lightning, "ours": ours}


# The tables.


def rates(data: Rows) -> str:
    lines = []
    for batch_size in BATCH_SIZES:
        seconds: dict[str, list[float]] = {name: [] for name in PEERS}
        for _ in range(ROUNDS):
            for name, fit in PEERS.items():
                epochs = 1 if fit is usual_lightning else 2  # an epoch of warming up makes no difference there
                seconds[name].append(fit(data, batch_size, epochs, 0).seconds)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        ratios = [
            statistics.median(a / b for a, b in zip(seconds[name], seconds["ours"], strict=True))
            for name in PEERS
            if name != "ours"
        ]
        cells = [f"{len(data[0]) / medians[name] / 1000:,.0f}" for name in PEERS] + [f"{ratio:.2f}" for ratio in ratios]
        lines.append(f"| {batch_size:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def microseconds(compute: Callable[[], Any], at_least: float = 0.1) -> float:
    compute()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < at_least:
        compute()
        calls += 1
    return 1e6 * (time.perf_counter() - start) / calls


def parts(data: Rows) -> str:
    """Where the time of a step goes: its parts by themselves, and the step within a fit."""
    X, Y = map(torch.from_numpy, data)
    lines = []
    for batch_size in BATCH_SIZES:
        steps = -(-len(X) // batch_size)
        x, y, y_float = X[:batch_size].clone(), Y[:batch_size].clone(), Y[:batch_size].float()
        net = TwoLayerNet(FEATURES, HIDDEN, 1)
        seq = net.to_sequential()

        def graph(x: Any = x, y: Any = y_float, seq: Any = seq) -> None:
            F.binary_cross_entropy_with_logits(seq(x).squeeze(-1), y).backward()

        def in_batches(loader: Any) -> None:
            for item in loader:
                if isinstance(item, Block):
                    for _ in item:
                        pass

        graph()
        usual = [
            microseconds(partial(in_batches, DataLoader(TensorDataset(X, Y), batch_size=batch_size, shuffle=True)))
            / steps,
            microseconds(graph),
            microseconds(torch.optim.Adam(net.parameters()).step),
        ]
        loader = TensorLoader((X, Y), batch_size=batch_size, shuffle=True, steps_per_call=32)
        mine = [
            microseconds(partial(in_batches, loader)) / steps,
            microseconds(partial(net.loss_and_grads, x, y)),
            microseconds(torch.optim.Adam(net.parameters(), fused=True).step),
        ]
        for name, fit, found in (("as usual", usual_lightning, usual), ("ours", ours, mine)):
            whole = 1e6 * fit(data, batch_size, 2, 0).seconds / steps
            cells = [*found, whole - sum(found), whole]
            lines.append(f"| {batch_size:,} | {name} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |")
    return "\n".join(lines)


def losses() -> str:
    """The loss on held-out rows in the end, mean and standard deviation over the seeds."""
    X, Y = rows(VALIDATION_ROWS, 1_000_000)
    lines = []
    for name, fit in PEERS.items():
        found = [log_loss(Y, fit(rows(ROWS, seed), 200, EPOCHS, seed).predict(X)) for seed in range(SEEDS)]
        lines.append(f"| {name} | {statistics.mean(found):.4f} | {statistics.stdev(found):.4f} |")
    return "\n".join(lines)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", module="lightning")
    data = rows(ROWS, 0)
    page = f"""# An epoch of training

<!-- Written by `python benchmarks/epoch.py`. Do not edit. -->

{ROWS:,} rows of {FEATURES} features, {HIDDEN} ReLU units, one output, Adam. The loop is over shuffled indices of
tensors, with `nn.Sequential` and autograd; Lightning, as usual, has a `DataLoader` of a `TensorDataset` and logs the
loss; ours is `LitTwoLayer` and a `TabularDataModule` as they come, in `Trainer.fit`. Neither Trainer has a logger or a
progress bar.

Thousands of examples a second, medians of {ROUNDS} rounds in which each has its turn, and how many times quicker ours
is, medians over the rounds.

| batch | {" | ".join(PEERS)} | ours ÷ scikit-learn | ours ÷ loop | ours ÷ Lightning |
|---:|---:|---:|---:|---:|---:|---:|---:|
{rates(data)}

## Where the time of a step goes

Microseconds for each step in `Trainer.fit`. The parts are measured by themselves, where they find the cache as they
left it, so that the rest, Lightning's and the standardisation's, is somewhat less than it says.

| batch | | batches | cost and gradients | Adam | the rest | in all |
|---:|---|---:|---:|---:|---:|---:|
{parts(data)}

## The same training

Loss on {VALIDATION_ROWS:,} held-out rows after {EPOCHS} epochs at batch 200, over {SEEDS} seeds of the rows, the start
and the order. The loop and ours have the same start and order, Lightning as usual the same start, scikit-learn its own.

| | mean | standard deviation |
|---|---:|---:|
{losses()}

{machine()[:-1]}, Lightning {L.__version__}, scikit-learn {sklearn.__version__}.
"""
    print(page)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
