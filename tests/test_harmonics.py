"""The basis of the torus."""

from itertools import product
from math import pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skqlvm.engine import harmonics, lattices


@pytest.mark.parametrize("k", [1, 2, 3])
def test_basis_of_order_one_is_cosines_then_sines(k, generator):
    z = torch.rand(7, k, dtype=torch.float64, generator=generator)
    expected = torch.cat([(2 * pi * z).cos(), (2 * pi * z).sin()], 1)
    torch.testing.assert_close(harmonics.TorusBasis(k)(z), expected, rtol=0, atol=1e-14)


@given(k=st.integers(1, 3), order=st.integers(1, 6))
def test_basis_has_one_of_each_pair_of_harmonics_in_rising_order(k, order):
    basis = harmonics.TorusBasis(k, order)
    half = [tuple(int(entry) for entry in h) for h in basis.harmonics]
    expected = {
        h for h in product(range(-order, order + 1), repeat=k) if 1 <= sum(map(abs, h)) <= order
    }
    opposites = {tuple(-entry for entry in h) for h in half}
    assert set(half) | opposites == expected
    assert not set(half) & opposites
    degrees = [sum(map(abs, h)) for h in half]
    assert degrees == sorted(degrees)
    assert all(next(entry for entry in h if entry) > 0 for h in half)
    assert basis.n_features == 2 * len(half) == len(expected)


@pytest.mark.parametrize(
    ("k", "order", "n_features"),
    [(1, 7, 14), (2, 1, 4), (2, 6, 84), (2, 8, 144), (3, 1, 6), (3, 2, 24)],
)
def test_basis_counts_its_features(k, order, n_features):
    basis = harmonics.TorusBasis(k, order)
    assert basis.n_features == n_features
    assert basis(torch.zeros(5, 3, k)).shape == (5, 3, n_features)


@given(
    k=st.integers(1, 3), order=st.integers(1, 5), decay=st.floats(-1, 2), seed=st.integers(0, 99)
)
def test_basis_is_the_formula_on_any_leading_axes(k, order, decay, seed):
    z = torch.rand(5, 3, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis = harmonics.TorusBasis(k, order, decay)
    waves = [
        sum(map(abs, h)) ** -decay
        * torch.exp(2j * pi * sum(entry * z[..., axis] for axis, entry in enumerate(h)))
        for h in basis.harmonics.tolist()
    ]
    expected = torch.stack([wave.real for wave in waves] + [wave.imag for wave in waves], -1)
    torch.testing.assert_close(basis(z), expected, rtol=1e-12, atol=1e-13)


@given(
    k=st.integers(1, 3),
    order=st.integers(1, 5),
    passed=st.floats(1, 5),
    decay=st.sampled_from([0.0, 0.5]),
)
def test_open_lets_harmonics_pass_up_to_an_order_and_the_next_in_part(k, order, passed, decay):
    z = torch.rand(7, k, dtype=torch.float64)
    basis = harmonics.TorusBasis(k, order, decay)
    whole = basis(z)
    basis.open(passed)
    degrees = [sum(map(abs, h)) for h in basis.harmonics.tolist()] * 2
    share = torch.tensor(
        [1.0 if s <= passed else max(0.0, passed + 1 - s) for s in degrees], dtype=torch.float64
    )
    torch.testing.assert_close(basis(z), whole * share, rtol=1e-12, atol=1e-14)
    basis.open(order)
    assert torch.equal(basis(z), whole)


@pytest.mark.parametrize(("k", "m", "order"), [(1, 233, 7), (2, 610, 8), (3, 1021, 4)])
def test_harmonics_are_orthonormal_on_the_lattice(k, m, order):
    basis = harmonics.TorusBasis(k, order)
    features = 2**0.5 * basis(lattices.lattice(k, m))
    torch.testing.assert_close(
        features.T @ features / m,
        torch.eye(basis.n_features, dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )
    torch.testing.assert_close(
        features.mean(0), torch.zeros(basis.n_features, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_basis_is_precise_however_coarse_the_matrix_products(precision, device, request):
    before = torch.get_float32_matmul_precision()
    request.addfinalizer(lambda: torch.set_float32_matmul_precision(before))
    z, basis = lattices.lattice(2, 987), harmonics.TorusBasis(2, 8)
    torch.set_float32_matmul_precision(precision)
    features = basis.to(device)(z.float().to(device)).cpu()
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.double(), harmonics.TorusBasis(2, 8)(z), rtol=0, atol=2e-5)
