"""What each hidden unit answers, and which do not do their work: ``hidden_units``."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from twolayer.plots import given
from twolayer.plots.style import AMOUNT, FAULT, GREY, given_or_new, scale, whole_numbers
from twolayer.units import UnitFaults, unit_faults

WORKING = "working"
BINS = 40
"""Of the outputs."""
MANY = 60
"""Units, between which there is no gap."""


def hidden_units(net: Any, X: Any, *, ax: Axes | None = None) -> Axes:
    """Draws the outputs of each hidden unit over the rows of ``X``, and marks the dead, the twins and the saturated.

    A column is a unit, and the shade of a cell the share of the rows for which its output lies there: a unit of tanh
    that is bright at both ends alone is saturated, one of ReLU that is bright at 0 alone is dead. Units that work come
    first, sorted by their mean; then those with a fault, by :func:`twolayer.units.unit_faults`, and of those
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
    kinds = {kind: mask.nonzero().squeeze(1) for kind, mask in one_kind_each(unit_faults(A1, activation)).items()}
    means, n_h = A1.mean(0), A1.shape[1]
    kinds = {kind: units[means[units].argsort(stable=True)] for kind, units in kinds.items() if len(units)}
    order = torch.cat(list(kinds.values()))
    low, high = _range(A1)
    shares = torch.stack([torch.histc(a, BINS, low, high) for a in A1.T[order]], 1) / len(A1)

    ax = given_or_new(ax)
    norm = PowerNorm(0.5, 0, 1)  # so that small shares can be seen
    image = ax.imshow(
        _with_gaps(shares).numpy(),
        cmap=AMOUNT,
        norm=norm,
        origin="lower",
        aspect="auto",
        interpolation="none",
        extent=(-0.5, n_h - 0.5, low, high),
    )
    bar = scale(image, ax, label="share of the rows", ticks=[0, 0.01, 0.1, 0.25, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    first, middle, level = 0, -torch.inf, 0
    for kind, units in kinds.items():
        color = GREY if kind == WORKING else FAULT
        last, above = first + len(units) - 1, ax.get_xaxis_transform()
        ax.plot(
            [first - 0.35, last + 0.35], [1.02, 1.02], color=color, lw=3, transform=above, clip_on=False, label=kind
        )
        former, middle = middle, (first + last) / 2
        level = level + 1 if middle - former < 0.2 * n_h else 0  # above a word that is too near
        words = f"{len(units)} {'twins' if kind == 'twin' else kind}"
        ax.text(middle, 1.04 + 0.07 * level, words, transform=above, color=color, ha="center")
        first = last + 1
    ax.spines[:].set_visible(False)
    ax.set(xlabel="hidden unit", ylabel="output $a_1$", xlim=(-0.5, n_h - 0.5))
    whole_numbers(ax.xaxis)
    ax.xaxis.set_major_formatter(lambda x, _: str(int(order[int(x)])) if 0 <= x < n_h else "")
    return ax


def _range(A1: Tensor) -> tuple[float, float]:
    low, high = A1.min().item(), A1.max().item()
    return (low, high) if high > low else (low - 1, high + 1)


def _with_gaps(shares: Tensor) -> Tensor:
    """The same columns with nothing between them, where they are few."""
    if shares.shape[1] > MANY:
        return shares
    wide = shares.repeat_interleave(20, 1)
    wide[:, 0::20] = wide[:, 19::20] = torch.nan
    return wide


def one_kind_each(faults: UnitFaults) -> dict[str, Tensor]:
    """The units of each kind, those that work first; with several faults, of the first of dead, twin, saturated."""
    dead, twin, saturated = faults.dead, faults.twin & ~faults.dead, faults.saturated & ~faults.twin & ~faults.dead
    return {WORKING: ~(dead | twin | saturated), "saturated": saturated, "twin": twin, "dead": dead}
