"""Numbers, shares, counts and names, as a report writes them."""

import math
from collections.abc import Sequence

PARTS = {"train": "training rows", "val": "validation rows", "test": "test rows"}
MOST_NAMES = 6
LONGEST = 24


def number(value: float) -> str:
    """With three digits that count, and without powers of ten where people use none.

    >>> number(1230342.02), number(0.03560), number(float("nan")), number(9.4e-7)
    ('1,230,342', '0.0356', '–', '9.4e-07')
    >>> import torch
    >>> number(torch.tensor(0.9125).item()), percent(0.9125)  # float32 rounds up
    ('0.912', '91.2 %')
    """
    if not math.isfinite(value):
        return "–"
    if 1000 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{float(f'{value:.6g}'):.3g}"  # without what float32 rounds, so that it is the same as in per cent


def percent(share: float) -> str:
    """
    >>> percent(0.98824)
    '98.8 %'
    """
    return f"{100 * share:.1f} %"


def counted(count: int, thing: str) -> str:
    """
    >>> counted(1, "hidden unit"), counted(1250, "row")
    ('1 hidden unit', '1,250 rows')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def named(names: Sequence[str]) -> str:
    """A few names, in quotation marks, and how many more there are.

    >>> named(["no", "yes"]), named([str(k) for k in range(9)])
    ('“no” and “yes”', '“0”, “1”, “2”, “3”, “4”, “5” and 3 more')
    """
    quoted = [f"“{name}”" for name in names[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        return f"{', '.join(quoted)} and {len(names) - MOST_NAMES} more"
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def in_a_picture(name: str) -> str:
    """A name from the data as matplotlib takes it: no mathematics between its dollar signs, and not long."""
    return (name if len(name) <= LONGEST else name[: LONGEST - 1] + "…").replace("$", r"\$")
