"""plots: what is drawn is what the network does."""

import importlib
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

import matplotlib
from matplotlib import pyplot
from matplotlib.collections import PathCollection
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from problems import problem

from twolayer import TwoLayerNet, gradient_descent, plots
from twolayer.plots.style import CLASSES
from twolayer.units import unit_faults


def axes():
    return Figure(layout="constrained").subplots()


def image(ax):
    """What an image shows."""
    return torch.tensor(np.asarray(ax.findobj(AxesImage)[0].get_array()))


def only(ax, kind):
    return [thing for thing in ax.collections if isinstance(thing, kind)]


def moons(m=200):
    """Two rows of points, in units that are not alike."""
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-3, 3, m, dtype=torch.float64)
    Y = torch.arange(m) % 2
    noise = 0.3 * torch.randn(m, 2, generator=generator, dtype=torch.float64)
    return torch.stack([x, torch.sin(x) + Y - 0.5], 1) * torch.tensor([1.0, 5.0]) + noise + 7, Y


@pytest.fixture(scope="module")
def trained():
    X, Y = moons()
    net = TwoLayerNet(2, 6, 1, activation="tanh", dtype=X.dtype, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net.b1 -= net.W1 @ torch.tensor([7.0, 7.0], dtype=X.dtype)
    gradient_descent(net, X, Y, learning_rate=0.3, iterations=2000)
    return net, X, Y


def lit(net, mean, std):
    """A trained model that takes ``std · x + mean`` for ``x``."""
    module = pytest.importorskip("twolayer.training.module", reason="needs the extra [train]")
    n_h, n_x = net.W1.shape
    model = module.LitTwoLayer(n_x, n_h, net.out_features, task=net.task, activation=net.activation).to(net.W1.dtype)
    model.net.load_state_dict(net.state_dict())
    model.standardize_inputs.mean.copy_(torch.tensor(mean))
    model.standardize_inputs.std.copy_(torch.tensor(std))
    return model


# The boundary


def test_the_boundary_is_where_the_output_is_a_half(trained):
    net, X, Y = trained
    ax = plots.decision_boundary(net, X, Y, ax=axes())
    (contour,) = only(ax, ContourSet)
    points = torch.tensor(np.concatenate([path.vertices for path in contour.get_paths()]))
    assert len(points) > 100
    assert (net.predict(points) - 0.5).abs().max() < 0.02
    inside = points[(points > points.amin(0)).all(1) & (points < points.amax(0)).all(1)]
    step = (X.amax(0) - X.amin(0)) / 50
    for x in inside[::10]:  # on either side of it lie the two classes
        around = x + step * torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])
        A2 = net.predict(around)
        assert A2.min() < 0.5 < A2.max()


def test_the_boundary_of_one_feature_is_a_line_across_its_axis():
    """Known without asking the network: ``tanh(x1 − 1.5) = 0``, and ``x2`` plays no part."""
    net = TwoLayerNet(2, 1, 1, activation="tanh")
    with torch.no_grad():
        for V, value in zip(net.parameters(), ([[1.0, 0.0]], [-1.5], [[4.0]], [0.0]), strict=True):
            V.copy_(torch.tensor(value))
    X, Y = torch.tensor([[-1.0, -20.0], [4.0, 30.0], [2.0, 5.0]]), torch.tensor([0, 1, 1])
    ax = plots.decision_boundary(net, X, Y, ax=axes())
    vertices = only(ax, ContourSet)[0].get_paths()[0].vertices
    assert np.abs(vertices[:, 0] - 1.5).max() < 0.01
    assert np.ptp(vertices[:, 1]) > 50
    assert ax.get_xlim() == pytest.approx((-1.4, 4.4))
    shade, blue, red = image(ax), *(matplotlib.colors.to_rgb(color) for color in CLASSES[:2])
    for corner, color in ((shade[:, 0], blue), (shade[:, -1], red)):
        assert (corner.argmin(-1) == np.argmin(color)).all()
        assert (corner.argmax(-1) == np.argmax(color)).all()


