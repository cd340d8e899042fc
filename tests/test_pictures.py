"""Pictures: every kind of colour in every number of dimensions is drawn, and says what it is."""

import numpy as np
import pytest

from skqlvm import QLVMEmbedding, _pictures

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning")


def texts(path):
    """What a picture in SVG says, letter by letter."""
    return path.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def letters():
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


@pytest.mark.parametrize("n_components", [1, 2, 3])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.linspace(-3, 5, 29), ["my label"]),
        (np.arange(29.0) % 3, ["my label", ">0<", ">2<"]),
        (np.array(["$a", "_b$", "", "λ", "漢"] * 6)[:29], ["$a", "_b$", "(none)", "λ", "漢"]),
        (np.where(np.arange(29) < 7, np.nan, 0.5), ["my label"]),
        (np.full(29, np.nan), ["(none)"]),
        (np.array([f"id{i}" for i in range(29)]), [">10 others<"]),
        (np.arange(29) % 2 == 0, ["False", "True"]),
    ],
    ids=["numbers", "integers", "texts", "gaps", "nothing", "names", "truth"],
)
def test_map_is_drawn_and_explained(n_components, values, words, tmp_path):
    z = np.random.default_rng(0).random((29, n_components))
    path = tmp_path / "map.svg"
    _pictures.draw_map(z, values, "my label", "my_$file$.csv", path)
    said = texts(path)
    for word in (*words, "my_$file$.csv", "turns"):
        assert word in said
    assert said.count('<g id="axes_') >= max(1, 3 * (n_components == 3))


def test_many_rows_make_a_small_picture(tmp_path):
    z = np.random.default_rng(0).random((20_011, 1))
    _pictures.draw_map(z, z[:, 0], "nats", "many", tmp_path / "map.svg")
    assert (tmp_path / "map.svg").stat().st_size < 1_000_000


def test_digits_stand_beside_pca(tmp_path):
    generator = np.random.default_rng(0)
    maps = [generator.random((29, 2)) for _ in range(2)]
    model = QLVMEmbedding(n_points=5, n_points_eval=7, max_iter=1, random_state=0)
    model.fit(generator.random((29, 64)))
    path = tmp_path / "digits.svg"
    _pictures.draw_digits(maps, ("PCA: 1", "QLVM: 2"), np.arange(29) % 10, model, 1.0, path)
    for word in ("PCA: 1", "QLVM: 2", "What the torus decodes to", ">9<", "digit"):
        assert word in texts(path)
