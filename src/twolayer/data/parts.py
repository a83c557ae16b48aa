"""Which rows of a table are trained on, validated with and tested on, and with which weight."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from twolayer.tables.values import decimal_mark, level, numbers, present

SYNONYMS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
Parts = dict[str, Tensor]


def weights_of(name: str, values: Sequence[Any]) -> list[float]:
    """The sample weight of each row.

    Raises:
        ValueError: one is missing, negative or no finite number.
    """
    found = numbers(present(values), decimal_mark(values))[0]
    for value, weight in zip(values, found, strict=True):
        if not weight >= 0:
            raise ValueError(f"weight {name!r} must hold finite numbers from 0, got {value!r}")
    return found


def named(values: Sequence[Any], name: str) -> list[str]:
    """What a column says: ``train``, ``val`` or ``test``.

    Raises:
        ValueError: it says something else.
    """
    found = [SYNONYMS.get(str(value).strip().casefold(), "") for value in values]
    if "" in found:
        raise ValueError(f"split {name!r} must hold train, val and test, got {values[found.index('')]!r}")
    return found


def by_column(values: Sequence[Any], name: str) -> Parts:
    """As a column says: ``train``, ``val`` or ``test``.

    Raises:
        ValueError: it says something else, or no row is for training.

    >>> {part: rows.tolist() for part, rows in by_column(["train", "test", "train"], "split").items()}
    {'train': [0, 2], 'val': [], 'test': [1]}
    """
    found = named(values, name)
    parts = {
        part: torch.tensor([i for i, one in enumerate(found) if one == part]).long()
        for part in ("train", "val", "test")
    }
    if not len(parts["train"]):
        raise ValueError(f"split {name!r} must leave rows to train on, got none with 'train'")
    return parts


def by_groups(values: Sequence[Any], fractions: dict[str, float], seeds: dict[str, int]) -> Parts:
    """Rows of one value are in one part; a missing value is a group of its own. Where each is larger than what a part
    is to have, it gets the smallest.

    Raises:
        ValueError: there are too few groups for a part to get one and leave one.

    >>> parts = by_groups(list("aabbccdd"), {"test": 0.25, "val": 0.25}, {"test": 0, "val": 0})
    >>> sorted(len(rows) for rows in parts.values())
    [2, 2, 4]
    """
    names = [str(None) if value is None else level(value) for value in present(values)]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of = torch.tensor([index[name] for name in names])
    sizes = torch.bincount(of)
    parts, rest = {}, torch.arange(len(index))
    for part, fraction in fractions.items():
        rest = rest[torch.randperm(len(rest), generator=_generator(seeds[part]))]
        taken = int((sizes[rest].cumsum(0) <= fraction * len(names) + 1e-9).sum())
        parts[part] = torch.isin(of, rest[:taken]).nonzero().squeeze(1)
        if fraction and not taken:
            if len(rest) < 2:
                raise ValueError(
                    f"group must have enough groups for each part, got {len(index)}: none is left for {part}"
                )
            rest, taken = rest[sizes[rest].argsort(stable=True)], 1
            parts[part] = (of == rest[0]).nonzero().squeeze(1)
        rest = rest[taken:].sort().values
    return {"train": torch.isin(of, rest).nonzero().squeeze(1), **parts}


def at_random(labels: Tensor, fractions: dict[str, float], seeds: dict[str, int]) -> Parts:
    """With the same share of each label in every part, to the row that remains; a label's last row is trained on.

    >>> parts = at_random(torch.arange(20) // 5, {"test": 0.15, "val": 0.1}, {"test": 0, "val": 0})
    >>> {part: len(rows) for part, rows in parts.items()}
    {'train': 15, 'test': 3, 'val': 2}

    Args:
        labels: ``(m,)``, all the same for no stratification.
        fractions: of the parts beside ``"train"``, taken one after the other.
        seeds: for each of them.
    """
    parts, rest = {}, torch.arange(len(labels))
    kinds, totals = labels.unique(return_counts=True)
    for part, fraction in fractions.items():
        rest = rest[torch.randperm(len(rest), generator=_generator(seeds[part]))]
        rows = [rest[labels[rest] == label] for label in kinds]
        wanted = fraction * totals.double()
        room = torch.tensor([len(of_label) - 1 for of_label in rows])
        sizes = torch.minimum((wanted + 1e-9).floor().long(), room)
        remainders = torch.where(sizes < room, wanted - sizes, -1)
        missing = max(0, round(fraction * len(labels)) - int(sizes.sum()))
        order = torch.randperm(len(kinds), generator=_generator(seeds[part]))  # of equal remainders, any
        for k in order[remainders[order].argsort(descending=True, stable=True)][:missing].tolist():
            sizes[k] += remainders[k] > 0
        parts[part] = torch.cat([of_label[:size] for of_label, size in zip(rows, sizes, strict=True)]).sort().values
        rest = rest[~torch.isin(rest, parts[part])].sort().values
    return {"train": rest, **parts}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
