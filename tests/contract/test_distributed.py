"""Two processes, gloo between them, against one process on the joined batches."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from problems import assert_equal
from torch import Tensor
from torch import multiprocessing as mp

from twolayer.functional import BACKWARDS

from . import processes
from .processes import ENDS_EARLY, EVEN, UNEVEN, by_one_process

contract = pytest.mark.contract
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")

TIMEOUT = 180

Results = Callable[[str], list[list[Tensor]]]


two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, two_gpus])])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """What came of all scenarios, run together once: most of the time goes into the start of two processes."""
    folder = tmp_path_factory.mktemp("two_processes")
    context = mp.spawn(processes.run, (folder, request.param), nprocs=2, join=False)
    deadline = time.monotonic() + TIMEOUT
    try:
        while not context.join(timeout=1):  # false, too, while one still runs
            assert time.monotonic() < deadline, f"two processes have not finished in {TIMEOUT} s"
    finally:
        for process in context.processes:
            process.kill()
    return folder


@pytest.fixture
def results(folder: Path, backward: str) -> Results:
    """Of a scenario, what came of it in the first and in the second process."""

    def of(scenario: str) -> list[list[Tensor]]:
        found = [torch.load(folder / f"{scenario}-{backward}-{rank}.pt") for rank in range(2)]
        for result in found:
            assert not isinstance(result, str), result
        return found

    return of


def assert_as_one_process(results: list[list[Tensor]], shares: processes.Shares) -> None:
    truth = by_one_process(shares)
    for result in results:
        assert_equal(result, truth)


@contract("Distributed", "DDP, `ddp(X)` then `net.cost(logits, Y)`")
def test_ddp(results):
    assert_as_one_process(results("ddp_logits"), EVEN)


@contract("Distributed", "DDP around a module that returns the cost")
def test_ddp_cost(results):
    assert_as_one_process(results("ddp_cost"), EVEN)


@contract("Distributed", "DDP, the cost by `ddp(X, Y)`")
def test_ddp_forward(results):
    assert_as_one_process(results("ddp_forward"), EVEN)


@contract("Distributed", "DDP, compiled")
def test_ddp_compiled(results):
    assert_as_one_process(results("ddp_compiled"), EVEN)


@contract("Distributed", "DDP, gradients accumulated under `no_sync`")
def test_ddp_accumulation(results):
    assert_as_one_process(results("ddp_accumulation"), EVEN)


@contract("Distributed", "DDP, uneven last batches: `Join` and a weighted mean")
def test_ddp_uneven(results):
    truth = by_one_process(ENDS_EARLY)
    first, second = results("ddp_uneven")
    assert_equal(first, truth)
    # One process ended a batch early: it saw no gradients of that, but has the parameters after it.
    assert_equal(second, truth[:8] + truth[-4:])


@contract("Distributed", "FSDP2, `net.loss(X, Y)`")
def test_fsdp(results):
    assert_as_one_process(results("fsdp_cost"), EVEN)


@contract("Distributed", "FSDP2, uneven last batches: a weighted mean")
def test_fsdp_uneven(results):
    assert_as_one_process(results("fsdp_uneven"), UNEVEN)


@contract("Distributed", "FSDP2, parameters gathered in bfloat16")
def test_fsdp_bfloat16(results):
    for result in results("fsdp_bfloat16"):
        assert_equal(result, by_one_process(EVEN), 0.05)


@contract("Distributed", "FSDP2, `loss_and_grads` raises while the parameters are sharded")
def test_fsdp_without_a_call(results):
    assert results("fsdp_without_a_call") == [[], []]


@pytest.fixture(scope="module")
def torchrun_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What came of two processes that met through an address."""
    folder = tmp_path_factory.mktemp("torchrun")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.wait(processes.launch_two_torchruns(folder, port), TIMEOUT)
    return folder


@contract("Distributed", "`torchrun` on each of two machines, which meet through an address")
def test_torchrun(torchrun_folder, backward):
    results = [torch.load(torchrun_folder / f"torchrun-{backward}-{rank}.pt") for rank in range(2)]
    assert_as_one_process(results, EVEN)


@pytest.fixture(scope="module")
def training_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What came of the command line, by one process and by two in each mode, all at the same time."""
    pytest.importorskip("lightning")
    folder = tmp_path_factory.mktemp("training")
    options = {"one": ("autograd",)}
    options |= {mode: (mode, "--trainer.strategy=ddp", "--trainer.devices=2") for mode in BACKWARDS}
    for name in options:
        (folder / name).mkdir()
    processes.wait([processes.launch_training(folder / name, *given) for name, given in options.items()], TIMEOUT)
    return folder


@contract("Distributed", "Lightning, `--trainer.strategy ddp --trainer.devices 2`")
@pytest.mark.slow
def test_lightning(training_folder, backward):
    def weights(name):
        (checkpoint,) = (training_folder / name).rglob("last.ckpt")
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        return [V for key, V in state.items() if key.startswith("net.")]

    assert_equal(weights(backward), weights("one"), 1e-5)
