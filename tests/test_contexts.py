"""Contexts of images: against scipy and scikit-learn, against loops, and what they promise."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dctn
from sklearn.decomposition import PCA

from skqlvm.engine.hierarchy.contexts import CONTEXTS, cells

SHAPE = 2, 8, 12


@pytest.fixture
def x(generator):
    return torch.rand(40, *SHAPE, dtype=torch.float64, generator=generator)


def started(name, size, x, shape=SHAPE):
    context = CONTEXTS[name](shape, size)
    context.start(x)
    return context


def test_cosines_are_a_corner_of_the_transform_of_scipy_by_its_largest_values(x):
    context = started("dct", 5, x)
    corner = dctn(x.numpy(), axes=(2, 3), norm="ortho")[:, :, :5, :5]
    expected = corner / np.abs(corner).max(0)
    np.testing.assert_allclose(context(x).numpy(), expected, rtol=0, atol=1e-13)


def test_all_cosines_give_the_image_back_and_keep_its_length(generator):
    x = torch.rand(5, 1, 9, 9, dtype=torch.float64, generator=generator)
    context = started("dct", 9, x, (1, 9, 9))
    torch.testing.assert_close(context.to_image(context(x)), x, rtol=0, atol=1e-13)
    coefficients = context.coefficients(x)
    torch.testing.assert_close((coefficients**2).sum(), (x**2).sum(), rtol=1e-13, atol=0)


def test_a_constant_image_has_one_cosine():
    x = torch.full((3, *SHAPE), 0.3, dtype=torch.float64)
    coefficients = CONTEXTS["dct"](SHAPE, 4).coefficients(x)
    expected = torch.zeros_like(coefficients)
    expected[..., 0, 0] = 0.3 * (8 * 12) ** 0.5
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["dct", "pca"])
def test_what_training_images_lack_divides_nothing_by_zero(name, x):
    """Constant images have one frequency and, but for rounding, no direction."""
    levels = torch.linspace(0, 1, 30, dtype=torch.float64)
    context = started(name, 4, levels[:, None, None, None].expand(-1, *SHAPE))
    u = context(x)
    assert u.isfinite().all()
    assert u.abs().max() <= 1
    assert context.to_image(u).isfinite().all()


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_does_not_depend_on_the_batch(name, x):
    """Not even where others have values that are out of the ordinary."""
    context = started(name, 4, x)
    others = torch.cat([x[:1], -x[1:2], 1000 * x[2:3]])
    torch.testing.assert_close(context(x[:1])[0], context(others)[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", CONTEXTS)
def test_contexts_and_images_stay_within_their_bounds(name, x):
    context = started(name, 4, x)
    assert context.context_shape == (2, 4, 4)
    assert context(x).shape == (40, 2, 4, 4)
    strange = context(3 * x - 1)
    assert strange.abs().max() == 1
    images = context.to_image(2 * strange)
    assert images.shape == (40, *SHAPE)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("name", CONTEXTS)
def test_contexts_of_single_precision_are_as_exact(name, x):
    context = started(name, 4, x)
    single = context(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, context(x).float(), rtol=0, atol=2e-6)


def test_means_of_cells_are_those_of_average_pooling(x):
    context = CONTEXTS["downsample"]((2, 8, 12), 4)
    expected = 2 * F.avg_pool2d(x, (2, 3)) - 1
    torch.testing.assert_close(context(x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("n", "size"), [(28, 5), (7, 7), (5, 3)])
def test_cells_share_the_pixels_on_their_borders(n, size):
    """As if every pixel was first cut into as many as there are cells."""
    fine = torch.eye(n, dtype=torch.float64).repeat_interleave(size, 0)
    expected = torch.stack([part.mean(0) for part in fine.split(n)])
    torch.testing.assert_close(cells(n, size), expected, rtol=0, atol=1e-15)


def test_principal_components_are_those_of_scikit_learn(x):
    context = started("pca", 4, x)
    rows = x.flatten(1).numpy()
    oracle = PCA(32, svd_solver="full").fit(rows)
    components = oracle.components_
    signs = np.sign(np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1))
    expected = oracle.transform(rows) * signs.T
    expected /= np.abs(expected).max(0)
    np.testing.assert_allclose(context(x).flatten(1).numpy(), expected, rtol=0, atol=1e-8)
    back = oracle.inverse_transform(oracle.transform(rows)).clip(0, 1)
    np.testing.assert_allclose(context.to_image(context(x)).flatten(1), back, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", CONTEXTS)
def test_what_was_learned_goes_with_the_state(name, x):
    context, other = started(name, 3, x), CONTEXTS[name](SHAPE, 3)
    other.load_state_dict(context.state_dict())
    torch.testing.assert_close(other(x), context(x), rtol=0, atol=0)


@pytest.mark.parametrize("size", [0, 9])
def test_a_context_is_no_larger_than_the_image(size):
    with pytest.raises(ValueError, match=f"which is 8 x 12, but got {size}"):
        CONTEXTS["dct"](SHAPE, size)
