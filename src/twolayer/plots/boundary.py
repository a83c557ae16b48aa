"""What the network says everywhere in the plane: ``decision_boundary``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor
from torch.nn import functional as F

from twolayer.plots import given
from twolayer.plots.style import CLASSES, MARKERS, given_or_new

POINTS = 201
"""On each side of the grid on which the network is asked."""
SHADE = 0.45
"""How much of a class's colour there is where it is certain, the rest white: points stand out on it."""

LEVELS = 32
"""Of shade: as many as one sees, and small in a file."""


IN_A_ROW = 56
"""Letters in a row of the key, as many as the plane is wide."""


def decision_boundary(
    net: Any, X: Any, Y: Any, *, class_names: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draws what a network with two features answers everywhere, its boundary, and the examples.

    The shade is the probability: of the class whose colour it is, and white where the network does not know. The black
    line is where it changes its mind: where the probability is ½, or with several classes where the two greatest are
    equal.

    Args:
        net: network or trained model, of task ``"binary"`` or ``"multiclass"``.
        X: examples ``(m, 2)``, in raw units.
        Y: their classes, ``(m,)``, or probabilities as for :func:`twolayer.functional.cost`.
        class_names: for the key; None for ``class 0`` and so on.
        ax: where to; None for a new figure.

    Raises:
        ValueError, TypeError, IndexError: an argument does not fit; the message names it.

    >>> from twolayer import TwoLayerNet
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> decision_boundary(TwoLayerNet(2, 4, 1), torch.randn(9, 2), torch.ones(9), ax=ax) is ax
    True
    """
    inner, X = given.network(net, "binary", "multiclass"), given.rows(net, X).cpu().double()
    if inner.in_features != 2:
        raise ValueError(f"net must have two features to be drawn in a plane, got {inner.in_features}")
    Y, names = given.labels(net, Y, len(X)), given.names(net, class_names)
    names, classes = [f"class {name}" for name in names] if class_names is None else names, len(names)
    ax = given_or_new(ax)

    x1, x2 = (_range(column) for column in X.T)
    grid = torch.cartesian_prod(x2, x1).flip(1)  # row by row, from below
    P = given.predictions(net, grid).reshape(POINTS, POINTS, -1)
    P = torch.cat([1 - P, P], -1) if inner.task == "binary" else P
    extent = (x1[0].item(), x1[-1].item(), x2[0].item(), x2[-1].item())
    ax.imshow(_shade(P), origin="lower", extent=extent, aspect="auto", interpolation="none")
    for k in range(classes if classes > 2 else classes - 1):
        others = torch.cat([P[..., :k], P[..., k + 1 :]], -1).amax(-1)
        ahead = P[..., k] - others
        if ahead.min() < 0 < ahead.max():
            ax.contour(x1.numpy(), x2.numpy(), ahead.numpy(), levels=[0.0], colors="black", linewidths=1.5)
    for k, name in enumerate(names):
        points = X[Y.eq(k)].numpy()
        color, marker = CLASSES[k % len(CLASSES)], MARKERS[k % len(MARKERS)]
        ax.scatter(
            points[:, 0], points[:, 1], s=22, color=color, marker=marker, edgecolors="white", linewidths=0.6, label=name
        )
    ax.set(xlabel="$x_1$", ylabel="$x_2$", xlim=extent[:2], ylim=extent[2:])
    columns = max(1, min(4, IN_A_ROW // (max(map(len, names)) + 4)))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, borderaxespad=0, handletextpad=0.1)
    return ax


def _range(column: Tensor) -> Tensor:
    low, high = column.min(), column.max()
    margin = 0.08 * (high - low) if high > low else torch.ones(())
    return torch.linspace(float(low - margin), float(high + margin), POINTS, dtype=torch.float64)


def _shade(P: Tensor) -> np.ndarray:
    """Red, green and blue of each point of the grid: white, and as much of the likeliest class's colour as it leads."""
    colors = torch.tensor([to_rgb(CLASSES[k % len(CLASSES)]) for k in range(P.shape[-1])], dtype=P.dtype)
    first, second = (P if P.shape[-1] > 1 else F.pad(P, (0, 1))).topk(2, -1)[0].unbind(-1)
    strength = SHADE * ((first - second) * LEVELS).round().unsqueeze(-1) / LEVELS
    return (1 - strength * (1 - colors[P.argmax(-1)])).numpy()
