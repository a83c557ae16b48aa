"""Mode ``"autograd"``: PyTorch differentiates the forward pass. The oracle for the others, and what is exported."""

from torch import Tensor

from twolayer.equations import Parameters
from twolayer.kernels import plain
from twolayer.tasks import Examples, Objective, Plan


def logits(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> Tensor:
    """``Z2``, ``(..., n_y)``. The plan plays no part: what PyTorch differentiates are its own operators."""
    return plain.logits(X, parameters, activation)


def loss(examples: Examples, parameters: Parameters, objective: Objective, plan: Plan) -> Tensor:
    """``J``, or the loss of each example."""
    return objective.cost(logits(examples.X, parameters, objective.activation, plan), examples)
