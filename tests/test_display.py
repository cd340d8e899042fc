"""Displays: artists have the data that they should, and errors leave no figure open."""

import subprocess
import sys

import numpy as np
import pytest

from skqlvm import QLVMEmbedding, VAEEmbedding, display, torus
from skqlvm.display.panels import Space, unrolled
from skqlvm.display.tiles import Tiles

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning")

N = 31


@pytest.fixture(autouse=True)
def figures():
    """Every test closes its figures; those that a display leaves open after an error remain."""
    yield
    pyplot.close("all")


def data():
    return np.random.default_rng(0).random((N, 6))


@pytest.fixture(scope="module")
def models():
    quick = {"max_iter": 1, "random_state": 0}
    found = {k: QLVMEmbedding(k, n_points=5, **quick).fit(data()) for k in (1, 2, 3)}
    return found | {"normal": VAEEmbedding(2, **quick).fit(data())}


def drawn(show):
    """Render what a display shows: matplotlib finds some mistakes only then."""
    show.figure_.canvas.draw()
    return show


def a_torus(n=N, k=2, seed=1):
    return np.random.default_rng(seed).random((n, k))


def displays(model, X, ax=None):
    """Every display of a model that takes one pair of axes, by name."""
    return {
        "embedding": lambda: display.EmbeddingDisplay.from_estimator(model, X, ax=ax),
        "manifold": lambda: display.ManifoldDisplay.from_estimator(model, n_tiles=3, ax=ax),
        "jacobian": lambda: display.JacobianDisplay.from_estimator(model, n_points=4, ax=ax),
        "posterior": lambda: display.PosteriorDisplay.from_estimator(model, X[:1], ax=ax),
        "history": lambda: display.HistoryDisplay.from_estimator(model, ax=ax),
    }


NAMES = sorted(displays(None, None))


@pytest.mark.parametrize("which", [1, 2, 3, "normal"])
@pytest.mark.parametrize("name", NAMES)
def test_every_display_draws_every_latent_space(name, which, models):
    if (name, which) == ("posterior", 3):
        pytest.skip("posteriors are drawn of one and two dimensions")
    show = drawn(displays(models[which], data())[name]())
    assert show.figure_ is np.ravel(show.ax_)[0].figure
    assert pyplot.get_fignums() == [show.figure_.number]


@pytest.mark.parametrize("name", NAMES)
def test_given_axes_are_used_and_no_figure_is_made(name, models):
    ax = Figure().subplots()
    show = drawn(displays(models[2], data(), ax)[name]())
    assert show.ax_ is ax
    assert show.figure_ is ax.figure
    assert not pyplot.get_fignums()
    assert show.plot() is show
    assert show.ax_ is not ax


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ax", ["here", [None, None]])
def test_what_are_no_axes_is_refused(name, ax, models):
    with pytest.raises(ValueError, match="ax expects matplotlib axes"):
        displays(models[2], data(), ax)[name]()
    assert not pyplot.get_fignums()


def test_margins_repeat_what_lies_at_the_opposite_edges():
    Z = np.array([[0.02, 0.5], [0.97, 0.98], [0.5, 0.5]])
    points, rows = unrolled(Z, 0.05)
    copies = {(*point.round(9), row) for point, row in zip(points, rows, strict=True)}
    assert copies == {
        (0.02, 0.5, 0),
        (1.02, 0.5, 0),
        (0.97, 0.98, 1),
        (-0.03, 0.98, 1),
        (0.97, -0.02, 1),
        (-0.03, -0.02, 1),
        (0.5, 0.5, 2),
    }


def test_every_copy_in_the_window_is_there():
    """Of points shifted by -1, 0 and 1 in each dimension, those in the window, and no others."""
    Z, margin = a_torus(200, 3), 0.2
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 1, 3)
    expected = (Z + shifts).reshape(-1, 3)
    inside = ((expected > -margin) & (expected < 1 + margin)).all(1)
    points, rows = unrolled(Z, margin)
    np.testing.assert_allclose(torus.distance(points, Z[rows]), 0, atol=1e-12)
    assert set(map(tuple, points.round(9))) == set(map(tuple, expected[inside].round(9)))
    assert len(points) == inside.sum()


