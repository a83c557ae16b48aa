"""Predictions as a file of columns: ``write_columns``, and ``write_predictions`` for what has no table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from twolayer.data.reading import import_polars
from twolayer.files import written_whole

if TYPE_CHECKING:
    from twolayer.tables.predictor import Predictor

ENDINGS = (".csv", ".parquet")


def write_columns(path: Path, columns: dict[str, Sequence[Any]]) -> None:
    """Writes a CSV or Parquet file, by its ending, beside its place, and renames it.

    Raises:
        ValueError: it has another ending.
    """
    checked_ending(path)
    if path.suffix.lower() == ".parquet":
        table = import_polars().DataFrame(columns, strict=False)
        with written_whole(path, "wb") as file:
            table.write_parquet(file)
    else:
        with written_whole(path, newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))


def checked_ending(path: Path) -> Path:
    """The path, if a file like that can be written."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"output must end with {' or '.join(ENDINGS)}, got {path}")
    return path


def prediction_columns(predictor: Predictor, table: Any, id: Sequence[str] = ()) -> dict[str, Sequence[Any]]:
    """The id columns as they came, the class by its name and its probabilities under theirs, or the value.

    Args:
        predictor: of a checkpoint.
        table: columns by name, with ``names``.
        id: names of the columns to carry.

    Raises:
        ValueError: a column is missing.
    """
    if absent := [name for name in id if name not in table.names]:
        raise ValueError(f"the table must have the column {absent[0]!r}, got {', '.join(map(repr, table.names))}")
    columns: dict[str, Sequence[Any]] = {name: table[name] for name in id}
    target = "" if predictor.target is None else predictor.target.name
    if predictor.task == "regression":
        return columns | {_free(target or "value", columns): predictor.predict(table)}
    probabilities = predictor.predict_proba(table)
    names = [predictor.classes[k] for k in probabilities.argmax(1).tolist()]
    columns |= {_free(target or "class", columns): names}
    shares = zip(predictor.classes, probabilities.T.tolist(), strict=True)
    return columns | {f"probability_{name}": column for name, column in shares}


def _free(name: str, taken: dict[str, Any]) -> str:
    return f"predicted_{name}" if name in taken else name


def write_predictions(path: Path, predictions: Tensor, task: str) -> None:
    """Writes one line for each row, in order: the class and the probabilities, or the values.

    The file is written beside its place and renamed, so that it is either whole or not there.

    Args:
        path: of the CSV file.
        predictions: ``(m, n_y)``, what the network predicts.
        task: ``"binary"``, ``"multilabel"``, ``"multiclass"`` or ``"regression"``.
    """
    outputs = range(predictions.shape[1])
    rows = predictions.tolist()
    if task == "regression":
        header = [f"value_{k}" for k in outputs]
    else:
        header = [f"probability_{k}" for k in outputs]
        classes = predictions.argmax(-1, keepdim=True) if task == "multiclass" else (predictions >= 0.5).int()
        header = [f"class_{k}" if task == "multilabel" else "class" for k in range(classes.shape[1])] + header
        rows = [found + row for found, row in zip(classes.tolist(), rows, strict=True)]
    with written_whole(path, newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
