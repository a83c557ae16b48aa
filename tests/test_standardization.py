"""Standardisation: the statistics, and the units on the way back."""

import pytest
import torch
from torch.testing import assert_close

from twolayer.training.standardization import Standardize


def test_standardised_features_have_mean_zero_and_deviation_one():
    X = torch.randn(101, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.01]) + 50
    Z = Standardize(3).fit(X)(X).double()
    # 50 / 0.01 · 2⁻²⁴ bounds what float32 leaves of the third feature, whose mean is 5000 deviations away.
    assert_close(Z.mean(0), torch.zeros(3, dtype=torch.double), atol=1e-3, rtol=0)
    assert_close(Z.std(0, correction=0), torch.ones(3, dtype=torch.double), atol=1e-3, rtol=0)


def test_inverse_undoes():
    X = torch.tensor([[1.0, -4.0], [3.0, 8.0], [8.0, 0.0]])
    standardize = Standardize(2).fit(X)
    assert_close(standardize.inverse(standardize(X)), X)


def test_a_constant_feature_is_only_centred():
    standardize = Standardize(1).fit(torch.full((4, 1), 7.0))
    assert_close(standardize(torch.tensor([[9.0]])), torch.tensor([[2.0]]))


def test_statistics_travel_in_the_state_dict():
    fitted = Standardize(2).fit(torch.tensor([[0.0, 1.0], [2.0, 9.0]]))
    fresh = Standardize(2)
    fresh.load_state_dict(fitted.state_dict())
    X = torch.tensor([[5.0, 5.0]])
    assert torch.equal(fresh(X), fitted(X))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (torch.zeros(3), r"shape \(m, 2\).*\(3,\)"),
        (torch.zeros(0, 2), r"m ≥ 1, got \(0, 2\)"),
        (torch.zeros(3, 1), r"got \(3, 1\)"),
        (torch.tensor([[0.0, float("nan")]]), "finite"),
    ],
)
def test_bad_input_is_named(X, message):
    with pytest.raises(ValueError, match=message):
        Standardize(2).fit(X)