def test_dots_lie_at_the_coordinates_in_the_colours_of_their_class(models):
    y = np.arange(N) % 3
    show = display.EmbeddingDisplay.from_estimator(models[2], data(), y, name="kind", margin=0.0)
    [dots] = show.artists_
    np.testing.assert_allclose(dots.get_offsets(), models[2].coordinates(data()))
    tab10 = np.array(matplotlib.colormaps["tab10"].colors)
    np.testing.assert_allclose(dots.get_facecolors()[:, :3], tab10[y])
    assert [text.get_text() for text in show.legend_.get_texts()] == ["0", "1", "2"]
    assert show.legend_.get_title().get_text() == "kind"
    assert show.ax_.get_xlim() == show.ax_.get_ylim() == (0, 1)


@pytest.mark.parametrize("what", ["nats", "entropy"])
def test_values_that_a_model_knows_have_a_scale(what, models):
    show = display.EmbeddingDisplay.from_estimator(models[2], data(), what)
    nats = models[2].score_samples(data())
    values = nats if what == "nats" else models[2].posterior_summary(data())["entropy"]
    norm = show.legend_.mappable.norm
    np.testing.assert_allclose([norm.vmin, norm.vmax], np.percentile(values, [1, 99]))
    assert show.legend_.ax.get_ylabel() == what


def test_maps_that_are_no_torus_are_not_repeated():
    Z = 5 * a_torus() - 7
    show = drawn(display.EmbeddingDisplay.from_predictions(Z, period=None))
    np.testing.assert_allclose(show.artists_[0].get_offsets(), Z)
    assert show.ax_.get_xlim()[0] < Z[:, 0].min()
    assert not show.ax_.patches
    assert show.legend_ is None


def test_coordinates_of_any_turn_are_wrapped():
    Z = a_torus()
    one, other = (display.EmbeddingDisplay.from_predictions(z) for z in (Z, Z + np.array([3, -2])))
    np.testing.assert_allclose(one.artists_[0].get_offsets(), other.artists_[0].get_offsets())


def test_three_dimensions_are_seen_from_three_sides():
    Z, axes = a_torus(k=3), Figure().subplots(1, 3)
    show = display.EmbeddingDisplay.from_predictions(Z, margin=0, ax=axes)
    for artist, pair in zip(show.artists_, [(0, 1), (0, 2), (1, 2)], strict=True):
        np.testing.assert_allclose(artist.get_offsets(), Z[:, pair])
    with pytest.raises(ValueError, match="ax expects 3 matplotlib axes"):
        display.EmbeddingDisplay.from_predictions(Z, ax=Figure().subplots())


def test_one_dimension_has_lanes_and_a_histogram():
    Z, y = a_torus(k=1), np.arange(N) % 3
    show = drawn(display.EmbeddingDisplay.from_predictions(Z, y))
    above, _ = show.ax_
    assert sum(bar.get_height() for bar in above.patches if bar.get_width() < 0.05) == N
    x, lane = show.artists_[0].get_offsets().T
    assert x.min() < 0 < 1 < x.max()
    np.testing.assert_array_equal(np.rint(lane[:N]), y)
    alone = display.EmbeddingDisplay.from_predictions(Z, y, ax=Figure().subplots())
    np.testing.assert_allclose(alone.artists_[0].get_offsets(), show.artists_[0].get_offsets())


