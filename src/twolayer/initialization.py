"""Where gradient descent starts: four ways to fill the parameters, by name."""

import torch
from torch import Generator, Tensor, nn

COURSE_SCALE = 0.01


def _course(W: Tensor, generator: Generator | None) -> None:
    nn.init.normal_(W, std=COURSE_SCALE, generator=generator)


def _zeros(W: Tensor, generator: Generator | None) -> None:
    nn.init.zeros_(W)


def _xavier(W: Tensor, generator: Generator | None) -> None:
    nn.init.xavier_normal_(W, generator=generator)


def _he(W: Tensor, generator: Generator | None) -> None:
    nn.init.kaiming_normal_(W, nonlinearity="relu", generator=generator)


INITIALIZATIONS = {"course": _course, "zeros": _zeros, "xavier": _xavier, "he": _he}


@torch.no_grad()
def initialize(name: str, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, generator: Generator | None = None) -> None:
    """Fills the weights in place by the rule of that name, and the biases with zeros.

    ``"course"``
        ``0.01 ×`` a normal draw, as in the notes: small, so that sigmoid and tanh do not saturate.
    ``"zeros"``
        All zero, to see what goes wrong: every hidden unit stays the twin of every other.
    ``"xavier"``
        Normal with variance ``2 / (n_in + n_out)`` (Glorot and Bengio, 2010): for sigmoid and tanh.
    ``"he"``
        Normal with variance ``2 / n_in`` (He et al., 2015): for ReLU and leaky ReLU.

    >>> W1, b1, W2, b2 = torch.empty(4, 2), torch.empty(4), torch.empty(1, 4), torch.empty(1)
    >>> initialize("course", W1, b1, W2, b2, torch.Generator().manual_seed(0))
    >>> W1[0]
    tensor([ 0.0154, -0.0029])
    """
    for W in (W1, W2):
        INITIALIZATIONS[name](W, generator)
    for b in (b1, b2):
        nn.init.zeros_(b)
