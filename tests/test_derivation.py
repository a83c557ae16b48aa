"""The derivation page and the code say the same: the page's code runs, its tables are the source, its forms agree."""

import ast
import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from twolayer import equations
from twolayer.activations import ACTIVATIONS
from twolayer.functional import loss_and_grads

PAGE = Path(__file__).parents[1] / "docs" / "derivation.md"
TEXT = PAGE.read_text(encoding="utf-8")


def python_session(text: str) -> str:
    """The text with everything outside its ``python`` fences blanked, so that line numbers stay those of the page."""
    lines, inside = [], False
    for line in text.splitlines():
        fence = line.startswith("```")
        lines.append(line if inside and not fence else "")
        if fence:
            inside = not inside and line == "```python"
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def session() -> tuple[int, str, dict[str, Any]]:
    """Runs the page: the number of failures, what doctest says of them, and the names that are left."""
    for needed in ("lightning", "matplotlib", "sklearn"):  # the flower, and the pictures of it
        pytest.importorskip(needed)
    test = doctest.DocTestParser().get_doctest(python_session(TEXT), {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine the threads of a tiny product wait for each other: ten times slower
    try:
        failed, attempted = doctest.DocTestRunner(verbose=False).run(test, out=report.append, clear_globs=False)
    finally:
        torch.set_num_threads(threads)
        importlib.import_module("matplotlib.pyplot").close("all")
    assert attempted, "the page has no code"
    return failed, "".join(report), test.globs


def test_the_page_shows_what_its_code_prints(session: tuple[int, str, dict[str, Any]]) -> None:
    failed, report, _ = session
    assert not failed, report


def test_every_fence_is_a_session_or_mathematics() -> None:
    fences = re.findall(r"^```(.*)\n((?:(?!```).*\n)*)```$", TEXT, re.MULTILINE)
    assert 2 * len(fences) == len(re.findall("^```", TEXT, re.MULTILINE))
    assert {kind for kind, _ in fences} == {"python", "math"}
    assert all(body.startswith(">>> ") for kind, body in fences if kind == "python")


def test_every_file_that_the_page_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (PAGE.parent / link).is_file()] == []


# The tables, each row of which is (columns, rows, shape, line of code).


def table_rows() -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[-1].startswith("`def ")]


def source_rows() -> Iterator[list[str]]:
    """The same of ``equations.py``: equation and shape stand in the comment behind the only line of each function."""
    source = inspect.getsource(equations)
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            (line,) = node.body
            _, _, comment = source.splitlines()[line.lineno - 1].partition("  # ")
            equation, shape = re.split(r" {2,}", comment)
            arguments = ", ".join(argument.arg for argument in node.args.args)
            yield [equation, f"`{shape}`", f"`def {node.name}({arguments}): {ast.unparse(line)}`"]


def plain(latex: str) -> str:
    """An equation of a table as the source's comments write it."""
    for old, new in {"$": "", r"^\top": "ᵀ", r"\odot": "⊙", r"\sum_{\text{rows}}": "Σ rows", "-": "−"}.items():
        latex = latex.replace(old, new)
    return latex.replace("_", "").replace("Σ rows", "Σ_rows")


def test_the_tables_are_the_source() -> None:
    assert [[plain(rows), shape, code] for _, rows, shape, code in table_rows()] == list(source_rows())


def python(latex: str) -> tuple[str, str]:
    """An equation of a table as the name on its left and a Python expression."""
    name, expression = latex.strip("$").split(" = ")
    expression = re.sub(r"\\sum_\{\\text\{columns\}\} (\w+)", r"\1.sum(1, keepdim=True)", expression)
    expression = re.sub(r"\\sum_\{\\text\{rows\}\} (\w+)", r"\1.sum(0)", expression)
    for old, new in {r"\tfrac{1}{m}": "1 / m *", r"^\top": ".mT", r"\odot": "*", "g'": "g_prime"}.items():
        expression = expression.replace(old, new)
    expression = re.sub(r"(?<=\w) (?=[a-zA-Z])", " @ ", expression)
    return re.sub(r"_(?=\d)", "", name), re.sub(r"_(?=\d)", "", expression)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_columns_are_the_transposed_rows(activation: str) -> None:
    """Computes every equation of the tables as it is printed, in both forms."""
    n_x, n_h, n_y, m = 3, 4, 2, 5
    g = ACTIVATIONS[activation]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    X, W1, b1, W2, b2 = draw(m, n_x), draw(n_h, n_x), draw(n_h), draw(n_y, n_h), draw(n_y)
    Y = (draw(m, n_y) > 0).double()
    names: dict[str, Any] = {"g": g, "g_prime": lambda Z: g.prime(g(Z)), "m": m, "W1": W1, "W2": W2}
    columns = names | {"X": X.mT, "Y": Y.mT, "b1": b1[:, None], "b2": b2[:, None]}
    rows = names | {"X": X, "Y": Y, "b1": b1, "b2": b2}
    for column, row, *_ in table_rows():
        for form, latex in ((columns, column), (rows, row)):
            name, expression = python(latex)
            form[name] = eval(expression, {}, form)
            if name == "Z2":
                form["A2"] = torch.sigmoid(form["Z2"])
        if name == "dZ2":
            rows["dZ2"] = rows["dZ2"] / m
        transposed = columns[name].mT if "m" in table_shape(name) else columns[name].reshape(rows[name].shape)
        per_example = name in ("dZ2", "dA1", "dZ1")
        torch.testing.assert_close(
            transposed / m if per_example else transposed, rows[name], rtol=1e-12, atol=1e-12, msg=name
        )


def table_shape(name: str) -> str:
    return next(shape for *_, shape, code in table_rows() if code.startswith(f"`def {name}("))


def test_the_derivatives_of_the_activations_are_the_source() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| `([^`]*)` \|$", TEXT, re.MULTILINE))
    source = {}
    for name, g in ACTIVATIONS.items():
        (function,) = ast.parse(inspect.getsource(g.prime)).body
        assert isinstance(function, ast.FunctionDef)
        (line,) = function.body
        source[name] = ast.unparse(line).removeprefix("return ")
    assert rows == source


# The page's single-example equations, as an oracle for the package.


@pytest.mark.parametrize(("m", "n_x", "n_h", "n_y"), [(7, 3, 5, 2), (1, 1, 1, 1), (6, 2, 4, 1)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_three_forms_agree(
    session: tuple[int, str, dict[str, Any]], activation: str, m: int, n_x: int, n_h: int, n_y: int
) -> None:
    page = session[2]
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    X, Y = draw(m, n_x), (draw(m, n_y) > 0).double()
    parameters = draw(n_h, n_x), draw(n_h), draw(n_y, n_h), draw(n_y)
    g = ACTIVATIONS[activation]

    single = [page["one_example"](x, y, *parameters, g) for x, y in zip(X, Y, strict=True)]
    mean = [torch.stack(dV).mean(0) for dV in zip(*single, strict=True)]
    _, grads = loss_and_grads(X, Y, *parameters, activation=activation, task="multilabel")
    forms = {
        "loop": page["loop"](X, Y, *parameters, g),
        "all_at_once": page["all_at_once"](X, Y, *parameters, g),
        "loss_and_grads": [grads[name] for name in ("W1", "b1", "W2", "b2")],
    }
    for form, gradients in forms.items():
        for dV, expected in zip(gradients, mean, strict=True):
            torch.testing.assert_close(dV, expected, rtol=1e-12, atol=1e-12, msg=form)
