"""The benchmarks' contract, on the cheapest of them; all of them run in miniature before a change
lands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("bench_*.py")), ids=lambda path: path.stem)
def test_benchmark_parses_and_names_the_common_options(path):
    source = path.read_text(encoding="utf-8")
    compile(source, str(path), "exec")
    assert "measurement.parser(" in source
    assert 'if __name__ == "__main__":' in source


def test_benchmark_prints_a_json_line_a_measurement(tmp_path):
    out = tmp_path / "results.jsonl"
    command = [
        sys.executable,
        str(BENCHMARKS / "bench_rqmc.py"),
        "--quick",
        "--seed",
        "3",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    lines = out.read_text().splitlines()
    assert lines
    assert [line for line in done.stdout.splitlines() if line.startswith("{")] == lines
    for line in lines:
        record = json.loads(line)
        assert {
            "name",
            "parameters",
            "value",
            "unit",
            "versions",
            "device",
            "repeats",
            "spread",
        } <= record.keys()
        assert record["parameters"]["seeds"] == [3]
