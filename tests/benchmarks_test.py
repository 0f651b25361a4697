"""The benchmarks run, and say what they should."""

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import report

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent


def test_a_run_prints_its_line():
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.run",
            "--workload=sine1",
            "--engine=loop",
            "--steps=3",
            "--steps_per_execution=1",
        ],
        check=True,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["timed_steps"] == 3
    assert line["tasks_per_s"] == pytest.approx(
        25 / line["median_s_per_step"], rel=1e-2
    )
    assert line["peak_rss_mb"] > line["start_rss_mb"] > 0
    # What every other library computes on the same weights and data.
    assert line["first_loss"] == pytest.approx(4.17916, abs=2e-5)


def test_the_table_has_the_ratio_to_the_fastest_peer(tmp_path):
    def figures(seconds, growth):
        return {"seconds": seconds, "growth": growth, "compile": 1.0}

    summary = {
        ("omni5w1s", False): {
            "ours": figures(0.1, 50.0),
            "fast": figures(0.25, 500.0),
            "lean": figures(0.8, 20.0),
        },
        ("sine1", True): {"ours": figures(0.002, 10.0)},
    }
    table = report.ratio_table(summary, "ours").splitlines()
    assert table[2] == (
        "| omni5w1s | second order | **2.50** | 100 ms | 250 ms, fast | "
        "50 MiB | 20 MiB, lean | 1.1 s |"
    )
    assert table[3].startswith("| sine1 | first order | – | 2 ms | – |")
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- t -->\nold\n<!-- end of t -->\nb\n")
    report.replace(path, "t", "new")
    assert path.read_text() == "a\n<!-- t -->\nnew\n<!-- end of t -->\nb\n"
    with pytest.raises(ValueError, match="has no"):
        report.replace(path, "other", "new")