def test_the_points_are_the_examples(trained):
    net, X, Y = trained
    ax = plots.decision_boundary(net, X, Y, ax=axes(), class_names=["no", "yes"])
    drawn = only(ax, PathCollection)
    assert [points.get_label() for points in drawn] == ["no", "yes"]
    for k, points in enumerate(drawn):
        assert torch.equal(torch.tensor(np.asarray(points.get_offsets())), X[Y.eq(k)])


def test_several_classes_meet_where_two_are_equal():
    X = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Y = (X[:, 0] > 0).long() + (X[:, 1] > 0.3)
    generator = torch.Generator().manual_seed(0)
    net = TwoLayerNet(2, 8, 3, task="multiclass", activation="tanh", dtype=X.dtype, generator=generator)
    gradient_descent(net, X, Y, learning_rate=0.5, iterations=500)
    ax = plots.decision_boundary(net, X, Y, ax=axes())
    points = np.concatenate([path.vertices for part in only(ax, ContourSet) for path in part.get_paths()])
    first, second, _ = net.predict(torch.tensor(points)).sort(-1, descending=True).values.T
    assert (first - second).abs().max() < 0.02
    assert len(only(ax, PathCollection)) == 3


def test_a_trained_model_is_drawn_in_raw_units(trained):
    net, X, Y = trained
    model = lit(net, [100.0, -50.0], [10.0, 0.1])
    raw = X * torch.tensor([10.0, 0.1]) + torch.tensor([100.0, -50.0])
    ax, of_net = (plots.decision_boundary(*what, Y, ax=axes()) for what in ((model, raw), (net, X)))
    torch.testing.assert_close(image(ax), image(of_net), rtol=0, atol=0.02)
    points = torch.tensor(only(ax, ContourSet)[0].get_paths()[0].vertices)
    assert (model(points) - 0.5).abs().max() < 0.02
    for draw in (plots.backward_pass, plots.gradient_flow, plots.confusion_matrix, plots.calibration):
        assert [text.get_text() for text in draw(model, raw, Y, ax=axes()).texts] == [
            text.get_text() for text in draw(net, X, Y, ax=axes()).texts
        ]
    assert torch.allclose(
        image(plots.hidden_units(model, raw, ax=axes())), image(plots.hidden_units(net, X, ax=axes())), equal_nan=True
    )


# Hidden units


def units_shown(ax):
    """The units of each kind, by the brackets above them and the numbers below."""
    number = ax.xaxis.get_major_formatter()
    found = {}
    for line in ax.lines:
        first, last = line.get_xdata()
        found[line.get_label()] = {int(number(x, 0)) for x in range(round(first + 0.35), round(last - 0.35) + 1)}
    return found


@pytest.mark.parametrize("hidden", [4, 300])
def test_the_dead_are_those_that_are_zero_for_every_row(hidden):
    generator = torch.Generator().manual_seed(2)
    X = torch.randn(203, 3, generator=generator)
    net = TwoLayerNet(3, hidden, 1, activation="relu", generator=generator)
    with torch.no_grad():
        net.b1[::3] -= 20
        if hidden > 4:
            net.W1[5], net.b1[5] = net.W1[7], net.b1[7]
    A1 = torch.relu(X @ net.W1.T + net.b1)
    zero = {int(unit) for unit in (A1 == 0).all(0).nonzero()}
    ax = plots.hidden_units(net, X, ax=axes())
    shown = units_shown(ax)
    assert len(zero) >= hidden // 3
    assert shown["dead"] == zero
    assert f"{len(zero)} dead" in [text.get_text() for text in ax.texts]
    if hidden > 4:
        assert shown["twin"] == {5, 7}
    assert set().union(*shown.values()) == set(range(hidden))
    working = [A1[:, unit].mean() for unit in order(ax, hidden) if unit in shown["working"]]
    assert working == sorted(working)


def order(ax, hidden):
    number = ax.xaxis.get_major_formatter()
    return [int(number(x, 0)) for x in range(hidden)]


