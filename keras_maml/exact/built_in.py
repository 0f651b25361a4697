"""Whether what is traced may only have LiteRT's built-in operations.

LiteRT runs a model on a device. Its interpreter has kernels for few derivatives
of TensorFlow's operations, so `exact` has other forms for some operations, made
of those that it has. Elsewhere the usual forms are faster.
"""

import contextlib
import threading

_thread = threading.local()


def is_required():
    """Returns whether this thread traces operations for LiteRT."""
    return getattr(_thread, "depth", 0) > 0


@contextlib.contextmanager
def required():
    """Lets this thread trace operations that LiteRT has."""
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
