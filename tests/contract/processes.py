"""What each of two processes does, gloo between them, and how they are started: together, or by a torchrun each.

Every scenario takes the process's rank and a backward mode, and gives what a single process must give on the batches of
both. The batches of both are those of one problem, cut between them.
"""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from problems import Problem, problem
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from twolayer.functional import BACKWARDS

from .models import Ours, Theirs

ROOT = Path(__file__).parents[2]
TIMEOUT = timedelta(seconds=60)
LEARNING_RATE = 0.5
# How many examples of every batch each of the two has: equal shares, unequal ones, and one that ends early.
EVEN = [(4, 4), (4, 4)]
UNEVEN = [(4, 4), (3, 2)]
ENDS_EARLY = [(4, 4), (3, 2), (2, 0)]

Shares = list[tuple[int, int]]


def example_of(shares: Shares, dtype: torch.dtype = torch.float64) -> Problem:
    """The problem, on the CPU or, where NCCL connects the processes, on the GPU of this one."""
    nccl = dist.is_initialized() and dist.get_backend() == "nccl"
    device = f"cuda:{dist.get_rank()}" if nccl else "cpu"
    return problem("tanh", "multiclass", m=sum(map(sum, shares)), soft=True, dtype=dtype, device=device)


def batches(example: Problem, shares: Shares, rank: int | None) -> Iterator[tuple[Tensor, Tensor, int]]:
    """``X`` and ``Y`` of one process, or with None of both, and how many examples both have: batch by batch."""
    start = 0
    for of_first, of_second in shares:
        cut, end = start + of_first, start + of_first + of_second
        mine = {0: slice(start, cut), 1: slice(cut, end), None: slice(start, end)}[rank]
        if mine.start < mine.stop:
            yield example.X[mine], example.Y[mine], of_first + of_second
        start = end


def trained(
    example: Problem, shares: Shares, rank: int | None, parameters: list[nn.Parameter], cost: Callable[..., Tensor]
) -> list[Tensor]:
    """The gradients of every step, then the parameters."""
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE)
    gradients = []
    for X, Y, m in batches(example, shares, rank):
        optimizer.zero_grad()
        cost(X, Y, m).backward()
        gradients += [whole(p.grad) for p in parameters]
        optimizer.step()
    return gradients + [whole(p) for p in parameters]


def whole(V: Tensor) -> Tensor:
    """All of a tensor that is sharded, perhaps."""
    return (V.full_tensor() if hasattr(V, "full_tensor") else V).detach().cpu().clone()


def by_one_process(shares: Shares) -> list[Tensor]:
    """The truth: ``nn.Sequential`` on the joined batches."""
    example = example_of(shares)
    model = Theirs(example)
    return trained(example, shares, None, list(model.parameters()), lambda X, Y, m: model(X, Y))


def distributed(
    rank: int, backward: str, shares: Shares, wrap: Callable[[Ours], Callable[..., Tensor]]
) -> list[Tensor]:
    """Trains a network in this process. ``wrap`` makes of it the cost ``(X, Y, m)`` that the gradients come from."""
    example = example_of(shares)
    model = Ours(example, backward)
    cost = wrap(model)
    return trained(example, shares, rank, list(model.parameters()), cost)


def ddp_logits(rank: int, backward: str) -> list[Tensor]:
    def wrap(model):
        ddp = DistributedDataParallel(model.net)
        return lambda X, Y, m: model.net.cost(ddp(X), Y)

    return distributed(rank, backward, EVEN, wrap)


def ddp_cost(rank: int, backward: str) -> list[Tensor]:
    def wrap(model):
        ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
        return lambda X, Y, m: ddp(X, Y)

    return distributed(rank, backward, EVEN, wrap)


def ddp_forward(rank: int, backward: str) -> list[Tensor]:
    def wrap(model):
        ddp = DistributedDataParallel(model.net)
        return lambda X, Y, m: ddp(X, Y)

    return distributed(rank, backward, EVEN, wrap)


def ddp_compiled(rank: int, backward: str) -> list[Tensor]:
    def wrap(model):
        ddp = torch.compile(DistributedDataParallel(model), backend="aot_eager")
        return lambda X, Y, m: ddp(X, Y)

    return distributed(rank, backward, EVEN, wrap)


def share_of_the_mean(net: Any, logits: Tensor, Y: Tensor, m: int) -> Tensor:
    """What the mean over two processes makes into the mean over the examples of both."""
    return net.cost(logits, Y, reduction="sum") * (dist.get_world_size() / m)