@pytest.mark.parametrize("hidden", [4, 80])
def test_the_shades_are_shares_of_the_rows(hidden):
    X = torch.randn(203, 3, generator=torch.Generator().manual_seed(2))
    net = TwoLayerNet(3, hidden, 1, activation="tanh", generator=torch.Generator().manual_seed(3))
    ax = plots.hidden_units(net, X, ax=axes())
    shares = image(ax)
    shares = shares[:, 10::20] if hidden == 4 else shares
    A1 = torch.tanh(X @ net.W1.T + net.b1).detach().double()
    low, high = ax.images[0].get_extent()[2:]
    assert (low, high) == pytest.approx((A1.min().item(), A1.max().item()))
    for column, unit in zip(shares.T, order(ax, hidden), strict=True):
        truth, _ = np.histogram(A1[:, unit].numpy(), len(column), (low, high))
        np.testing.assert_allclose(column, truth / 203, atol=0.011)  # a row may fall on an edge


def test_zeros_are_all_twins_after_a_hundred_iterations(trained):
    _, X, Y = trained
    for activation in ("tanh", "sigmoid"):
        net = TwoLayerNet(2, 5, 1, activation=activation, init="zeros", dtype=X.dtype)
        gradient_descent(net, X, Y, iterations=100)
        ax = plots.hidden_units(net, X, ax=axes())
        assert [text.get_text() for text in ax.texts] == ["5 twins"]
        assert units_shown(ax) == {"twin": set(range(5))}


def test_weights_of_ten_are_saturated():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(300, 20, generator=generator)
    net = TwoLayerNet(20, 50, 1, activation="tanh", init="course", generator=generator)
    with torch.no_grad():
        net.W1 *= 1000
    shown = units_shown(plots.hidden_units(net, X, ax=axes()))
    assert len(shown["saturated"]) >= 45
    assert shown["saturated"] == {
        int(unit) for unit in unit_faults(torch.tanh(X @ net.W1.T), "tanh").saturated.nonzero()
    }


# What flows back


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_the_backward_pass_is_the_trace(task):
    p = problem("tanh", task, m=31)
    net, t = p.net(), p.net().trace(p.X, p.Y)
    ax = plots.backward_pass(net, p.X, p.Y, ax=axes())
    key = t.dZ2.squeeze(1) if task == "binary" else -t.dZ2.norm(dim=1)
    rows = key.argsort(stable=True)
    for panel, V in zip(ax.child_axes, (31 * t.dZ2, 31 * t.dA1, t.slope, 31 * t.dZ1), strict=True):
        torch.testing.assert_close(image(panel), V[rows])
    _, dA1, _, dZ1 = (panel.images[0] for panel in ax.child_axes)
    assert dA1.get_clim() == dZ1.get_clim()
    assert f"{t.dZ1.norm() / t.dA1.norm():.0%} is left" in ax.child_axes[3].get_title()


def test_the_sizes_are_those_of_each_example_alone():
    """By autograd, one example at a time."""
    p = problem("tanh", "regression", m=21)
    net = p.net()
    norms = {"$dW_1$": [], "$dW_2$": []}
    for x, y in zip(p.X, p.Y, strict=True):
        dW1, dW2 = torch.autograd.grad(net.loss(x, y), [net.W1, net.W2])
        norms["$dW_1$"].append(dW1.norm().item())
        norms["$dW_2$"].append(dW2.norm().item())
    ax = plots.gradient_flow(net, p.X, p.Y, ax=axes())
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["$dZ_2$", "$dW_2$", "$dA_1$", "$dZ_1$", "$dW_1$"]
    segments = {part.get_label(): part.get_segments()[0] for part in ax.collections if hasattr(part, "get_segments")}
    medians = [points.get_offsets()[0] for points in only(ax, PathCollection)]
    _, grads = net.loss_and_grads(p.X, p.Y)
    for name, of_each in norms.items():
        assert segments[name][:, 1] == pytest.approx(np.quantile(of_each, [0.25, 0.75]))
        assert medians[names.index(name)][1] == pytest.approx(np.median(of_each))
        assert segments[f"mean of {name}"][0, 1] == pytest.approx(
            grads[name.strip("$d").replace("_", "")].norm().item()
        )
    dZ2 = net.trace(p.X, p.Y).dZ2 * 21
    assert segments["$dZ_2$"][:, 1] == pytest.approx(np.quantile(dZ2.norm(dim=1), [0.25, 0.75]))


