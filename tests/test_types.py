"""What the type checker of a project that uses the package sees."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from twolayer import descent, functional, names
from twolayer.activations import ACTIVATIONS
from twolayer.initialization import INITIALIZATIONS
from twolayer.kernels import KERNELS
from twolayer.tasks import TASKS

PROJECT = """
import torch
from torch import Tensor
from twolayer import TwoLayerNet, functional, gradient_descent
from twolayer.training import LitTwoLayer

net = TwoLayerNet(2, 4, 1, activation="tanh", task="binary", init="xavier", backward="streamed")
X, Y = torch.ones(5, 2), torch.ones(5)
Z2: Tensor = net(X)
J: Tensor = net(X, Y, reduction="sum")
grads: dict[str, Tensor] = net.loss_and_grads(X, Y)[1]
functional.loss(X, Y, *net.parameters(), task="regression")
"""
WRONG = {
    'TwoLayerNet(2, 4, 1, activation="tahn")': "activation",
    'TwoLayerNet(2, 4, 1, task="classification")': "task",
    'TwoLayerNet(2, 4, 1, init="hee")': "init",
    'TwoLayerNet(2, 4, 1, backward="auto")': "backward",
    'TwoLayerNet(2, 4, 1, kernel="cuda")': "kernel",
    'LitTwoLayer(2, 4, 1, task="classification")': "task",
    'functional.loss_and_grads(X, Y, *net.parameters(), activation="tahn")': "activation",
    'net.loss(X, Y, reduction="avg")': "reduction",
    'gradient_descent(net, X, Y, learning_rate=1.0, iterations=2, kernel="fast")': "kernel",
    "net(X).shapes": "shapes",
    'net("X")': "__call__",
}
"""Lines that are wrong, and what a checker has to name."""
LINES = [*PROJECT.strip().splitlines(), *WRONG]
ROOT = Path(names.__file__).parents[1]


def by_mypy(project):
    cache = str(ROOT.parent / ".mypy_cache")
    quiet = ["--no-error-summary", "--follow-imports=silent", "--ignore-missing-imports"]
    said = answer("mypy", "--cache-dir", cache, *quiet, str(project), MYPYPATH=str(ROOT))
    for line in said.splitlines():
        if ": error: " in line:
            yield int(line.split(":")[1]) - 1, line


def by_pyright(project):
    """In the form in which PyPI has it, with all that it needs to run."""
    settings = {"include": [project.name], "extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    (project.parent / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    said = answer("basedpyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(project.parent))
    for found in json.loads(said)["generalDiagnostics"]:
        if found["severity"] == "error":
            yield found["range"]["start"]["line"], found["message"]


def answer(checker, *arguments, **variables):
    pytest.importorskip(checker)
    command = [sys.executable, "-m", checker, *arguments]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr  # there are errors, and no other trouble
    return done.stdout


@pytest.mark.parametrize("errors_of", [by_mypy, by_pyright])
def test_a_misspelt_name_is_an_error_and_all_else_is_right(tmp_path, errors_of):
    """Each wrong line is an error of its own, and no other line is one."""
    project = tmp_path / "project.py"
    project.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    errors = {LINES[number]: message for number, message in errors_of(project)}
    assert errors.keys() == WRONG.keys(), errors
    assert [line for line, name in WRONG.items() if f'"{name}"' not in errors[line]] == [], errors


@pytest.mark.parametrize(
    ("literal", "valid"),
    [
        (names.ActivationName, ACTIVATIONS),
        (names.TaskName, TASKS),
        (names.InitName, INITIALIZATIONS),
        (names.BackwardName, functional.BACKWARDS),
        (names.ReductionName, functional.REDUCTIONS),
        (names.KernelName, KERNELS),
        (names.DescentName, descent.KERNELS),
    ],
)
def test_the_names_are_those_that_there_are(literal, valid):
    assert set(get_args(literal)) == set(valid)