def ddp_uneven(rank: int, backward: str) -> list[Tensor]:
    example = example_of(ENDS_EARLY)
    model = Ours(example, backward)
    ddp = DistributedDataParallel(model.net)
    with Join([ddp]):
        gradients_and_parameters = trained(
            example,
            ENDS_EARLY,
            rank,
            list(model.parameters()),
            lambda X, Y, m: share_of_the_mean(model.net, ddp(X), Y, m),
        )
    # The process that ended early has the parameters of the other one once both have joined.
    steps = len(gradients_and_parameters) - 4
    return gradients_and_parameters[:steps] + [whole(p) for p in model.parameters()]


def ddp_accumulation(rank: int, backward: str) -> list[Tensor]:
    """Each batch in two parts, the first without communication."""

    def wrap(model):
        ddp = DistributedDataParallel(model.net)

        def cost(X, Y, m):
            with ddp.no_sync():
                (model.net.cost(ddp(X[:1]), Y[:1]) / 4).backward()
            return model.net.cost(ddp(X[1:]), Y[1:]) * 3 / 4

        return cost

    return distributed(rank, backward, EVEN, wrap)


def fsdp_cost(rank: int, backward: str) -> list[Tensor]:
    def wrap(model):
        fully_shard(model.net)
        return lambda X, Y, m: model(X, Y)

    return distributed(rank, backward, EVEN, wrap)


def fsdp_uneven(rank: int, backward: str) -> list[Tensor]:
    def wrap(model):
        fully_shard(model.net, reshard_after_forward=True)
        return lambda X, Y, m: share_of_the_mean(model.net, model.net(X), Y, m)

    return distributed(rank, backward, UNEVEN, wrap)


def fsdp_bfloat16(rank: int, backward: str) -> list[Tensor]:
    example = example_of(EVEN, torch.float32)
    model = Ours(example, backward)
    fully_shard(model.net, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    return trained(example, EVEN, rank, list(model.parameters()), lambda X, Y, m: model(X, Y))


def fsdp_without_a_call(rank: int, backward: str) -> list[Tensor]:
    """``loss_and_grads`` does not call the module, so its parameters stay in pieces: no number, but an error."""
    example = example_of(EVEN)
    net = Ours(example, backward).net
    fully_shard(net)
    try:
        _, grads = net.loss_and_grads(example.X, example.Y)
    except (RuntimeError, TypeError, ValueError):
        return []
    return list(grads.values())


SCENARIOS = [
    ddp_logits,
    ddp_cost,
    ddp_forward,
    ddp_compiled,
    ddp_uneven,
    ddp_accumulation,
    fsdp_cost,
    fsdp_uneven,
    fsdp_bfloat16,
    fsdp_without_a_call,
]


def run(rank: int, folder: Path, device: str) -> None:
    """Runs every scenario in every mode as one of two processes, and leaves what came of each in the folder."""
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    for scenario in SCENARIOS:
        for backward in BACKWARDS:
            name = f"{scenario.__name__}-{backward}"
            # A group of its own for each, so that one that fails does not take others along.
            store = dist.FileStore(str(folder / f"{name}.store"), 2)
            connection = "nccl" if device == "cuda" else "gloo"
            dist.init_process_group(connection, store=store, rank=rank, world_size=2, timeout=TIMEOUT)
            try:
                result: Any = scenario(rank, backward)
            except Exception:
                result = traceback.format_exc()
            dist.destroy_process_group()
            torch.save(result, folder / f"{name}-{rank}.pt")


def launch_two_torchruns(folder: Path, port: int) -> list[subprocess.Popen]:
    """A torchrun each, which know of each other nothing but an address."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    meeting = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    script = ["-m", "contract.processes", str(folder)]
    return [launched([*torchrun, *meeting, f"--node-rank={rank}", *script], folder) for rank in range(2)]


def launch_training(folder: Path, backward: str, *options: str) -> subprocess.Popen:
    """A few epochs on the command line, each a step on the whole training split, however it is cut."""
    experiment = [str(ROOT / "train.py"), "fit", "--config", str(ROOT / "configs" / "moons.yaml")]
    steps = ["--data.init_args.n_samples=400", "--data.init_args.batch_size=null", "--trainer.max_epochs=3"]
    descent = ["--model.optimizer.class_path=torch.optim.SGD", "--model.optimizer.init_args.lr=0.5"]
    mode = [f"--model.backward={backward}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    return launched([sys.executable, *experiment, *steps, *descent, *mode, *options], folder)


def launched(command: list[str], folder: Path) -> subprocess.Popen:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def wait(processes: list[subprocess.Popen], seconds: float) -> None:
    """Until all have ended, and ended well."""
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)


def main() -> None:
    """What a torchrun runs: an ordinary training script."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=TIMEOUT)
    for backward in BACKWARDS:
        result = ddp_logits(dist.get_rank(), backward)
        torch.save(result, Path(sys.argv[1]) / f"torchrun-{backward}-{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
