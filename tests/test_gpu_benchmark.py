"""``benchmarks/gpu.py`` without a GPU: what it measures, and what it leaves behind when it is cut off."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from test_gpu_dispatch import taken

from twolayer.kernels import gpu


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOLAYER_RESULTS", str(tmp_path / "results"))
    path = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = torch.get_float32_matmul_precision()
    yield module
    torch.set_float32_matmul_precision(before)


def test_each_kernel_is_the_first_choice_of_each_card_for_a_network_that_is_measured(benchmark, monkeypatch):
    """Of those that form products themselves, on cards that have tensor cores for them: none is kept for few cards."""
    pytest.importorskip("triton")
    for name, card in gpu.CARDS.items():
        monkeypatch.setattr(gpu, "architecture", lambda device, name=name: name)
        first = set()
        for n_x, n_h, n_y, _, dtype, precision in benchmark.CASES:
            torch.set_float32_matmul_precision(precision)
            first.add(taken(n_x, n_h, n_y, dtype=dtype, device="meta")[0])
        assert first == ({*gpu.KERNELS} if card.rows else {"triton_chunked"}), name


def test_what_is_measured_is_written_after_each_case(benchmark, monkeypatch):
    """On a GPU that is made up, of which the third case ends the process; a peer that raises is a result too."""
    for name, value in {
        "is_available": True,
        "get_device_name": "no GPU",
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 0,
        "max_memory_allocated": 3_000_000,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    asked = []

    def peers(case, max_autotune):
        asked.append(max_autotune)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {"eager": lambda: lambda: [torch.ones(()), torch.ones(2)], "JAX": import_of_nothing}

    def import_of_nothing():
        raise ModuleNotFoundError("No module named 'jax'")

    monkeypatch.setattr(benchmark, "peers", peers)
    monkeypatch.setattr(benchmark, "timed", lambda steps, rounds=1: dict.fromkeys(steps, 10.0))
    rates = dict.fromkeys(("copy", "bfloat16", "high", "highest", "tanh"), 1e12)
    monkeypatch.setattr(benchmark, "rates", lambda: rates)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(KeyboardInterrupt):
        benchmark.main()
    assert asked == [False] * 3
    written = json.loads((benchmark.RESULTS / "gpu.json").read_text(encoding="utf-8"))["results"]
    assert [*written] == [str(case) for case in benchmark.CASES[:2]]
    for result in written.values():
        assert result["microseconds"] == {"eager": 10.0}
        assert result["left out"] == {"JAX": "ModuleNotFoundError: No module named 'jax'"}
    page = (benchmark.RESULTS / "gpu.md").read_text(encoding="utf-8")
    assert page.count("| eager | 10.0 | 1.00 |") == 2
    assert sorted(path.name for path in benchmark.RESULTS.iterdir()) == ["gpu.json", "gpu.md"]
