"""What lies more than 2³¹ numbers away: the real kernels on the last rows, slots and units of arrays that are so large.

The arrays are zeros that were never touched, which take addresses and no memory. Triton's interpreter runs the one
program of a launch that has to do with their end.
"""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import triton.language as tl
from triton.runtime.interpreter import GridExecutor, TensorHandle, interpreter_builder

from twolayer.equations import Parameters
from twolayer.kernels import triton_chunked, triton_narrow, triton_wide
from twolayer.kernels.triton_equations import Cost, Network, Tile
from twolayer.kernels.triton_launch import Pass, reduce
from twolayer.tasks import Examples, Objective

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, test_cuda.py has arrays that are so large")


@pytest.fixture
def program(monkeypatch):
    """Runs a launch's program of a number, whose arrays are not copied back to where they are."""
    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *_: None)

    def number(place):
        return lambda axis: TensorHandle(np.array([place if axis in places else 0], dtype=np.int32), tl.int32)

    places: set[int] = set()

    def run(kernel, place, axis=0, /, **arguments):
        places.clear()
        places.add(axis)
        monkeypatch.setattr(interpreter_builder, "create_get_program_id", number(place))
        monkeypatch.setattr(interpreter_builder, "create_get_num_programs", lambda _: number(1 << 29)(axis))
        kernel[(1,)](**arguments)

    return run


def zeros(*shape, dtype=np.float32):
    try:
        return torch.from_numpy(np.zeros(shape, dtype))  # PyTorch's own would touch them
    except MemoryError:
        pytest.skip(f"there is no room for an array of {shape}")


@pytest.mark.parametrize(
    ("kernel", "axis"),
    [
        (triton_narrow.narrow_pass, 0),
        (triton_wide.output_errors, 0),
        (triton_wide.slab_gradients, 1),
        (triton_wide.input_gradients, 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_last_rows_and_slots(kernel, axis, program):
    """The last tile has five rows: its results are those of the five by themselves, in their places."""
    n_x, n_h, n_y, left, rows = 1, 6, 1, 5, 16
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(4, left, 1, generator=generator).half()
    parameters = Parameters(*(torch.randn(n, generator=generator) for n in ((n_h, n_x), (n_h,), (n_y, n_h), (n_y,))))

    def last_tile(tile):
        m = tile * rows + left
        X, Y, weights, errors, dX = (zeros(m, 1, dtype=np.float16) for _ in range(5))
        for V, values in zip((X, Y, weights, errors), numbers, strict=True):
            V[-left:] = values
        p = Pass(Examples(X, Y), parameters, Objective("tanh", "regression"))
        p.errors, p.dX = errors, dX
        p.sums, p.costs = zeros(tile + 1, n_h * (n_x + 1 + n_y)), zeros(tile + 1, n_y + 2)
        p.grads, p.J, p.share = parameters, torch.zeros(()), torch.ones(())
        launch = p.launch(kernel, (1,), warps=4, sample_weight=weights, TILE=Tile(rows, 16, 64, 16))
        program(kernel, tile, axis, **launch.arguments)
        return errors[-left:], dX[-left:], p.sums[-1], p.costs[-1]

    expected = last_tile(0)
    assert any(V.any() for V in expected[1:]) or not torch.equal(expected[0], numbers[3])
    assert all(map(torch.equal, last_tile(1 << 27), expected))


@pytest.mark.parametrize("kernel", [triton_chunked.activations, triton_chunked.hidden_errors])
def test_the_last_units_of_a_chunk(kernel, program):
    n_h, m, left = (1 << 26) + (1 << 23) + 3, 32, 3
    arrays = [zeros(m, n_h, dtype=np.float16) for _ in range(2)]
    ends = torch.randn(2, m, left, generator=torch.Generator().manual_seed(0)).half()
    for V, end in zip(arrays, ends, strict=True):
        V[:, -left:] = end
    bias = zeros(n_h)
    bias[-left:] = torch.tensor([1.0, 2.0, 3.0])
    network = Network(None, bias, None, None, 1, n_h, 1, tl.constexpr("relu"), tl.constexpr("ieee"))
    given = {"Z1": arrays[0], "dA1": arrays[0], "A1": arrays[1], "m": m, "network": network}
    names = {name: given[name] for name in kernel.arg_names if name != "TILE"}
    program(kernel, (n_h - 1) // 128, **names, TILE=Tile(32, UNITS=128))
    true = (ends[0] + bias[-left:]).relu().half() if kernel is triton_chunked.activations else ends[0] * (ends[1] > 0)
    assert torch.equal(arrays[0][:, -left:], true)


def test_the_last_sums_of_many_slots(program):
    n_h, slots = 1 << 25, 33
    sums, costs = zeros(slots, 2 * n_h), zeros(1, 3)
    sums[:, -64:] = torch.arange(64)
    grads = Parameters(*(zeros(n) for n in (1, n_h, n_h, 1)))
    network, cost = (
        Network(None, None, None, None, 0, n_h, 1, None, None),
        Cost(tl.constexpr("binary"), None, None, 0.0),
    )
    J, share = torch.zeros(2)
    given = {"network": network, "cost": cost, "grads": grads, "J": J, "share": share, "MEAN": False, "BLOCK": 64}
    program(reduce, 2 * n_h // 64 - 1, sums=sums, slots=slots, costs=costs, cost_slots=1, **given)
    assert torch.equal(grads.W2[-64:], slots * torch.arange(64.0))


def test_the_cost_after_the_most_parameters(program):
    """It stands behind 2³¹ − 64 sums and ``db2``; its block reads none of the sums."""
    n_x, n_h, n_y = 1000, 1_082_401, 983
    n = n_h * (n_x + 1 + n_y)
    assert (1 << 31) - n == 64
    costs, found = torch.zeros(1, n_y + 2), torch.zeros(2)
    costs[0, n_y:] = torch.tensor([6.0, 2.0])  # J and Σ w
    network, cost = (
        Network(None, None, None, None, n_x, n_h, n_y, None, None),
        Cost(tl.constexpr("binary"), None, None, 0),
    )
    grads = Parameters(*(zeros(n) for n in (n_h * n_x, n_h, n_y * n_h, n_y)))
    given = {"network": network, "cost": cost, "grads": grads, "J": found[0], "share": found[1], "MEAN": True}
    sums = zeros(n)
    program(reduce, (n + n_y) // 64, sums=sums, slots=1, costs=costs, cost_slots=1, **given, BLOCK=64)
    assert found[0] == 3