def test_many_rows_are_shaded_by_density_and_mean_colour():
    n = 120_000
    Z = np.full((n, 2), [0.505, 0.25])
    Z[:10] = [0.0117, 0.9907]
    y = np.where(np.arange(n) % 2, "a", "b")
    show = drawn(display.EmbeddingDisplay.from_predictions(Z, y, margin=0.1))
    image = show.artists_[0].get_array()
    low, high, size = -0.1, 1.1, len(image)
    assert show.artists_[0].get_extent() == [low, high, low, high]

    def pixel(x, y):
        at = ((np.array([y, x]) - low) / (high - low) * size).astype(int)
        return image[tuple(at)]

    tab10 = np.array(matplotlib.colormaps["tab10"].colors)
    np.testing.assert_allclose(pixel(0.505, 0.25), [*tab10[:2].mean(0), 1], atol=1e-3)
    for copy in np.stack(np.meshgrid([0.0117, 1.0117], [0.9907, -0.0093]), -1).reshape(-1, 2):
        assert 0.15 < pixel(*copy)[3] < 0.9
    assert (image[..., 3] > 0).sum() == 5


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((4, 4)),), {}, r"Z expects finite coordinates of shape \(n_points, 1 to 3\)"),
        ((np.full((4, 2), np.nan),), {}, "Z expects finite coordinates"),
        ((a_torus(), [1, 2]), {}, "values expects one for each of the 31 rows"),
        ((a_torus(),), {"margin": 0.7}, "margin expects a number from 0 to 0.5"),
    ],
)
def test_bad_coordinates_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        display.EmbeddingDisplay.from_predictions(*arguments, **options)


def test_unknown_values_are_refused(models):
    with pytest.raises(ValueError, match="values expects an array, 'nats' or 'entropy'"):
        display.EmbeddingDisplay.from_estimator(models[2], data(), "loss")
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("which", [2, "normal"])
def test_tiles_lie_where_they_decode_from(which, models):
    model = models[which]
    show = display.ManifoldDisplay.from_estimator(
        model, n_tiles=5, image_shape=(2, 3), grey_limits=(-1, 2)
    )
    low, high = show.ax_.get_xlim()
    center = [low + (high - low) * t for t in (0.7, 0.3)]
    there = model.inverse_transform([center])[0]
    np.testing.assert_allclose(show.decoded[0][1, 3], there, rtol=1e-5, atol=1e-5)
    image = np.asarray(show.artists_[0].get_array())
    height, width = np.array(image.shape) // 5
    tile = image[3 * height : 4 * height, 3 * width : 4 * width]
    np.testing.assert_allclose(tile[1:-1, 1:-1].ravel(), 0.05 + 0.95 * (there + 1) / 3, rtol=1e-5)
    assert np.isnan(np.ma.filled(tile, np.nan)[[0, -1]]).all()


def test_colour_images_keep_their_channels():
    rows = np.random.default_rng(0).random((2, 2, 3 * 4 * 5))
    mosaic = Tiles(rows, (3, 4, 5), limits=(0, 1)).mosaic(rows)
    assert mosaic.shape == (2 * 6, 2 * 7, 3)
    np.testing.assert_allclose(
        mosaic[1:5, 8:13], 0.05 + 0.95 * rows[1, 1].reshape(3, 4, 5).transpose(1, 2, 0)
    )


def test_vectors_are_lines_on_one_scale():
    decoded = np.zeros((2, 3, 4))
    decoded[1, 2] = [0, 1, 2, 4]
    show = drawn(display.ManifoldDisplay.from_predictions(decoded))
    lines = show.artists_[0].get_segments()
    assert len(lines) == 6
    heights = lines[5][:, 1] - 0.5
    np.testing.assert_allclose((heights - heights[0]) / np.ptp(heights), [0, 0.25, 0.5, 1])
    assert ((lines[5] > [2 / 3, 0.5]) & (lines[5] < 1)).all()
    assert np.ptp(lines[0][:, 1]) == 0


@pytest.mark.parametrize("shape", [(2, 2), (2, 1, 3), (6,)])
def test_image_shape_is_that_of_a_row(shape, models):
    with pytest.raises(ValueError, match=r"image_shape expects .* of 6 features in all"):
        display.ManifoldDisplay.from_estimator(models[2], image_shape=shape)
    assert not pyplot.get_fignums()


def test_decoded_rows_have_three_axes():
    with pytest.raises(ValueError, match="decoded expects shape"):
        display.ManifoldDisplay.from_predictions(np.ones((3, 4)))


