"""The figures of the documentation: what they show is so, and the files in docs/figures are what is drawn today."""

import importlib.util
import re
from functools import cache
from html import unescape
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from matplotlib.image import AxesImage

from twolayer import gradient_descent
from twolayer.units import unit_faults

DOCS = Path(__file__).parents[1] / "docs"
SPEC = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
figures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(figures)

NUMBER = r"[-−]?\d[\d,]*(?:\.\d+)?"


@cache
def drawn(name):
    return figures.drawn(name)


def panels(name):
    """The axes with something in them, without the scales of colours."""
    return [ax for ax in drawn(name).axes if ax.get_label() != "<colorbar>"]


def curves(ax):
    """What is drawn, by the label of the line."""
    return {line.get_label(): torch.tensor(line.get_xydata()) for line in ax.lines}


@pytest.mark.parametrize("name", figures.FIGURES)
def test_the_file_says_what_is_drawn(name):
    """The same words, and numbers that differ in no more than another processor's rounding makes of them."""
    svg = (DOCS / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    there = unescape(re.search(r"<dc:description>(.*?)</dc:description>", svg, re.DOTALL)[1])
    here = figures.words(drawn(name))
    assert re.sub(NUMBER, "#", there) == re.sub(NUMBER, "#", here)
    numbers = [
        [float(number.replace(",", "").replace("−", "-")) for number in re.findall(NUMBER, text)]
        for text in (there, here)
    ]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=0.03)


def test_every_figure_is_shown_and_small():
    pages = "".join(page.read_text(encoding="utf-8") for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"))
    files = {path.stem: path for path in (DOCS / "figures").glob("*.svg")}
    assert files.keys() == figures.FIGURES.keys()
    for name, path in files.items():
        assert f"figures/{name}.svg" in pages
        assert path.stat().st_size < 300_000


def test_a_figure_is_written_the_same_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    first = figures.write("activations").read_bytes()
    assert figures.write("activations").read_bytes() == first
    assert b"<dc:date>" not in first


def test_boundaries_names_the_costs():
    axes = panels("boundaries")
    assert [ax.get_title().split()[0] for ax in axes[:-1]] == ["1", "2", "3", "4", "5", "20", "50"]
    costs = [float(ax.get_title().split()[-1]) for ax in axes[:-1]]
    for hidden, said in zip(figures.UNITS, costs, strict=True):
        net, _ = figures.trained(hidden)
        assert said == pytest.approx(net.loss(figures.X, figures.Y).item(), abs=0.006)
    assert costs[0] > costs[1] > 2 * costs[2]
    (dots,) = curves(axes[-1]).values()
    assert dots[:, 1].tolist() == pytest.approx(costs, abs=0.006)


def test_cost_goes_over_ten_thousand_iterations():
    (ax,) = panels("cost")
    for name, curve in curves(ax).items():
        assert len(curve) == 10_000
        assert curve[0, 1].item() == pytest.approx(0.6931, abs=1e-3)
        assert curve[-1, 1].item() == pytest.approx(figures.trained(int(name.split()[0]))[1][-1].item())


def test_twins_stay_and_others_part():
    equal, random = panels("twins")
    paths = [line.get_xydata() for line in equal.lines if len(line.get_xydata()) > 1]
    assert len(paths) == 4
    assert all((path == paths[0]).all() for path in paths)
    assert "are 0 apart" in equal.get_title()
    ends = torch.tensor([line.get_xydata()[-1].tolist() for line in random.lines if len(line.get_xydata()) > 1])
    assert torch.pdist(ends).min() > 1


def test_activations_and_their_slopes():
    values, slopes = map(curves, panels("activations"))
    for name, curve in values.items():
        z, a = curve.T.unbind()
        by_differences = (a[2:] - a[:-2]) / (z[2:] - z[:-2])
        away = z[1:-1].abs() > 0.05  # from the kink
        torch.testing.assert_close(slopes[name][1:-1, 1][away], by_differences[away], rtol=0, atol=2e-3)
    assert values.keys() == {"sigmoid", "tanh", "relu", "leaky_relu"}


def test_saturation_takes_slopes_and_error():
    flat, left = map(curves, panels("saturation"))
    for name in ("tanh", "sigmoid"):
        assert flat[name][0, 1] == 0
        assert flat[name][-1, 1] > 0.9
        assert left[name][0, 1] > 0.99
        assert left[name][-1, 1] < 0.2
    assert flat["relu"][:, 1].sub(0.5).abs().max() < 0.1


def test_weights_of_ten_saturate():
    small, large = panels("weights_of_ten")
    assert [text.get_text() for text in small.texts] == ["30 working"]
    A1 = figures.network(30).to_sequential()[0](figures.X) * 1000
    assert f"{unit_faults(A1.tanh(), 'tanh').saturated.sum()} saturated" in [text.get_text() for text in large.texts]
    assert (A1.tanh().abs() > 0.99).float().mean() > 0.7


def test_relu_units_die_and_leaky_ones_come_back():
    silent = curves(panels("dying")[0])
    relu, leaky = silent["ReLU, rate 3"][:, 1], silent["leaky ReLU, rate 3"][:, 1]
    assert (relu.diff() >= 0).all()
    assert relu[-1] > 8
    assert (leaky.diff() < 0).any()
    assert silent["ReLU, rate 0.5"][:, 1].max() == 0
    net = figures.network(20, "relu", "he", seed=0)
    gradient_descent(net, figures.X, figures.Y, learning_rate=3.0, iterations=2000)
    dead = unit_faults(net.to_sequential()[:2](figures.X), "relu").dead
    assert dead.sum() == relu[-1]


def test_backwards_is_the_trace():
    (ax,) = panels("backwards")[:1]
    t = figures.trained(5, 300)[0].trace(figures.X, figures.Y)
    order = t.dZ2[:, 0].argsort(stable=True)
    shown = [torch.tensor(panel.findobj(AxesImage)[0].get_array().data).float() for panel in ax.child_axes]
    for image, V in zip(shown, (400 * t.dZ2, 400 * t.dA1, t.slope, 400 * t.dZ1), strict=True):
        torch.testing.assert_close(image, V[order])
