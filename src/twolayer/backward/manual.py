"""Mode ``"manual"``: the notes' equations, on what the forward pass kept.

The ``∂J/∂Z2`` of whatever stands behind the logits goes through both layers by :mod:`twolayer.backward.kept`. The
network's own cost does not need that: it comes with its gradients, in one pass, see :mod:`twolayer.backward.gradients`.
"""

from torch import Tensor

from twolayer.backward import gradients
from twolayer.backward.function import whole_in_graphs
from twolayer.backward.kept import How, Logits, Network
from twolayer.context import at_rest, autocast_dtype, autocast_enabled, may_move
from twolayer.equations import Parameters
from twolayer.kernels import choice
from twolayer.tasks import Examples, Objective, Plan


def logits(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> Tensor:
    """``Z2``, ``(m, n_y)``."""
    tensors = (X, *parameters)
    if at_rest(*tensors) and not autocast_enabled(X.device):
        if not may_move(*tensors):
            return choice.forward(X, parameters, activation, plan)
        how = How(choice.forward_and_kept, choice.backward_from_kept, activation, plan)
        Z2: Tensor = Logits.apply_at_rest(how, *tensors)
        return Z2
    # What autocast would do to the arguments of a matrix product: PyTorch leaves that to a Function's caller.
    Z2, _ = Network.apply(*(V.to(autocast_dtype(V)) for V in (X, *parameters)), activation)
    return Z2


@whole_in_graphs
def loss(examples: Examples, parameters: Parameters, objective: Objective, plan: Plan) -> Tensor:
    """``J``, or the loss of each example. Under autocast it goes by the logits, whose products autocast converts."""
    if autocast_enabled(examples.X.device):
        return gradients.cost(logits(examples.X, parameters, objective.activation, plan), examples, objective)
    return gradients.loss(examples, parameters, objective, plan, logits)
