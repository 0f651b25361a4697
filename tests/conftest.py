"""What every test starts from: two devices, one seed, no state left over."""

import contextlib
import gc
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


def pytest_collection_finish(session):
    """Leaves what was imported out of every later collection of garbage."""
    del session
    gc.collect()
    gc.freeze()


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


@contextlib.contextmanager
def _program(name, *arguments):
    module = importlib.import_module(name)
    try:
        flags.FLAGS([name, *arguments])
        yield module
    finally:
        for flag in list(flags.FLAGS.flags_by_module_dict()[name]):
            delattr(flags.FLAGS, flag.name)
        del sys.modules[name]
        flags.FLAGS.unparse_flags()


@pytest.fixture(scope="session")
def program():
    """A context in which a module with absl flags is imported and they are set.

    All programs share one set of flags, in which each name stands once: at the
    end they go again, and the module with them.
    """
    return _program


@pytest.fixture
def load_program(program):
    """Imports such a module for the length of a test."""
    with contextlib.ExitStack() as stack:
        yield lambda *args: stack.enter_context(program(*args))
