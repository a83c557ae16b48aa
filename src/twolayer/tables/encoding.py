"""From the columns of a table to the inputs of a network: ``Encoding``."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from twolayer.tables.columns import Column, learn
from twolayer.tables.values import DATE_PARTS

BINS = 16
ROOM = 0.5
"""How far beyond the training rows' range a number counts as it stands, as a share of that range."""
FARTHEST = 1e30
"""Standard deviations that count: of the difference of two numbers, float64 may have none."""
ROWS_AT_ONCE = 16_384

Values = Callable[[str], Sequence[Any]]
"""The values of a column by its name."""


class Features(nn.Module):
    """Numbers and level indices, ``(m, slots)`` with NaN for what is missing, as inputs ``(m, out_features)``.

    A number is standardised; beside it stands its piecewise-linear encoding: for each of ``n`` bins between quantiles
    of the training rows, how far through the bin it is, from 0 to ``1 / √n``, so that the bins of a column together
    count as much as its number. A missing number is the median, and an indicator says so. A level is one-hot; levels
    that the training rows had none of are all zeros.

    Where a number is beyond the training rows' range by more than half of that, the rest counts as its logarithm,
    ``log(1 + rest)``: a misprint among rows that were not learnt from should neither say when training was best nor
    make an answer as wrong as it is itself.

    It is nothing but tensor operations on its buffers, and so can be exported.

    Args:
        buffers: what :func:`learn_features` returned, or the ``state_dict``.
    """

    numeric: Tensor  # (n,) slots of numbers
    fill: Tensor  # (n,) their medians
    mean: Tensor
    std: Tensor
    low: Tensor  # (n,) between these, a standardised number counts as it stands
    high: Tensor
    bin_of: Tensor  # (bins,) which number, where the bin begins, how wide it is, and what its end counts
    bin_start: Tensor
    bin_width: Tensor
    bin_scale: Tensor
    indicator_of: Tensor  # (indicators,) slots
    level_of: Tensor  # (levels,) slots, and which index is meant
    level_is: Tensor

    def __init__(self, buffers: dict[str, Tensor]) -> None:
        super().__init__()
        infinite = torch.full_like(buffers["mean"], math.inf)
        former = {"low": -infinite, "high": infinite, "bin_scale": torch.ones_like(buffers["bin_start"])}
        for name, V in {**former, **buffers}.items():  # former checkpoints have not all of them
            self.register_buffer(name, V)

    @property
    def out_features(self) -> int:
        return sum(len(V) for V in (self.mean, self.bin_of, self.indicator_of, self.level_of))

    def forward(self, S: Tensor) -> Tensor:
        S = torch.where(torch.isinf(S), math.nan, S)
        numbers = S.index_select(1, self.numeric)
        numbers = torch.where(torch.isnan(numbers), self.fill, numbers)
        standard = ((numbers - self.mean) / self.std).clamp(-FARTHEST, FARTHEST)
        inside = torch.minimum(torch.maximum(standard, self.low), self.high)
        standard = inside + (standard - inside).sign() * (standard - inside).abs().log1p()
        bins = (numbers.index_select(1, self.bin_of) - self.bin_start) / self.bin_width
        missing = torch.isnan(S.index_select(1, self.indicator_of))
        levels = S.index_select(1, self.level_of) == self.level_is
        parts = (standard, bins.clamp(0, 1) * self.bin_scale, missing, levels)
        return torch.cat([part.float() for part in parts], 1)