# Predictions


def test_the_confusion_matrix_counts():
    pytest.importorskip("sklearn")
    p = problem("relu", "multiclass", m=57)
    net = p.net()
    ax = plots.confusion_matrix(net, p.X, p.Y, class_names=list("abcd"), ax=axes())
    counts = torch.zeros(4, 4, dtype=torch.long)
    for x, y in zip(p.X, p.Y, strict=True):
        counts[y, net(x).argmax()] += 1
    assert torch.equal(image(ax), counts)
    assert [label.get_text() for label in ax.get_yticklabels()] == list("abcd")
    assert not torch.equal(counts, counts.T)


def test_the_confusion_matrix_of_two_classes(trained):
    pytest.importorskip("sklearn")
    net, X, Y = trained
    counts = image(plots.confusion_matrix(net, X, Y.double(), ax=axes()))
    said = net.predict(X).squeeze(1) > 0.5
    assert counts.tolist() == [
        [int((~said & (Y == 0)).sum()), int((said & (Y == 0)).sum())],
        [int((~said & (Y == 1)).sum()), int((said & (Y == 1)).sum())],
    ]


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_calibration_is_how_often_it_comes_true(task):
    pytest.importorskip("sklearn")
    p = problem("tanh", task, m=60)
    ax = plots.calibration(p.net(), p.X, p.Y, bins=4, ax=axes())
    P, Y = p.net().predict(p.X).detach(), p.Y
    if task == "multiclass":
        P, A = P.max(1)
        Y = A == Y
    P, Y = P.flatten(), Y.flatten().double()
    order = P.argsort()
    size = len(P) // 4
    expected = [(P[part].mean().item(), Y[part].mean().item()) for part in order.split(size)]
    assert np.abs(ax.lines[-1].get_xydata() - np.array(expected)).max() < 0.07  # a row may go to the next point
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]


def test_residuals_are_targets_minus_predictions():
    pytest.importorskip("sklearn")
    p = problem("tanh", "regression", m=19)
    ax = plots.residuals(p.net(), p.X, p.Y, ax=axes())
    A2 = p.net().predict(p.X).detach()
    for k, points in enumerate(only(ax, PathCollection)):
        expected = torch.stack([A2[:, k], p.Y[:, k] - A2[:, k]], 1)
        torch.testing.assert_close(torch.tensor(np.asarray(points.get_offsets())), expected)


def test_residuals_of_a_model_are_in_the_targets_units():
    pytest.importorskip("sklearn")
    p = problem("tanh", "regression", m=19)
    model = lit(p.net(), [0.0] * 5, [1.0] * 5)
    model.standardize_targets.mean.copy_(torch.tensor([10.0, -3.0]))
    model.standardize_targets.std.copy_(torch.tensor([2.0, 100.0]))
    raw = p.Y * torch.tensor([2.0, 100.0]) + torch.tensor([10.0, -3.0])
    first, second = only(plots.residuals(model, p.X, raw, ax=axes()), PathCollection)
    A2 = p.net().predict(p.X).detach()
    torch.testing.assert_close(torch.tensor(first.get_offsets()[:, 0]), 2 * A2[:, 0] + 10)
    torch.testing.assert_close(torch.tensor(second.get_offsets()[:, 1]), 100 * (p.Y - A2)[:, 1])


# Learning curves

TABLE = """epoch,step,train_loss,val_accuracy,val_loss
0,10,,0.8,0.5
0,10,0.6,,
1,21,,0.9,0.25
1,21,0.3,,
"""


@pytest.fixture
def runs(tmp_path):
    for name, text in (("version_0", TABLE), ("version_1", TABLE.replace("0.25", "0.125"))):
        (tmp_path / "moons" / name).mkdir(parents=True)
        (tmp_path / "moons" / name / "metrics.csv").write_text(text)
    return [tmp_path / "moons" / "version_0", tmp_path / "moons" / "version_1"]


def lines(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.lines}


