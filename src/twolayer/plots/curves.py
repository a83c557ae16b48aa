"""How cost and metrics went, of one run or of several: ``learning_curves``."""

import csv
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from twolayer.plots.style import SERIES, given_or_new, label_ends, literal, whole_numbers

WORDS = {"val": "validation", "train": "training"}
"""What is measured again and again in a run."""
LINES = {"val": "-", "train": "--"}
COST = "cost"

Curves = dict[str, tuple[list[float], list[float]]]
"""By stage, or ``COST`` where costs were given: where, and what."""


def learning_curves(runs: Any, *, metric: str = "loss", against: str = "epoch", ax: Axes | None = None) -> Axes:
    """Draws how a metric went, by what a run logged in ``metrics.csv``, or by the costs of gradient descent.

    Of one run, a line for validation, solid, and one for training, dashed. Of several, laid over each other, the same
    in a colour for each run, with its name where the line for validation ends.

    Args:
        runs: the folder of a run, its ``metrics.csv``, or the costs that :func:`twolayer.gradient_descent` returns; or
            several of these, as a sequence, or as a mapping from the name that each is to have.
        metric: which, without its stage: ``"loss"``, ``"accuracy"``, ``"rmse"`` and so on.
        against: the column that it is drawn against, ``"epoch"`` or ``"step"``.
        ax: where to; None for a new figure.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        OSError: there is no such file.

    >>> from matplotlib.figure import Figure
    >>> ax = learning_curves({"small steps": [0.7, 0.6, 0.5], "large steps": [0.7, 0.3]}, ax=Figure().subplots())
    >>> [line.get_label() for line in ax.lines]
    ['small steps', 'large steps']
    """
    found = {name: _curves(run, metric, against) for name, run in _named(runs).items()}
    ax, lines, one = given_or_new(ax), [], len(found) == 1
    for i, (name, curves) in enumerate(found.items()):
        for j, (stage, curve) in enumerate(curves.items()):
            color = SERIES[(j if one else i) % len(SERIES)]
            label = WORDS[stage] if one and stage != COST else name
            (line,) = ax.plot(*curve, LINES.get(stage, "-"), color=color, label=literal(label), lw=1.8)
            line.set(marker="o", ms=4, markevery=_alone(curve[1]))
            lines += [line] if one or stage == next(iter(curves)) else []
    stages = {stage for curves in found.values() for stage in curves}
    dashed = "" if one or stages <= {COST, "val"} else ", dashed: training"
    ax.set(xlabel="iteration" if COST in stages else against, ylabel=f"{metric.replace('_', ' ')}{dashed}")
    if stages == {COST}:
        ax.set_ylabel("cost $J$")
    ax.margins(x=0)
    whole_numbers(ax.xaxis)
    label_ends(ax, lines)
    return ax


def _alone(values: list[float]) -> list[int]:
    """Where a number has no neighbour to which a line could be drawn.

    >>> _alone([1.0, math.nan, 0.5, 0.4]), _alone([0.7])
    ([0], [0])
    """
    there = [False, *map(math.isfinite, values), False]
    return [i - 1 for i in range(1, len(there) - 1) if there[i] and not (there[i - 1] or there[i + 1])]


def _named(runs: Any) -> dict[str, Any]:
    """Each run by its name."""
    if isinstance(runs, Mapping):
        found = {str(name): run for name, run in runs.items()}
    elif isinstance(runs, str | Path) or _is_costs(runs):
        found = {COST: runs}
    elif isinstance(runs, Sequence):
        found = {_name(run, i): run for i, run in enumerate(runs)}
    else:
        raise TypeError(f"runs must be a folder, costs, or several of these, got {type(runs).__name__}")
    if not found:
        raise ValueError("runs must be at least one, got none")
    return found


def _name(run: Any, number: int) -> str:
    if not isinstance(run, str | Path):
        return f"run {number}"
    folder = Path(run).resolve()
    folder = folder.parent if folder.suffix == ".csv" else folder
    return f"{folder.parent.name}/{folder.name}"


def _is_costs(run: Any) -> bool:
    """Whether it is a tensor, an array or a list of numbers."""
    if isinstance(run, Tensor | np.ndarray):
        return run.ndim == 1 and len(run) > 0
    numbers = isinstance(run, Sequence) and not isinstance(run, str) and len(run) > 0
    return numbers and all(isinstance(J, Real) or (isinstance(J, Tensor) and J.ndim == 0) for J in run)


def _curves(run: Any, metric: str, against: str) -> Curves:
    if not isinstance(run, str | Path):
        if not _is_costs(run):
            raise TypeError(f"runs must hold folders or costs, got {type(run).__name__}")
        costs = [float(J) for J in run]
        return {COST: (list(map(float, range(len(costs)))), costs)}
    return logged(Path(run) / "metrics.csv" if Path(run).suffix != ".csv" else Path(run), metric, against)


def logged(path: Path, metric: str = "loss", against: str = "epoch") -> Curves:
    """What stands in a ``metrics.csv``: by stage, where, and what.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or has nothing of that; the message names it.
    """
    found: Curves = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for stage in WORDS:
            there = [row for row in rows if row.get(against) and row.get(f"{stage}_{metric}")]
            if there:
                where, what = ([float(row[name]) for row in there] for name in (against, f"{stage}_{metric}"))
                found[stage] = (where, what)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} must be a table of numbers: {error}") from error
    if not found:
        columns = ", ".join(sorted({name for row in rows for name in row})) or "nothing"
        raise ValueError(f"metric {metric!r} against {against!r} must be in {path}, which has {columns}")
    return found
