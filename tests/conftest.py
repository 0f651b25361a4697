"""What every test starts from: two devices, one seed, no state left over."""

import importlib
import os
import pathlib
import sys

# Read once, when TensorFlow, Keras and matplotlib are first imported.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest
import tensorflow as tf
from absl import flags

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent


def pytest_configure(config):
    """Splits the CPU in two, so that distribution is tested on any machine."""
    del config
    # TensorFlow fixes its devices at first use, hence before any test module
    # is imported.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Seeds each test and takes back what it changed globally in Keras."""
    floatx = keras.config.floatx()
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    tf.config.run_functions_eagerly(False)
    # Collecting garbage after each test would take longer than most tests.
    keras.utils.clear_session(free_memory=False)


@pytest.fixture(scope="session")
def omniglot_data_dir():
    """The TFDS directory that holds a prepared Omniglot.

    A test that asks for it has the marker `omniglot`, and is skipped where
    there is none.
    """
    candidates = [CHECKOUT.parent / "shared" / "tensorflow_datasets"]
    if "TFDS_DATA_DIR" in os.environ:
        candidates.insert(0, pathlib.Path(os.environ["TFDS_DATA_DIR"]))
    for candidate in candidates:
        if (candidate / "omniglot").is_dir():
            return str(candidate)
    return pytest.skip("There is no prepared Omniglot on this machine.")


@pytest.fixture
def load_program():
    """Imports a module with absl flags and sets them.

    All programs share one set of flags, in which each name stands once: after
    the test they go again, and the module with them.
    """
    loaded = []

    def load(name, *arguments):
        module = importlib.import_module(name)
        loaded.append(name)
        flags.FLAGS([name, *arguments])
        return module

    yield load
    for name in loaded:
        for flag in list(flags.FLAGS.flags_by_module_dict()[name]):
            delattr(flags.FLAGS, flag.name)
        del sys.modules[name]
    flags.FLAGS.unparse_flags()