def test_the_curves_of_a_run(runs):
    expected = {"validation": [[0, 0.5], [1, 0.25]], "training": [[0, 0.6], [1, 0.3]]}
    for run in (runs[0], str(runs[0]), runs[0] / "metrics.csv"):
        ax = plots.learning_curves(run, ax=axes())
        assert lines(ax) == expected
        assert [text.get_text() for text in ax.texts] == ["validation", "training"]  # from below
    ax = plots.learning_curves(runs[0], metric="accuracy", against="step", ax=axes())
    assert lines(ax) == {"validation": [[10, 0.8], [21, 0.9]]}


def test_the_curves_of_several_runs(runs):
    ax = plots.learning_curves(runs, ax=axes())
    assert [line.get_label() for line in ax.lines] == ["moons/version_0"] * 2 + ["moons/version_1"] * 2
    assert [text.get_text() for text in ax.texts] == ["moons/version_1", "moons/version_0"]
    colors = [line.get_color() for line in ax.lines]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    ax = plots.learning_curves({"a": runs[0], "b": runs[1]}, metric="accuracy", ax=axes())
    assert lines(ax).keys() == {"a", "b"}


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_the_curves_of_gradient_descent(kind):
    costs = kind([0.7, 0.5, 0.25])
    (line,) = plots.learning_curves(costs, ax=axes()).lines
    assert line.get_xydata() == pytest.approx(np.array([[0, 0.7], [1, 0.5], [2, 0.25]]))
    ax = plots.learning_curves({"one": costs, "two": costs[:2]}, ax=axes())
    assert [len(line.get_xydata()) for line in ax.lines] == [3, 2]
    assert ax.get_xlabel() == "iteration"


def test_costs_of_which_none_is_a_number_have_no_label():
    ax = plots.learning_curves({"steps": [0.7, 0.6], "too large": [float("nan")] * 2}, ax=axes())
    assert [text.get_text() for text in ax.texts] == ["steps"]


def test_a_number_without_a_neighbour_is_a_point():
    nan = float("nan")
    ax = plots.learning_curves({"one": [0.7], "gaps": [0.7, nan, 0.4, nan, 0.3, 0.2]}, ax=axes())
    assert [(line.get_marker(), list(line.get_markevery())) for line in ax.lines] == [("o", [0]), ("o", [0, 2])]


NAMES = ["a very long class name indeed that goes on", "another long name, not as long", "$_x^$ or $10k-$20k"]


def drawn_within(ax):
    """The box of all that is drawn outside of the axes too, as shares of the figure's."""
    figure = ax.figure
    figure.canvas.draw()
    return figure.get_tightbbox().width / figure.get_figwidth(), ax.get_window_extent().width / figure.bbox.width


def test_names_of_classes_are_as_they_stand_and_leave_room():
    pytest.importorskip("sklearn")
    X, Y = torch.randn(60, 2), torch.arange(60) % 3
    net = TwoLayerNet(2, 4, 3, task="multiclass")
    ax = plots.confusion_matrix(net, X, Y, class_names=NAMES, ax=axes())
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert all(label.get_rotation() == 45 for label in ax.get_xticklabels())
    assert all(a.x1 < b.x1 for a, b in pairwise(boxes))
    assert ax.get_yticklabels()[2].get_text() == r"\$_x^\$ or \$10k-\$20k"
    ax = plots.decision_boundary(net, X, Y, class_names=NAMES, ax=axes())
    wide, plane = drawn_within(ax)
    assert wide < 1
    assert plane > 0.7
    plots.learning_curves({"lr_$1_$": [0.7, 0.5], "$": [0.7, 0.6]}, ax=ax).figure.canvas.draw()


def test_many_classes_have_small_numbers():
    pytest.importorskip("sklearn")
    net = TwoLayerNet(2, 4, 30, task="multiclass")
    ax = plots.confusion_matrix(net, torch.randn(60, 2), torch.arange(60) % 30, ax=axes())
    assert {text.get_fontsize() for text in ax.texts} == {4.0}


