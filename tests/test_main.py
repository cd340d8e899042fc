"""The command line, on files of the user's and on the bundled digits."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from skqlvm import QLVMEmbedding, __version__
from skqlvm.__main__ import _plain_warnings, main
from skqlvm.engine.likelihoods import FAMILIES

pytestmark = [
    pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

QUICK = ("--components", "1", "--n-points", "5", "--max-iter", "1")


@pytest.fixture
def X():
    return np.random.default_rng(0).random((29, 6))


@pytest.fixture
def rows(X, tmp_path):
    np.save(tmp_path / "rows.npy", X)
    return tmp_path / "rows.npy"


def run(*arguments):
    return main([str(argument) for argument in arguments])


def table(path):
    names, *lines = path.read_text(encoding="utf-8").splitlines()
    return names.split(","), [line.split(",") for line in lines]


def test_help_is_quick_and_names_the_options():
    done = subprocess.run(
        [sys.executable, "-m", "skqlvm", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    options = "array components data device header label likelihood max-iter n-points out picture"
    for option in (*options.split(), "no-header", "seed", "version"):
        assert f"--{option}" in done.stdout


def test_likelihood_that_is_unknown_is_refused_with_those_of_the_engine(rows, tmp_path, capsys):
    out = tmp_path / "map.csv"
    assert run("--data", rows, "--out", out, "--likelihood", "cauchy") == 2
    said = capsys.readouterr().err
    assert f"skqlvm: likelihood expects one of {sorted([*FAMILIES, 'auto'])}" in said
    assert "but got 'cauchy'" in said
    assert not out.exists()


def test_version_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"skqlvm {__version__}\n"


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "CSV", "images.npy"])
def test_own_file_gets_coordinates_nats_and_a_picture(kind, X, tmp_path, capsys):
    path, out = tmp_path / f"rows.{kind}", tmp_path / "map.csv"
    if kind == "npz":
        np.savez(path, other=np.arange(3), X=X)
    elif kind.endswith("npy"):
        np.save(path, X.reshape(29, 2, 3) if kind == "images.npy" else X)
    else:
        names = "a,b,c,d,e,f" if kind == "csv" else ""
        np.savetxt(path, X, delimiter=",", comments="", header=names)
    arguments = ("--likelihood", "bernoulli", *QUICK, "--components", "2")
    assert run("--data", path, "--out", out, *arguments) == 0
    names, lines = table(out)
    assert names == ["turns0", "turns1", "nats"]
    values = np.array(lines, dtype=float)
    assert values.shape == (29, 3)
    assert ((values[:, :2] >= 0) & (values[:, :2] < 1)).all()
    said = capsys.readouterr()
    assert f"29 rows of 6 features, {values[:, 2].mean():.2f} nats" in said.out
    assert ("took the array 'X'" in said.err) == (kind == "npz")
    assert (tmp_path / "map.png").read_bytes()[1:4] == b"PNG"


def test_labels_and_index_are_carried(X, tmp_path, capsys):
    path, out = tmp_path / "rows.csv", tmp_path / "map.csv"
    lines = [f"{i},{'xyz'[i % 3]},{','.join(map(str, row))},{i}.5" for i, row in enumerate(X)]
    path.write_text(",kind,a,b,c,d,e,f,nats\n" + "\n".join(lines))
    picture = tmp_path / "kinds.svg"
    labels = ("--label", "kind", "-1", "--picture", picture)
    assert run("--data", path, "--out", out, *labels, *QUICK) == 0
    names, lines = table(out)
    assert names == ["index", "kind", "nats", "turns0", "nats (new)"]
    assert [line[:3] for line in lines] == [[f"{i}", "xyz"[i % 3], f"{i}.5"] for i in range(29)]
    said = capsys.readouterr()
    assert "29 rows of 6 features" in said.out
    assert "took the first column" in said.err
    assert "<svg" in picture.read_text(encoding="utf-8")
    assert not (tmp_path / "map.png").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.xls", "1 2", "--data expects a file that ends in"),
        ("missing.npy", None, "there is no"),
        ("rows.npy", "", "is empty"),
        ("rows.npz", "garbage", "that NumPy wrote"),
        ("rows.csv", "a,b\n1,x\n3,y\n", "--label 'b'"),
        ("rows.csv", "1.0,,3\n4,5,6\n", "1 of 2 rows of"),
        ("rows.csv", "a,b\n", "holds a header only"),
        ("rows.csv", "1,2\n3,5\n4,7\n", "expects X in [0, 1]"),
    ],
)
def test_bad_file_is_reported_in_one_line(name, content, message, tmp_path, capfd):
    if content is not None:
        (tmp_path / name).write_text(content)
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "map.csv"
    arguments = ("--data", tmp_path / name, "--out", out, "--likelihood", "bernoulli")
    assert run(*arguments, *QUICK) == 2
    said = capfd.readouterr()
    assert message in said.err
    assert said.err.startswith("skqlvm: ")
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--n-points", "0"), "n_points"),
        (("--max-iter", "0"), "max_iter"),
        (("--seed", "-1"), "random_state expects"),
        (("--label", "6"), "--label expects the name or number of a column"),
        (("--array", "X"), "--array is for .npz files"),
        (("--out", "nowhere/map.csv"), "--out expects a file in a folder that exists"),
        (("--out", "map.png"), "--out expects a .csv file for the map"),
        (("--picture", "map.bmp"), "--picture expects a picture that ends in one of .png"),
        (("--picture", "nowhere/map.png"), "--picture expects a file in a folder"),
    ],
)
def test_bad_option_is_reported_before_the_fit(
    arguments, message, rows, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run("--data", rows, *arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.out, "step" in said.err) == ("", False)
    assert list(tmp_path.iterdir()) == [rows]


def test_data_is_not_overwritten(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text("1,2\n3,5\n")
    assert run("--data", path, "--out", path) == 2
    assert "--out would overwrite --data" in capsys.readouterr().err
    assert path.read_text() == "1,2\n3,5\n"


@pytest.mark.parametrize("option", ["label", "array", "components", "picture"])
def test_options_of_own_data_need_data(option, capsys):
    assert run(f"--{option}", "1") == 2
    assert f"--{option} is for rows of your own. Name their file" in capsys.readouterr().err


def test_picture_of_the_digits_has_a_known_format(tmp_path, capsys):
    assert run("--out", tmp_path / "digits.csv") == 2
    assert "--out expects a picture that ends in" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_map_that_cannot_be_written_goes_elsewhere(rows, tmp_path, capsys):
    (tmp_path / "map.csv").symlink_to("/dev/full")
    assert run("--data", rows, "--out", tmp_path / "map.csv", *QUICK) == 1
    said = capsys.readouterr()
    place = Path(said.err.rsplit("see ", 1)[1].strip().rstrip("."))
    assert "could not write where it should be (no space left on device)" in said.err
    assert f"The map is in {place}." in said.out
    assert len(table(place)[1]) == 29
    place.unlink()


def test_components_are_compared_and_the_best_is_mapped(rows, tmp_path, capsys):
    names = [tmp_path / "map.csv", tmp_path / "alone.csv"]
    arguments = ("--n-points", "5", "--max-iter", "1", "--components")
    assert run("--data", rows, "--out", names[0], *arguments, "1", "2", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "23 rows fitted, 6 held out."
    nats = {int(size): float(nats) for size, nats, _ in map(str.split, lines[3:5])}
    assert list(nats) == [1, 2]
    best = max(nats, key=nats.get)
    assert f"Best on held-out rows: {best}." in lines[6]
    assert run("--data", rows, "--out", names[1], *arguments, best) == 0
    assert names[0].read_text() == names[1].read_text()


def test_few_rows_are_not_compared(tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.eye(5))
    out = tmp_path / "map.csv"
    assert run("--data", tmp_path / "rows.npy", "--out", out, "--components", "1", "2") == 2
    assert "--components expects one number for 5 rows, but got 2" in capsys.readouterr().err


def test_missing_matplotlib_costs_the_picture_only(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "map.csv"
    assert run("--data", rows, "--out", out, "--picture", tmp_path / "map.png", *QUICK) == 2
    assert 'Install it with: pip install "skqlvm[plot]"' in capsys.readouterr().err
    assert not out.exists()
    assert run("--data", rows, "--out", out, *QUICK) == 0
    assert "No picture: matplotlib is missing" in capsys.readouterr().out
    assert len(table(out)[1]) == 29


class Interrupted(QLVMEmbedding):
    """Keeps what it reached before the interrupt: nothing, in two dimensions."""

    def fit(self, X, y=None):
        if self.n_components == 1:
            super().fit(X)
        raise KeyboardInterrupt


@pytest.mark.parametrize("components", [("1",), ("1", "2")])
def test_interrupted_fit_still_gives_its_map(components, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("skqlvm.__main__._model", lambda _, size: Interrupted(size, max_iter=1))
    out = tmp_path / "map.csv"
    assert run("--data", rows, "--out", out, "--components", *components) == 130
    said = capsys.readouterr()
    assert "skqlvm: interrupted; what follows is of the best weights until then." in said.err
    assert "29 rows of 6 features" in said.out
    assert table(out)[0] == ["turns0", "nats"]


@pytest.mark.parametrize("components", [("2",), ("2", "1")])
def test_interrupt_before_any_result_leaves_no_file(
    components, rows, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("skqlvm.__main__._model", lambda _, size: Interrupted(size, max_iter=1))
    out = tmp_path / "map.csv"
    assert run("--data", rows, "--out", out, "--components", *components) == 130
    assert capsys.readouterr() == ("", "skqlvm: interrupted before there was a result.\n")
    assert list(tmp_path.iterdir()) == [rows]


def test_warnings_are_sentences(capsys):
    with warnings.catch_warnings(), _plain_warnings():
        warnings.simplefilter("always")
        warnings.warn("Look out.", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "skqlvm: Look out.\n"


# pixels of held-out digits have levels that the fitted ones have not
@pytest.mark.parametrize("likelihood", sorted(FAMILIES.keys() - {"categorical"}))
def test_digits_stand_beside_pca(likelihood, tmp_path, capsys):
    out = tmp_path / "digits.png"
    arguments = ("--n-points", "5", "--max-iter", "1", "--likelihood", likelihood)
    assert run("--out", out, *arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("Digits: 1257 rows fitted, 540 held out.\n\nmodel ")
    assert [line.split(",")[0] for line in said.splitlines()[3:5]] == ["QLVM", "PCA"]
    densities = ("gaussian", "continuous_bernoulli")
    assert ("do not compare" in said) == (likelihood not in densities)
    assert f"the decoded torus, are in {out}." in said
    assert out.read_bytes()[1:4] == b"PNG"
