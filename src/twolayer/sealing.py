"""Checkpoints that are whole, and nothing but data: :func:`sealed` and :func:`read_checkpoint`."""

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any

import torch

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
END = b"PK\5\6"  # where the last record of a zip archive begins, which has 22 bytes and a comment
CHECKSUM = b"twolayer sha256 "
TAIL = len(CHECKSUM) + 64
PARTS: dict[str, type] = {
    **{"global_step": int, "epoch": int, "pytorch-lightning_version": str},
    **{"callbacks": dict, "loops": dict, "optimizer_states": list, "lr_schedulers": list},
}
"""What of a checkpoint of Lightning's is of which kind; numbers are counts."""


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
        try:
            contents = name.read_bytes()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(name)) from error
    else:
        name, contents = Path(getattr(path, "name", "given")), path.read()
    if found := what_is_damaged(contents):
        raise ValueError(f"the checkpoint {name} is damaged or none: {found}")
    where = "cpu" if map_location is None and not torch.cuda.is_available() else map_location
    try:
        checkpoint = torch.load(io.BytesIO(contents), map_location=where, weights_only=True)
    except Exception as error:  # of whatever kind: the file is what is wrong
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error) or type(error).__name__
        raise ValueError(f"the checkpoint {name} cannot be read as data alone: {first_line(reason)}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise ValueError(f"the file {name} is no checkpoint of Lightning's: it has no state_dict")
    if found := _what_is_of_another_kind(checkpoint):
        raise ValueError(f"the file {name} is no checkpoint of Lightning's: {found}")
    return checkpoint


def _what_is_of_another_kind(checkpoint: Mapping[str, Any]) -> str | None:
    for part, kind in PARTS.items():
        value: Any = checkpoint.get(part, kind())
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            return f"{part} must be {kind.__name__}, got {value!r:.80}"
    return None


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
        return f"it is no whole zip archive: {first_line(str(error))}"
    return f"its record {bad} has another checksum than was written with it" if bad else None


def first_line(text: str) -> str:
    """The first that is not empty, of a message of several lines."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