def test_one_class_is_one_class():
    net, X = TwoLayerNet(2, 4, 1, task="multiclass"), torch.randn(60, 2)
    ax = plots.decision_boundary(net, X, torch.zeros(60).long(), ax=axes())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["class 0"]
    colour = torch.tensor(matplotlib.colors.to_rgb(CLASSES[0]), dtype=torch.float64)
    assert (image(ax) - 1).sign().eq((colour - 1).sign()).all()


def test_residuals_of_several_outputs_have_a_key():
    pytest.importorskip("sklearn")
    net = TwoLayerNet(2, 4, 3, task="regression")
    ax = plots.residuals(net, torch.randn(60, 2), torch.randn(60, 3), ax=axes())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["output 0", "output 1", "output 2"]


def test_labels_that_would_meet_stand_one_above_the_other():
    ax = plots.learning_curves({name: [1.0, 0.5] for name in "abcde"}, ax=axes())
    heights = sorted(ax.transData.transform(text.xy)[1] for text in ax.texts)
    assert np.diff(heights).min() > 0.9 * ax.xaxis.label.get_fontsize() * ax.figure.dpi / 72


# All of them

PICTURES = {
    "decision_boundary": lambda net, X, Y, ax: plots.decision_boundary(net, X, Y, ax=ax),
    "hidden_units": lambda net, X, Y, ax: plots.hidden_units(net, X, ax=ax),
    "gradient_flow": lambda net, X, Y, ax: plots.gradient_flow(net, X, Y, ax=ax),
    "backward_pass": lambda net, X, Y, ax: plots.backward_pass(net, X, Y, ax=ax),
    "confusion_matrix": lambda net, X, Y, ax: plots.confusion_matrix(net, X, Y, ax=ax),
    "calibration": lambda net, X, Y, ax: plots.calibration(net, X, Y, ax=ax),
    "learning_curves": lambda net, X, Y, ax: plots.learning_curves(X[:, 0], ax=ax),
}


def drawn_by(figure):
    """The bytes of the picture."""
    figure.canvas.draw()
    return bytes(figure.canvas.buffer_rgba())


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_but_its_axes_is_drawn_on(trained, name):
    net, X, Y = trained
    pyplot.close("all")
    other = pyplot.figure().add_subplot()
    before, settings = pyplot.get_fignums(), dict(matplotlib.rcParams)
    figure = matplotlib.backends.backend_agg.FigureCanvasAgg(Figure(layout="constrained")).figure
    ax = figure.subplots()
    assert PICTURES[name](net, X, Y, ax) is ax
    assert pyplot.get_fignums() == before
    assert pyplot.gca() is other
    assert not other.has_data()
    assert dict(matplotlib.rcParams) == settings
    assert not all(V.requires_grad and V.grad is not None for V in net.parameters())

    new = PICTURES[name](net, X, Y, None)
    assert len(pyplot.get_fignums()) == 2
    assert not other.has_data()
    assert new.figure is not other.figure
    pyplot.close("all")
    drawn_by(figure)


