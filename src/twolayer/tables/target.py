"""The column that is to be predicted: ``Target``."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from twolayer.tables import values as cells

TASKS = ("binary", "multiclass", "regression")
MOST_CLASSES_OF_NUMBERS = 10
MOST_CLASSES = 1000


class Target:
    """A target column: its task and, for classes, their names.

    Args:
        name: of the column.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        classes: the names of the classes in order; none for a regression.
        decimal: the decimal mark of numbers in strings.

    >>> target = Target.learn("label", ["yes", "no", "no", None])
    >>> target.task, target.classes, target.encoded(["no", "yes"]).tolist()
    ('binary', ['no', 'yes'], [0, 1])
    """

    def __init__(self, name: str, task: str, classes: Sequence[str] = (), decimal: str = ".") -> None:
        self.name, self.task, self.classes, self.decimal = name, task, list(classes), decimal

    @classmethod
    def learn(cls, name: str, values: Sequence[Any], task: str | None = None) -> "Target":
        """From the column itself. Without a task, text and up to ten whole numbers are classes.

        Raises:
            ValueError: there are too few or too many classes, or a class in two spellings, or no numbers to regress on.
        """
        if task is not None and task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))}, got {task!r}")
        found = [value for value in cells.present(values) if value is not None]
        if not found:
            raise ValueError(f"target {name!r} must have values, but all {len(values)} are missing")
        odd = next((value for value in found if hasattr(value, "__len__") and not isinstance(value, str)), None)
        if odd is not None:
            raise ValueError(f"target {name!r} must hold text or numbers, got a value of type {type(odd).__name__}")
        decimal = cells.decimal_mark(found)
        try:
            numbers = [cells.number(value, decimal) for value in found]
        except ValueError:
            numbers = None
        if task == "regression" or (task is None and numbers is not None and _continuous(numbers, found)):
            numbers, odd = cells.numbers(found, decimal)
            if odd:
                raise ValueError(f"target {name!r} must hold finite numbers for task 'regression', got {odd[0]!r}")
            if len(set(numbers)) == 1:
                raise ValueError(f"target {name!r} must vary, got {found[0]!r} in all {len(found)} rows")
            _check_resolution(name, numbers)
            return cls(name, "regression", decimal=decimal)
        counts = Counter(map(cells.level, found))
        classes = sorted(counts, key=_by_number) if numbers is not None else sorted(counts)
        _check_spelling(name, classes, decimal)
        if len(classes) == 1:
            missing = next(iter(cells.spelt_missing(values)), None)
            other = f"; {missing!r} counts as missing" if missing else ""
            raise ValueError(f"target {name!r} must have two classes or more, got {classes[0]!r} alone{other}")
        if len(classes) > MOST_CLASSES or 2 * len(classes) > max(len(found), 8):
            raise ValueError(
                f"target {name!r} must have classes with several rows each, got {len(classes)} classes in "
                f"{len(found)} rows, such as {found[0]!r}"
                + ("" if numbers is None else "; for values: task regression")
            )
        if task == "binary" and len(classes) != 2:
            raise ValueError(f"target {name!r} must have 2 classes for task 'binary', got {len(classes)}")
        return cls(name, task or ("binary" if len(classes) == 2 else "multiclass"), classes)

    def encoded(self, values: Sequence[Any]) -> Tensor:
        """Class indices ``(m,)`` int64, or values ``(m, 1)`` float32.

        Raises:
            ValueError: a class is not known, or a value is missing or no number.
        """
        present = cells.present(values)
        if self.task == "regression":
            numbers, odd = cells.numbers(present, cells.mark_in(present, self.decimal))
            if odd or None in present:
                raise ValueError(f"target {self.name!r} must hold finite numbers, got {odd[0] if odd else None!r}")
            return torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1)
        index = {name: i for i, name in enumerate(self.classes)}
        names = [None if value is None else cells.level(value) for value in present]
        unknown = next((name for name in names if name not in index), index)
        if unknown is not index:
            raise ValueError(f"target {self.name!r} must be one of {', '.join(self.classes[:10])}, got {unknown!r}")
        return torch.tensor([index[name] for name in names], dtype=torch.int64)  # type: ignore[index]

    @property
    def out_features(self) -> int:
        return len(self.classes) if self.task == "multiclass" else 1

    def state(self) -> dict[str, Any]:
        """Plain strings."""
        return {"name": self.name, "task": self.task, "classes": self.classes, "decimal": self.decimal}


def _continuous(numbers: list[float], found: list[Any]) -> bool:
    if all(isinstance(value, bool) for value in found):
        return False
    distinct = set(numbers)
    return len(distinct) > MOST_CLASSES_OF_NUMBERS or not all(x.is_integer() for x in distinct)


def _check_resolution(name: str, numbers: list[float]) -> None:
    values = torch.tensor(numbers, dtype=torch.float64)
    largest, spread = values.abs().max().item(), values.std().item()
    if not largest < torch.finfo(torch.float32).max:
        raise ValueError(f"target {name!r} must hold numbers of float32, got {largest:.3g}")
    if largest * torch.finfo(torch.float32).eps > 1e-3 * spread:
        raise ValueError(
            f"target {name!r} must vary by more than float32 can tell, got values around {values.mean().item():.9g} "
            f"with a standard deviation of {spread:.3g}: subtract what they have in common"
        )


def _by_number(name: str) -> tuple[float, str]:
    try:
        return cells.number(name), name
    except ValueError:
        return 0.0, name


def _check_spelling(name: str, classes: list[str], decimal: str) -> None:
    spelt: dict[str | float, str] = {}
    for one in classes:
        try:
            key: str | float = cells.number(one, decimal)
        except ValueError:
            key = cells.spelling(one)
        other = spelt.setdefault(key, one)
        if other != one:
            raise ValueError(f"target {name!r} must spell each class in one way, got {other!r} and {one!r}")
