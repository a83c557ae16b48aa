"""What ``test_properties.py`` draws: a call, with the layout, dtype and scale of each of its arguments."""

from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from twolayer.functional import REDUCTIONS
from twolayer.tasks import TASKS

LAYOUTS = ("contiguous", "transposed", "padded", "strided", "expanded", "overlapping", "negative")
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, *UNSIGNED)
ARGUMENTS = ("X", "Y", "W1", "b1", "W2", "b2", "sample_weight", "class_weight", "v")


def laid_out(V: Tensor, layout: str) -> Tensor:
    """A tensor of that shape and layout. It has the values of ``V``, but where memory is shared."""
    if V.ndim == 0 and layout != "negative":
        return V
    if layout == "transposed" and V.ndim > 1:
        return V.mT.contiguous().mT
    if layout == "padded":
        wide = V.new_ones((*V.shape[:-1], V.shape[-1] + 3))
        wide[..., 2:-1] = V
        return wide[..., 2:-1]
    if layout == "strided":
        return torch.stack([V, V], -1)[..., 1]
    if layout == "expanded":
        return V[:1].expand(V.shape)
    if layout == "overlapping":
        length = sum(V.shape) - V.ndim + 1
        return V.flatten()[:length].clone().as_strided(V.shape, (1,) * V.ndim)
    if layout == "negative" and V.dtype in (torch.float32, torch.float64):
        return torch.complex(torch.ones_like(V), -V).conj().imag
    return V


@dataclass
class Call:
    """Arguments of a call, and what may not depend on them."""

    activation: str
    task: str
    lead: tuple[int, ...]
    sizes: tuple[int, int, int]
    dtype: torch.dtype = torch.float32
    target_dtype: torch.dtype = torch.float32
    reduction: str = "mean"
    label_smoothing: float = 0.0
    weighted: bool = False
    classes_weighted: bool = False
    requires_grad: bool = True
    chunk_size: int = 3
    layouts: dict[str, str] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    special: tuple[str, float] | None = None
    seed: int = 0

    @property
    def options(self) -> dict[str, Any]:
        return {"activation": self.activation, "task": self.task, "label_smoothing": self.label_smoothing}

    def tensors(self) -> dict[str, Tensor | None]:
        """``X, Y, W1, b1, W2, b2, sample_weight, class_weight``, the direction's four ``v…``, ``incoming``."""
        generator = torch.Generator().manual_seed(self.seed)
        n_x, n_h, n_y = self.sizes

        def made(name: str, V: Tensor, dtype: torch.dtype = self.dtype) -> Tensor:
            V = V * self.scales.get(name, 1.0) if V.is_floating_point() else V
            if dtype != torch.bool and not dtype.is_floating_point:
                V = V.clamp(max=min(torch.iinfo(dtype).max, 2**63 - 1))
            V = V.to(dtype)
            if self.special is not None and self.special[0] == name and dtype.is_floating_point:
                V.flatten()[torch.randint(V.numel(), (), generator=generator)] = self.special[1]
            return laid_out(V, self.layouts.get(name, "contiguous"))

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        X = made("X", normal(*self.lead, n_x))
        parameters = [("W1", (n_h, n_x)), ("b1", (n_h,)), ("W2", (n_y, n_h)), ("b2", (n_y,))]
        tensors: dict[str, Tensor | None] = {name: made(name, normal(*shape)) for name, shape in parameters}
        tensors |= {f"v{name}": made("v", normal(*shape)) for name, shape in parameters}
        scores = normal(*self.lead, n_y)
        if self.task == "regression":
            Y = scores
        elif self.task == "multiclass":
            hard = torch.randint(n_y, self.lead, generator=generator)
            Y = scores.softmax(-1) if self.target_dtype.is_floating_point else hard
        else:
            Y = scores.sigmoid() if self.target_dtype.is_floating_point else (scores > 0).long()
        weights = torch.rand(self.lead, generator=generator, dtype=torch.float64) + 0.1
        by_class = torch.rand(2 if self.task == "binary" else n_y, generator=generator, dtype=torch.float64) + 0.1
        return tensors | {
            "X": X,
            "Y": made("Y", Y, self.target_dtype),
            "sample_weight": made("sample_weight", weights, torch.float32) if self.weighted else None,
            "class_weight": made("class_weight", by_class, torch.float32) if self.classes_weighted else None,
            "incoming": normal(*self.lead),
        }


@st.composite
def calls(draw: st.DrawFn, scaled: bool = False, special: bool = False) -> Call:
    """A call, with scales from 1e-30 to 1e30 or with one entry that is no finite number."""
    task = draw(st.sampled_from(sorted(TASKS)))
    many = task == "multiclass" and draw(st.integers(0, 9)) == 0  # more classes than a byte counts
    n_y = 1 if task == "binary" else 300 if many else draw(st.integers(1, 9))
    discrete = {"binary": (torch.bool, *INTEGERS), "multilabel": (torch.bool, *INTEGERS), "multiclass": INTEGERS}
    targets = (*FLOATS, *discrete.get(task, ()))
    powers = st.sampled_from([1.0] if not scaled else [1e-30, 1e-10, 1e-3, 1.0, 1.0, 1e3, 1e10, 1e30])
    weights = st.sampled_from([1.0] if not scaled else [1e-40, 1e-37, 1e-30, 1.0, 1e30, 1e38])
    scales = {name: draw(powers) for name in ("X", "W1", "b1", "W2", "b2", "v")}
    floats = ("X", "Y", "W1", "b1", "W2", "b2", "v")
    return Call(
        activation=draw(st.sampled_from(["sigmoid", "tanh", "relu", "leaky_relu"])),
        task=task,
        lead=draw(st.sampled_from([(1,), (2,), (7,), (13,), (33,), (), (1, 1), (3, 5), (2, 1, 3)])),
        sizes=(draw(st.sampled_from([1, 2, 3, 5, 8, 17, 33])), draw(st.sampled_from([1, 2, 3, 7, 16, 33])), n_y),
        dtype=draw(st.sampled_from([torch.float32, torch.float32, *FLOATS])),
        target_dtype=draw(st.sampled_from(targets)),
        reduction=draw(st.sampled_from(["mean", *REDUCTIONS])),
        label_smoothing=0.0 if task == "regression" else draw(st.sampled_from([0.0, 0.0, 0.1])),
        weighted=draw(st.booleans()),
        classes_weighted=task in ("binary", "multiclass") and draw(st.booleans()),
        requires_grad=draw(st.booleans()),
        chunk_size=draw(st.sampled_from([1, 3, 8, 1000])),
        layouts={name: draw(st.sampled_from(LAYOUTS)) for name in ARGUMENTS},
        scales=scales | {name: draw(weights) for name in ("sample_weight", "class_weight")},
        special=(draw(st.sampled_from(floats)), draw(st.sampled_from([torch.nan, torch.inf, -torch.inf])))
        if special
        else None,
        seed=draw(st.integers(0, 2**20)),
    )
