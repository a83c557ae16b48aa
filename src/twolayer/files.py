"""Files that are whole or absent, whatever happens while they are written: :func:`written_whole`."""

import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

UNFINISHED = re.compile(r".+\.[0-9a-f]{8}\.part")


@contextmanager
def written_whole(path: str | Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """A file to write, that takes its place when it is whole and on the disk; until then, what was there stays.

    It is written beside its place, on the same filesystem, flushed to the disk and renamed; the folder itself is not
    flushed, so that after a loss of power the former file may be there, whole. Where writing fails, nothing is left.
    Where the process is killed, ``….part`` is, until :func:`remove_unfinished`.

    Args:
        path: its place; the folder is made.
        mode: ``"w"`` or ``"wb"``.
        options: as for :func:`open`.

    Raises:
        OSError: it cannot be written; the message names ``path``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written_whole(f"{folder}/rows.csv") as file:
    ...         _ = file.write("1,2")
    ...     print([found.name for found in Path(folder).iterdir()])
    ['rows.csv']
    """
    path = Path(os.path.realpath(path))  # of a link, what it points to
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open(mode.replace("w", "x"), **options) as file:
            if fcntl is not None:
                with suppress(OSError):  # some filesystems have no locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                beside.replace(path)  # while it is locked
        if fcntl is None:
            beside.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}: nothing is written", str(path)) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def remove_unfinished(folders: Iterable[Path]) -> list[Path]:
    """Removes what :func:`written_whole` left in these folders when its process was killed; returns what that was.

    Files that a process still writes stay.
    """
    removed = []
    for folder in {Path(folder).resolve() for folder in folders}:
        for path in folder.iterdir() if folder.is_dir() else ():
            if UNFINISHED.fullmatch(path.name) and not _is_being_written(path):
                with suppress(OSError):
                    path.unlink()
                    removed.append(path)
    return removed


def _is_being_written(path: Path) -> bool:
    if fcntl is None:
        return False
    try:
        found = path.stat()
        if found.st_size == 0 and abs(time.time() - found.st_mtime) < 1:
            time.sleep(0.2)  # its writer may be about to lock it
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
