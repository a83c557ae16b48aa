"""Files of tables, and data frames, read with one line for what is wrong with them: ``read``."""

import csv
from collections import Counter
from collections.abc import Sequence
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any

from twolayer.tables.frame import Frame

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
PARQUET = (".parquet", ".pq")


def read(path: Any, argument: str = "path") -> Frame:
    """A table from a CSV, TSV or Parquet file, several of them, or a folder of them; or the data frame itself.

    The values of text files stay as they are spelt.

    Args:
        path: a path, a list of paths, a DataFrame of pandas or polars, or a dict of columns.
        argument: what errors call it.

    Raises:
        ValueError, FileNotFoundError: the message says in one line what is wrong with which file.
        ModuleNotFoundError: polars, which reads files, is not installed.
    """
    if isinstance(path, dict) or hasattr(path, "collect") or hasattr(path, "columns"):
        frame = Frame(path)
    else:
        files = files_of(path, argument)
        polars = import_polars()
        frames = [_read_file(polars, file, argument) for file in files]
        for file, one in zip(files, frames, strict=True):
            if set(one.columns) != set(frames[0].columns):
                odd = sorted(set(one.columns) ^ set(frames[0].columns))[0]
                raise ValueError(f"{argument} must be files with the same columns, but {odd!r} is not in each: {file}")
        frame = Frame(_one_below_the_other(polars, frames, argument))
    if not frame.names or not len(frame):
        raise ValueError(f"{argument} must hold rows, got a table of {len(frame.names)} columns and no rows")
    return frame


def _one_below_the_other(polars: Any, frames: list[Any], argument: str) -> Any:
    columns = frames[0].columns
    try:
        return polars.concat([one.select(columns) for one in frames], how="vertical_relaxed")
    except polars.exceptions.PolarsError as error:
        for name in columns:
            kinds = list(dict.fromkeys(str(one.schema[name]) for one in frames))
            if len(kinds) > 1:
                raise ValueError(
                    f"{argument} must be files with like columns, but {name!r} is {' and '.join(kinds)}"
                ) from error
        raise ValueError(f"{argument} must be files with like columns: {error}") from error


def import_polars() -> Any:
    """The module.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to.
    """
    try:
        import polars
    except ModuleNotFoundError:
        raise ModuleNotFoundError("polars is needed to read tables: pip install 'twolayer[table]'") from None
    return polars


def files_of(path: Any, argument: str) -> list[Path]:
    """The files that a path, several of them, or a folder stand for, those of a folder by their names.

    Raises:
        ValueError, TypeError, FileNotFoundError: there are none; the message says so in one line.
    """
    if isinstance(path, str | Path):
        path = [path]
    if not isinstance(path, Sequence) or not path or not all(isinstance(one, str | Path) for one in path):
        raise TypeError(f"{argument} must be a path, several of them, or a data frame, got {type(path).__name__}")
    files: list[Path] = []
    for one in map(Path, path):
        if one.is_dir():
            there = sorted(file for file in one.iterdir() if not file.name.startswith("."))
            inside = [file for file in there if file.suffix.lower() in (*SEPARATORS, *PARQUET)]
            for file in there:
                if file not in inside and {*SEPARATORS, *PARQUET} & set(map(str.lower, file.suffixes)):
                    raise ValueError(f"{argument} must be a folder of files as they are, got {file}: unpack it")
            if not inside:
                raise ValueError(f"{argument} must be a folder with CSV, TSV or Parquet files, got {one}")
            files += inside
        elif one.is_file():
            files.append(one)
        else:
            raise FileNotFoundError(f"{argument} must be a file or a folder, but there is no {one}")
    return files


def _read_file(polars: Any, file: Path, argument: str) -> Any:
    ending = file.suffix.lower()
    try:
        if ending in PARQUET:
            return polars.read_parquet(file, glob=False)
        if ending not in SEPARATORS:
            known = ", ".join((*SEPARATORS, *PARQUET))
            raise ValueError(f"{argument} must end with one of {known}, got {file}")
        separator, header = _checked_text(file, SEPARATORS[ending], argument)
        frame = polars.read_csv(file, separator=separator, infer_schema=False, glob=False)
        if len(header) != frame.width:
            raise ValueError(
                f"{argument} must have lines that end with a line feed, got {len(header)} columns in the first one "
                f"and {frame.width} in all: {file}"
            )
        frame.columns = header  # polars leaves quotes in names doubled
        return _without_blank_lines(polars, frame, file, separator) if len(header) > 1 else frame
    except (polars.exceptions.PolarsError, OSError, csv.Error) as error:
        said = str(error).strip().splitlines()
        hint = "; it must be in UTF-8" if "utf" in str(error).lower() else ""
        if "more fields" in str(error):
            hint = _longest_line(file, separator)
        raise ValueError(
            f"{argument} cannot be read: {file}: {said[0] if said else type(error).__name__}{hint}"
        ) from None


def _checked_text(file: Path, usual: str, argument: str) -> tuple[str, list[str]]:
    """The separator by the first line, another one than the ending says where that is not there, and the names."""
    with file.open("rb") as opened:
        start = opened.read(65_536)
    if not start.strip():
        raise ValueError(f"{argument} must hold a table, got an empty file: {file}")
    if b"\0" in start:
        raise ValueError(f"{argument} must be text in UTF-8 where it ends with {file.suffix}, got binary data: {file}")
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            lines = [*islice((line for line in opened if line.strip()), 2), ""]
    except UnicodeDecodeError as error:
        raise ValueError(f"{argument} must be in UTF-8, got byte {error.object[error.start]:#x}: {file}") from None
    separator = next((one for one in (usual, *",;\t|") if _separates(one, lines)), usual)
    with file.open(encoding="utf-8-sig", newline="") as opened:
        header = next(filter(None, csv.reader(opened, delimiter=separator)), [])
    header = [name.strip() for name in header]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise ValueError(f"{argument} must have a name for each column, got {twice[0]!r} twice: {file}")
    return separator, header


def _separates(separator: str, lines: list[str]) -> bool:
    """Whether it parts the first two lines into as many fields, more than one; or the only one."""
    first, second = (len(next(csv.reader([line], delimiter=separator), [])) for line in lines[:2])
    return first > 1 and second in (0, first)


def _without_blank_lines(polars: Any, frame: Any, file: Path, separator: str) -> Any:
    """The rows that are there: polars makes rows of nothing of blank lines, and so it does of ``,,``, which is one."""
    if not frame.select(polars.all_horizontal(polars.all().is_null()).any()).item():
        return frame
    with file.open(encoding="utf-8-sig", newline="") as opened:
        from_the_header_on = dropwhile(lambda row: not row, csv.reader(opened, delimiter=separator))
        there = [bool(row) for row in islice(from_the_header_on, 1, None)]
    return frame.filter(polars.Series(there)) if len(there) == len(frame) else frame


def _longest_line(file: Path, separator: str) -> str:
    """Where the first line is that has more fields than the header."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        rows = csv.reader(opened, delimiter=separator)
        wide = len(next(filter(None, rows)))
        for row in rows:
            if len(row) > wide:
                return f"; line {rows.line_num} has {len(row)} fields, the header {wide}"
    return ""
