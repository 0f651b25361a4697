"""Memory is flat in long runs; minutes each, so not in the everyday tests.

`pytest -m slow -s tests/long_runs_test.py` prints the figures.
"""

import gc
import json
import subprocess
import sys

import pytest

from tests import long_runs


@pytest.mark.slow
@pytest.mark.parametrize("name", long_runs.COUNTS)
def test_memory_is_flat(name):
    done = subprocess.run(
        [sys.executable, "-m", "tests.long_runs", name],
        capture_output=True,
        check=True,
        text=True,
    )
    line = done.stdout.splitlines()[-1]
    print(line)
    result = json.loads(line)
    # From a fifth of the run to its end. TensorFlow keeps kernels for each
    # shape, in C++; one trace has thousands of Python's objects.
    limits = {
        "resident_mib": 150 if name == "predicts" else 60,
        "python_mib": 2,
        "objects": 10_000,
    }
    for column, limit in limits.items():
        growth = result[column][-1] - result[column][0]
        assert growth < limit, f"{column} grows by {growth}: {line}"


@pytest.fixture(scope="module")
def frozen_heap():
    """What other tests left need not be looked through at every mark."""
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("name", ["adapts", "evaluations", "fits"])
def test_a_short_run_is_measured(name, frozen_heap):
    result = long_runs.measure(name, 10, is_traced=False)
    assert result["done"] == [2, 4, 6, 8, 10]
    # One trace has thousands of objects.
    assert result["objects"][-1] - result["objects"][1] < 50
