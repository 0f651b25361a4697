"""Resume: a run that was killed goes on where it was."""

import contextlib
import inspect
import json
import os
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.callbacks import run_state
from keras_maml.callbacks.checkpoint_file import MAX_BYTES
from keras_maml.callbacks.checkpoint_file import CheckpointFile
from keras_maml.engine.autotuner import without_autotuner
from keras_maml.streams import stream_of
from keras_maml.validation import check_integer
from keras_maml.version import __version__


class Resume(keras.callbacks.Callback):
    """Lets a killed run go on, with the results that it would have had.

    Run the same program again: `fit` goes on behind the last step that was
    saved. It ends with the weights and the history of a run that nobody
    stopped, bit for bit, if the steps themselves are deterministic, as on a
    CPU. (The metrics of several replicas are equal to rounding.) A run that is
    complete is loaded, and trains on if `epochs` is raised. A run that a
    callback has stopped, such as `EarlyStopping`, stays so. To interrupt a run,
    raise an exception.

    The file holds all variables of the model (also learned rates, per-step
    normalization and the seeds of dropout) and of the outer optimizer, the
    epoch and the step, the place in the dataset, the history, and the state of
    Keras's `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint` and
    `SwapEMAWeights`. A callback of your own may have the methods `get_state()`,
    which returns a dict of numbers, strings, lists and arrays, and
    `set_state(state)`, which gets it back behind `on_train_begin`. Any other
    callback begins anew.

    A dataset of this library's `batch` goes on at the next episode. Of other
    datasets, `Dataset.skip` drops what was already read, so they must give the
    same elements each time; pass `dataset_at` if that takes too long. Arrays
    need `fit(shuffle=False)`. Generators and `PyDataset`s are refused.

    A new file takes the place of the old one when it is whole, and the one
    before stays as `<path>.previous`. So killing the process never loses both.
    The empty `<path>.lock` keeps a second run away.
    If several workers train together, the chief writes, and all must be able to
    read `path`. The callback runs behind all others.

    Args:
        path: string or path of the file. Missing folders are made.
        save_freq: `"epoch"`, or an int: to save after so many steps as well.
            An int needs a known number of steps in an epoch. Defaults to
            `"epoch"`.
        settings: dict of what must be the same when the run goes on, such as
            the flags of a program, in the form of JSON. Defaults to `None`.
        dataset_at: function of an int n that returns a `tf.data.Dataset` of
            what the argument of `fit` holds behind its first n meta-batches.
            Defaults to `None`.
        max_bytes: int, the largest file that is read, in bytes. Reading one
            takes up to three times as much memory. Defaults to `2**34`.

    Raises:
        ValueError: if an argument is not of that form. In `fit`, if the file
            is damaged and so is the one before, or if it is that of another
            model, of other settings, or of a later version. Nothing is
            overwritten then.
        OSError: in `fit`, if the file cannot be written. What was written
            before stays.

    Example:

    ```python
    sines = keras_maml.tasks.Sinusoid(seed=0)

    def train(epochs):
        meta_model = keras_maml.MetaModel(keras_maml.learners.mlp())
        meta_model.compile(optimizer="adam", loss="mse")
        return meta_model.fit(
            sines.batch(4),
            steps_per_epoch=2,
            epochs=epochs,
            callbacks=[keras_maml.callbacks.Resume("outputs/sines.resume")],
            verbose=0,
        )

    train(epochs=1)
    history = train(epochs=2)  # trains the second epoch only
    print(history.epoch)  # [0, 1]
    ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        settings: dict[str, Any] | None = None,
        dataset_at: Callable[[int], tf.data.Dataset] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__()
        if save_freq != "epoch":
            check_integer("save_freq", save_freq)
        self.path = os.fspath(path)
        self.save_freq = save_freq
        self.settings = _as_json(settings)
        self.dataset_at = dataset_at
        # Keras waits for each step if a callback looks at it.
        self.async_safe = save_freq == "epoch"
        check_integer("max_bytes", max_bytes)
        self._file = CheckpointFile(self.path, max_bytes)
        self._is_in_fit = False
        self._epochs: Any = None
        self._callbacks: list[keras.callbacks.Callback] = []
        self._loaded: Any = None
        self._place_of_data: dict[str, Any] = {}
        self._epoch = 0
        self._saved_step = 0

    @contextlib.contextmanager
    def around_fit(
        self, model: keras.Model, arguments: dict[str, Any]
    ) -> Iterator[None]:
        """Changes the arguments of `fit` so that it goes on.

        `fit` of this library's models calls this.
        """
        if self._is_in_fit:
            # `fit` of this class was here before.
            yield
            return
        self._callbacks = _checked_callbacks(self, arguments)
        # Otherwise the epoch of an earlier `BackupAndRestore` would count.
        keras_internals.start_at_first_epoch(model)
        # Behind all others: it saves what they did, and puts back what they
        # reset when training begins.
        arguments["callbacks"] = [*self._callbacks, self]
        with contextlib.ExitStack() as stack:
            if is_chief(model.distribute_strategy):
                stack.enter_context(self._file.locked())
            self._loaded = self._file.load()
            if self._loaded is not None:
                arguments["initial_epoch"] = self._first_epoch(arguments)
            stack.enter_context(
                keras_internals.watching_epochs(
                    model,
                    lambda epochs: self._begin(model, arguments, epochs),
                )
            )
            self._is_in_fit = True
            try:
                yield
            finally:
                self._is_in_fit = False
                self._epochs = self._loaded = None

    def fit(
        self, model: keras.Model, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Calls `model.fit`, of any Keras model.

        A model that is none of this library's does not know of `Resume` in
        `callbacks`.

        Args:
            model: a compiled Keras model.
            *args: the arguments of `model.fit`.
            **kwargs: the same, by name.

        Returns:
            Keras's `History`.
        """
        bound = inspect.signature(keras.Model.fit).bind(model, *args, **kwargs)
        with self.around_fit(model, bound.arguments):
            return model.fit(*bound.args[1:], **bound.kwargs)

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self._epochs is None:
            raise ValueError(
                "In `callbacks`, `Resume` works for a `MetaModel` or a "
                "`MetaPolicySearch`. For another Keras model, call "
                "`resume.fit(model, ...)` in the place of `model.fit(...)`. "
                f"Received: model={self.model!r}"
            )
        if self._loaded is not None:
            run_state.set_callback_states(
                self.path, self._callbacks, self._loaded["callbacks"]
            )
            history = _history(self._callbacks)
            history.epoch = list(self._loaded["epochs"])
            history.history = {
                k: list(v) for k, v in self._loaded["history"].items()
            }

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        self._saved_step = 0
        if self._loaded is not None and self._loaded["step"]:
            # Keras has just reset them.
            run_state.set_model_state(
                self.model, self._loaded["variables"], only=("metrics",)
            )
            self._saved_step = self._loaded["step"]
        self._loaded = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.save_freq == "epoch":
            return
        epochs = self._epochs
        if (
            epochs.step - self._saved_step >= self.save_freq
            # Otherwise the end of the epoch saves.
            and epochs.step < epochs.steps_per_epoch
            and not epochs.pass_is_over
            and not self.model.stop_training
        ):
            self._saved_step = epochs.step
            self._save(self._epoch, epochs.step, epochs.place)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._save(epoch + 1, 0, self._epochs.place_after_epoch)

    def _save(self, epoch, step, place):
        # Every worker: to read a metric, they work together.
        history = _history(self._callbacks)
        state = {
            "version": __version__,
            "settings": self.settings,
            "data": self._place_of_data,
            "epoch": epoch,
            "step": step,
            "place": place,
            "stopped": step == 0 and self.model.stop_training,
            "epochs": history.epoch,
            "history": history.history,
            "callbacks": run_state.callback_states(self._callbacks),
            "variables": run_state.model_state(
                self.model, with_metrics=step > 0
            ),
        }
        if is_chief(self.model.distribute_strategy):
            self._file.save(state)

    def _first_epoch(self, arguments):
        """Returns the epoch to go on with."""
        saved = self._loaded
        epochs = arguments.get("epochs", 1)
        begun = saved["epoch"] + (saved["step"] > 0)
        if begun > epochs:
            raise ValueError(
                f"The run in {self.path!r} is beyond `epochs`: it has trained "
                f"{saved['epoch']} epochs and {saved['step']} steps. "
                f"Received: epochs={epochs}"
            )
        for name in sorted(
            {*(saved["settings"] or {}), *(self.settings or {})}
        ):
            there, here = (
                (s or {}).get(name) for s in (saved["settings"], self.settings)
            )
            if there != here:
                raise ValueError(
                    f"{self.path!r} holds a run of other `settings`: {name} "
                    f"was {there!r}. Choose another `path`, or remove the file "
                    f"to begin anew. Received: {name}={here!r}"
                )
        return epochs if saved["stopped"] else saved["epoch"]

    def _begin(self, model, arguments, epochs):
        """Checks the data, and puts the model where the run was."""
        self._epochs = epochs
        x = arguments.get("x")
        self._check_data(arguments, epochs)
        stream = stream_of(x)
        self._place_of_data = {
            "steps_per_epoch": arguments.get("steps_per_epoch"),
            "tasks": stream and stream.tasks,
            "count": stream and stream.count,
            "start": stream and stream.start,
        }
        saved = self._loaded
        if saved is None:
            return
        for name, here in self._place_of_data.items():
            if saved["data"][name] != here:
                raise ValueError(
                    f"The run in {self.path!r} had other data: {name} was "
                    f"{saved['data'][name]}. Received: {name}={here}"
                )
        if saved["step"] % epochs.steps_per_execution:
            raise ValueError(
                f"The run in {self.path!r} is at step {saved['step']} of an "
                "epoch, which `steps_per_execution` must divide. Received: "
                f"steps_per_execution={epochs.steps_per_execution}"
            )
        keras_internals.build_all(model, epochs.dataset.element_spec)
        run_state.check_model_state(self.path, model, saved["variables"])
        run_state.set_model_state(
            model,
            saved["variables"],
            only=tuple(n for n in saved["variables"] if n != "metrics"),
        )
        place = saved["place"]
        if self.dataset_at is not None:
            rest = without_autotuner(self.dataset_at(place))
        elif stream is not None:
            rest = stream.after(place)
        else:
            rest = epochs.dataset.skip(place)
        epochs.go_on(rest, place, saved["step"])

    def _check_data(self, arguments, epochs):
        x = arguments.get("x")
        if epochs.adapter == "ArrayDataAdapter":
            if arguments.get("shuffle", True):
                raise ValueError(
                    "With `Resume`, arrays need `shuffle=False`: the order of "
                    "shuffled arrays cannot be repeated. Received: "
                    f"shuffle={arguments.get('shuffle', True)}"
                )
        elif not isinstance(x, tf.data.Dataset):
            raise ValueError(
                "With `Resume`, `x` must be a `tf.data.Dataset`, or arrays "
                "with `shuffle=False`: other data cannot be read again from "
                f"the same place. Received: x={x!r} (of type {type(x)})"
            )
        if self.dataset_at is None:
            keras_internals.check_repeatable(epochs.dataset)
        if self.save_freq != "epoch" and epochs.steps_per_epoch is None:
            raise ValueError(
                "`Resume` with a number as `save_freq` needs to know how many "
                "steps an epoch has. Pass `steps_per_epoch`, or use "
                "`dataset.apply(tf.data.experimental.assert_cardinality(n))`. "
                f"Received: save_freq={self.save_freq} and x={x!r}"
            )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes for all workers of a strategy."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (
        not has_chief
        and resolver.task_type == "worker"
        and not resolver.task_id
    )


def _checked_callbacks(resume, arguments):
    """Returns the other callbacks, with a `History`."""
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise ValueError(
            "With `Resume`, pass `callbacks` as a list. "
            f"Received: callbacks={callbacks!r}"
        )
    callbacks = keras.tree.flatten(callbacks or [])
    others = [c for c in callbacks if c is not resume]
    for callback in others:
        if isinstance(callback, (Resume, keras.callbacks.BackupAndRestore)):
            raise ValueError(
                "`callbacks` must have one `Resume`, and no "
                f"`BackupAndRestore` beside it. Received: {callback!r}"
            )
    if not any(isinstance(c, keras.callbacks.History) for c in others):
        others.append(keras.callbacks.History())
    return others


def _history(callbacks):
    return next(c for c in callbacks if isinstance(c, keras.callbacks.History))


def _as_json(settings):
    """Returns settings as they will come back from a file."""
    try:
        if settings is not None and not isinstance(settings, dict):
            raise TypeError("no dict")
        return json.loads(json.dumps(settings))
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`settings` must be a dict in the form of JSON: strings, numbers, "
            f"lists and dicts. Received: settings={settings!r}"
        ) from error
