"""What a report is about: a checkpoint, the settings of its run, and the rows that it was trained and is judged on."""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import yaml
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from twolayer.answers import Answer, causes, told
from twolayer.data.report import MOST_ROWS, inputs_of_a_linear_model, rows_of
from twolayer.data.table import Table
from twolayer.data.tabular import TabularDataModule
from twolayer.parsing import Parser
from twolayer.sealing import read_checkpoint
from twolayer.tables.predictor import Predictor, load
from twolayer.training.checkpoints import run_folder
from twolayer.training.module import LitTwoLayer
from twolayer.training.standardization import Standardize

LIKELIEST = ("checkpoints/best*.ckpt", "best*.ckpt", "checkpoints/*.ckpt", "*.ckpt")


class Rows(NamedTuple):
    """Rows of one part of the data, at most 20,000, in raw units."""

    part: str
    """``"train"``, ``"val"`` or ``"test"``."""
    X: Tensor
    """``(m, n_x)``, as batches have them."""
    Y: Tensor
    weights: Tensor | None
    numbers: Tensor | None
    """Of the rows in the data set, from 0; None where they have none."""

    def few(self, most: int) -> "Rows":
        """At most so many of them, spread evenly over all."""
        return self if len(self.X) <= most else self.at(torch.linspace(0, len(self.X) - 1, most).long())

    def at(self, at: Tensor) -> "Rows":
        """The rows at these places."""
        weights, numbers = (None if one is None else one[at] for one in (self.weights, self.numbers))
        return Rows(self.part, self.X[at], self.Y[at], weights, numbers)


