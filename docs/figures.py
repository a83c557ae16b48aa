"""The figures of the documentation, drawn by the package itself.

``python docs/figures.py`` writes them all to ``docs/figures/``, or those whose names it is given. Each function below
draws one and returns it. What its words say also stands in the file, as the description of the picture.
"""

import re
import sys
from collections.abc import Callable
from functools import cache
from io import StringIO
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from twolayer import TwoLayerNet, gradient_descent
from twolayer.activations import ACTIVATIONS
from twolayer.data import flower
from twolayer.plots import STYLE, backward_pass, decision_boundary, hidden_units, learning_curves
from twolayer.plots.style import GREY, SERIES, label_ends, whole_numbers

FOLDER = Path(__file__).parent / "figures"
UNITS = (1, 2, 3, 4, 5, 20, 50)
X, Y = (torch.tensor(part) for part in flower())
X = X.float()


def network(hidden: int, activation: str = "tanh", init: str = "course", seed: int = 3) -> TwoLayerNet:
    """At its start, which the seed decides."""
    generator = torch.Generator().manual_seed(seed)
    return TwoLayerNet(2, hidden, 1, activation=activation, init=init, generator=generator)


@cache
def trained(hidden: int, iterations: int = 10_000) -> tuple[TwoLayerNet, Tensor]:
    """A network that has seen the flower, and what each iteration cost."""
    net = network(hidden)
    return net, gradient_descent(net, X, Y, learning_rate=1.2, iterations=iterations)


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def the_flower() -> Figure:
    """Its boundary, by four hidden units: the picture of the README, by its very lines."""
    figure, (ax,) = panels(1, 1, 4.2, 4.2)
    generator, exact = torch.Generator().manual_seed(3), torch.tensor(flower()[0])
    net = TwoLayerNet(2, 4, 1, activation="tanh", init="course", dtype=exact.dtype, generator=generator)
    gradient_descent(net, exact, Y, learning_rate=1.2, iterations=5000)
    decision_boundary(net, exact, Y, ax=ax)
    return figure


def boundaries() -> Figure:
    """What more hidden units can do."""
    figure, axes = panels(2, 4, 11, 6)
    for ax, hidden in zip(axes, UNITS, strict=False):
        net, costs = trained(hidden)
        decision_boundary(net, X[::2], Y[::2], ax=ax).get_legend().remove()
        for points in ax.collections[-2:]:
            points.set(sizes=[13], linewidths=[0.4])
        ax.set_title(f"{hidden} hidden unit{'s' if hidden > 1 else ''}: cost {costs[-1]:.2f}")
    ax = axes[-1]
    ax.plot(range(len(UNITS)), [trained(hidden)[1][-1].item() for hidden in UNITS], "o-", color=GREY)
    ax.set_xticks(range(len(UNITS)), UNITS)
    ax.set(title="after 10,000 iterations", xlabel="hidden units", ylabel="cost $J$", ylim=(0, 0.7))
    return figure


def cost() -> Figure:
    """Gradient descent over 10,000 iterations."""
    figure, (ax,) = panels(1, 1, 6, 4)
    some = (1, 2, 4, 20)
    names = [f"{hidden} unit{'s' if hidden > 1 else ''}" for hidden in some]
    learning_curves(dict(zip(names, (trained(hidden)[1] for hidden in some), strict=True)), ax=ax)
    ax.set(xscale="log", xlim=(1, 10_000))
    return figure


def twins() -> Figure:
    """Where each unit's row of ``W1`` goes, from equal starts and from a small random one."""
    figure, axes = panels(1, 2, 9, 4)
    for ax, start in zip(axes, ("all entries 0.5", "0.01 × normal"), strict=True):
        net = network(4, seed=2)
        if start == "all entries 0.5":
            for V in net.parameters():
                torch.nn.init.constant_(V, 0.5)
        path = [net.W1.detach().clone()]
        for _ in range(100):
            gradient_descent(net, X, Y, learning_rate=1.2, iterations=10)
            path.append(net.W1.detach().clone())
        rows = torch.stack(path)  # (101, units, 2)
        spread = (rows - rows[:, :1]).abs().max().item()
        for unit in range(4):
            color, end = SERIES[unit], rows[-1, unit].tolist()
            ax.plot(*rows[:, unit].T.numpy(), color=color, lw=4.5 - unit)
            ax.plot(*end, "o", color=color, ms=9 - 2 * unit)
            way = rows[-1, unit] - rows[0, unit]
            outward = (10 * way / way.norm()).tolist()
            words = f"unit {unit}" if spread else "units 0, 1, 2, 3"
            if spread or unit == 3:
                place = {
                    "xytext": outward,
                    "ha": "left" if outward[0] > 5 else "right" if outward[0] < -5 else "center",
                }
                place["va"] = "bottom" if outward[1] > 5 else "top" if outward[1] < -5 else "center"
                ax.annotate(words, end, textcoords="offset points", color=color if spread else GREY, **place)
        ax.plot(*rows[0, 0].tolist(), "x", color=GREY, ms=9, zorder=4)
        ax.annotate("start", rows[0, 0].tolist(), xytext=(9, -4), textcoords="offset points", color=GREY)
        ax.set(title=f"{start}: the units are {spread:.3g} apart at most", xlabel="weight of $x_1$")
        ax.set_ylabel("weight of $x_2$")
        ax.margins(0.2)
    return figure


