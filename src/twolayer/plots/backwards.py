"""What flows back through the network: ``backward_pass`` in numbers, ``gradient_flow`` in sizes."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from twolayer.plots import given
from twolayer.plots.style import AMOUNT, GREY, SERIES, SIGN, given_or_new, scale, whole_numbers

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def backward_pass(net: Any, X: Any, Y: Any, *, ax: Axes | None = None) -> Axes:
    """Draws how the error of each example goes back to each hidden unit: ``dZ2 → dA1 → g' → dZ1``.

    Four panels, in which a row is an example and a column a unit. The examples are sorted by ``dZ2`` (with several
    outputs, by its norm, the greatest first). The error goes back through the weights, ``dA1 = dZ2 W2``, and through
    the slope of each unit, ``dZ1 = dA1 ⊙ g'(Z1)``: where the slope is dark, it stops. ``dA1`` and ``dZ1`` have one
    scale.

    Args:
        net: network or trained model.
        X, Y: examples ``(m, n_x)`` and targets as for :meth:`twolayer.TwoLayerNet.loss`, in raw units.
        ax: where to; None for a new figure. Its ``child_axes`` are the panels.

    Errors are those of single examples, as the notes write them, without the mean's ``1/m``; with class weights, times
    the weight over the mean weight. Those of a trained model of a regression are in units of standardised targets.

    Raises:
        ValueError, TypeError, IndexError: an argument does not fit; the message names it.

    >>> from twolayer import TwoLayerNet
    >>> from matplotlib.figure import Figure
    >>> ax = backward_pass(TwoLayerNet(2, 4, 1), torch.randn(9, 2), torch.ones(9), ax=Figure().subplots())
    >>> len(ax.child_axes)
    4
    """
    _, t = given.trace(net, X, Y)
    m = len(t.dZ2)
    order = (t.dZ2[:, 0] if t.dZ2.shape[1] == 1 else -t.dZ2.norm(dim=1)).argsort(stable=True)
    dZ2, dA1, slope, dZ1 = m * t.dZ2[order], m * t.dA1[order], t.slope[order], m * t.dZ1[order]
    ax = given_or_new(ax, (10.0, 4.0))
    ax.set_axis_off()
    left = f"{dZ1.norm() / dA1.norm():.0%} is left" if dA1.any() else "nothing came"
    back = _symmetric(dA1)
    panels = [
        ("$dZ_2 = A_2 - Y$", "said minus true", dZ2, SIGN, _symmetric(dZ2)),
        ("$dA_1 = dZ_2 \\, W_2$", "back through the weights", dA1, SIGN, back),
        ("$g'(Z_1)$", "where it is dark, it stops", slope, AMOUNT, Normalize(0, max(1.0, slope.max().item()))),
        ("$dZ_1 = dA_1 \\odot g'(Z_1)$", left, dZ1, SIGN, back),
    ]
    first = 0.06 + 0.04 * min(4, dZ2.shape[1])
    for i, (equation, words, V, colors, norm) in enumerate(panels):
        width = first if i == 0 else (1 - first) / 3 - 0.05
        panel = ax.inset_axes((0 if i == 0 else first + 0.05 + (i - 1) * (width + 0.05), 0, width, 1))
        image = panel.imshow(V.numpy(), cmap=colors, norm=norm, aspect="auto", interpolation="none")
        panel.set(title=f"{equation}\n{words}", xlabel="output" if i == 0 else "hidden unit")
        panel.spines[:].set_visible(False)
        whole_numbers(panel.xaxis, panel.yaxis)
        panel.tick_params(left=i == 0, labelleft=i == 0)
        bar = scale(image, panel, cax=panel.inset_axes((0, -0.3, 1, 0.04)), orientation="horizontal")
        bar.ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.child_axes[0].set_ylabel("example, sorted by $dZ_2$")
    return ax


def gradient_flow(net: Any, X: Any, Y: Any, *, ax: Axes | None = None) -> Axes:
    """Draws how large each quantity of the backward pass is, from the output to the first weights, example by example.

    Of ``dZ2``, ``dA1``, ``dZ1`` the norms of the rows, and of ``dW2``, ``dW1`` those of each example's own gradient,
    ``‖dz2‖ ‖a1‖`` and ``‖dz1‖ ‖x‖``. The thin line goes from 5 to 95 % of the examples, the bar from 25 to 75 %, and
    the dot is the median. The line across is the norm of the mean of all gradients, the one that a step takes.

    Args:
        net: network or trained model.
        X, Y: examples ``(m, n_x)`` and targets as for :meth:`twolayer.TwoLayerNet.loss`, in raw units.
        ax: where to; None for a new figure.

    Errors are those of single examples, as for :func:`backward_pass`.

    Raises:
        ValueError, TypeError, IndexError: an argument does not fit; the message names it.

    >>> from twolayer import TwoLayerNet
    >>> from matplotlib.figure import Figure
    >>> ax = gradient_flow(TwoLayerNet(2, 4, 1), torch.randn(9, 2), torch.ones(9), ax=Figure().subplots())
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['$dZ_2$', '$dW_2$', '$dA_1$', '$dZ_1$', '$dW_1$']
    """
    X, t = given.trace(net, X, Y)
    m = len(X)
    dz2, da1, dz1 = (m * V.norm(dim=1) for V in (t.dZ2, t.dA1, t.dZ1))
    sizes = {
        "$dZ_2$": (dz2, None),
        "$dW_2$": (dz2 * t.A1.norm(dim=1), t.dW2),
        "$dA_1$": (da1, None),
        "$dZ_1$": (dz1, None),
        "$dW_1$": (dz1 * X.norm(dim=1), t.dW1),
    }
    ax = given_or_new(ax)
    for place, (name, (norms, gradient)) in enumerate(sizes.items()):
        color = GREY if gradient is None else SERIES[0]
        low, lower, median, upper, high = torch.quantile(norms, norms.new_tensor(QUANTILES)).tolist()
        ax.vlines(place, low, high, color=color, lw=3)
        ax.vlines(place, lower, upper, color=color, lw=16, label=name)
        ax.scatter(place, median, s=36, color="white", edgecolors=color, zorder=3)
        if gradient is not None:
            step = gradient.norm().item()
            ax.hlines(step, place - 0.26, place + 0.26, color=color, lw=2.5, label=f"mean of {name}")
            ax.text(place + 0.29, step, "of the\nmean", color=color, va="center")
    ax.set_yscale("log", nonpositive="clip")
    ax.set_xticks(range(len(sizes)), list(sizes))
    ax.set(xlabel="from the output back to the input", ylabel="norm, for each example", xlim=(-0.6, len(sizes) - 0.1))
    return ax


def _symmetric(V: Tensor) -> Normalize:
    greatest = torch.quantile(V.abs(), 0.98).item() or V.abs().max().item() or 1.0  # a few may be far out
    return Normalize(-greatest, greatest)
