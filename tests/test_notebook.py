"""The notebook runs from top to bottom and says what is stored in it."""

import tomllib
import warnings
from pathlib import Path

import pytest

import twolayer

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
for needed in ("ipykernel", "lightning", "matplotlib", "sklearn"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parents[1]
PATH = ROOT / "docs" / "first_network.ipynb"


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(PATH, as_version=4)


def texts(cell):
    """What a cell printed and showed, pictures aside."""
    for output in cell.get("outputs", []):
        if "image/png" not in output.get("data", {}):
            yield output.get("text") or output["data"]["text/plain"]


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_runs_and_shows_what_is_stored(stored, tmp_path, monkeypatch):
    """To store what it shows: ``jupyter execute --inplace docs/first_network.ipynb``."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(Path(twolayer.__file__).parents[1]), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the notebook's own shows its pictures
    fresh = nbformat.from_dict(stored)
    for cell in code(fresh):
        cell.outputs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter and ZeroMQ about themselves
        nbclient.NotebookClient(
            fresh, timeout=300, record_timing=False, resources={"metadata": {"path": tmp_path}}
        ).execute()
    for then, now in zip(code(stored), code(fresh), strict=True):
        assert list(texts(now)) == list(texts(then)), then.source
        pictures = [["image/png" in output.get("data", {}) for output in cell.outputs] for cell in (then, now)]
        assert pictures[0] == pictures[1], then.source
    assert not list(tmp_path.glob("*.ipynb"))


def test_it_is_short_and_small(stored):
    assert len(code(stored)) <= 13
    assert all(len(cell.source.splitlines()) <= 12 for cell in code(stored))
    assert PATH.stat().st_size < 130_000
    assert [cell.execution_count for cell in code(stored)] == list(range(1, len(code(stored)) + 1))


def test_every_picture_has_a_text(stored):
    """``alt`` in the metadata of its cell: the site shows it to whoever does not see the picture."""
    cells = [cell for cell in code(stored) if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    assert len(cells) == 3
    assert all(len(cell.metadata["alt"]) > 20 for cell in cells)


def test_where_the_package_is_missing_the_first_cell_installs_it(stored):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    first = code(stored)[0].source
    extras, address = first.split('"twolayer[')[1].rstrip('"').split("] @ ")
    assert address == f"git+{project['urls']['Homepage']}"
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
