"""What of an ``nn.Sequential`` is the two-layer network: ``parts_of``."""

from typing import Any, cast

from torch import nn

from twolayer.activations import ACTIVATIONS
from twolayer.context import runs_otherwise
from twolayer.names import ActivationName


def parts_of(sequential: nn.Sequential) -> tuple[nn.Linear, ActivationName, nn.Linear]:
    """The first layer, the name of the activation, the second layer.

    Raises:
        TypeError: it is no ``nn.Sequential``.
        ValueError: it is built otherwise, or one of its layers does something that the network would not do: a hook, a
            reparametrisation, pruning, an option that is not the default. The message names the layer.

    >>> first, activation, second = parts_of(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)))
    >>> activation
    'tanh'
    """
    if not isinstance(sequential, nn.Sequential):
        raise TypeError(f"sequential must be an nn.Sequential, got {type(sequential).__name__}")
    layers: list[Any] = list(sequential)
    rows = {name: row.module() for name, row in ACTIVATIONS.items()}
    names = {type(module): name for name, module in rows.items()}
    for place, layer in enumerate(layers):
        if stale := [name for name in ("weight", "bias") if name in vars(layer)]:
            raise _refused(place, layer, f"its {stale[0]} is computed, as by pruning or weight norm")
        if hasattr(layer, "parametrizations"):
            raise _refused(place, layer, f"its {', '.join(layer.parametrizations)} is parametrised")
        if more := runs_otherwise(layer, type(layer)):
            raise _refused(place, layer, f"it has {more}, which would be lost")
        if others := [name for name, _ in layer.named_parameters() if name not in ("weight", "bias")]:
            raise _refused(place, layer, f"it has the parameter {others[0]!r} too")
    kinds = [type(layer) for layer in layers]
    if len(kinds) != 3 or kinds[0] is not nn.Linear or kinds[2] is not nn.Linear or kinds[1] not in names:
        expected = " or ".join(kind.__name__ for kind in names)
        got = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"sequential must be Linear, then {expected}, then Linear, got {got}")
    first, activation, second = layers
    if more := runs_otherwise(sequential, nn.Sequential):
        raise ValueError(f"sequential must be no more than its layers, got {more}, which would be lost")
    if first.bias is None or second.bias is None:
        raise ValueError("sequential must have a bias in both linear layers, got bias=False")
    name = names[type(activation)]
    for option, default in vars(rows[name]).items():
        value = vars(activation).get(option)
        if not option.startswith("_") and option not in ("training", "inplace") and value != default:
            raise ValueError(f"{option} must be {default}, got {value}")
    if second.in_features != first.out_features:
        raise ValueError(
            f"sequential must fit together, got {first.out_features} hidden units, then {second.in_features}"
        )
    return first, cast(ActivationName, name), second


def _refused(place: int, layer: nn.Module, why: str) -> ValueError:
    return ValueError(f"sequential[{place}] must be a plain layer, got {type(layer).__name__}: {why}")