@dataclass
class Run:
    """A trained network, what is known of its run, and the rows, as far as they are still to be had."""

    checkpoint: Path
    folder: Path
    contents: dict[str, Any]
    """Of the checkpoint."""
    settings: dict[str, Any]
    """The run's ``config.yaml``; empty if there is none."""
    predictor: Predictor
    model: LitTwoLayer
    """The network; of several, the first."""
    data: L.LightningDataModule | None = None
    remarks: list[str] = field(default_factory=list)
    """What a reader has to know: that the data are gone, say."""

    @cached_property
    def judged(self) -> Rows | None:
        """The rows to judge by: of the test, or else of validation, or else those of training."""
        parts = map(self.rows, ("test", "val", "train"))
        return next((found for found in parts if found is not None), None)

    @cached_property
    def trained(self) -> Rows | None:
        """Rows of training."""
        return self.rows("train")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What it was computed with: the run's ``environment.yaml``."""
        return _yaml(self.folder / "environment.yaml")

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows each part of the data has, as far as that is known."""
        if isinstance(self.data, Table):
            return self.data.rows_in
        parts = self.data.splits if isinstance(self.data, TabularDataModule) else {}
        return {part: len(rows) for part, rows in parts.items()}

    def rows(self, part: str) -> Rows | None:
        """Of a part of the data; None if there are none."""
        data = self.data
        if isinstance(data, TabularDataModule):
            at = torch.as_tensor(data.splits[part])[:MOST_ROWS]
            X, Y, *weights = (tensor[at] for tensor in data.tensors)
            return Rows(part, X, Y, weights[0] if weights else None, at) if len(X) else None
        name = f"{part}_dataloader"
        if data is None or not is_overridden(name, data, L.LightningDataModule):
            return None
        batches = list(_as_many_as(MOST_ROWS, getattr(data, name)()))
        if not batches:
            return None
        X, Y, *weights = (torch.cat(tensors)[:MOST_ROWS] for tensors in zip(*batches, strict=True))
        return Rows(part, X, Y, weights[0] if weights else None, None)

    def outputs(self, rows: Rows) -> Tensor:
        """What the network answers, of several their mean, ``(m, n_y)``: probabilities, or values in raw units."""
        if isinstance(self.data, Table) and rows.numbers is not None:
            return self.predictor.outputs(rows_of(self.data, rows.numbers))
        return self.predictor.outputs(rows.X)

    def inputs_of_a_linear_model(self, rows: Rows) -> Tensor:
        """``(m, columns)``, float64."""
        if isinstance(self.data, TabularDataModule) and rows.numbers is not None:
            return inputs_of_a_linear_model(self.data)[rows.numbers]
        assert self.trained is not None
        X = self.trained.X.double()
        return Standardize(X.shape[1]).double().fit(X)(rows.X)


def read_run(path: str, data: L.LightningDataModule | None = None) -> Run:
    """What is known of a run.

    Args:
        path: of a checkpoint, or of the folder of a run.
        data: where it was trained on them just now; otherwise they are made anew, by the run's ``config.yaml``.

    Raises:
        Answer: there is no such file, or no checkpoint in the folder.
        ValueError: the checkpoint is damaged, or of no :class:`~twolayer.training.LitTwoLayer`; one line.
    """
    checkpoint = checkpoint_of(path)
    contents = read_checkpoint(checkpoint, "cpu")
    predictor = load(checkpoint)
    model = LitTwoLayer.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    folder = run_folder(checkpoint)
    run = Run(checkpoint, folder, contents, _yaml(folder / "config.yaml"), predictor, model)
    try:
        with isolate_rng():  # rows that a class draws without a seed of its own are those of the fit
            if isinstance(seed := run.settings.get("seed_everything"), int):
                L.seed_everything(seed, verbose=False)
            run.data = made_anew(run.settings) if data is None else data
            state = contents.get(type(run.data).__qualname__)
            if data is None and state is not None:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    run.data.load_state_dict(state)
                run.remarks += [_sentence(str(one.message)) for one in caught]
            wide = None if run.judged is None else tuple(run.judged.X.shape[1:])
        if wide not in (None, (model.net.in_features,)):
            raise ValueError(f"the rows must have {model.net.in_features} features, as in the fit, got shape {wide}")
    except Exception as error:  # a class of the user's own may raise anything, and a report without rows is one still
        run.data = None
        run.__dict__.pop("judged", None)
        line = next((str(one) for one in causes(error) if isinstance(one, Answer)), None) or told(error)
        run.remarks.append(_sentence(f"the data cannot be had, so what shows rows is left out: {line}"))
    return run


def checkpoint_of(path: str) -> Path:
    """The file, or the best checkpoint of a run's folder, or else its latest one.

    Raises:
        Answer: there is none.
    """
    found = Path(path)
    if found.is_file():
        return found
    expected = "--ckpt_path must be a checkpoint of this machine, or the folder of a run"
    if not found.is_dir():
        raise Answer(f"{expected}, got {path}: no such file")
    for pattern in LIKELIEST:
        if files := sorted(found.glob(pattern), key=lambda file: file.stat().st_mtime):
            return files[-1]
    raise Answer(f"{expected}, got {path}: there is no checkpoint in it, nor in its folder checkpoints")


def made_anew(settings: dict[str, Any]) -> L.LightningDataModule:
    """The DataModule that a run's configuration names, ready to serve rows.

    Raises:
        Answer, and whatever its class raises: it cannot be had.
    """
    if not isinstance(settings.get("data"), dict):
        raise Answer("there is no config.yaml beside the checkpoint that names them", status=1)
    parser = Parser()
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    parser.add_instantiator(_made, object)
    data = parser.instantiate_classes(parser.parse_object({"data": settings["data"]}))["data"]
    if not isinstance(data, TabularDataModule):
        data.prepare_data()
        data.setup("fit")
        data.setup("test")
    return data


def _made(cls: type, *args: Any, **kwargs: Any) -> Any:
    """An instance, or what its class says against it, to be found among what jsonargparse says of that."""
    try:
        return cls(*args, **kwargs)
    except Exception as error:
        raise Answer(told(error), status=1) from error


def _as_many_as(most: int, loaders: Any) -> Iterable[tuple[Tensor, ...]]:
    """Batches of a loader, or of several, until there are enough rows."""
    served = 0
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        for batch in islice(loader, most):
            yield tuple(batch)
            served += len(batch[0])
            if served >= most:
                return


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _sentence(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
