"""On what a result was measured."""

import platform
from pathlib import Path

import torch


def machine() -> str:
    """Processor, threads and versions, for the foot of a page."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return (
        f"PyTorch {torch.__version__}, Python {platform.python_version()}, "
        f"{names[0] if names else platform.machine()}, {threads} thread{'s' * (threads > 1)}."
    )
