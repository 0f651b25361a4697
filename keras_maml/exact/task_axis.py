"""Whether what is traced will get a task axis.

`tf.vectorized_map` turns the operations of one task into operations for all
tasks. It cannot do so with every operation, so `exact` has other forms for
some. On a CPU the usual forms are faster, so they stay wherever a task is
traced by itself.
"""

import contextlib
import threading

_thread = threading.local()


def is_vectorized():
    """Returns whether this thread traces operations that get a task axis."""
    return getattr(_thread, "depth", 0) > 0


@contextlib.contextmanager
def vectorized():
    """Lets this thread trace operations that can get a task axis."""
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
