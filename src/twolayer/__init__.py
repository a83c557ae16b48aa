"""The two-layer network of the classic course notes, with its backward pass written by hand."""

from twolayer import functional
from twolayer.descent import gradient_descent
from twolayer.network import TwoLayerNet
from twolayer.tables.predictor import load

__version__ = "0.1.0"
__all__ = ["TwoLayerNet", "functional", "gradient_descent", "load"]