@pytest.mark.parametrize("name", PICTURES)
def test_arrays_are_as_good_as_tensors(trained, name):
    net, X, Y = trained
    pictures = []
    for given in ((X, Y), (X.numpy(), Y.numpy()), (X.float(), Y.reshape(-1, 1).double())):
        figure = matplotlib.backends.backend_agg.FigureCanvasAgg(Figure()).figure
        PICTURES[name](net, *given, figure.subplots())
        pictures.append(drawn_by(figure))
    tensors, arrays, rounded = pictures
    assert tensors == arrays
    assert np.mean(np.frombuffer(tensors, np.uint8) != np.frombuffer(rounded, np.uint8)) < 0.01


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "learning_curves"])
def test_bad_input(trained, name):
    net, X, Y = trained
    draw = PICTURES[name]
    with pytest.raises(TypeError, match="net must be a TwoLayerNet or a LitTwoLayer, got Linear"):
        draw(torch.nn.Linear(2, 1), X, Y, axes())
    with pytest.raises(TypeError, match="ax must be matplotlib Axes, got ndarray"):
        draw(net, X, Y, Figure().subplots(2))
    with pytest.raises(ValueError, match=r"net and X must give finite numbers, got (A1|A2|Z1) with others"):
        draw(net, X / 0, Y, axes())
    for wrong in (X[:0], X[:, :1], X[0]):
        with pytest.raises(ValueError, match=r"X must have shape \(m, 2\)"):
            draw(net, wrong, Y, axes())
    if name != "hidden_units":
        with pytest.raises(ValueError, match="Y must have shape"):
            draw(net, X, Y[:-1], axes())
        for wrong in (Y * 0 + 7, Y * 0 - 1, Y / torch.zeros(())):
            with pytest.raises(ValueError, match=r"Y must lie in \[0, 1\] for task 'binary'"):
                draw(net, X, wrong, axes())
        with pytest.raises(TypeError, match="Y must be a tensor or an array of numbers, got None"):
            draw(net, X, None, axes())
    for wrong in ("points", [["a", "b"]] * len(Y), None, [[1.0], [1.0, 2.0]]):
        with pytest.raises(TypeError, match="X must be a tensor or an array of numbers, got "):
            draw(net, wrong, Y, axes())
    with pytest.raises(TypeError, match=r"X must hold real numbers, got torch\.complex"):
        draw(net, X + 0j, Y, axes())
    with pytest.raises(TypeError, match=r"X must be dense, got torch\.sparse_coo"):
        draw(net, X.to_sparse(), Y, axes())
    regression = TwoLayerNet(2, 3, 1, task="regression")
    if name in ("decision_boundary", "confusion_matrix", "calibration"):
        with pytest.raises(ValueError, match=r"task of net must be one of 'binary', .*got 'regression'"):
            draw(regression, X, Y, axes())


@pytest.mark.parametrize("name", ["decision_boundary", "confusion_matrix", "calibration"])
@pytest.mark.parametrize("wrong", [3, -1])
def test_a_class_that_there_is_not_is_not_left_out(name, wrong):
    net, X = TwoLayerNet(2, 3, 3, task="multiclass"), torch.randn(7, 2)
    with pytest.raises(IndexError, match=r"Y must lie in \[0, 2\] for 3 classes"):
        PICTURES[name](net, X, torch.tensor([0, 1, 2, 0, 1, 2, wrong]), axes())


def test_what_else_is_refused(trained, runs):
    net, X, Y = trained
    with pytest.raises(ValueError, match="Y must be finite"):
        plots.residuals(TwoLayerNet(2, 3, 1, task="regression"), X, X[:, 0] / 0, ax=axes())
    with pytest.raises(ValueError, match="net must have two features to be drawn in a plane, got 3"):
        plots.decision_boundary(TwoLayerNet(3, 2, 1), torch.ones(5, 3), torch.ones(5), ax=axes())
    with pytest.raises(ValueError, match="class_names must be 2 names, got 3"):
        plots.decision_boundary(net, X, Y, class_names="abc", ax=axes())
    with pytest.raises(ValueError, match="task of net must be one of 'regression', got 'binary'"):
        plots.residuals(net, X, Y, ax=axes())
    with pytest.raises(
        ValueError, match=r"metric 'rmse' against 'epoch' must be in .*, which has epoch, step, train_loss"
    ):
        plots.learning_curves(runs[0], metric="rmse", ax=axes())
    with pytest.raises(FileNotFoundError):
        plots.learning_curves(runs[0] / "nothing", ax=axes())
    damaged = runs[0].parent / "damaged.csv"
    for text, words in (
        ("epoch,val_loss\n0,abc\n", "damaged.csv must be a table of numbers: .*'abc'"),
        ("\xff", "utf-8"),
    ):
        damaged.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=words):
            plots.learning_curves(damaged, ax=axes())
    with pytest.raises(ValueError, match="runs must be at least one, got none"):
        plots.learning_curves([], ax=axes())
    with pytest.raises(TypeError, match="runs must be a folder, costs, or several of these, got int"):
        plots.learning_curves(3, ax=axes())


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("twolayer.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"this needs matplotlib: pip install 'twolayer\[plots\]'"):
        importlib.import_module("twolayer.plots")