class Halves:
    """Clusters: left and right of 0.2 and 0.7."""

    def predict(self, Z):
        return ((Z[:, 0] > 0.2) & (Z[:, 0] < 0.7)).astype(int)


def test_jacobian_is_that_of_the_grid_with_borders_of_clusters(models):
    show = display.JacobianDisplay.from_estimator(models[2], n_points=10, clusters=Halves())
    values = show.artists_[0].get_array()
    at = [[0.35, 0.85]]
    [expected] = np.log10(torus.jacobian_norm(models[2], at))
    np.testing.assert_allclose(values[8, 3], expected, rtol=1e-6)
    [border] = show.borders_
    places = np.unique(np.vstack([p.vertices for p in border.get_paths()])[:, 0].round(6))
    np.testing.assert_allclose(places, [0.2, 0.7])
    line = display.JacobianDisplay.from_estimator(models[1], n_points=10, clusters=Halves())
    assert [border.get_xdata()[0] for border in line.borders_] == pytest.approx([0.2, 0.7])


def test_borders_at_the_seam_are_drawn():
    """Labels differ across the seam alone."""
    labels = np.zeros((8, 8), dtype=int)
    labels[:4] = 1
    show = display.JacobianDisplay.from_predictions(np.ones((8, 8)) * 2, labels=labels)
    heights = np.vstack([path.vertices for path in show.borders_[0].get_paths()])[:, 1]
    np.testing.assert_allclose(np.unique(heights.round(6)), [0, 0.5, 1])


def test_norms_and_labels_are_checked():
    with pytest.raises(ValueError, match="norm expects positive numbers"):
        display.JacobianDisplay.from_predictions(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="labels expects shape"):
        display.JacobianDisplay.from_predictions(np.ones((3, 3)), labels=np.ones((2, 2)))
    assert not pyplot.get_fignums()


def test_posterior_peaks_where_the_lattice_says(models):
    model, X = models[2], data()[:3]
    show = drawn(display.PosteriorDisplay.from_estimator(model, X, names=["a", "b_$", "c"]))
    assert len(show.ax_) == 3
    for artist, row in zip(show.artists_, model.posterior(X), strict=True):
        values = artist.get_array()
        at = np.unravel_index(values.argmax(), values.shape)
        peak = (np.array(at[::-1]) + 0.5) / len(values)
        assert torus.distance(peak, model.lattice_[row.argmax()]) < 0.01
        assert values.max() <= 0
    entropy = model.posterior_summary(X)["entropy"][0]
    assert show.ax_[0].get_title() == f"a: entropy {entropy:.1f} nats"


def test_posterior_on_a_line_is_its_density():
    lattice, posterior = np.array([[0.5], [0.0], [0.25]]), np.array([[0.2, 0.5, 0.3]])
    show = display.PosteriorDisplay.from_predictions(lattice, posterior)
    [line] = show.artists_
    np.testing.assert_allclose(line.get_xdata(), [0, 0.25, 0.5])
    np.testing.assert_allclose(line.get_ydata(), [1.5, 0.9, 0.6])


def test_posteriors_that_cannot_be_drawn_are_refused(models):
    with pytest.raises(ValueError, match="PosteriorDisplay expects 1 or 2 components, but got 3"):
        display.PosteriorDisplay.from_estimator(models[3], data()[:1])
    with pytest.raises(ValueError, match="X expects 1 to 16 rows, but got 31"):
        display.PosteriorDisplay.from_estimator(models[2], data())
    with pytest.raises(ValueError, match=r"posterior expects shape \(n_samples, 5\)"):
        display.PosteriorDisplay.from_predictions(a_torus(5), np.ones((1, 4)))
    assert not pyplot.get_fignums()


