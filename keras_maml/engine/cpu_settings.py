"""Settings of the process, for steps on CPUs."""

import ctypes
import os
import sys

import tensorflow as tf

from keras_maml.engine.processors import available_processors

# By the number of the parameter in malloc.h.
_MALLOC_SETTINGS = {
    # M_TRIM_THRESHOLD, what a thread keeps.
    -1: 2**30,
    # M_TOP_PAD, what a heap must have free before another one is returned: more
    # than it can have.
    -2: 2**26,
    # M_MMAP_THRESHOLD, the size that the system itself allocates. It can be no
    # larger.
    -3: 2**25,
}

_MALLOC_VARIABLES = (
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def configure_threads(intra_op: int = 1, inter_op: int | None = None) -> None:
    """Sets TensorFlow's CPU threads for many small tasks at the same time.

    By default, TensorFlow splits every operation over all cores. The operations
    of one task are too small for that. It is faster to run one task on each
    core. The setting applies to the whole process, so the library does not
    change it by itself.

    On Linux, the process also keeps the memory that a step frees, for the next
    step. Otherwise the C library returns some of it to the system, if it
    happens to lie so, and each step takes up to twice as long. An environment
    variable for `malloc` turns this off.

    Args:
        intra_op: int, the number of threads within one operation. Defaults to
            `1`.
        inter_op: int, the number of operations at the same time. Defaults to
            the number of processors that this process may use.

    Raises:
        RuntimeError: from TensorFlow, if it has already started. Call this
            function before anything else, even before you make a model.

    Example:

    ```python
    import keras_maml

    if __name__ == "__main__":
        keras_maml.configure_threads()
    ```
    """
    tf.config.threading.set_intra_op_parallelism_threads(intra_op)
    tf.config.threading.set_inter_op_parallelism_threads(
        inter_op or available_processors()
    )
    _keep_freed_memory()


def _keep_freed_memory():
    """Lets `malloc` of glibc keep what is freed for what is allocated next.

    Each thread takes memory from heaps of 64 MiB of its own. If a step fills
    one and needs a little of another, the other is returned to the system as
    soon as it is empty, unless the padding asks for more space than a heap has.
    """
    if sys.platform != "linux" or any(
        name in os.environ for name in _MALLOC_VARIABLES
    ):
        return
    # Other C libraries do not have it.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, size in _MALLOC_SETTINGS.items():
            mallopt(parameter, size)
