"""Predicting with a checkpoint, by PyTorch alone: ``load``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twolayer.network import TwoLayerNet
from twolayer.sealing import first_line, read_checkpoint
from twolayer.tables.encoding import ROWS_AT_ONCE, Encoding, Values
from twolayer.tables.frame import Frame, is_column
from twolayer.tables.target import Target

NETWORK = ("in_features", "hidden_features", "out_features", "task", "activation")


class Member:
    """One trained network with its encoding: what a checkpoint of a fit holds.

    Args:
        checkpoint: as ``torch.load`` returned it.

    Raises:
        ValueError: it is not of a :class:`~twolayer.training.LitTwoLayer`.
    """

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        settings, weights = checkpoint.get("hyper_parameters", {}), checkpoint.get("state_dict", {})
        if not {"in_features", "hidden_features", "out_features"} <= set(settings) or "net.W1" not in weights:
            raise ValueError("the checkpoint must be one of twolayer fit, but it holds no TwoLayerNet")
        options = {name: settings[name] for name in NETWORK if name in settings}
        self.net = TwoLayerNet(**options, device="meta").to_empty(device="cpu").requires_grad_(False)
        self.net.load_state_dict(
            {name: weights[f"net.{name}"] for name, _ in self.net.named_parameters()}, assign=True, strict=False
        )
        self._scales = {
            name: weights[name].double()
            for name in weights
            if name.startswith(("standardize_inputs", "standardize_targets"))
        }
        self.table = next(
            (state for state in checkpoint.values() if isinstance(state, dict) and "encoding" in state), None
        )
        self.encoding = None if self.table is None else Encoding.of_state(self.table["encoding"])

    def of_values(self, values: Values) -> Tensor:
        """Predictions for the columns of a table."""
        assert self.encoding is not None
        S = self.encoding.matrix(values)
        return torch.cat([self.of_inputs(self.encoding.features(rows)) for rows in S.split(ROWS_AT_ONCE)])

    def of_inputs(self, X: Tensor) -> Tensor:
        """Probabilities, or values in raw units, ``(m, out_features)``."""
        if "standardize_inputs.mean" in self._scales:
            X = (X - self._scales["standardize_inputs.mean"]) / self._scales["standardize_inputs.std"]
        A2 = self.net.predict(X.to(self.net.W1.dtype))
        if "standardize_targets.mean" in self._scales:
            A2 = A2 * self._scales["standardize_targets.std"] + self._scales["standardize_targets.mean"]
        return A2


class Predictor:
    """What a checkpoint predicts for rows of a table; a checkpoint of several members, their mean.

    Args:
        members: each with the same columns and classes.

    Attributes:
        columns: the names that a table must have; none where it was trained on plain arrays.
        task: of the network.
        classes: the names of the classes; none for a regression.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        first = members[0]
        self.members = list(members)
        self.task = first.net.task
        self.id: list[str] = [] if first.table is None else first.table["id"]
        self.target = None if first.table is None else Target(**first.table["target"])
        used = [] if first.encoding is None else [column.name for column in first.encoding.columns]
        kept = {name for one in members if one.encoding is not None for name in one.encoding.used}
        self.columns = [name for name in used if name in kept]
        n_y = first.net.out_features
        self.classes = list(map(str, range(2 if self.task == "binary" else n_y))) if self.task != "regression" else []
        if self.target is not None:
            self.classes = self.target.classes

    @torch.no_grad()
    def predict_proba(self, rows: Any) -> Tensor:
        """The probability of each class, ``(m, classes)``, in the order of :attr:`classes`.

        Args:
            rows: a DataFrame of pandas or polars, a dict of columns, a dict of one row, a list of such, or an array
                ``(m, columns)`` with its columns as in :attr:`columns`. Columns that the network has no use for may be
                there or not.

        Raises:
            ValueError: a column is missing, or there twice, or of another length, or the task is a regression.
        TypeError: what a dict has by a name is no column.
        """
        if self.task == "regression":
            raise ValueError("predict_proba is for classes, got a network for task 'regression': use predict")
        A2 = self.outputs(rows)
        return torch.cat([1 - A2, A2], 1) if self.task == "binary" else A2

    @torch.no_grad()
    def predict(self, rows: Any) -> list[Any]:
        """Of each row the name of its likeliest class, or its value; several values in a list.

        Arguments and errors: see :meth:`predict_proba`.
        """
        if self.task == "regression":
            values = self.outputs(rows).tolist()
            return [row[0] if len(row) == 1 else row for row in values]
        if self.task == "multilabel":
            return [
                [name for name, p in zip(self.classes, row, strict=True) if p >= 0.5]
                for row in self.outputs(rows).tolist()
            ]
        return [self.classes[k] for k in self.predict_proba(rows).argmax(1).tolist()]

    @torch.no_grad()
    def outputs(self, rows: Any) -> Tensor:
        """What the network answers, ``(m, n_y)``, float64: probabilities, or values in raw units; of several, the mean.

        Arguments and errors: see :meth:`predict_proba`, which has two columns where this has the probability of the
        second class alone.
        """
        if not self.columns:
            X = torch.as_tensor(rows)
            wide = self.members[0].net.in_features
            if X.ndim != 2 or X.shape[1] != wide:
                raise ValueError(f"rows must have shape (m, {wide}), got {tuple(X.shape)}")
            return torch.stack([member.of_inputs(X).double() for member in self.members]).mean(0)
        values = _values(rows, self.columns)
        return torch.stack([member.of_values(values).double() for member in self.members]).mean(0)


def load(path: str | Path) -> Predictor:
    """A trained network that predicts, from a checkpoint of ``twolayer fit``.

    It takes PyTorch alone, neither Lightning nor scikit-learn.

    Args:
        path: of the checkpoint.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no local file, damaged, or no checkpoint of a fit.
    """
    checkpoint = read_checkpoint(path, "cpu")
    try:
        return Predictor([Member(one) for one in (checkpoint, *checkpoint.get("members", []))])
    except (AttributeError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"the checkpoint {path} is of no network: {first_line(str(error))}") from error


def _values(rows: Any, columns: Sequence[str]) -> Values:
    """What returns the values of a column, whatever the rows came as."""
    if isinstance(rows, dict) and not any(map(is_column, rows.values())):
        rows = [rows]
    if isinstance(rows, list | tuple) and rows and all(isinstance(row, dict) for row in rows):
        rows = {name: [row[name] for row in rows] for name in columns if all(name in row for row in rows)}
    if not (isinstance(rows, dict | Frame) or hasattr(rows, "columns")):
        shape, expected = tuple(getattr(rows, "shape", ())), f"(m, {len(columns)})"
        if len(shape) != 2 or shape[1] != len(columns):
            got = f"{type(rows).__name__} of shape {shape}"
            raise ValueError(f"rows must be a table, a dict, or an array of shape {expected}, got {got}")
        rows = {name: rows[:, j] for j, name in enumerate(columns)}
    frame = rows if isinstance(rows, Frame) else Frame(rows)
    if missing := [name for name in columns if name not in frame.names]:
        column = "columns" if len(missing) > 1 else "column"
        needed, got = (", ".join(map(repr, some)) for some in (missing, frame.names))
        raise ValueError(f"the table must have the {column} {needed}, got {got}")
    return frame.__getitem__
