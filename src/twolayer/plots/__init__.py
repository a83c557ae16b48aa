"""Pictures of a network and of a run, with the extra ``[plots]``.

Each function draws into the ``ax`` that it is given, or into a new figure of pyplot's without one, and returns it;
``ax.figure.savefig("picture.svg")`` keeps it. ``net`` is a :class:`~twolayer.TwoLayerNet`, or a trained
:class:`~twolayer.training.LitTwoLayer`, which takes raw rows and is drawn in raw units. ``X`` and ``Y`` are tensors or
arrays; they are taken to the dtype and the device of the network.

A colour means the same in every picture, see :mod:`twolayer.plots.style`.
"""

from twolayer.extras import missing

try:
    import matplotlib as matplotlib
except ModuleNotFoundError as error:
    raise missing(error) from None

from twolayer.plots.backwards import backward_pass, gradient_flow
from twolayer.plots.boundary import decision_boundary
from twolayer.plots.curves import learning_curves
from twolayer.plots.hidden import hidden_units
from twolayer.plots.predictions import calibration, confusion_matrix, residuals
from twolayer.plots.style import STYLE

__all__ = [
    "STYLE",
    "backward_pass",
    "calibration",
    "confusion_matrix",
    "decision_boundary",
    "gradient_flow",
    "hidden_units",
    "learning_curves",
    "residuals",
]
