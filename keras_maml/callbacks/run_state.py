"""What `Resume` keeps of a model and of callbacks, and puts back."""

from typing import Any

import keras
import numpy as np

from keras_maml import keras_internals


def model_state(model: keras.Model, with_metrics: bool) -> dict[str, Any]:
    """Returns the values of all variables that training changes.

    Args:
        model: a compiled model.
        with_metrics: bool. Whether to keep the metrics of the running epoch.
    """
    groups = _groups(model, with_metrics)
    return {
        name: {
            "names": [v.name for v in variables],
            "values": [keras.ops.convert_to_numpy(v) for v in variables],
        }
        for name, variables in groups.items()
    }


def check_model_state(
    path: str, model: keras.Model, state: dict[str, Any]
) -> None:
    """Raises `ValueError` if a state is that of another model.

    Args:
        path: string, where the state is from, for the message.
        model: a model, whose variables exist.
        state: what `model_state` has returned.
    """
    groups = _groups(model, "metrics" in state)
    if set(groups) != set(state):
        raise _foreign(path, f"parts are {sorted(groups)}, not {sorted(state)}")
    for name, variables in groups.items():
        saved = state[name]
        here = [_form(v.name, v) for v in variables]
        there = [
            _form(*pair)
            for pair in zip(saved["names"], saved["values"], strict=True)
        ]
        if name != "model":
            # Keras numbers the names of other variables.
            here, there = ([form[1:] for form in f] for f in (here, there))
        for i, (a, b) in enumerate(zip(here, there, strict=False)):
            if a != b:
                raise _foreign(path, f"{name} variable {i} is {a}, not {b}")
        if len(here) != len(there):
            raise _foreign(
                path, f"{name} has {len(here)} variables, not {len(there)}"
            )


def set_model_state(
    model: keras.Model, state: dict[str, Any], only: tuple[str, ...]
) -> None:
    """Assigns a state that `check_model_state` has found to fit."""
    groups = _groups(model, "metrics" in state)
    for name in only:
        if name in groups:
            for variable, value in zip(
                groups[name], state[name]["values"], strict=True
            ):
                variable.assign(value)


def callback_states(callbacks: list[keras.callbacks.Callback]) -> list:
    """Returns pairs of the class of a callback and its state."""
    states = []
    for callback in callbacks:
        if hasattr(callback, "get_state"):
            states.append([type(callback).__name__, callback.get_state()])
            continue
        names = _attributes(callback)
        if names:
            state = {name: getattr(callback, name) for name in names}
            states.append([type(callback).__name__, state])
    return states


def set_callback_states(
    path: str, callbacks: list[keras.callbacks.Callback], states: list
) -> None:
    """Puts states back into callbacks of the same classes.

    Of several callbacks of a class, the first gets the first state, and so on.
    A callback without a state begins anew.

    Raises:
        ValueError: if there is no callback for a state.
    """
    left = list(callbacks)
    for name, state in states:
        callback = next((c for c in left if type(c).__name__ == name), None)
        if callback is None:
            raise ValueError(
                f"The run in {path!r} had a callback {name}, and now has none, "
                "or fewer. Pass the same `callbacks`. Received: callbacks="
                f"{[type(c).__name__ for c in callbacks]}"
            )
        left.remove(callback)
        if hasattr(callback, "set_state"):
            callback.set_state(state)
        else:
            for attribute in _attributes(callback):
                setattr(callback, attribute, state[attribute])


def _attributes(callback):
    """The attributes of Keras's callbacks that hold their state."""
    for cls in type(callback).__mro__:
        if cls.__module__.startswith("keras."):
            return keras_internals.CALLBACK_STATE.get(cls.__name__, ())
    return ()


def _groups(model, with_metrics):
    groups = {"model": model.variables}
    # The second one is that of a `MetaPolicySearch`.
    for name in ("optimizer", "outer_optimizer"):
        optimizer = getattr(model, name, None)
        if optimizer is not None:
            groups[type(optimizer).__name__] = optimizer.variables
    if with_metrics:
        groups["metrics"] = [v for m in model.metrics for v in m.variables]
    return groups


def _form(name, value):
    dtype = keras.backend.standardize_dtype(value.dtype)
    return name, tuple(np.shape(value)), dtype


def _foreign(path, difference):
    return ValueError(
        f"{path!r} holds a run of another model. Choose another `path`, or "
        f"remove the file to begin anew. Received: a model whose {difference}"
    )