def activations() -> Figure:
    """The four activations and their slopes."""
    figure, axes = panels(1, 2, 9, 3.6)
    z = torch.linspace(-3, 3, 301)
    for ax, title in zip(axes, ("$g(z)$", "slope $g'(z)$"), strict=True):
        lines = []
        for color, (name, g) in zip(SERIES, ACTIVATIONS.items(), strict=False):
            values, dashed = g(z) if title == "$g(z)$" else g.prime(g(z)), name == "leaky_relu"
            lines += ax.plot(z, values, "--" if dashed else "-", color=color, lw=2.2, label=name)
        ax.set(title=title, xlabel="$z$", ylim=(-1.1, 3.1) if title == "$g(z)$" else (-0.05, 1.1))
        ax.margins(x=0)
        label_ends(ax, lines)
    return figure


def saturation() -> Figure:
    """What larger weights leave of the slopes, and of the error that flows back."""
    figure, axes = panels(1, 2, 9, 3.6)
    scales = torch.logspace(-2, 2, 25)
    names = ("sigmoid", "tanh", "relu")
    flat, left = {name: [] for name in names}, {name: [] for name in names}
    for name in names:
        for scale in scales:
            net = network(50, name)
            with torch.no_grad():
                net.W1 *= scale / 0.01
            t = net.trace(X, Y)
            greatest = ACTIVATIONS[name].prime(ACTIVATIONS[name](torch.tensor([0.0, 1.0]))).max()
            flat[name].append((t.slope < 0.02 * greatest).float().mean().item())
            left[name].append((t.dZ1.norm() / t.dA1.norm() / greatest).item())
    titles = "slopes below 2 % of the greatest", "what is left of the error, $dZ_1$ beside $dA_1$"
    for ax, title, shares in zip(axes, titles, (flat, left), strict=True):
        lines = []
        for color, name in zip(SERIES, names, strict=False):
            lines += ax.plot(scales, shares[name], color=color, lw=2.2, label=name)
        ax.set(title=title, xlabel="size of the weights in $W_1$", ylabel="share", xscale="log", ylim=(-0.02, 1.02))
        ax.margins(x=0)
        label_ends(ax, lines)
    return figure


def weights_of_ten() -> Figure:
    """What tanh units answer at two scales of their weights."""
    figure, axes = panels(1, 2, 10, 3.8)
    for ax, size in zip(axes, (0.01, 10), strict=True):
        net = network(30)
        with torch.no_grad():
            net.W1 *= size / 0.01
        t = net.trace(X, Y)
        hidden_units(net, X, ax=ax)
        ax.set_title(f"{size} × normal: $dZ_1$ is {t.dZ1.norm() / t.dA1.norm():.0%} of $dA_1$", y=1.1)
    return figure


def dying() -> Figure:
    """How many units are on their flat side for every example, while they train."""
    figure, (ax,) = panels(1, 1, 6, 3.6)
    lines = []
    runs = {"ReLU, rate 3": ("relu", 3.0), "leaky ReLU, rate 3": ("leaky_relu", 3.0), "ReLU, rate 0.5": ("relu", 0.5)}
    for color, (name, (activation, rate)) in zip(SERIES, runs.items(), strict=False):
        net, silent = network(20, activation, "he", seed=0), []
        for _ in range(81):
            silent.append(int((net.trace(X, Y).Z1 <= 0).all(0).sum()))
            gradient_descent(net, X, Y, learning_rate=rate, iterations=25)
        lines += ax.plot(range(0, 2001, 25), silent, color=color, lw=2.2, label=name)
    ax.set(xlabel="iteration", ylabel="units of 20 with $z_1 \\leq 0$ everywhere", ylim=(-0.5, 20))
    ax.margins(x=0)
    whole_numbers(ax.xaxis, ax.yaxis)
    label_ends(ax, lines)
    return figure


def backwards() -> Figure:
    """What flows back through five units."""
    figure, (ax,) = panels(1, 1, 10, 4)
    backward_pass(trained(5, 300)[0], X, Y, ax=ax)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    function.__name__: function
    for function in (
        the_flower,
        boundaries,
        cost,
        twins,
        activations,
        saturation,
        weights_of_ten,
        dying,
        backwards,
    )
}


def drawn(name: str) -> Figure:
    """A figure in the style of the documentation, ready to be written."""
    with matplotlib.rc_context(STYLE):
        figure = FIGURES[name]()
        for ax in figure.findobj(matplotlib.axes.Axes):
            for points in ax.collections:
                if len(points.get_offsets()) > 50:
                    points.set_rasterized(True)  # hundreds of marks as one small image
        figure.draw_without_rendering()
        return figure


def words(figure: Figure) -> str:
    """All that is written in it."""
    found = (text.get_text().replace("\n", " ") for text in figure.findobj(Text) if text.get_visible())
    return "; ".join(text for text in found if text)


def write(name: str) -> Path:
    """Always the same bytes, with the same version of Matplotlib."""
    path, figure = FOLDER / f"{name}.svg", drawn(name)
    about = {"Title": FIGURES[name].__doc__, "Description": words(figure), "Date": None, "Creator": "docs/figures.py"}
    svg = StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(svg, format="svg", dpi=120, metadata=about)
    lines = re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d[0]), svg.getvalue())  # no finer than seen
    path.write_text(re.sub(r" +$", "", lines, flags=re.MULTILINE), encoding="utf-8")
    return path


if __name__ == "__main__":
    for one in sys.argv[1:] or FIGURES:
        written = write(one)
        print(f"{written}  {written.stat().st_size / 1000:.0f} kB")