def test_history_has_the_losses(models):
    history = models[2].history_
    show = display.HistoryDisplay.from_predictions(history)
    np.testing.assert_array_equal(show.lines_[0].get_ydata(), history["loss"])
    np.testing.assert_array_equal(show.lines_[0].get_xdata(), history["step"])
    alone = display.HistoryDisplay.from_predictions({"step": [1, 2], "loss": [3.0, 2.0]})
    assert len(alone.lines_) == 1
    with pytest.raises(ValueError, match="history expects 'step' and 'loss'"):
        display.HistoryDisplay.from_predictions({"loss": [1.0]})


def test_path_crosses_the_seam_and_decodes_on_its_way(models):
    path = torus.path([0.9, 0.5], [0.1, 0.6], 21)
    show = drawn(
        display.PathDisplay.from_estimator(models[2], path, data(), n_frames=5, image_shape=(2, 3))
    )
    lengths = [np.hypot(*np.diff(line, axis=0)[0]) for line in show.line_.get_segments()]
    np.testing.assert_allclose(lengths, np.hypot(0.2, 0.1) / 20)
    np.testing.assert_allclose(show.stops_.get_offsets(), path[::5])
    np.testing.assert_allclose(show.frames, models[2].inverse_transform(path[::5]), rtol=1e-5)


@pytest.mark.parametrize("which", [1, 2, 3, "normal"])
def test_paths_are_drawn_in_every_latent_space(which, models):
    path = models[which].coordinates(data()[:7])
    axes = Figure().subplots(2)
    show = drawn(display.PathDisplay.from_estimator(models[which], path, data(), ax=axes))
    assert list(show.ax_) == list(axes)
    other = display.PathDisplay.from_predictions(path, show.frames, period=show.space.period)
    np.testing.assert_allclose(other.stops_.get_offsets(), show.stops_.get_offsets())


def test_path_has_the_dimensions_of_the_model(models):
    with pytest.raises(ValueError, match="path expects 2 columns"):
        display.PathDisplay.from_estimator(models[2], a_torus(k=3))


def test_grid_goes_up_and_to_the_right():
    grid = Space(3, 1.0).grid(4, 2)
    assert grid.shape == (2, 4, 4, 3)
    np.testing.assert_allclose(grid[1, 2, 0], [0.125, 0.625, 0.75])
    np.testing.assert_allclose(Space(1, None, [(-1, 1)]).grid(2, 9)[0, 0, :, 0], [-0.5, 0.5])


def test_more_than_three_dimensions_are_refused():
    model = VAEEmbedding(4, max_iter=1, random_state=0).fit(data())
    with pytest.raises(ValueError, match="A grid expects 1 to 3 components"):
        display.ManifoldDisplay.from_estimator(model)
    with pytest.raises(ValueError, match="the map expects finite coordinates"):
        display.EmbeddingDisplay.from_estimator(model, data())


def test_conditions_are_told_to_the_decoder():
    X = data()
    X[:, 5] = np.arange(N) % 2
    model = QLVMEmbedding(n_points=5, condition_columns=[5], max_iter=3, random_state=0).fit(X)
    one, other = (
        display.ManifoldDisplay.from_estimator(model, n_tiles=2, condition=[c]) for c in (0, 1)
    )
    expected = model.inverse_transform([[0.25, 0.25]], condition=[1])[0]
    np.testing.assert_allclose(other.decoded[0, 0, 0], expected, rtol=1e-5)
    assert not np.allclose(one.decoded[..., :5], other.decoded[..., :5])
    drawn(display.JacobianDisplay.from_estimator(model, n_points=3, condition=[1]))


def test_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(ImportError, match=r'pip install "skqlvm\[plot\]"'):
        display.EmbeddingDisplay.from_predictions(a_torus())


def test_importing_the_displays_is_light():
    """Without numpy, torch or matplotlib; names come on first use, and others do not."""
    code = (
        "import sys\n"
        "from skqlvm import display\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(display.__all__) <= set(dir(display))\n"
        "assert all(getattr(display, name) is not None for name in display.__all__)\n"
        "assert callable(display.explorer)\n"
        "assert 'matplotlib' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with pytest.raises(AttributeError, match="has no attribute 'Embedding'"):
        _ = display.Embedding
