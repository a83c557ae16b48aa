"""Rows of Parquet files that do not fit in memory: read by row groups, each row in one part, counted, sampled."""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twolayer.data.parts import named, weights_of
from twolayer.data.reading import PARQUET, files_of, import_polars
from twolayer.tables.values import level, present

PARTS = ("train", "val", "test")
MOST_DISTINCT = 2_000


@dataclass(frozen=True)
class Parting:
    """Which part a row is in: as a column says, by its group's value, or drawn, by seeds alone.

    Args:
        target: a column; a row in which it is missing is in no part.
        weight: a column of sample weights; a row of weight 0 is in no part.
        split, group: columns, as for :class:`~twolayer.data.Table`.
        fractions: of the rows for ``"val"`` and ``"test"``.
        seeds: of their draws.
    """

    target: str
    weight: str | None
    split: str | None
    group: str | None
    fractions: tuple[float, float]
    seeds: tuple[int, int]

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.target, self.weight, self.split, self.group) if name))

    def of(self, table: Any, k: int) -> Any:
        """For each row of the row group ``k`` its part's number in :data:`PARTS`, or −1 for none."""
        val, test = self.fractions
        if self.split is not None:
            codes = np.array([PARTS.index(name) for name in named(table[self.split].to_list(), self.split)])
        else:
            v, t = (self._draws(table, k, seed, name) for name, seed in zip(PARTS[1:], self.seeds, strict=True))
            codes = np.where(t < test, 2, np.where(v * (1 - test) < val, 1, 0))
        codes[[value is None for value in present(table[self.target].to_list())]] = -1
        if self.weight is not None:
            codes[~(np.array(weights_of(self.weight, table[self.weight].to_list())) > 0)] = -1
        return codes

    def _draws(self, table: Any, k: int, seed: int, part: str) -> Any:
        """Uniform numbers, the same for the rows of a group."""
        if self.group is None:
            return np.random.default_rng([seed, PARTS.index(part), k]).random(len(table))
        start = f"{part} {seed} "
        names = (str(None) if name is None else level(name) for name in present(table[self.group].to_list()))
        return np.array([zlib.crc32((start + name).encode()) / 2**32 for name in names])


class RowGroups:
    """The row groups of a Parquet file, of several, or of a folder of them, in the order of the files' names.

    Args:
        path: of the files.
        argument: what errors call it.

    Raises:
        ValueError, FileNotFoundError: the message says in one line what is wrong with which file.
    """

    def __init__(self, path: Any, argument: str = "path") -> None:
        self.argument, self.files = argument, files_of(path, argument)
        self._opened: tuple[int, Any] | None = None
        self.places: list[tuple[int, int]] = []
        self.names: list[str] = []
        for i, file in enumerate(self.files):
            if file.suffix.lower() not in PARQUET:
                raise ValueError(f"{argument} must be Parquet files where the rows are streamed, got {file}")
            opened = self._open(i)
            if not self.names:
                self.names = opened.schema_arrow.names
            if set(opened.schema_arrow.names) != set(self.names):
                odd = sorted(set(opened.schema_arrow.names) ^ set(self.names))[0]
                raise ValueError(f"{argument} must be files with the same columns, but {odd!r} is not in each: {file}")
            self.places += [(i, j) for j in range(opened.num_row_groups)]

    def __len__(self) -> int:
        return len(self.places)

    def read(self, k: int, columns: Sequence[str] | None = None) -> Any:
        """The rows of one row group, as a DataFrame of polars."""
        i, j = self.places[k]
        try:
            table = self._open(i).read_row_group(j, None if columns is None else list(columns))
        except (OSError, ValueError) as error:
            raise self._unreadable(i, error) from None
        return import_polars().from_arrow(table).select(columns or self.names)

    def _open(self, i: int) -> Any:
        if self._opened is None or self._opened[0] != i:
            try:
                self._opened = (i, import_parquet().ParquetFile(self.files[i]))
            except (OSError, ValueError) as error:
                raise self._unreadable(i, error) from None
        return self._opened[1]

    def _unreadable(self, i: int, error: Exception) -> ValueError:
        return ValueError(f"{self.argument} cannot be read: {self.files[i]}: {str(error).splitlines()[0]}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # each process opens its own


def import_parquet() -> Any:
    """The module.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to.
    """
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError("pyarrow is needed to stream tables: pip install 'twolayer[table]'") from None
    return parquet


@dataclass(frozen=True)
class Counted:
    """What one look through the columns of the target and the parts finds.

    Args:
        rows: of each part, how many each row group has.
        left_out: rows that are in no part.
        distinct: how often each value of the target stands there; None where there are too many to be classes.
        trained: the same, of the rows to train on.
    """

    rows: dict[str, list[int]]
    left_out: int
    distinct: Counter[Any] | None
    trained: Counter[Any] | None


def count(groups: RowGroups, parting: Parting) -> Counted:
    """Reads the columns that ``parting`` needs, a row group at a time.

    Raises:
        ValueError: no row is left to train on, or a column says what it must not.
    """
    rows: dict[str, list[int]] = {part: [] for part in PARTS}
    left_out, distinct, trained = 0, Counter[Any](), Counter[Any]()
    counting = True
    for k in range(len(groups)):
        table = groups.read(k, parting.columns)
        codes = parting.of(table, k)
        for i, part in enumerate(PARTS):
            rows[part].append(int((codes == i).sum()))
        left_out += int((codes < 0).sum())
        if counting:
            values = present(table[parting.target].to_list())
            distinct.update(value for value in values if value is not None)
            trained.update(value for value, code in zip(values, codes, strict=True) if code == 0)
            counting = len(distinct) <= MOST_DISTINCT
    if not sum(rows["train"]):
        raise ValueError(f"path must leave rows to train on, got {sum(map(sum, rows.values()))} rows with a target")
    return Counted(rows, left_out, *((distinct, trained) if counting else (None, None)))


def sample_of(groups: RowGroups, parting: Parting, most: dict[str, int], seed: int, column: str) -> Any:
    """A DataFrame of some rows of each part, from row groups drawn at random, and a column that says which part.

    Args:
        groups, parting: the rows.
        most: how many of each part.
        seed: of the draw.
        column: the name of the new column.
    """
    polars = import_polars()
    chosen = np.random.default_rng([seed, 3]).permutation(len(groups))[:64]
    frames = []
    for k in sorted(chosen.tolist()):
        table = groups.read(k)
        codes, random = parting.of(table, k), np.random.default_rng([seed, 4, k])
        for i, part in enumerate(PARTS):
            rows = random.permutation(np.flatnonzero(codes == i))[: -(-most[part] // len(chosen))]
            if len(rows):
                frames.append(table[np.sort(rows)].with_columns(polars.lit(part).alias(column)))
    return polars.concat(frames, how="vertical_relaxed")
