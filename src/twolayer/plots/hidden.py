"""What each hidden unit answers, and which do not do their work: ``hidden_units``."""

from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from twolayer.plots import given
from twolayer.plots.style import FAULT, GREY, given_or_new, quantile_bars, whole_numbers
from twolayer.units import UnitFaults, unit_faults

WORKING = "working"


def hidden_units(net: Any, X: Any, *, ax: Axes | None = None) -> Axes:
    """Draws the outputs of each hidden unit over the rows of ``X``, and marks the dead, the twins and the saturated.

    A bar goes from 5 to 95 % of the rows, its full part from 25 to 75 %, and the line is the median. Units that work
    come first, sorted by their mean; then those with a fault, by :func:`twolayer.units.unit_faults`, and of those
    with several, the first of dead, twin, saturated. The ticks are the units' numbers in ``W1``.

    Args:
        net: network or trained model.
        X: some hundred rows ``(m, n_x)``, in raw units.
        ax: where to; None for a new figure.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.

    >>> from twolayer import TwoLayerNet
    >>> from matplotlib.figure import Figure
    >>> ax = hidden_units(TwoLayerNet(2, 4, 1, init="zeros"), torch.randn(9, 2), ax=Figure().subplots())
    >>> [text.get_text() for text in ax.texts]
    ['4 dead']
    """
    A1, activation = given.hidden_outputs(net, X), given.network(net).activation
    faults, ax = unit_faults(A1, activation), given_or_new(ax)
    means, order = A1.mean(0), torch.empty(0, dtype=torch.long)
    middle, level = -torch.inf, 0
    for kind, mask in _one_kind_each(faults).items():
        units = mask.nonzero().squeeze(1)
        if len(units) == 0:
            continue
        units = units[means[units].argsort(stable=True)]
        x = torch.arange(len(units)) + len(order)
        color = GREY if kind == WORKING else FAULT
        quantile_bars(ax, x, A1[:, units], color=color, label=kind)
        order = torch.cat([order, units])
        former, middle = middle, x.double().mean().item()
        level = level + 1 if middle - former < 0.2 * A1.shape[1] else 0  # above a word that is too near
        words = f"{len(units)} {kind if kind != 'twin' else 'twins'}"
        ax.text(middle, 1.02 + 0.07 * level, words, transform=ax.get_xaxis_transform(), color=color, ha="center")
    ax.set(xlabel="hidden unit", ylabel="output $a_1$", xlim=(-0.7, len(order) - 0.3))
    whole_numbers(ax, "x")
    ax.xaxis.set_major_formatter(lambda x, _: str(int(order[int(x)])) if 0 <= x < len(order) else "")
    return ax


def _one_kind_each(faults: UnitFaults) -> dict[str, Tensor]:
    """The units of each kind, those that work first."""
    dead, twin, saturated = faults.dead, faults.twin & ~faults.dead, faults.saturated & ~faults.twin & ~faults.dead
    return {WORKING: ~(dead | twin | saturated), "saturated": saturated, "twin": twin, "dead": dead}
