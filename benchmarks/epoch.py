"""An epoch of training: scikit-learn, a loop over tensors, Lightning as its users write it, and ours in Lightning.

``python benchmarks/epoch.py`` prints the tables and writes them to ``results/epoch.md`` beside this file. With
``--device cuda`` it prints the rates and the losses there, where scikit-learn stays on the CPU.
"""

import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import sklearn
import torch
from measuring import Timed, interleaved, options, publish, quicker, table, timed, verdict
from numpy.typing import NDArray
from peers import criterion
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from twolayer import TwoLayerNet
from twolayer.data import TabularDataModule
from twolayer.loading import TensorLoader
from twolayer.training import LitTwoLayer, kernel_problem, kernel_steps
from twolayer.training.standardization import Standardize

ROWS, FEATURES, HIDDEN = 100_000, 28, 100
BATCH_SIZES = [64, 200, 1024, 4096]
ROUNDS = 5
IN_A_BLOCK = 32
AT_LEAST = {64: 3, 200: 3.5, 1024: 3, 4096: 3.5}
"""Times as quick as scikit-learn."""
SEEDS, EPOCHS, VALIDATION_ROWS = 5, 3, 20_000

DEVICE = "cpu"
"""Changed by ``--device``."""

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
        self.start = now()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = now() - self.start


def now() -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


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
        return net(torch.from_numpy(X).to(DEVICE)).squeeze(-1).double().cpu().numpy()


def loop(data: Rows, batch_size: int, epochs: int, seed: int) -> Fitted:
    X, Y = torch.from_numpy(data[0]).to(DEVICE), torch.from_numpy(data[1]).float().to(DEVICE)
    net = network(seed).to_sequential().to(DEVICE)
    optimizer = torch.optim.Adam(net.parameters())
    for epoch in range(epochs):
        start = now()
        generator = torch.Generator().manual_seed(seed + epoch)
        for batch in torch.randperm(len(X), generator=generator).split(batch_size):
            optimizer.zero_grad()
            criterion(net(X[batch]), Y[batch]).backward()
            optimizer.step()
        seconds = now() - start
    return Fitted(seconds, partial(probabilities, nn.Sequential(net, nn.Sigmoid())))


