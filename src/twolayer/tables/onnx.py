"""A trained network with its table's encoding as an ONNX file: ``export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from twolayer.files import written_whole
from twolayer.tables.values import DATE_PARTS, MISSING

if TYPE_CHECKING:
    from twolayer.tables.predictor import Member, Predictor

OPSET = 20


class _Answer(nn.Module):
    """Numbers and level indices of each member, ``(m, slots)``, to what they predict in the mean."""

    def __init__(self, members: list[Member]) -> None:
        super().__init__()
        self.features = nn.ModuleList(member.encoding.features for member in members if member.encoding is not None)
        self.members = members

    def forward(self, *S: Tensor) -> Tensor:
        parts = zip(self.members, self.features, S, strict=True)
        answers = [member.of_inputs(features(slots)).float() for member, features, slots in parts]
        A2 = torch.stack(answers).mean(0)
        return torch.cat([1 - A2, A2], 1) if self.members[0].net.task == "binary" else A2


def export(predictor: Predictor, path: str | Path) -> Path:
    """Writes an ONNX file that takes the raw columns, one input ``(m,)`` for each.

    Numbers are float64 with NaN for missing ones, categories strings with ``""`` for missing ones, and of a date the
    parts are numbers: ``day`` (since 1970), ``month``, ``weekday`` and ``hour``, behind its name and a dot. Levels have
    to be spelt as in the metadata ``columns``; the classes stand under ``classes``. The output is ``probabilities``,
    ``(m, classes)``, or ``value``, ``(m, 1)``.

    Args:
        predictor: of a fit with a table.
        path: of the file, which is written beside its place and renamed.

    Raises:
        ValueError: the fit was not one with a table.
        ModuleNotFoundError: onnx or onnxscript are not installed.
    """
    if not predictor.columns:
        raise ValueError("the checkpoint must be of a fit with a table, got one of plain arrays: use torch.onnx.export")
    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ModuleNotFoundError:
        raise ModuleNotFoundError("onnx and onnxscript are needed: pip install onnx onnxscript") from None
    members = predictor.members
    slots = [sum(column.slots for column in member.encoding.columns) for member in members if member.encoding]
    example = tuple(torch.zeros(3, wide, dtype=torch.float64) for wide in slots)
    names = [f"slots_{k}" for k in range(len(members))]
    output = "value" if predictor.task == "regression" else "probabilities"
    while output in predictor.columns:
        output += "_"
    program: Any = torch.onnx.export(
        _Answer(members).eval(),
        example,
        dynamo=True,
        dynamic_shapes=(tuple({0: torch.export.Dim.DYNAMIC} for _ in members),),
        input_names=names,
        output_names=[output],
        opset_version=OPSET,
        verbose=False,
    )
    inside = "twolayer/"
    while any(name.startswith(inside) for name in predictor.columns):
        inside += "/"
    model = onnx.compose.add_prefix(program.model_proto, inside, rename_outputs=False)
    _put_columns_before(model, members, inside)
    said = {
        "task": predictor.task,
        "classes": predictor.classes,
        "target": None if predictor.target is None else predictor.target.name,
        "columns": [column.state() for column in members[0].encoding.columns] if members[0].encoding else [],
    }
    onnx.helper.set_model_props(model, {key: json.dumps(value, ensure_ascii=False) for key, value in said.items()})
    onnx.checker.check_model(model)
    with written_whole(path, "wb") as file:
        file.write(model.SerializeToString())
    return Path(path)


def _put_columns_before(model: Any, members: list[Member], inside: str) -> None:
    """Nodes that make the slots of each member of the raw columns, which become the inputs.

    What has a name in between begins with ``inside``, as no column does.
    """
    from onnx import TensorProto, helper

    inputs: dict[str, int] = {}
    axis = f"{inside}axis_1"
    nodes = [helper.make_node("Constant", [], [axis], value_ints=[1])]
    for k, member in enumerate(members):
        assert member.encoding is not None
        columns: list[str] = []
        for column in member.encoding.columns:
            if column.kind == "category":
                inputs[column.name] = TensorProto.STRING
                spelt = {way(text) for text in MISSING for way in (str.lower, str.upper, str.capitalize)}
                codes = {text: float("nan") for text in sorted(spelt | {"NaN", "NaT"})} | column.codes
                raw, code = f"{inside}{column.name}_code_{k}", f"{inside}{column.name}_wide_{k}"
                coded: dict[str, Any] = {"keys_strings": list(codes), "values_floats": list(codes.values())}
                default: dict[str, Any] = {"default_float": float(len(column.levels))}
                nodes.append(
                    helper.make_node("LabelEncoder", [column.name], [raw], domain="ai.onnx.ml", **coded, **default)
                )
                nodes.append(helper.make_node("Cast", [raw], [code], to=TensorProto.DOUBLE))
                columns.append(code)
            elif column.kind != "dropped":
                parts = [f"{column.name}.{part}" for part in DATE_PARTS] if column.kind == "date" else [column.name]
                inputs |= dict.fromkeys(parts, TensorProto.DOUBLE)
                columns += parts
        upright = [f"{inside}{part}_column_{k}" for part in columns]
        for part, up in zip(columns, upright, strict=True):
            nodes.append(helper.make_node("Unsqueeze", [part, axis], [up]))
        nodes.append(helper.make_node("Concat", upright, [f"{inside}slots_{k}"], axis=1))
    rest = list(model.graph.node)
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.input.extend(helper.make_tensor_value_info(name, kind, ["rows"]) for name, kind in inputs.items())
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
