"""The page of the explorer: what it holds, and in a browser without a window, what it does."""

import base64
import html
import json
import os
import re
import shutil
import subprocess
import time
import zlib
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from skqlvm import QLVMEmbedding, VAEEmbedding, display, torus

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here; on Debian: apt-get install chromium"
)
pytestmark = pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning")

N, EVIL = 60, "</script><img src=x onerror=alert(1)>&amp;'\"$<!--"


class Quarters:
    """Clusters: four columns of the torus, by name."""

    def predict(self, Z):
        return np.array(["a", "b", "c", EVIL])[np.floor(4 * Z[:, 0]).astype(int) % 4]


def data(n_features=20):
    return np.random.default_rng(0).random((N, n_features))


@pytest.fixture(scope="module")
def model():
    return QLVMEmbedding(n_points=55, max_iter=5, random_state=0).fit(data())


@pytest.fixture(scope="module")
def page(model):
    names = [f"row {EVIL} {i}" for i in range(N)]
    y = [EVIL if i % 3 else "plain" for i in range(N)]
    return display.explorer(
        model, data(), y, names=names, clusters=Quarters(), image_shape=(4, 5), title=EVIL
    )


def held(page):
    """What a page holds, read as a browser does."""
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.html)
    return json.loads(text)


def array(text, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def browse(path, **query):
    """The results of the page's test of itself, in a browser."""
    address = f"{path.as_uri()}?selftest&{urlencode(query, doseq=True)}"
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,800"),
            *("--virtual-time-budget=60000", "--dump-dom", address),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    [found] = re.findall(r'<pre id="selftest"[^>]*>(.*?)</pre>', done.stdout, re.S)
    return json.loads(html.unescape(found)), done.stdout


def test_page_holds_coordinates_and_what_is_known_of_rows(model, page):
    found = held(page)
    Z = np.column_stack([array(found[k], "<f4") for k in "xy"])
    np.testing.assert_allclose(Z, model.coordinates(data()), atol=1e-6)
    columns = {column["name"]: column for column in found["columns"]}
    assert list(columns) == ["label", "nats", "entropy", "cluster"]
    nats = array(columns["nats"]["data"], "<f4")
    np.testing.assert_allclose(nats, model.score_samples(data()), rtol=1e-5)
    codes = array(columns["cluster"]["data"], "<f4").astype(int)
    texts = np.array(columns["cluster"]["classes"])[codes]
    assert texts.tolist() == Quarters().predict(Z).tolist()
    assert found["names"][7] == f"row {EVIL} 7"


def test_levels_are_those_of_rows_and_of_decoded_nodes(model, page):
    found = held(page)
    low, high = found["low"][0], found["high"][0]
    side = found["grid"]["side"]
    grid = array(found["grid"]["data"], np.uint8).reshape(side, side, 20)
    there = model.inverse_transform([[3 / side, 5 / side]])[0]
    np.testing.assert_allclose(low + grid[5, 3] / 254 * (high - low), there, atol=0.003)
    rows = array(found["rows"]["data"][0], np.uint8).reshape(-1, 20)
    np.testing.assert_allclose(low + rows / 254 * (high - low), data(), atol=0.003)


def test_user_text_cannot_leave_its_place(page):
    assert page.html.lower().count("</script") == 2
    assert page.html.count("<script") == 2
    assert "<img" not in page.html
    assert "<!--" not in page.html
    assert f"<title>{html.escape(EVIL)}</title>" in page.html
    frame = page._repr_html_()
    assert frame.count("<") == 2
    assert html.unescape(re.search('srcdoc="([^"]*)"', frame).group(1)) == page.html


def test_page_asks_the_network_for_nothing(page):
    template = page.html[: page.html.index('<script type="application/json"')]
    template += page.html[page.html.index("</script>") :]
    template = template.replace(html.escape(EVIL), "")
    assert not re.findall(r"https?:|//\w+\.|\bsrc=|\bfetch\(|import\(|url\(", template)
    assert "default-src 'none'" in template


def test_page_is_written_and_shown(model, page, tmp_path):
    path = tmp_path / "map.html"
    again = display.explorer(model, data(), path=path)
    assert path.read_text(encoding="utf-8") == again.html
    assert page.save(path) == path
    assert "MiB of HTML" in repr(page)
    with pytest.raises(ValueError, match=r"path expects a file that ends in \.html"):
        page.save(tmp_path / "map.png")


def test_short_rows_are_kept_exactly_with_their_names():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(data(3), columns=["a", "b <b>", "c"])
    X.iloc[2, 1] = np.nan
    model = QLVMEmbedding(n_points=5, max_iter=1, random_state=0).fit(X)
    found = held(display.explorer(model, X, X["a"]))
    assert found["feature_names"] == ["a", "b <b>", "c"]
    assert found["table"]
    rows = array(found["rows"]["data"][0], "<f4").reshape(-1, 3)
    np.testing.assert_allclose(rows, X, rtol=1e-6)


def test_missing_features_have_a_level_of_their_own(model):
    X = data()
    X[4, 6] = np.nan
    found = held(display.explorer(model, X))
    rows = array(found["rows"]["data"][0], np.uint8).reshape(-1, 20)
    assert [tuple(at) for at in np.argwhere(rows == 255)] == [(4, 6)]


def test_a_small_budget_keeps_a_part_of_the_rows(model):
    X = np.tile(data(), (30, 1)) + np.random.default_rng(1).normal(0, 0.01, (30 * N, 20))
    whole = display.explorer(model, X, image_shape=(4, 5), n_grid=8, values=())
    budget = len(whole.html)
    small = display.explorer(model, X, image_shape=(4, 5), n_grid=8, values=(), max_bytes=budget)
    found = held(small)
    assert 0 < found["rows"]["n"] < len(X)
    assert len(found["rows"]["stored"]) == len(set(found["rows"]["stored"])) == found["rows"]["n"]
    place, row = 17, found["rows"]["stored"][17]
    low, high = found["low"][0], found["high"][0]
    kept = low + array(found["rows"]["data"][0], np.uint8).reshape(-1, 20)[place] / 254 * (
        high - low
    )
    np.testing.assert_allclose(kept, X[row], atol=0.003)
    assert len(small.html) < budget


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match="y expects 60 labels"):
        display.explorer(model, data(), [1, 2])
    with pytest.raises(ValueError, match="names expects 60 names, one a row, but got 2"):
        display.explorer(model, data(), names=["a", "b"])
    with pytest.raises(ValueError, match="image_shape expects"):
        display.explorer(model, data(), image_shape=(3, 3))
    line = QLVMEmbedding(1, n_points=5, max_iter=1, random_state=0).fit(data())
    with pytest.raises(ValueError, match="explorer expects 2 components, but the model has 1"):
        display.explorer(line, data())


