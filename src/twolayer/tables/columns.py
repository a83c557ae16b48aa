"""What is learnt of each column of a table: ``Column``."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from twolayer.tables import values as cells

MOST_LEVELS = 100
MOSTLY = 0.9
"""Share of a column that has to be numbers for the rest of it to count as missing."""
NAMES_OF_IDENTIFIERS = re.compile(
    r"(?i)|id|.*[_ ]id|.*[a-z]Id|uuid|guid|index|__index_level_\d+__|row[_ ]?(id|number|nr|no)?|unnamed.*"
)


@dataclass(frozen=True)
class Column:
    """A column, its kind and how its values are read.

    Args:
        name: in the table.
        kind: ``"numeric"``, ``"category"``, ``"date"`` or ``"dropped"``.
        note: what was found, in words.
        decimal: the decimal mark of numbers in strings.
        levels: the common levels of a category.
        date_format: ``"iso"``, or as for ``strptime``.

    >>> learn("size", ["1", "2", "3", None]).kind
    'numeric'
    >>> learn("colour", ["red", "blue", "red", "blue"]).levels
    ['blue', 'red']
    >>> learn("answer", [42, 42, 42]).note
    'constant'
    """

    name: str
    kind: str
    note: str = ""
    decimal: str = "."
    levels: list[str] = field(default_factory=list)
    date_format: str = "iso"

    @property
    def slots(self) -> int:
        """Numbers that a value becomes before the encoding."""
        return {"numeric": 1, "category": 1, "date": len(cells.DATE_PARTS), "dropped": 0}[self.kind]

    def numbers(self, values: Sequence[Any] | Tensor) -> list[Any] | Tensor:
        """Of each value its number, its date's parts or its level's index, then NaN for none.

        The index of a level that is not among :attr:`levels` is their number. Values of a numeric column may come as
        a tensor.
        """
        if isinstance(values, Tensor):
            return torch.where(values.isfinite(), values, math.nan)
        present = cells.present(values)
        if self.kind == "numeric":
            return cells.numbers(cells.hours(present), cells.mark_in(present, self.decimal))[0]
        if self.kind == "date":
            return [cells.date_parts(cells.moment(value, self.date_format)) for value in present]
        codes, other = self.codes, float(len(self.levels))
        return [float("nan") if value is None else codes.get(cells.level(value), other) for value in present]

    @property
    def codes(self) -> dict[str, float]:
        """Of each level its index; of true and false, 1 and 0 are other names."""
        codes = {name: float(i) for i, name in enumerate(self.levels)}
        if codes.keys() <= {"False", "True"}:
            codes |= {str(int(name == "True")): code for name, code in codes.items()}
        return codes

    def unread(self, values: Sequence[Any]) -> list[Any]:
        """Those of the values that are there and say nothing to the network: no number, no date, a level it never saw.

        >>> learn("size", ["1", "2", "3"]).unread(["4", "much", None])
        ['much']
        """
        if self.kind == "dropped":
            return []
        present = cells.present(values)
        if self.kind == "numeric":
            return cells.numbers(cells.hours(present), cells.mark_in(present, self.decimal))[1]
        if self.kind == "date":
            return [one for one in present if one is not None and cells.moment(one, self.date_format) is None]
        codes = self.codes
        return [one for one in present if one is not None and cells.level(one) not in codes]

    def state(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return asdict(self)


def learn(name: str, values: Sequence[Any], wanted: bool = False) -> Column:
    """What a column is, by its values in the training rows.

    Args:
        name: of the column.
        values: as they came.
        wanted: whether it was asked for by name, and is kept though it looks like an identifier.
    """
    all_values = cells.present(values)
    found = [value for value in all_values if value is not None]
    missing = len(all_values) - len(found)
    if not found:
        return Column(name, "dropped", "nothing but missing values")
    if hasattr(found[0], "__len__") and not isinstance(found[0], str):
        return Column(name, "dropped", f"values of type {type(found[0]).__name__}")
    counts = Counter(map(cells.level, found))
    if len(counts) == 1 and not missing:
        return Column(name, "dropped", "constant")
    return _numeric(name, found, wanted) or _date(name, found) or _category(name, counts, wanted)


def _numeric(name: str, found: list[Any], wanted: bool) -> Column | None:
    if any(map(cells.is_code, found)) or all(isinstance(value, bool) for value in found):
        return None
    decimal = cells.decimal_mark(found)
    in_hours = cells.hours(found)
    numbers, odd = cells.numbers(in_hours, decimal)
    if len(odd) > (1 - MOSTLY) * len(found):
        return None
    notes = ["times count as hours"] if in_hours != found else []
    if odd:
        notes.append(f"{len(odd)} values that are no finite numbers, such as {odd[0]!r}, count as missing")
    if any(isinstance(value, str) and "," in value for value in in_hours):
        notes.append("decimal comma" if decimal == "," else "commas part thousands")
    if not odd and not wanted and _like_identifiers(name, numbers):
        return Column(name, "dropped", "like an identifier: whole numbers, each once; name it in features to keep it")
    return Column(name, "numeric", "; ".join(notes), decimal=decimal)


def _like_identifiers(name: str, numbers: list[float]) -> bool:
    distinct = set(numbers)
    if len(distinct) < len(numbers) or len(distinct) < 20 or not all(x.is_integer() for x in distinct):
        return False
    return max(distinct) - min(distinct) < 2 * len(distinct) or NAMES_OF_IDENTIFIERS.fullmatch(name) is not None


def _date(name: str, found: list[Any]) -> Column | None:
    formats = cells.date_formats(found, MOSTLY)
    if not formats:
        return None
    (form, odd), *others = formats
    notes = [f"{len(odd)} values that are no dates, such as {odd[0]!r}, count as missing"] if odd else []
    if others and any(isinstance(value, str) for value in found):
        notes.append(f"read as {form}, which could be {others[0][0]} as well")
    return Column(name, "date", "; ".join(notes), date_format=form)


def _category(name: str, counts: Counter[str], wanted: bool) -> Column:
    rows = counts.total()
    least = min(10, max(2, rows // 100))
    levels = sorted(name for name, count in counts.most_common(MOST_LEVELS) if count >= least)
    if not levels:
        if len(counts) > 0.5 * rows or len(counts) > MOST_LEVELS:
            return Column(name, "dropped", f"like an identifier: {len(counts)} levels in {rows} rows")
        levels = sorted(counts)
    rare = len(counts) - len(levels)
    return Column(name, "category", f"{rare} rare levels together" if rare else "", levels=levels)