class Usual(L.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        X, Y = batch
        loss = criterion(self.net(X), Y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def usual_lightning(data: Rows, batch_size: int, epochs: int, seed: int) -> Fitted:
    L.seed_everything(seed, verbose=False)
    dataset = TensorDataset(torch.from_numpy(data[0]), torch.from_numpy(data[1]).float())
    model, timer = Usual(network(seed).to_sequential()), Timer()
    trainer = L.Trainer(max_epochs=epochs, accelerator=DEVICE, callbacks=timer, **QUIET)
    trainer.fit(model, DataLoader(dataset, batch_size=batch_size, shuffle=True))
    return Fitted(timer.seconds, partial(probabilities, nn.Sequential(model.net, nn.Sigmoid()).to(DEVICE)))


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
    trainer = L.Trainer(max_epochs=epochs, accelerator=DEVICE, callbacks=timer, **QUIET)
    trainer.fit(model, datamodule=Arrays(data, batch_size=batch_size, seed=seed, on_device=DEVICE == "cuda"))
    return Fitted(timer.seconds, partial(probabilities, model.eval().to(DEVICE)))


PEERS = {"scikit-learn": scikit_learn, "loop": loop, "Lightning, as usual": usual_lightning, "ours": ours}


# The tables.


def rates(data: Rows, rounds: int) -> list[list[str]]:
    def run(fit: Callable[..., Fitted], batch_size: int) -> Timed:
        epochs = 1 if fit is usual_lightning else 2  # an epoch of warming up makes no difference there
        return lambda calls: fit(data, batch_size, epochs, 0).seconds

    rows = []
    for batch_size in BATCH_SIZES:
        times = interleaved({name: run(fit, batch_size) for name, fit in PEERS.items()}, rounds, turn=0)
        examples = [f"{len(data[0]) / statistics.median(seconds) / 1000:,.0f}" for seconds in times.values()]
        ratios = {name: statistics.median(quicker(times, "ours", name)) for name in PEERS if name != "ours"}
        least = AT_LEAST[batch_size]
        reached = verdict(ratios["scikit-learn"] >= least, f"at least {least}")
        rows.append([f"{batch_size:,}", *examples, *(f"{ratio:.2f}" for ratio in ratios.values()), reached])
    return rows


def parts(data: Rows, rounds: int) -> list[list[str]]:
    """Where the time of a step goes: its parts by themselves, and the step within a fit."""
    X, Y = map(torch.from_numpy, data)

    rows = []
    for batch_size in BATCH_SIZES:
        steps = -(-len(X) // batch_size)
        sequential = network(0).to_sequential()
        adam = torch.optim.Adam(sequential.parameters())

        def usual_step(x: torch.Tensor, y: torch.Tensor, net: nn.Module, adam: torch.optim.Optimizer) -> None:
            adam.zero_grad()
            criterion(net(x), y).backward()
            adam.step()

        usual_loader = DataLoader(TensorDataset(X, Y), batch_size=batch_size, shuffle=True)
        loader = TensorLoader((X, Y), batch_size=batch_size, shuffle=True, steps_per_call=IN_A_BLOCK)
        taken, block = steps_of_a_block(X, Y, batch_size)
        computations = {
            "as usual": {
                "batches": partial(list, usual_loader),
                "step": partial(usual_step, X[:batch_size], Y[:batch_size].float(), sequential, adam),
            },
            "ours": {"batches": partial(list, loader), "step": block},
        }
        for name, fit in (("as usual", usual_lightning), ("ours", ours)):
            times = interleaved(timed(computations[name]), rounds)
            found = {part: 1e6 * statistics.median(seconds) for part, seconds in times.items()}
            found["batches"] /= steps
            found["step"] /= taken if name == "ours" else 1
            whole = 1e6 * fit(data, batch_size, 2, 0).seconds / steps
            cells = [*found.values(), whole - sum(found.values()), whole]
            rows.append([f"{batch_size:,}", name, *(f"{cell:,.0f}" for cell in cells)])
    return rows


def steps_of_a_block(X: torch.Tensor, Y: torch.Tensor, batch_size: int) -> tuple[int, Callable[[], Any]]:
    """What a fit calls for a block, and how many steps that takes."""
    net, same = network(0), Standardize(FEATURES)
    adam = torch.optim.Adam(net.parameters(), fused=True)
    _, grads = net.loss_and_grads(X[:batch_size], Y[:batch_size])
    for name, V in net.named_parameters():
        V.grad = grads[name]
    adam.step()  # so that it has its state
    problem = kernel_problem.problem(net, (X, Y), same, None)
    assert not isinstance(problem, str), problem
    changes = kernel_steps.updates(adam, problem.parameters)
    assert not isinstance(changes, str), changes
    batches = torch.randperm(len(X)).split(batch_size)[:IN_A_BLOCK]
    call = partial(kernel_steps.take, problem, adam, changes, batches, math.inf)
    return len(call()), call


def losses() -> list[list[str]]:
    """The loss on held-out rows in the end, mean and standard deviation over the seeds."""
    X, Y = rows(VALIDATION_ROWS, 1_000_000)
    lines = []
    for name, fit in PEERS.items():
        found = [log_loss(Y, fit(rows(ROWS, seed), 200, EPOCHS, seed).predict(X)) for seed in range(SEEDS)]
        lines.append([name, f"{statistics.mean(found):.4f}", f"{statistics.stdev(found):.4f}"])
    return lines


def main() -> None:
    global DEVICE
    parser = options(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    chosen = parser.parse_args()
    DEVICE = chosen.device
    rounds = chosen.rounds or ROUNDS
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", module="lightning")
    data = rows(ROWS, 0)
    ratios = ["ours ÷ scikit-learn", "ours ÷ loop", "ours ÷ Lightning", "of scikit-learn, wanted"]
    steps = (
        f"""\
## Where the time of a step goes

Microseconds for each step in `Trainer.fit`. The parts are measured by themselves, where they find the cache as they
left it, so that the rest, Lightning's, is somewhat less than it says. Ours brings rows by their numbers,
{IN_A_BLOCK} batches at once; one call of the kernel gathers and standardises them and takes the steps.

{table(["batch", "", "batches", "cost, gradients, Adam", "the rest", "in all"], parts(data, rounds), 2)}

"""
        if DEVICE == "cpu"
        else ""
    )
    body = f"""\
{ROWS:,} rows of {FEATURES} features, {HIDDEN} ReLU units, one output, Adam. The loop is over shuffled indices of
tensors, with `nn.Sequential` and autograd; Lightning, as usual, has a `DataLoader` of a `TensorDataset` and logs the
loss; ours is `LitTwoLayer` and a `TabularDataModule` as they come, in `Trainer.fit`. Neither Trainer has a logger or a
progress bar.

Thousands of examples a second, medians of {rounds} rounds in which each has its turn, and how many times quicker ours
is, medians over the rounds.

{table(["batch", *PEERS, *ratios], rates(data, rounds))}

{steps}## The same training

Loss on {VALIDATION_ROWS:,} held-out rows after {EPOCHS} epochs at batch 200, over {SEEDS} seeds of the rows, the start
and the order. The loop and ours have the same start and order, Lightning as usual the same start, scikit-learn its own.

{table(["", "mean", "standard deviation"], losses())}"""
    versions = f"Lightning {L.__version__}, scikit-learn {sklearn.__version__}"
    publish(__file__, "An epoch of training", body, dry_run=chosen.dry_run or DEVICE == "cuda", versions=versions)


if __name__ == "__main__":
    main()
