"""What a picture is given, as the network takes it: a network or a trained model, tensors or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from twolayer import arguments, equations
from twolayer.activations import ACTIVATIONS
from twolayer.arguments import one_of
from twolayer.kernels.plain import Trace
from twolayer.plots.style import literal
from twolayer.tasks import Examples

if TYPE_CHECKING:
    from twolayer.network import TwoLayerNet


ASKED = ("predict", "trace", "task", "activation", "out_features", "W1", "b1")
"""What a picture wants of a network."""


def network(net: Any, *tasks: str) -> TwoLayerNet:
    """The network itself, or that of a trained model; either is known by what it can be asked.

    Raises:
        TypeError: it is neither.
        ValueError: its task is none of ``tasks``, if there are any.
    """
    found: Any = net if _answers(net) else getattr(net, "net", None)
    if not _answers(found):
        raise TypeError(f"net must be a TwoLayerNet or a LitTwoLayer, got {type(net).__name__}")
    if tasks:
        one_of("task of net", found.task, tasks)
    return found


def _answers(net: Any) -> bool:
    return all(hasattr(net, name) for name in ASKED)


def rows(net: Any, X: Any) -> Tensor:
    """``X``, ``(m, n_x)`` in raw units, in the dtype and on the device of the network.

    Raises:
        TypeError: it does not hold real numbers.
        ValueError: it has another shape, or no rows.
    """
    W1 = network(net).W1
    X = _tensor("X", X).to(W1.device, W1.dtype)
    if X.ndim != 2 or X.shape[1] != W1.shape[1] or len(X) == 0:
        raise ValueError(f"X must have shape (m, {W1.shape[1]}) with m ≥ 1, got {tuple(X.shape)}")
    return X


def targets(net: Any, Y: Any) -> Tensor:
    """``Y`` in raw units, on the device of the network; floats in its dtype."""
    W1, Y = network(net).W1, _tensor("Y", Y)
    return Y.to(W1.device, W1.dtype if Y.is_floating_point() else None)


def _tensor(argument: str, V: Any) -> Tensor:
    if not isinstance(V, Tensor):
        try:
            V = torch.tensor(np.asarray(V))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{argument} must be a tensor or an array of numbers, got {V!r:.60}") from error
    if arguments.dense(argument, V).is_complex():
        raise TypeError(f"{argument} must hold real numbers, got {V.dtype}")
    return V.detach()


@torch.no_grad()
def predictions(net: Any, X: Any) -> Tensor:
    """``(m, n_y)``: probabilities, or values in raw units; float64, on the CPU.

    Raises:
        ValueError: not all are finite.
    """
    X = rows(net, X)
    return _finite("A2", net.predict(X) if net is network(net) else net(X))


def _finite(what: str, V: Tensor) -> Tensor:
    if not V.isfinite().all():
        raise ValueError(f"net and X must give finite numbers, got {what} with others among them")
    return V.cpu().double()


def labels(net: Any, Y: Any, m: int) -> Tensor:
    """The class of each of ``m`` rows, ``(m,)``, or for multilabel 0 and 1, ``(m, n_y)``; soft ones made hard.

    Raises:
        TypeError, ValueError, IndexError: they are no targets of that task for as many rows, see
            :func:`twolayer.arguments.targets`.
    """
    inner, Y = network(net), _tensor("Y", Y).cpu()
    n_y = inner.out_features
    arguments.targets(Examples(Y, Y), (m, n_y), inner.task)
    if inner.task == "multiclass":
        return Y.argmax(-1) if Y.is_floating_point() else Y.long()
    return (Y >= 0.5).long().reshape((m,) if n_y == 1 else (m, n_y))


def values(net: Any, Y: Any, m: int) -> Tensor:
    """The targets of a regression, ``(m, n_y)``, in raw units, float64 on the CPU.

    Raises:
        TypeError: they are no real numbers.
        ValueError: they have another shape, or are not finite.
    """
    n_y, Y = network(net).out_features, _tensor("Y", Y).cpu().double()
    if Y.shape != (m, n_y) and not (n_y == 1 and Y.shape == (m,)):
        raise ValueError(f"Y must have shape {(m, n_y)} for X of {m} rows, got {tuple(Y.shape)}")
    if not Y.isfinite().all():
        raise ValueError("Y must be finite, got other values among them")
    return Y.reshape(m, n_y)


def names(net: Any, class_names: Sequence[str] | None) -> list[str]:
    """Those of the classes; their numbers, if none are given.

    Raises:
        ValueError: they are not as many.
    """
    inner = network(net)
    classes = 2 if inner.task == "binary" else inner.out_features
    found = [literal(str(name)) for name in (range(classes) if class_names is None else class_names)]
    if len(found) != classes:
        raise ValueError(f"class_names must be {classes} names, got {len(found)}")
    return found


def trace(net: Any, X: Any, Y: Any) -> tuple[Tensor, Trace]:
    """What the network takes for raw rows and targets, ``X``, and its :meth:`~twolayer.TwoLayerNet.trace` of them.

    In float64, on the CPU.
    """
    X, Y = rows(net, X), targets(net, Y)
    if net is not network(net):
        X, Y, _ = net.prepared(X, Y)
    found = network(net).trace(X, Y)._asdict()
    return X.cpu().double(), Trace(**{name: _finite(name, V) for name, V in found.items()})


@torch.no_grad()
def hidden_outputs(net: Any, X: Any) -> Tensor:
    """``A1``, ``(m, n_h)``, of raw rows, on the CPU."""
    X, inner = rows(net, X), network(net)
    if net is not inner:
        X = net.standardize_inputs(X)
    return _finite("A1", equations.A1(equations.Z1(X, inner.W1, inner.b1), ACTIVATIONS[inner.activation]))
