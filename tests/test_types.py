"""What the type checker of a project that uses the package sees."""

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

pytest.importorskip("mypy")

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
    'TwoLayerNet(2, 4, 1, activation="tahn")': 'Argument "activation"',
    'TwoLayerNet(2, 4, 1, task="classification")': 'Argument "task"',
    'TwoLayerNet(2, 4, 1, init="hee")': 'Argument "init"',
    'TwoLayerNet(2, 4, 1, backward="auto")': 'Argument "backward"',
    'TwoLayerNet(2, 4, 1, kernel="cuda")': 'Argument "kernel"',
    'LitTwoLayer(2, 4, 1, task="classification")': 'Argument "task"',
    'functional.loss_and_grads(X, Y, *net.parameters(), activation="tahn")': 'Argument "activation"',
    'net.loss(X, Y, reduction="avg")': 'Argument "reduction"',
    'gradient_descent(net, X, Y, learning_rate=1.0, iterations=2, kernel="fast")': 'Argument "kernel"',
    "net(X).shapes": '"Tensor" has no attribute "shapes"',
    'net("X")': "Argument 1",
}


def test_a_misspelt_name_is_an_error_and_all_else_is_right(tmp_path):
    """Each wrong line is an error of its own, and no other line is one."""
    lines = [*PROJECT.strip().splitlines(), *WRONG]
    (tmp_path / "project.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    root = Path(names.__file__).parents[1]
    cache = root.parent / ".mypy_cache"
    options = ["--cache-dir", str(cache), "--no-error-summary", "--follow-imports=silent", "--ignore-missing-imports"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(tmp_path / "project.py")],
        env={"MYPYPATH": str(root), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    errors = {}
    for line in done.stdout.splitlines():
        if ": error: " in line:
            number = int(line.split(":")[1])
            errors[lines[number - 1]] = line
    assert {line: WRONG.get(line, "is right") in errors.get(line, "") for line in {*WRONG, *errors}} == dict.fromkeys(
        WRONG, True
    ), done.stdout + done.stderr


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
