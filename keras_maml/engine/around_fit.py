"""What callbacks do before `fit` and after it."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def around_fit(model: keras.Model, arguments: dict) -> Iterator[None]:
    """Enters the contexts that callbacks have for a call of `fit`.

    A callback with a method `around_fit(model, arguments)`, which returns a
    context, may change the arguments before Keras sees them.

    Args:
        model: the model to fit.
        arguments: dict, the arguments of `fit` by name.
    """
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    with contextlib.ExitStack() as stack:
        for callback in keras.tree.flatten(callbacks or []):
            if hasattr(callback, "around_fit"):
                stack.enter_context(callback.around_fit(model, arguments))
        yield
