"""Checkpoints of Lightning's as local files, and what of them is taken: :class:`LocalCheckpointIO`."""

import re
from collections.abc import Mapping
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor
from torch.nn import Module

from twolayer.arguments import one_of, positive_int
from twolayer.files import written_whole
from twolayer.sealing import first_line, local_path, read_checkpoint, sealed

OF_THE_NETWORK: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("in_features", "hidden_features", "out_features"), (int,)),
    **dict.fromkeys(("task", "activation", "init", "backward"), (str,)),
    "class_weight": (list, tuple, dict, str, type(None)),
    "label_smoothing": (float, int),
    "standardize": (bool,),
}
"""The options of a network that a checkpoint may hold, and what their values are."""


class LocalCheckpointIO(CheckpointIO):
    """Checkpoints as local files, written beside their place, with a checksum, and read as data alone.

    :class:`~twolayer.training.LitTwoLayer` puts it in the place of Lightning's own, which writes through a temporary
    folder, takes what is damaged, and runs what a file from an address says.

    >>> import lightning as L
    >>> trainer = L.Trainer(plugins=LocalCheckpointIO(), accelerator="cpu", logger=False)
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Writes it, so that there is this one or the former one, whole.

        Raises:
            OSError: it cannot be written; the message names it.
            ValueError: ``path`` is no local file.
            TypeError: ``storage_options`` are given, and there are none.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options must be None for a local file, got {storage_options!r}")
        with written_whole(local_path(path), "wb") as file:
            file.write(sealed(checkpoint))

    def load_checkpoint(
        self, path: str | PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path, map_location or "cpu", weights_only)

    def remove_checkpoint(self, path: str | PathLike[str]) -> None:
        local_path(path).unlink(missing_ok=True)


def run_folder(checkpoint: str | PathLike[str]) -> Path:
    """Where the files of a run lie, by one of its checkpoints.

    >>> run_folder("/runs/moons/version_0/checkpoints/best.ckpt").name
    'version_0'
    """
    folder = Path(checkpoint).resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def use_local_files(strategy: Strategy) -> None:
    """Puts :class:`LocalCheckpointIO` in the place of Lightning's own, where a checkpoint is one file."""
    one_file = type(strategy) in (SingleDeviceStrategy, DDPStrategy)
    if one_file and type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = LocalCheckpointIO()


def network_options(checkpoint: Mapping[str, Any], name: object, network: type[Module]) -> dict[str, Any]:
    """The options of the network that a checkpoint was made with, and nothing else that it holds beside them.

    Args:
        checkpoint: as :func:`read_checkpoint` returns it.
        name: of its file, for errors.
        network: the class that takes them, :class:`~twolayer.TwoLayerNet`.

    Raises:
        ValueError: one is none that a network can have, or another than that of the weights in it.
    """
    saved = checkpoint.get("hyper_parameters", {})
    try:
        if not isinstance(saved, Mapping):
            raise TypeError(f"hyper_parameters must be a dict, got {type(saved).__name__}")
        found = {option: saved[option] for option in OF_THE_NETWORK if option in saved}
        for option, value in found.items():
            _check_kind(option, value, OF_THE_NETWORK[option])
        if isinstance(found.get("class_weight"), str):
            one_of("class_weight", found["class_weight"], ("balanced",))
        version = str(checkpoint.get("pytorch-lightning_version"))
        if not re.match(r"\d+\.\d+", version):
            raise ValueError(f"pytorch-lightning_version must be that of Lightning, got {version!r:.80}")
        weights = {str(key).removeprefix("net."): V for key, V in checkpoint["state_dict"].items()}
        if {"in_features", "hidden_features", "out_features"} <= found.keys():
            for option in ("in_features", "hidden_features", "out_features"):
                positive_int(option, found[option])
            named = isinstance(
                found.get("class_weight"), str | dict
            )  # they become numbers when a fit knows the classes
            of_the_fit = {"standardize", "class_weight"} if named else {"standardize"}
            options = {option: value for option, value in found.items() if option not in of_the_fit}
            for key, V in network(**options, device="meta").named_parameters():
                if key not in weights:
                    continue
                if not isinstance(weights[key], Tensor):
                    raise TypeError(f"{key} must be a tensor, got {type(weights[key]).__name__}")
                if tuple(weights[key].shape) != tuple(V.shape):
                    raise ValueError(f"{key} must have shape {tuple(V.shape)}, got {tuple(weights[key].shape)}")
                if not weights[key].is_floating_point() or not weights[key].isfinite().all():
                    raise ValueError(f"{key} must hold finite floats, got others")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the checkpoint {name} is of no network: {first_line(str(error))}") from error
    return found


def hyper_parameters(
    checkpoint: Mapping[str, Any], name: object, network: type[Module], cls: type, base: type
) -> dict[str, Any]:
    """The options of the network, and those that a subclass has besides, plain data.

    Args:
        checkpoint, name, network: as for :func:`network_options`, whose errors it raises.
        cls, base: the subclass, and the class of which it is one.
    """
    found = network_options(checkpoint, name, network)
    saved = checkpoint.get("hyper_parameters", {})
    between = cls.__mro__[: cls.__mro__.index(base)]
    own = {option for one in between if "__init__" in vars(one) for option in signature(one).parameters}
    for option in own.intersection(saved) - signature(base).parameters.keys():
        if not _is_plain(saved[option]):
            raise ValueError(f"the checkpoint {name}: {option} must be plain data, got {type(saved[option]).__name__}")
        found[option] = saved[option]
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _check_kind(option: str, value: Any, kinds: tuple[type, ...]) -> None:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if type(value) not in kinds or not all(type(part) in (int, float) for part in parts):
        expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise TypeError(f"{option} must be {expected}{' of numbers' if list in kinds else ''}, got {value!r:.80}")
