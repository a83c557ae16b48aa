"""Files of tables, and data frames, read with one line for what is wrong with them: ``read``."""

import csv
from collections import Counter
from collections.abc import Sequence
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any

from twolayer.tables.values import listed

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
PARQUET = (".parquet", ".pq")


class Frame:
    """Columns by their names, however the table came: from files, pandas, polars, or lists in a dict.

    >>> frame = Frame({"a": [1, 2], "b": ["x", "y"]})
    >>> frame.names, len(frame), frame["b"]
    (['a', 'b'], 2, ['x', 'y'])
    """

    def __init__(self, table: Any) -> None:
        columns = list(table if isinstance(table, dict) else table.columns)
        self.names = list(map(str, columns))
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise ValueError(f"the table must have a name for each column, got {twice[0]!r} twice")
        self._columns = dict(zip(self.names, columns, strict=True))
        self._table = table
        lengths = {len(table[column]) for column in self._columns.values()}
        if len(lengths) > 1:
            raise ValueError(f"the columns must be of equal length, got {sorted(lengths)}")
        self.rows = lengths.pop() if lengths else 0

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._columns:
            raise ValueError(f"the table must have the column {name!r}, got {', '.join(map(repr, self.names))}")
        values = self._table[self._columns[name]]
        return listed(values)


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
    if isinstance(path, dict) or hasattr(path, "columns"):
        frame = Frame(path)
    else:
        files = files_of(path, argument)
        polars = import_polars()
        frames = [_read_file(polars, file, argument) for file in files]
        for file, one in zip(files, frames, strict=True):
            if set(one.columns) != set(frames[0].columns):
                odd = sorted(set(one.columns) ^ set(frames[0].columns))[0]
                raise ValueError(f"{argument} must be files with the same columns, but {odd!r} is not in each: {file}")
        columns = frames[0].columns
        whole = polars.concat([one.select(columns) for one in frames], how="vertical_relaxed")
        frame = Frame(whole)
    if not frame.names or not len(frame):
        raise ValueError(f"{argument} must hold rows, got a table of {len(frame.names)} columns and no rows")
    return frame


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
            inside = sorted(file for file in one.iterdir() if file.suffix.lower() in (*SEPARATORS, *PARQUET))
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
    separator = usual
    if usual not in lines[0]:
        others = {
            one: lines[0].count(one)
            for one in ",;\t|"
            if one in lines[0] and (not lines[1].strip() or lines[0].count(one) == lines[1].count(one))
        }
        separator = max(others, key=others.__getitem__) if others else usual
    with file.open(encoding="utf-8-sig", newline="") as opened:
        header = next(filter(None, csv.reader(opened, delimiter=separator)), [])
    twice = [name for name, count in Counter(name.strip() for name in header).items() if count > 1]
    if twice:
        raise ValueError(f"{argument} must have a name for each column, got {twice[0]!r} twice: {file}")
    return separator, header


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
