"""What `import keras_maml` does to the process: as little as it can."""

import json
import pathlib
import subprocess
import sys

import pytest

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent

SCRIPT = """
import json, os, random, sys, threading, warnings

# Keras imports these two wherever they are installed. None makes every import
# of them fail, as on a machine that has them not.
sys.modules["matplotlib"] = sys.modules["PIL"] = None

import keras
import numpy
import tensorflow as tf

def measure():
    return {
        "datasets": "tensorflow_datasets" in sys.modules,
        "environment": dict(os.environ),
        "eager_functions": tf.config.functions_run_eagerly(),
        "intra_op": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op": tf.config.threading.get_inter_op_parallelism_threads(),
        "dtypes": [keras.config.floatx(), keras.config.dtype_policy().name],
        "random": str(random.getstate()),
        "numpy_random": str(numpy.random.get_state()),
        "threads": threading.active_count(),
        "warnings": str(warnings.filters),
    }

before = measure()
import keras_maml
after = measure()
# Raises once TensorFlow has chosen its devices: that is the user's to do.
tf.config.threading.set_inter_op_parallelism_threads(1)
print(json.dumps([before, after]))
"""


@pytest.fixture(scope="module")
def before_and_after():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def test_import_leaves_datasets_out(before_and_after):
    assert [state["datasets"] for state in before_and_after] == [False, False]


def test_import_changes_nothing_global(before_and_after):
    before, after = before_and_after
    assert after == before
