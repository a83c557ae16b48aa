"""How good the predictions are: ``confusion_matrix`` and ``calibration`` of classes, ``residuals`` of values.

Drawn by scikit-learn's own displays, with the extra ``[train]``.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes

from twolayer.arguments import positive_int
from twolayer.extras import missing
from twolayer.plots import given
from twolayer.plots.style import AMOUNT, GREY, MARKERS, SERIES, given_or_new

LONGEST = 24
"""Letters of a name beside a row."""
BESIDE_EACH_OTHER = 40
"""Letters that the classes' names may have together to stand upright below their columns."""


def confusion_matrix(
    net: Any, X: Any, Y: Any, *, class_names: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draws how many examples of each class the network takes for which: true classes in rows, predicted in columns.

    Args:
        net: network or trained model, of task ``"binary"`` or ``"multiclass"``.
        X: examples ``(m, n_x)``, in raw units.
        Y: their classes, ``(m,)``, or probabilities as for :func:`twolayer.functional.cost`.
        class_names: None for their numbers.
        ax: where to; None for a new figure.

    Raises:
        ValueError, TypeError, IndexError: an argument does not fit; the message names it.

    >>> from twolayer import TwoLayerNet
    >>> from matplotlib.figure import Figure
    >>> ax = confusion_matrix(TwoLayerNet(2, 4, 1), torch.randn(9, 2), torch.ones(9), ax=Figure().subplots())
    >>> ax.get_ylabel()
    'true class'
    """
    inner, P = given.network(net, "binary", "multiclass"), given.predictions(net, X)
    Y, names = given.labels(net, Y, len(P)), given.names(net, class_names)
    A = P.argmax(1) if inner.task == "multiclass" else P[:, 0].gt(0.5).long()
    n, names = len(names), [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
    counts = torch.bincount(n * Y + A, minlength=n * n).reshape(n, n)
    ax = given_or_new(ax)
    display = _scikit_learn("metrics").ConfusionMatrixDisplay(counts.numpy(), display_labels=names)
    size = min(10.0, 120 / n)
    display.plot(ax=ax, colorbar=False, cmap=AMOUNT, text_kw={"fontsize": size})
    ax.tick_params(labelsize=size)
    if n * max(map(len, names)) > BESIDE_EACH_OTHER:
        ax.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted class", ylabel="true class")
    return ax


def calibration(net: Any, X: Any, Y: Any, *, bins: int = 10, ax: Axes | None = None) -> Axes:
    """Draws how often what the network calls probable comes true, against its probability.

    Binary: that it is class 1. Multiclass: that it is the class that the network takes it for. Multilabel: that there
    is a label, all labels together. Each point stands for as many examples as the others. A point below the diagonal is
    a network too sure of itself.

    Args:
        net: network or trained model, of any task but ``"regression"``.
        X: examples ``(m, n_x)``, in raw units.
        Y: their classes or labels, or probabilities as for :func:`twolayer.functional.cost`.
        bins: how many points, at most.
        ax: where to; None for a new figure.

    Raises:
        ValueError, TypeError, IndexError: an argument does not fit; the message names it.

    >>> from twolayer import TwoLayerNet
    >>> from matplotlib.figure import Figure
    >>> Y = torch.tensor([0, 1, 0, 1, 1])
    >>> ax = calibration(TwoLayerNet(2, 4, 1), torch.randn(5, 2), Y, bins=2, ax=Figure().subplots())
    >>> ax.get_xlabel()
    'probability that it is class 1'
    """
    inner, P = given.network(net, "binary", "multiclass", "multilabel"), given.predictions(net, X)
    what = {"binary": "it is class 1", "multiclass": "it is the class predicted", "multilabel": "it has the label"}
    Y = given.labels(net, Y, len(P))
    if inner.task == "multiclass":
        P, A = P.max(1)
        Y = A.eq(Y)
    curve = _scikit_learn("calibration").calibration_curve
    true, said = curve(Y.flatten().numpy(), P.flatten().numpy(), n_bins=positive_int("bins", bins), strategy="quantile")
    ax = given_or_new(ax)
    ax.plot([0, 1], [0, 1], ":", color=GREY)
    along: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "transform_rotates_text": True}
    ax.text(0.6, 0.57, "as it should be", color=GREY, va="top", **along)
    ax.plot(said, true, "o-", color=SERIES[0], clip_on=False)
    ax.set(xlabel=f"probability that {what[inner.task]}", ylabel="how often it is", xlim=(0, 1), ylim=(0, 1))
    return ax


def residuals(net: Any, X: Any, Y: Any, *, ax: Axes | None = None) -> Axes:
    """Draws target minus prediction against the prediction, of a regression, in the targets' units.

    A good fit is a cloud around zero that is as wide everywhere. Several outputs have a colour each.

    Args:
        net: network or trained model, of task ``"regression"``.
        X, Y: examples ``(m, n_x)`` and targets ``(m, n_y)``, in raw units.
        ax: where to; None for a new figure.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.

    >>> from twolayer import TwoLayerNet
    >>> from matplotlib.figure import Figure
    >>> net = TwoLayerNet(2, 4, 1, task="regression")
    >>> ax = residuals(net, torch.randn(9, 2), torch.randn(9), ax=Figure().subplots())
    >>> ax.get_ylabel()
    'target − prediction'
    """
    given.network(net, "regression")
    A2 = given.predictions(net, X)
    Y = given.values(net, Y, len(A2))
    ax = given_or_new(ax)
    for k in range(A2.shape[1]):
        display = _scikit_learn("metrics").PredictionErrorDisplay(y_true=Y[:, k].numpy(), y_pred=A2[:, k].numpy())
        points = {
            "color": SERIES[k % len(SERIES)],
            "marker": MARKERS[k % len(MARKERS)],
            "s": 18,
            "label": f"output {k}",
        }
        display.plot(ax, kind="residual_vs_predicted", scatter_kwargs=points, line_kwargs={"color": GREY, "ls": "--"})
    ax.set(xlabel="prediction", ylabel="target − prediction")
    if A2.shape[1] > 1:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, borderaxespad=0, handletextpad=0.1)
    return ax


def _scikit_learn(module: str) -> Any:
    """Only these pictures need it, and are asked for after it is there: a trained model comes with it."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ModuleNotFoundError as error:
        raise missing(error) from None