def learn_features(columns: Sequence[Column], S: Tensor) -> dict[str, Tensor]:
    """The buffers of :class:`Features` by the training rows ``S``, ``(m, slots)`` float64."""
    numeric: list[int] = []
    statistics: list[tuple[float, ...]] = []
    bins: list[tuple[int, float, float, float]] = []
    indicators: list[int] = []
    levels: list[tuple[int, int]] = []
    slot = 0
    for column in columns:
        for i in range(column.slots):
            known = S[:, slot][~S[:, slot].isnan()]
            missing = len(known) < len(S)
            if column.kind == "category":
                levels += [(slot, k) for k in range(len(column.levels) + 1) if (known == k).any()]
            else:
                ordered = known.sort().values
                at = torch.linspace(0, len(ordered) - 1, BINS + 1, dtype=torch.float64).round().long()
                edges = ordered[at].unique()
                filled = torch.where(S[:, slot].isnan(), ordered[len(ordered) // 2], S[:, slot])
                mean, std = filled.mean().item(), filled.std(correction=0).item() or 1.0
                least, most = ordered[0].item(), ordered[-1].item()
                room = ROOM * (most - least)
                bounds = (least - room - mean) / std, (most + room - mean) / std
                if std == math.inf:  # all numbers count as zero
                    bounds = -math.inf, math.inf
                statistics.append((ordered[len(ordered) // 2].item(), mean, std, *bounds))
                if len(edges) > 2:
                    ends = edges.tolist()
                    scale = (len(ends) - 1) ** -0.5
                    bins += [(len(numeric), a, b - a, scale) for a, b in pairwise(ends)]
                numeric.append(slot)
            if missing and i == 0:
                indicators.append(slot)
            slot += 1
    of_numbers = torch.tensor(statistics, dtype=torch.float64).reshape(-1, 5).unbind(1)
    of, *of_bins = torch.tensor(bins, dtype=torch.float64).reshape(-1, 4).unbind(1)
    level_of, level_is = torch.tensor(levels, dtype=torch.float64).reshape(-1, 2).unbind(1)
    parts = {"level_is": level_is} | dict(zip(("fill", "mean", "std", "low", "high"), of_numbers, strict=True))
    parts |= zip(("bin_start", "bin_width", "bin_scale"), of_bins, strict=True)
    parts |= {"bin_of": of.long(), "level_of": level_of.long()}
    parts |= {"numeric": torch.tensor(numeric, dtype=torch.long)}
    parts |= {"indicator_of": torch.tensor(indicators, dtype=torch.long)}
    return {name: V.clone() for name, V in parts.items()}


class Encoding:
    """How a table becomes inputs: what each column is, and :class:`Features` behind.

    Args:
        columns: in the order of the table.
        buffers: of the features.

    >>> table = {"size": [1.0, 2.0, None], "colour": ["red", "blue", "red"]}
    >>> encoding = Encoding.learn(list(table), table.__getitem__)
    >>> encoding({"size": [2.0], "colour": ["green"]}.__getitem__).shape  # an unknown level is all zeros
    torch.Size([1, 4])
    """

    def __init__(self, columns: Sequence[Column], buffers: dict[str, Tensor]) -> None:
        self.columns = list(columns)
        self.features = Features(buffers)

    @classmethod
    def learn(cls, names: Sequence[str], values: Values, wanted: Sequence[str] = ()) -> "Encoding":
        """Of the training rows.

        Args:
            names: of the columns.
            values: returns those of a column.
            wanted: columns to be kept though they look like identifiers.

        Raises:
            ValueError: no column is left.
        """
        columns = [learn(name, values(name), name in wanted) for name in names]
        if all(column.kind == "dropped" for column in columns):
            said = (
                "; ".join(f"{column.name}: {column.note}" for column in columns) or "there are none beside the target"
            )
            raise ValueError(f"the table must have a column to learn from, but of its columns ({said}) none is left")
        return cls(columns, learn_features(columns, matrix(columns, values)))

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> "Encoding":
        """From what :meth:`state` returned."""
        return cls([Column(**column) for column in state["columns"]], state["features"])

    def state(self) -> dict[str, Any]:
        """Plain strings, numbers and tensors."""
        return {
            "columns": [column.state() for column in self.columns],
            "features": {name: V.clone() for name, V in self.features.state_dict().items()},
        }

    @property
    def used(self) -> list[str]:
        """The names of the columns that are not dropped."""
        return [column.name for column in self.columns if column.kind != "dropped"]

    def matrix(self, values: Values) -> Tensor:
        """Numbers and level indices ``(m, slots)``, float64, see :class:`Features`."""
        return matrix(self.columns, values)

    @torch.no_grad()
    def __call__(self, values: Values) -> Tensor:
        """Inputs ``(m, out_features)``, float32."""
        return torch.cat([self.features(rows) for rows in self.matrix(values).split(ROWS_AT_ONCE)])

    def unread(self, values: Values) -> Iterator[str]:
        """Of each column a line that says which of its values count as missing or as a level like no other, if any."""
        for column in self.columns:
            if column.kind != "dropped" and (odd := column.unread(values(column.name))):
                what = {
                    "numeric": "no finite numbers, and count as missing",
                    "date": "no dates as in the fit, and count as missing",
                    "category": f"none of its {len(column.levels)} levels",
                }[column.kind]
                yield f"Column {column.name!r}: {len(odd)} values, such as {odd[0]!r}, are {what}"

    def described(self) -> Iterator[tuple[str, str, str]]:
        """Of each column its name, its kind and what is done with it."""
        indicators, slot = set(self.features.indicator_of.tolist()), 0
        for column in self.columns:
            what = {
                "numeric": "standardised, and its place between quantiles",
                "category": f"one-hot, {len(column.levels)} levels",
                "date": f"numbers: {', '.join(DATE_PARTS)}",
                "dropped": "left out",
            }[column.kind]
            flag = ", an indicator of missing ones" if column.slots and slot in indicators else ""
            slot += column.slots
            yield column.name, column.kind, what + flag + (f" ({column.note})" if column.note else "")


def matrix(columns: Sequence[Column], values: Values) -> Tensor:
    """Numbers and level indices ``(m, slots)``, see :class:`Features`."""
    used = [column for column in columns if column.kind != "dropped"]
    parts = [torch.as_tensor(column.numbers(values(column.name)), dtype=torch.float64) for column in used]
    return torch.cat([part.reshape(-1, column.slots) for part, column in zip(parts, used, strict=True)], 1)
