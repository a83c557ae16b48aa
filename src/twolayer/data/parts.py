"""Which rows of a table are trained on, validated with and tested on, and with which weight."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from twolayer.tables.values import decimal_mark, numbers, present

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
    """Rows of one value are in one part; a missing value is a group of its own.

    >>> parts = by_groups(list("aabbccdd"), {"test": 0.25, "val": 0.25}, {"test": 0, "val": 0})
    >>> sorted(len(rows) for rows in parts.values())
    [2, 2, 4]
    """
    names = [str(value) for value in values]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of = torch.tensor([index[name] for name in names])
    sizes = torch.bincount(of)
    parts, rest = {}, torch.arange(len(index))
    for part, fraction in fractions.items():
        rest = rest[torch.randperm(len(rest), generator=_generator(seeds[part]))]
        taken = int((sizes[rest].cumsum(0) <= fraction * len(names) + 1e-9).sum())
        parts[part] = torch.isin(of, rest[:taken]).nonzero().squeeze(1)
        if fraction and not taken:
            raise ValueError(f"group must have enough groups for each part, got {len(index)}: none is left for {part}")
        rest = rest[taken:].sort().values
    return {"train": torch.isin(of, rest).nonzero().squeeze(1), **parts}


def at_random(labels: Tensor, fractions: dict[str, float], seeds: dict[str, int]) -> Parts:
    """With the same share of each label in every part; a label with few rows is trained on first.

    Args:
        labels: ``(m,)``, all the same for no stratification.
        fractions: of the parts beside ``"train"``, taken one after the other.
        seeds: for each of them.
    """
    parts, rest = {}, torch.arange(len(labels))
    for part, fraction in fractions.items():
        rest = rest[torch.randperm(len(rest), generator=_generator(seeds[part]))]
        taken = []
        for label in labels.unique():
            rows = rest[labels[rest] == label]
            total = int((labels == label).sum())
            taken.append(rows[: min(round(fraction * total), len(rows) - 1)])
        parts[part] = torch.cat(taken).sort().values
        rest = rest[~torch.isin(rest, parts[part])].sort().values
    return {"train": rest, **parts}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
