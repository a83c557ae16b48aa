import pytest
import torch
from problems import MODULES

from twolayer.activations import ACTIVATIONS

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
KINKED = {"relu": 0.0, "leaky_relu": 0.01}
SMOOTH = ["sigmoid", "tanh"]


def through_torch(name, Z):
    """PyTorch's ``g(Z)`` and ``g'(Z)``."""
    Z = Z.clone().requires_grad_()
    A = MODULES[name]()(Z)
    (prime,) = torch.autograd.grad(A, Z, torch.ones_like(A))
    return A.detach(), prime


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_value_equals_that_of_the_module(name, dtype, device):
    Z = torch.linspace(-5, 5, 101, dtype=dtype, device=device)
    A = ACTIVATIONS[name](Z)
    assert A.dtype == dtype
    assert torch.equal(A, through_torch(name, Z)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_prime_of_the_value_is_the_derivative(name, dtype, device):
    Z = torch.linspace(-5, 5, 101, dtype=dtype, device=device)
    A, truth = through_torch(name, Z)
    prime = ACTIVATIONS[name].prime(A)
    assert prime.dtype == dtype
    # 1 − A² and A (1 − A) round A² (at most 1) and the difference once each: two halves of eps in all, and PyTorch
    # the same in its own order, half precision once more at the end.
    torch.testing.assert_close(prime, truth, rtol=0, atol=3 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("name", KINKED)
def test_at_the_kink_prime_is_what_torch_takes(name, zero, dtype, device):
    Z = torch.full((3,), zero, dtype=dtype, device=device)
    A, truth = through_torch(name, Z)
    prime = ACTIVATIONS[name].prime(A)
    assert torch.equal(prime, truth)
    assert torch.equal(prime, torch.full_like(Z, KINKED[name]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINKED)
def test_slopes_are_exact_in_every_dtype(name, dtype, device):
    A = ACTIVATIONS[name](torch.tensor([-2.0, 3.0], dtype=dtype, device=device))
    expected = torch.tensor([KINKED[name], 1.0], dtype=dtype, device=device)
    assert torch.equal(ACTIVATIONS[name].prime(A), expected)


@pytest.mark.parametrize("name", SMOOTH)
def test_the_smooth_ones_saturate_for_large_inputs(name, device):
    g = ACTIVATIONS[name]
    Z = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], dtype=torch.float64, device=device)
    prime = g.prime(g(Z))
    assert prime[[0, 4]].tolist() == [0.0, 0.0]
    assert prime.argmax() == 2


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_neither_part_changes_its_argument(name):
    Z = torch.linspace(-2, 2, 5)
    before = Z.clone()
    ACTIVATIONS[name].prime(ACTIVATIONS[name](Z))
    assert torch.equal(Z, before)
