"""The command line, on files of the user's and on the bundled digits."""

import subprocess
import sys

import numpy as np
import pytest

from skqlvm.__main__ import _draw, main

pytestmark = pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning")


@pytest.fixture
def X():
    return np.random.default_rng(0).random((29, 6))


def test_help_is_quick_and_names_the_options():
    done = subprocess.run(
        [sys.executable, "-m", "skqlvm", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for option in ("--data", "--out", "--likelihood", "--seed", "--device"):
        assert option in done.stdout


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "csv with header", "images"])
def test_own_file_gets_coordinates_and_nats(kind, X, tmp_path, capsys):
    path, out = tmp_path / f"rows.{kind.split()[0]}", tmp_path / "map.csv"
    if kind == "npy":
        np.save(path, X)
    elif kind == "npz":
        np.savez(path, X=X, other=np.arange(3))
    elif kind == "images":
        path = tmp_path / "rows.npy"
        np.save(path, X.reshape(29, 2, 3))
    else:
        np.savetxt(
            path,
            X,
            delimiter=",",
            comments="",
            header=",".join("abcdef") if "header" in kind else "",
        )
        if "header" not in kind:
            path.write_text(path.read_text().lstrip())
    assert main(["--data", str(path), "--out", str(out), "--likelihood", "bernoulli"]) == 0
    names, table = out.read_text().splitlines()[0], np.loadtxt(out, delimiter=",", skiprows=1)
    assert names == "turns0,turns1,nats"
    assert table.shape == (29, 3)
    assert table[:, :2].min() >= 0
    assert table[:, :2].max() < 1
    assert f"29 rows of 6 features, {table[:, 2].mean():.2f} nats" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", "1 2", "--data expects a file that ends in one of"),
        ("missing.npy", None, "No such file"),
        ("rows.csv", "a,b\n1,2\n3,x\n", "could not convert string 'x'"),
        ("rows.csv", "1.0,,3\n4,5,6\n", "could not convert string ''"),
        ("rows.csv", "1,2\n3,nan\n", "Input X contains NaN"),
        ("rows.csv", "1,2\n", "minimum of 2 is required"),
    ],
)
def test_bad_file_is_reported_in_one_line(name, content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_text(content)
    out = tmp_path / "map.csv"
    assert main(["--data", str(tmp_path / name), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_folder_of_the_result_is_checked_before_the_fit(X, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", X)
    assert (
        main(["--data", str(tmp_path / "rows.npy"), "--out", str(tmp_path / "nowhere" / "map.csv")])
        == 2
    )
    assert "--out expects a file in a folder that exists" in capsys.readouterr().err


def test_csv_with_a_byte_order_mark_keeps_its_first_row(X, tmp_path, capsys):
    path = tmp_path / "rows.CSV"
    path.write_text(
        "\ufeff" + "\n".join(",".join(map(str, row)) for row in X.tolist()), encoding="utf-8"
    )
    assert main(["--data", str(path), "--out", str(tmp_path / "map.csv")]) == 0
    assert capsys.readouterr().out.startswith("29 rows of 6 features")


def test_picture_is_drawn(tmp_path):
    from sklearn.datasets import load_digits

    from skqlvm import QLVMEmbedding

    X, y = load_digits(return_X_y=True)
    model = QLVMEmbedding(n_points=89, n_points_eval=233, max_iter=1, random_state=0).fit(X[:100])
    _draw(model, X[:100], y[:100], tmp_path / "digits.png")
    assert (tmp_path / "digits.png").read_bytes()[1:4] == b"PNG"
