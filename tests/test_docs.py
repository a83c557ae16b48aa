"""What the documentation shows is run: docstring examples, and every session of the README and of each page."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import twolayer
from twolayer import TwoLayerNet

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
MODULES = ["twolayer", *(module.name for module in pkgutil.walk_packages(twolayer.__path__, "twolayer."))]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*smaller than the logging interval",
)


def blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as missing:  # an extra that is not installed
        pytest.skip(str(missing))
    torch.manual_seed(0)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_the_public_functions_and_classes_have_examples():
    core = ["activations", "descent", "functional", "initialization", "network", "training.standardization", "tasks"]
    for name in core:
        module = importlib.import_module(f"twolayer.{name}")
        for public, thing in vars(module).items():
            if callable(thing) and getattr(thing, "__module__", "") == module.__name__ and not public.startswith("_"):
                assert thing.__doc__, f"{name}.{public} has no docstring"
        assert ">>>" in Path(module.__file__).read_text(), f"{name} has no example"


def test_the_readme_opens_with_two_forms_of_one_thing():
    before, after = (block for block in blocks("python") if ">>>" not in block)
    generator = torch.Generator().manual_seed(0)
    X, Y = torch.randn(9, 30, generator=generator), torch.randint(2, (9,), generator=generator)
    space = {"nn": nn, "F": F, "TwoLayerNet": TwoLayerNet, "X": X, "Y": Y}
    exec(before, space)
    sequential, J = space["net"], space["J"]
    exec(after, space)
    with torch.no_grad():
        for mine, its in zip(space["net"].parameters(), sequential.parameters(), strict=True):
            mine.copy_(its)
    torch.testing.assert_close(space["net"].loss(X, Y), J)


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem not in ("derivation", "gpu")], ids=str)
def test_sessions_print_what_they_show(page, tmp_path, monkeypatch):
    """Of all pages but those that have a test of their own."""
    pytest.importorskip("lightning")
    pytest.importorskip("sklearn")
    if page == README:  # of which a line draws
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    session = "\n".join(block for block in blocks("python", page) if ">>>" in block)
    test = doctest.DocTestParser().get_doctest(session, {}, page.name, page.name, 0)
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_command_lines_parse(capsys):
    pytest.importorskip("jsonargparse")
    pytest.importorskip("lightning")
    from twolayer import cli

    sessions = [block for page in PAGES for block in blocks("sh", page)]
    lines = [line for block in sessions for line in block.splitlines() if line.startswith("python train.py")]
    assert len(lines) == 5
    for line in lines:
        words = [str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(line)[2:]]
        with pytest.raises(SystemExit) as stopped:
            cli.main([*words, "--print_config"])
        assert stopped.value.code == 0
        assert "hidden_features" in capsys.readouterr().out


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"(?:\]\((?!https?://)|src=\")([^)#\"]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_ci_runs_the_two_commands_of_the_readme():
    setup = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("python3 -m venv")]
    assert len(setup) == 2
    assert "train.py fit" in setup[0]
    assert setup[1].endswith("-m pytest -n logical --dist worksteal")
    script = (ROOT / ".ci/run").read_text()
    assert "grep '^python3 -m venv' README.md" in script
    assert all(f'bash -c "${{commands[{i}]}}"' in script for i in range(2))
