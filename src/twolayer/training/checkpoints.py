"""Checkpoints that are whole, and nothing but data: :class:`LocalCheckpointIO` and :func:`read_checkpoint`."""

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from inspect import signature
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from twolayer.arguments import positive_int
from twolayer.files import written_whole
from twolayer.network import TwoLayerNet

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
END = b"PK\5\6"  # where the last record of a zip archive begins, which has 22 bytes and a comment
CHECKSUM = b"twolayer sha256 "
TAIL = len(CHECKSUM) + 64

OF_THE_NETWORK: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("in_features", "hidden_features", "out_features"), (int,)),
    **dict.fromkeys(("task", "activation", "init", "backward"), (str,)),
    "class_weight": (list, tuple, type(None)),
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


def use_local_files(strategy: Strategy) -> None:
    """Puts :class:`LocalCheckpointIO` in the place of Lightning's own, where a checkpoint is one file."""
    one_file = type(strategy) in (SingleDeviceStrategy, DDPStrategy)
    if one_file and type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = LocalCheckpointIO()


def sealed(checkpoint: Mapping[str, Any]) -> bytes:
    """A checkpoint as PyTorch writes it, and its SHA-256 as the comment of that zip archive."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    buffer.seek(-2, io.SEEK_END)  # the length of the comment
    buffer.write(TAIL.to_bytes(2, "little") + CHECKSUM)
    buffer.write(hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
    return buffer.getvalue()


def read_checkpoint(
    path: str | PathLike[str] | IO[bytes], map_location: Any | None = None, weights_only: bool | None = None
) -> dict[str, Any]:
    """What a checkpoint of Lightning's holds, if the file is whole and holds data alone.

    A file of :class:`LocalCheckpointIO` has a checksum of all of it. In another, each record has its own.

    Args:
        path: of a local file, or a file that is open.
        map_location: as for :func:`torch.load`; None for where the tensors were, as far as that is here.
        weights_only: not False.

    Raises:
        FileNotFoundError, OSError: it cannot be read.
        ValueError: it is no local file, is damaged, is no checkpoint, or holds more than data. The message, one line,
            names it.
    """
    if weights_only is False:
        raise ValueError("weights_only must be True, got False: a checkpoint that may run code is not loaded")
    if isinstance(path, str | PathLike):
        name = local_path(path)
        if not name.is_file():
            kind = "is a folder" if name.is_dir() else "does not exist"
            raise FileNotFoundError(f"the checkpoint {fspath(path)} {kind}")
        contents = name.read_bytes()
    else:
        name, contents = Path(getattr(path, "name", "given")), path.read()
    if found := what_is_damaged(contents):
        raise ValueError(f"the checkpoint {name} is damaged or none: {found}")
    where = "cpu" if map_location is None and not torch.cuda.is_available() else map_location
    try:
        checkpoint = torch.load(io.BytesIO(contents), map_location=where, weights_only=True)
    except Exception as error:  # of whatever kind: the file is what is wrong
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error) or type(error).__name__
        raise ValueError(f"the checkpoint {name} cannot be read as data alone: {_first_line(reason)}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise ValueError(f"the file {name} is no checkpoint of Lightning's: it has no state_dict")
    return checkpoint


def local_path(path: str | PathLike[str]) -> Path:
    """As a path.

    >>> local_path("https://example.org/best.ckpt")
    Traceback (most recent call last):
    ...
    ValueError: a checkpoint must be a local file, got the address https://example.org/best.ckpt
    """
    given = fspath(path)
    if "://" in given or "::" in given or (ADDRESS.match(given) and not Path(given).exists()):
        raise ValueError(f"a checkpoint must be a local file, got the address {given}")
    return Path(given)


def what_is_damaged(contents: bytes) -> str | None:
    """What is wrong with the bytes of a checkpoint, in words; None if nothing is.

    >>> what_is_damaged(sealed({"state_dict": {}})), what_is_damaged(b"")
    (None, 'it is empty')
    """
    if not contents:
        return "it is empty"
    if not contents.strip(b"\0"):
        return "it holds zeros alone"
    if not contents.startswith(b"PK\3\4"):
        return "it does not begin as a zip archive, which PyTorch's checkpoints are"
    if contents[-TAIL:-64] == CHECKSUM:
        whole = hashlib.sha256(contents[:-64]).hexdigest().encode() == contents[-64:]
        return None if whole else "its contents have another checksum than was written with them"
    if not (contents[-22:-18] == END and contents.endswith(b"\0\0")):
        return "its end is not that of a zip archive: it was cut off, or changed"
    try:
        with zipfile.ZipFile(io.BytesIO(contents)) as archive:
            bad = archive.testzip()
    except Exception as error:  # zipfile has many for what is no archive
        return f"it is no whole zip archive: {_first_line(str(error))}"
    return f"its record {bad} has another checksum than was written with it" if bad else None


def network_options(checkpoint: Mapping[str, Any], name: object) -> dict[str, Any]:
    """The options of the network that a checkpoint was made with, and nothing else that it holds beside them.

    Args:
        checkpoint: as :func:`read_checkpoint` returns it.
        name: of its file, for errors.

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
        weights = {key.removeprefix("net."): V for key, V in checkpoint["state_dict"].items()}
        if {"in_features", "hidden_features", "out_features"} <= found.keys():
            for option in ("in_features", "hidden_features", "out_features"):
                positive_int(option, found[option])
            options = {option: value for option, value in found.items() if option != "standardize"}
            for key, V in TwoLayerNet(**options, device="meta").named_parameters():
                if key in weights and tuple(weights[key].shape) != tuple(V.shape):
                    raise ValueError(f"{key} must have shape {tuple(V.shape)}, got {tuple(weights[key].shape)}")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the checkpoint {name} is of no network: {_first_line(str(error))}") from error
    return found


def hyper_parameters(checkpoint: Mapping[str, Any], name: object, cls: type, base: type) -> dict[str, Any]:
    """The options of the network, and those that a subclass has besides, plain data.

    Args:
        checkpoint, name: as for :func:`network_options`, whose errors it raises.
        cls, base: the subclass, and the class of which it is one.
    """
    found = network_options(checkpoint, name)
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
    parts = value if isinstance(value, list | tuple) else ()
    if type(value) not in kinds or not all(type(part) in (int, float) for part in parts):
        expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise TypeError(f"{option} must be {expected}{' of numbers' if list in kinds else ''}, got {value!r:.80}")


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