@in_browser
def test_browser_finds_rows_and_decodes_around_the_torus(model, page, tmp_path):
    path = page.save(tmp_path / "map.html")
    places = np.array([[0.31, 0.77], [0.999, 0.001], [-2.4, 5.5]])
    texts = [",".join(map(str, place)) for place in places]
    queries = ["17", f"row {EVIL} 23", "no such row", "999"]
    found, dom = browse(path, place=texts, find=queries)
    assert (found["n"], found["wraps"]) == (N, True)
    assert found["found"] == [17, 23, -1, -1]
    Z, kept = model.coordinates(data()), held(page)
    side, low, high = kept["grid"]["side"], kept["low"][0], kept["high"][0]
    grid = array(kept["grid"]["data"], np.uint8).reshape(side, side, 20).astype(float)
    for place, hover in zip(places, found["hover"], strict=True):
        distances = torus.distance(Z, place)
        assert hover["row"] == distances.argmin()
        assert hover["distance"] == pytest.approx(distances.min(), abs=1e-6)
        (i, s), (j, t) = ((int(a), a % 1) for a in place % 1 * side)
        i1, j1 = (i + 1) % side, (j + 1) % side
        below = (1 - s) * grid[j, i] + s * grid[j, i1]
        above = (1 - s) * grid[j1, i] + s * grid[j1, i1]
        np.testing.assert_allclose(hover["decoded"], (1 - t) * below + t * above, atol=1e-3)
        seen = low + np.array(hover["features"]) / 254 * (high - low)
        np.testing.assert_allclose(seen, data()[hover["row"]], atol=0.003)
        assert f"cluster here\t{Quarters().predict(place[None] % 1)[0]}" in hover["facts"]
    assert found["moves"]
    assert found["returns"], "a whole turn changed the picture"
    assert found["painted"] > N
    assert "<img" not in dom
    assert f"<h1>{EVIL.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}" in dom


@in_browser
def test_browser_shows_what_is_no_torus_and_no_image(tmp_path):
    X = data(3)
    model = VAEEmbedding(2, max_iter=2, random_state=0).fit(X)
    path = tmp_path / "map.html"
    kept = held(display.explorer(model, X, np.arange(N), path))
    found, _ = browse(path, place=["0.5,0.5", "1.2,-0.3"])
    assert not found["wraps"]
    Z = np.column_stack([array(kept[k], "<f4") for k in "xy"])
    for place, hover in zip([[0.5, 0.5], [1.2, -0.3]], found["hover"], strict=True):
        assert hover["row"] == np.linalg.norm(Z - place, axis=1).argmin()
        np.testing.assert_allclose(hover["features"], X[hover["row"]], rtol=1e-6)
    limits = np.array(kept["limits"])
    middle = model.inverse_transform(limits.mean(1)[None])[0]
    np.testing.assert_allclose(found["hover"][0]["decoded"], middle, atol=0.01)


def processor_seconds(path, frames, folder):
    """What a browser and its processes take of the processor, however busy the machine is."""
    address = f"{path.as_uri()}?selftest&frames={frames}"
    browser = subprocess.Popen(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,800"),
            *("--virtual-time-budget=60000", f"--user-data-dir={folder}", "--dump-dom", address),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    parents, ticks = {}, {}
    while browser.poll() is None:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            pid = int(stat.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
        time.sleep(0.02)

    def ours(pid):
        return pid == browser.pid or (pid in parents and ours(parents[pid]))

    return sum(ticks[pid] for pid in ticks if ours(pid)) / os.sysconf("SC_CLK_TCK")


@in_browser
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to read times from")
@pytest.mark.parametrize(("n_rows", "seconds"), [(10_000, 1 / 30), (100_000, 0.2)])
def test_frames_are_quick(n_rows, seconds, model, tmp_path):
    generator = np.random.default_rng(0)
    rows = data()[generator.integers(N, size=n_rows)]
    rows += generator.normal(0, 0.1, rows.shape)
    path = tmp_path / "map.html"
    display.explorer(model, rows, path=path, n_grid=8, values=())
    user = tmp_path / "user"
    # a process that ends while nothing looks at it is not counted to its end: then once more
    for _ in range(4):
        none = min(processor_seconds(path, 0, user) for _ in range(2))
        many = processor_seconds(path, 100, user)
        if none < many < none + 100 * seconds:
            return
    pytest.fail(
        f"100 frames take {many - none:.2f} s of the processor, expected 0 to {100 * seconds}"
    )
