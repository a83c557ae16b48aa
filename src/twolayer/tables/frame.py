"""Columns by their names, however a table came: ``Frame``."""

from collections import Counter
from typing import Any

from twolayer.tables.values import listed


class Frame:
    """Columns by their names, of a DataFrame of pandas or polars, a table of Arrow, or lists and arrays in a dict.

    Raises:
        ValueError: a name is there twice, or the columns are not of equal length.
        TypeError: it is no such table, or what a dict has by a name is no column.

    >>> frame = Frame({"a": [1, 2], "b": ["x", "y"]})
    >>> frame.names, len(frame), frame["b"]
    (['a', 'b'], 2, ['x', 'y'])
    """

    def __init__(self, table: Any) -> None:
        if hasattr(table, "collect"):
            raise TypeError(f"the table must be read already, got a {type(table).__name__}: use collect()")
        arrow = hasattr(table, "column_names")
        columns = list(table if isinstance(table, dict) else table.column_names if arrow else table.columns)
        self.names = [str(name).strip() for name in columns]
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise ValueError(f"the table must have a name for each column, got {twice[0]!r} twice")
        self._columns = dict(zip(self.names, columns, strict=True))
        self._table = table
        for name, column in self._columns.items():
            if not is_column(table[column]):
                raise TypeError(f"column {name!r} must be a list or an array of values, got {table[column]!r}")
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


def is_column(value: Any) -> bool:
    """Whether it is several values, and not one.

    >>> is_column([1, 2]), is_column("ab"), is_column(3)
    (True, False, False)
    """
    return hasattr(value, "__len__") and not isinstance(value, str | bytes) and getattr(value, "ndim", 1) > 0
