"""The coverage of predictions over tasks is the stated one; minutes."""

import pathlib
import re
import subprocess
import sys

import pytest

CHECKOUT = pathlib.Path(__file__).absolute().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("row", ["sine19", "points2way10shot"])
def test_coverage_is_the_stated_one(row):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.coverage", f"--rows={row}"],
        capture_output=True,
        check=True,
        cwd=CHECKOUT,
        text=True,
    )
    lines = re.findall(
        rf"\| {row} \| \d+ \| \d+ \| ([\d.]+) \| ([\d.]+) ±", done.stdout
    )
    assert len(lines) == 2
    for stated, measured in lines:
        # In per cent.
        assert float(measured) == pytest.approx(float(stated), abs=1.0)
