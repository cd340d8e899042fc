"""Scripts of the documentation run, and leave what they promise."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "doc" / "examples"


def test_tour_of_a_map_leaves_pictures_a_page_and_a_table(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    main = runpy.run_path(str(EXAMPLES / "tour_of_a_map.py"))["main"]
    main(["--out", str(tmp_path / "tour"), "--max-iter", "1"])
    pyplot.close("all")
    names = ("map", "decoded", "jacobian", "posteriors", "history", "path")
    assert {path.name for path in (tmp_path / "tour").iterdir()} == {
        *(f"{name}.png" for name in names),
        "explorer.html",
        "rows.csv",
    }
    table = (tmp_path / "tour" / "rows.csv").read_text().splitlines()
    assert table[0] == "first,second,spread,nats,error,log_density,cluster"
    assert len(table) == 1 + 540
    assert "adjusted Rand index" in capsys.readouterr().out
