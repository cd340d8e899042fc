"""Decoders and encoders."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skqlvm.engine import harmonics, lattices, networks, precision

DECODERS = {
    "mlp": lambda k, order=3: networks.MLPDecoder(k, 30, (11, 7), order),
    "linear": lambda k, order=3: networks.MLPDecoder(k, 30, (), order),
    "conv": lambda k, order=3: networks.ConvDecoder(k, 30, (2, 3, 5), (11,), order, n_channels=6),
}


@pytest.fixture(params=DECODERS)
def decoder(request):
    """A decoder from 2 coordinates to 30 outputs, in float64."""
    return DECODERS[request.param](2).double()


@pytest.fixture
def z(generator):
    return torch.rand(13, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", DECODERS)
def test_anneal_opens_every_basis_from_the_first_order_to_all(name, device):
    z = torch.rand(7, 2).to(device)
    module = nn.ModuleDict({"decoder": DECODERS[name](2, 4), "other": nn.Linear(2, 3)}).to(device)
    (basis,) = [part for part in module.modules() if isinstance(part, harmonics.TorusBasis)]
    whole, outputs, norms = basis(z), module["decoder"](z), []
    for fraction in (0.0, 0.1, 0.3, 0.5, 1.0):
        harmonics.anneal(module, fraction)
        norms.append(basis(z).norm().item())
    assert norms[0] < norms[1] < norms[2] < norms[3] == norms[4]
    assert torch.equal(module["decoder"](z), outputs)
    harmonics.anneal(module, 0.0)
    first = torch.tensor(
        [sum(map(abs, h)) == 1 for h in basis.harmonics.tolist()] * 2, device=device
    )
    assert torch.equal(basis(z), whole * first)


def test_open_harmonics_are_part_of_the_state(decoder, z):
    harmonics.anneal(decoder, 0.2)
    state, outputs = (
        {name: value.clone() for name, value in decoder.state_dict().items()},
        decoder(z),
    )
    harmonics.anneal(decoder, 1.0)
    assert not torch.equal(decoder(z), outputs)
    decoder.load_state_dict(state)
    assert torch.equal(decoder(z), outputs)


def test_decoder_repeats_after_whole_turns(decoder, z):
    turns = torch.tensor([[1.0, 0.0], [-2.0, 3.0]], dtype=torch.float64)
    for turn in turns:
        torch.testing.assert_close(decoder(z + turn), decoder(z), rtol=0, atol=1e-11)


def test_decoder_is_continuous_at_the_seam(decoder):
    below, above = (
        torch.tensor([[1 - 1e-9, 0.3]], dtype=torch.float64),
        torch.tensor([[1e-9, 0.3]], dtype=torch.float64),
    )
    assert (decoder(below) - decoder(above)).abs().max() < 1e-6


def test_decoder_starts_around_the_mean_of_the_data_and_within_their_scale(decoder):
    """The same for all architectures; and not the same everywhere, which would be a saddle of the
    marginal likelihood."""
    outputs = decoder(lattices.lattice(2, 987)).detach()
    assert outputs.shape == (987, 30)
    assert outputs.mean().abs() < 0.1 * outputs.std()
    assert outputs.std().item() == pytest.approx(networks._FIRST_SPREAD, rel=0.15)
    assert 0.01 < networks._FIRST_SPREAD <= 1
    assert outputs.std(0).mean() > 0.05 * outputs.std()


def test_decoder_of_narrow_layers_starts_finite():
    """Rectifiers that are off all over the torus leave an output without variance."""
    for seed in range(20):
        torch.manual_seed(seed)
        decoder = networks.MLPDecoder(2, 3, (2, 2), 1)
        assert all(parameter.isfinite().all() for parameter in decoder.parameters()), seed


def test_decoder_decodes_each_point_for_itself(decoder, z):
    """In training mode as well: no statistics of a batch."""
    together = decoder.train()(z)
    torch.testing.assert_close(
        torch.cat([decoder(point[None]) for point in z]), together, rtol=0, atol=1e-12
    )
    order = torch.arange(12, -1, -1)
    torch.testing.assert_close(decoder(z[order]), together[order], rtol=0, atol=1e-12)


def test_decoder_keeps_nothing_between_calls(decoder, z):
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    decoder.train()(z)
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())


def test_every_parameter_of_a_decoder_has_a_gradient(decoder, z):
    decoder(z).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in decoder.parameters())


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_decoder_takes_any_number_of_components(name, k, device):
    decoder = DECODERS[name](k).to(device)
    outputs = decoder(torch.zeros(5, k, device=device))
    assert outputs.shape == (5, 30)
    assert (outputs.dtype, outputs.device.type) == (torch.float32, torch.device(device).type)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_of_higher_order_takes_more_harmonics(name):
    first = [
        next(p for p in DECODERS[name](2, order).parameters() if p.ndim == 2) for order in (1, 5)
    ]
    assert [weight.shape[1] for weight in first] == [4, 60]


def test_mlp_equals_its_formula_and_takes_leading_axes(generator):
    decoder = networks.MLPDecoder(2, 5, (11, 7), 3).double()
    z = torch.rand(3, 13, 2, dtype=torch.float64, generator=generator)
    w1, b1, w2, b2, w3, b3 = decoder.parameters()
    assert [w.shape for w in (w1, w2, w3)] == [(11, 24), (7, 11), (5, 7)]
    basis = next(module for module in decoder.modules() if isinstance(module, harmonics.TorusBasis))
    hidden = (basis(z) @ w1.T + b1).clamp(min=0)
    expected = (hidden @ w2.T + b2).clamp(min=0) @ w3.T + b3
    torch.testing.assert_close(decoder(z), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", DECODERS)
def test_coarse_products_change_float32_outputs_and_gradients_little(name, generator, device):
    decoder, z = DECODERS[name](2).to(device), torch.rand(101, 2, generator=generator).to(device)

    def outputs_and_gradient():
        outputs = decoder(z)
        return outputs.detach(), torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(outputs.square().mean(), decoder.parameters())
            ]
        )

    exact = outputs_and_gradient()
    networks.allow_bfloat16(decoder, True)
    coarse = outputs_and_gradient()
    for one, other in zip(coarse, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.04 * other.norm()


def test_coarse_products_leave_float64_alone(decoder, z):
    expected = decoder(z)
    networks.allow_bfloat16(decoder, True)
    assert decoder.training
    assert torch.equal(decoder(z), expected)


@pytest.mark.parametrize(
    "image_shape", [(1, 1, 1), (1, 4, 8), (3, 5, 7), (2, 11, 3), (1, 13, 17), (1, 28, 28)]
)
def test_conv_makes_images_of_any_size(image_shape):
    channels, height, width = image_shape
    decoder = networks.ConvDecoder(2, channels * height * width, image_shape, (5,), 1, n_channels=4)
    assert decoder(torch.rand(3, 2)).shape == (3, channels * height * width)


def test_conv_rows_are_channels_then_rows_then_columns(z):
    """Without weights in the last layer, each channel is its bias."""
    decoder = networks.ConvDecoder(2, 3 * 5 * 7, (3, 5, 7), (11,), 2).double()
    with torch.no_grad():
        decoder.upsample[-1].weight.zero_()
        decoder.upsample[-1].bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    images = decoder(z).detach().reshape(13, 3, 5, 7)
    assert torch.equal(
        images,
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None, None].expand(13, 3, 5, 7),
    )


def test_conv_image_of_odd_size_is_the_corner_of_the_whole(z):
    whole = networks.ConvDecoder(2, 2 * 8 * 12, (2, 8, 12), (11,), 2)
    cropped = networks.ConvDecoder(2, 2 * 5 * 11, (2, 5, 11), (11,), 2)
    cropped.load_state_dict(whole.state_dict())
    expected = whole.double()(z).reshape(13, 2, 8, 12)[:, :, :5, :11]
    torch.testing.assert_close(cropped.double()(z).reshape(13, 2, 5, 11), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_has_no_batch_normalisation(name):
    assert not [
        module
        for module in DECODERS[name](2).modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
    ]


# decoders of a Euclidean space


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_without_a_torus_takes_points_as_they_are(name, generator):
    decoder = DECODERS[name](2, None).double()
    assert not [module for module in decoder.modules() if isinstance(module, harmonics.TorusBasis)]
    assert next(p for p in decoder.parameters() if p.ndim == 2).shape[1] == 2
    z = torch.randn(13, 2, dtype=torch.float64, generator=generator)
    assert decoder(z).shape == (13, 30)
    assert (decoder(z + 1) - decoder(z)).abs().max() > 1e-4
    decoder(z).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in decoder.parameters())


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_without_a_torus_starts_within_the_scale_of_the_data_under_the_normal_prior(name):
    outputs = DECODERS[name](2, None)(torch.randn(2003, 2)).detach()
    assert outputs.mean().abs() < 0.2 * outputs.std()
    assert outputs.std().item() == pytest.approx(networks._FIRST_SPREAD, rel=0.25)


def test_linear_decoder_without_a_torus_is_affine(generator):
    decoder = networks.MLPDecoder(3, 5, (), None).double()
    weight, bias = decoder.parameters()
    z = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(decoder(z), z @ weight.T + bias, rtol=0, atol=1e-13)


def test_anneal_leaves_a_decoder_without_a_torus_alone(z):
    decoder = networks.MLPDecoder(2, 5, (7,), None).double()
    before = decoder(z)
    harmonics.anneal(decoder, 0.1)
    assert torch.equal(decoder(z), before)


# encoders

ENCODERS = {
    "mlp": lambda: networks.MLPEncoder(30, 7, (11, 13)),
    "linear": lambda: networks.MLPEncoder(30, 7, ()),
    "conv": lambda: networks.ConvEncoder(30, 7, (2, 3, 5), (11,), n_channels=6),
}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    """An encoder from 30 features to 7 outputs, in float64."""
    return ENCODERS[request.param]().double()


@pytest.fixture
def x(generator):
    return torch.randn(13, 30, dtype=torch.float64, generator=generator)


def test_encoder_encodes_each_row_for_itself(encoder, x):
    together = encoder.train()(x)
    assert together.shape == (13, 7)
    torch.testing.assert_close(
        torch.cat([encoder(row[None]) for row in x]), together, rtol=0, atol=1e-12
    )
    order = torch.arange(12, -1, -1)
    torch.testing.assert_close(encoder(x[order]), together[order], rtol=0, atol=1e-12)


def test_every_parameter_of_an_encoder_has_a_gradient(encoder, x):
    encoder(x).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in encoder.parameters())


def test_encoder_keeps_nothing_between_calls_and_draws_nothing(encoder, x):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert torch.equal(encoder.train()(x), encoder.eval()(x))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not [
        module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._NormBase)
    ]


def test_mlp_encoder_equals_its_formula(x):
    encoder = networks.MLPEncoder(30, 7, (11, 13)).double()
    w1, b1, w2, b2, w3, b3 = encoder.parameters()
    assert [w.shape for w in (w1, w2, w3)] == [(11, 30), (13, 11), (7, 13)]
    hidden = ((x @ w1.T + b1).clamp(min=0) @ w2.T + b2).clamp(min=0)
    torch.testing.assert_close(encoder(x), hidden @ w3.T + b3, rtol=0, atol=1e-13)


def test_linear_encoder_is_affine(x):
    encoder = networks.MLPEncoder(30, 7, ()).double()
    weight, bias = encoder.parameters()
    torch.testing.assert_close(encoder(x), x @ weight.T + bias, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "image_shape", [(1, 1, 1), (1, 4, 8), (3, 5, 7), (2, 11, 3), (1, 13, 17), (1, 28, 28)]
)
def test_conv_encoder_reads_images_of_any_size(image_shape, generator):
    channels, height, width = image_shape
    n_features = channels * height * width
    encoder = networks.ConvEncoder(n_features, 5, image_shape, (7,), n_channels=4).double()
    assert encoder(torch.randn(3, n_features, dtype=torch.float64, generator=generator)).shape == (
        3,
        5,
    )


def test_conv_encoder_sees_every_pixel_of_an_odd_image(generator):
    """The border is padded, not cropped."""
    encoder = networks.ConvEncoder(5 * 7, 11, (1, 5, 7), (13,), n_channels=8).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.abs_()
    x = torch.rand(1, 35, dtype=torch.float64, generator=generator).requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(x).sum(), x)
    assert (gradient > 0).all()


def test_conv_encoder_of_an_odd_image_is_that_of_the_image_with_zeros_at_its_ends(generator):
    odd = networks.ConvEncoder(2 * 5 * 11, 7, (2, 5, 11), (13,)).double()
    even = networks.ConvEncoder(2 * 8 * 12, 7, (2, 8, 12), (13,)).double()
    even.load_state_dict(odd.state_dict())
    x = torch.randn(3, 2, 5, 11, dtype=torch.float64, generator=generator)
    padded = torch.zeros(3, 2, 8, 12, dtype=torch.float64)
    padded[:, :, :5, :11] = x
    torch.testing.assert_close(odd(x.flatten(1)), even(padded.flatten(1)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("network", [networks.ConvDecoder, networks.ConvEncoder])
def test_conv_refuses_an_image_shape_of_another_size(network):
    sizes = (2, 30) if network is networks.ConvDecoder else (30, 2)
    with pytest.raises(ValueError, match=r"image_shape expects 30 values, but got \(1, 5, 5\)"):
        network(*sizes, (1, 5, 5))


@pytest.mark.parametrize("name", ENCODERS)
def test_coarse_products_change_float32_encoders_little(name, generator, device):
    encoder, x = ENCODERS[name]().to(device), torch.randn(101, 30, generator=generator).to(device)

    def outputs_and_gradient():
        outputs = encoder(x)
        return outputs.detach(), torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(outputs.square().mean(), encoder.parameters())
            ]
        )

    exact = outputs_and_gradient()
    networks.allow_bfloat16(encoder, True)
    coarse = outputs_and_gradient()
    for one, other in zip(coarse, exact, strict=True):
        assert (one.dtype, one.device.type) == (torch.float32, torch.device(device).type)
        assert (one - other).norm() < 0.04 * other.norm()


def test_coarse_products_leave_float64_encoders_alone(encoder, x):
    expected = encoder(x)
    networks.allow_bfloat16(encoder, True)
    assert encoder.training
    assert torch.equal(encoder(x), expected)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_layers_round_in_training_only_and_only_if_allowed(kind, z):
    shape = (1, 4, 4)
    decoders = {
        "mlp": lambda: networks.MLPDecoder(2, 16, (64,), 3),
        "conv": lambda: networks.ConvDecoder(2, 16, shape, (64,), 3),
    }
    decoder, x = decoders[kind](), torch.rand(101, 2)
    exact = decoder(x)
    networks.allow_bfloat16(decoder, True)
    assert torch.equal(decoder.eval()(x), exact)
    multiplies = precision.multiplies_bfloat16(torch.device("cpu"))
    assert torch.equal(decoder.train()(x), exact) != multiplies
    networks.allow_bfloat16(decoder, False)
    assert torch.equal(decoder(x), exact)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_last_layer_of_an_encoder_rounds_nothing(name, generator, monkeypatch):
    """Its inputs are rounded, as the layers before it are; on any processor, natively or not."""
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    encoder, seen = ENCODERS[name](), []
    last = encoder.end.output if name == "conv" else encoder.output
    last.register_forward_hook(lambda layer, inputs, output: seen.append((*inputs, output)))
    networks.allow_bfloat16(encoder.float().train(), True)
    result = encoder(torch.randn(7, 30, generator=generator))
    [(features, output)] = seen
    assert features.dtype == result.dtype == torch.float32
    assert torch.equal(features, features.bfloat16().float())
    assert torch.equal(result, output)
    assert torch.equal(result, F.linear(features, last.weight, last.bias))


PARTS = [
    lambda generator: networks.MLPDecoder(2, 3, generator=generator),
    lambda generator: networks.MLPDecoder(2, 3, order=None, generator=generator),
    lambda generator: networks.ConvDecoder(2, 30, (1, 5, 6), generator=generator),
    lambda generator: networks.MLPEncoder(3, 5, generator=generator),
    lambda generator: networks.ConvEncoder(30, 5, (1, 5, 6), generator=generator),
]


@pytest.mark.parametrize("make", PARTS)
def test_first_weights_come_from_the_generator_alone(make):
    before = torch.get_rng_state()
    first, again, other = (make(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for one, same, another in zip(*map(nn.Module.parameters, (first, again, other)), strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, another)


@pytest.mark.parametrize("make", PARTS)
def test_networks_are_float32_whatever_the_process_prefers(make, request):
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    torch.set_default_dtype(torch.float64)
    assert {parameter.dtype for parameter in make(None).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("ours", "library"),
    [
        (lambda: networks._linear(7, 1009, None), lambda: nn.Linear(7, 1009)),
        (
            lambda: networks._convolution(nn.Conv2d, 3, 101, None),
            lambda: nn.Conv2d(3, 101, 4, 2, 1),
        ),
        (
            lambda: networks._convolution(nn.ConvTranspose2d, 101, 3, None),
            lambda: nn.ConvTranspose2d(101, 3, 4, 2, 1),
        ),
    ],
)
def test_first_weights_are_spread_as_by_torch(ours, library):
    for one, other in zip(ours().parameters(), library().parameters(), strict=True):
        assert one.shape == other.shape
        if one.numel() > 100:
            assert one.abs().max().item() == pytest.approx(other.abs().max().item(), rel=0.05)
            assert one.std().item() == pytest.approx(other.std().item(), rel=0.1)
