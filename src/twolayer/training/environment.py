"""What a run was computed with, in its folder: ``RecordEnvironment``."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from twolayer.files import written_whole
from twolayer.functional import kernel_for
from twolayer.loading import TensorLoader
from twolayer.network import TwoLayerNet

PACKAGES = ("twolayer", "torch", "lightning", "torchmetrics", "numpy", "scikit-learn", "triton")


class RecordEnvironment(Callback):
    """Writes ``environment.yaml`` beside the configuration: versions, threads, device and kernel.

    >>> trainer = L.Trainer(callbacks=RecordEnvironment(), accelerator="cpu", logger=False)
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir or trainer.default_root_dir  # on all processes, which agree on it
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = Path(folder) / "environment.yaml"
        with written_whole(path, encoding="utf-8") as file:
            yaml.safe_dump(environment(trainer, pl_module), file, sort_keys=False)


def environment(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    """What the file says."""
    device = trainer.strategy.root_device
    return {
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "threads_between_operators": torch.get_num_interop_threads(),
        "precision": trainer.precision,
        "kernel": _kernel(trainer, module),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _kernel(trainer: L.Trainer, module: L.LightningModule) -> str | None:
    """What computes the gradients of a batch; None where that cannot be said before there is one."""
    loader, net, prepared = trainer.train_dataloader, getattr(module, "net", None), getattr(module, "prepared", None)
    if not isinstance(loader, TensorLoader) or not isinstance(net, TwoLayerNet) or prepared is None:
        return None
    by_equations = net.backward == "streamed" or (net.backward != "autograd" and loader.steps_per_call is not None)
    if not by_equations:
        return "torch"
    X, Y, *_ = loader.dataset.tensors
    few = slice(0, loader.batch_size)
    batch: Any = trainer.precision_plugin.convert_input((X[few].to(net.W1.device), Y[few].to(net.W1.device)))
    X, T, _ = prepared(*batch)
    return kernel_for(X, T, net.W1, net.W2)
