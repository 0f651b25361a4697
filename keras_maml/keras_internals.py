"""All private names of Keras, and some of TensorFlow, that the library uses.

`tensorflow_internals.py` has those of vectorizing and compiling.
`tests/keras_internals_test.py` has a test for each name. The test says what
breaks when an update of Keras or TensorFlow removes the name. The names that
distribution strategies need stand in `keras_distribution.py`.
"""

import contextlib

import keras
import tensorflow as tf
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.utils import io_utils

# Functions that Keras's layers call while they are traced, and their modules.
# `exact.lowering` replaces them.
REPLACED_FUNCTIONS = {
    "moments": tf.nn,
    "bias_add": tf.nn,
    "convolution": tf.nn,
    "relu": tf.nn,
    "relu6": tf.nn,
    "leaky_relu": tf.nn,
    "elu": tf.nn,
    "gelu": tf.nn,
    "matmul": tf,
    "repeat": tf,
    "tile": tf,
    "__getitem__": tf.Tensor,
    "avg_pool": tf.nn,
    "max_pool": tf.nn,
    "conv_transpose": tf.nn,
    "depthwise_conv2d": tf.nn,
    "separable_conv2d": tf.nn,
    "pool": tf.nn,
    "concat": tf,
    "pad": tf,
    "resize": tf.image,
    "stateless_uniform": tf.random,
    "stateless_normal": tf.random,
    "stateless_dropout": tf.nn.experimental,
    "rnn": backend,
    # The call of any `tf.function`.
    "__call__": type(tf.function(lambda: None)),
}

# What Keras's generator adds to its seed with each draw.
SEED_INCREMENT = (0, 1)

# What Keras's callbacks know of the epochs before, and set in these attributes.
CALLBACK_STATE = {
    "EarlyStopping": (
        "best",
        "best_epoch",
        "best_weights",
        "stopped_epoch",
        "wait",
    ),
    "ModelCheckpoint": (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    "ReduceLROnPlateau": ("best", "cooldown_counter", "wait"),
    "SwapEMAWeights": ("_ema_weights_in_model",),
}


def all_layers(model, include_self=True):
    """Returns the model's layers at any depth, also those inside wrappers."""
    return list(model._flatten_layers(include_self=include_self))


def child_layers(layer):
    """Returns the layers that a layer or model holds itself, in order."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def forget_losses(model):
    """Clears the losses of `add_loss`, which the layers would collect."""
    model._clear_losses()


def get_mask(tensor):
    """Returns the mask that a Keras layer attached to a tensor, or `None`."""
    return getattr(tensor, "_keras_mask", None)


def set_mask(tensor, mask):
    """Attaches a mask to a tensor, for Keras's losses and metrics."""
    tensor._keras_mask = mask


def seed_variables(model):
    """Returns the state variables of all seed generators of a model."""
    return [
        generator.state
        for layer in all_layers(model)
        for generator in layer._seed_generators
        if isinstance(generator, keras.random.SeedGenerator)
    ]


def is_lora(variable):
    """Returns whether a layer's `enable_lora` has added the variable."""
    return variable.name.startswith("lora_")


def leave_inputs_alone(model):
    """Makes Keras pass inputs to `call` unchanged, integers included."""
    model._convert_input_args = False
    model._allow_non_tensor_positional_args = True


def start_at_first_epoch(model):
    """Clears the epoch from which `BackupAndRestore` resumed training."""
    model._initial_epoch = None


def build_all(model, element_spec):
    """Builds a compiled model, its optimizer and its metrics.

    Otherwise the first step of `fit` does so, unless there is a strategy.

    Args:
        model: a compiled model.
        element_spec: structure of `tf.TensorSpec`, an element of the dataset.
    """
    model._symbolic_build(data_batch=element_spec)


@contextlib.contextmanager
def watching_epochs(model, function):
    """Calls `function` with the `Epochs` of the `fit` inside the context.

    Keras calls it once the data are there, and before any callback.
    """
    # `fit` hands its iterator to this method first.
    build = model._maybe_symbolic_build

    def build_and_watch(iterator=None, data_batch=None):
        del model.__dict__["_maybe_symbolic_build"]
        build(iterator=iterator, data_batch=data_batch)
        function(Epochs(iterator))

    # Not by Keras, which looks into what it is given.
    model.__dict__["_maybe_symbolic_build"] = build_and_watch
    try:
        yield
    finally:
        model.__dict__.pop("_maybe_symbolic_build", None)


class Epochs:
    """The iterator of `fit` over the steps of its epochs.

    Where `steps_per_epoch` is given, epochs share a pass over the dataset.
    Otherwise each makes its own pass.

    Args:
        iterator: Keras's `TFEpochIterator`.

    Attributes:
        step: int, the steps of the running epoch that have begun.
    """

    def __init__(self, iterator):
        self._iterator = iterator
        self._enumerate = iterator._enumerate_iterator
        self._first = None
        self.step = 0
        iterator._enumerate_iterator = self._steps

    @property
    def adapter(self):
        """The name of Keras's class for this kind of data."""
        return type(self._iterator.data_adapter).__name__

    @property
    def dataset(self):
        """The data as a `tf.data.Dataset`."""
        return self._iterator.data_adapter.get_tf_dataset()

    @property
    def steps_per_epoch(self):
        """The steps of an epoch, or `None` as long as nobody knows."""
        return self._iterator.num_batches

    @property
    def steps_per_execution(self):
        """The steps that Keras takes at once."""
        return self._iterator.steps_per_execution

    @property
    def place(self):
        """The meta-batches that were taken from the current pass."""
        return self._iterator._steps_seen

    @property
    def place_after_epoch(self):
        """What `place` will be when the next epoch begins."""
        iterator = self._iterator
        if iterator.steps_per_epoch is None or not iterator._current_iterator:
            return 0
        return iterator._steps_seen

    @property
    def pass_is_over(self):
        """Whether the current pass has no further meta-batch."""
        count = self._iterator._num_batches
        return bool(count) and self.place >= count

    def go_on(self, dataset, place, step):
        """Lets the first epoch begin in its middle.

        Args:
            dataset: `tf.data.Dataset`, the rest of the current pass. Later
                passes are whole.
            place: int, the meta-batches of this pass that are over.
            step: int, the steps of the first epoch that are over.
        """
        iterator = self._iterator
        whole = iterator._get_iterator
        strategy = iterator._distribute_strategy
        rest = strategy.experimental_distribute_dataset(dataset)

        def get_iterator():
            iterator._get_iterator = whole
            return rest

        iterator._get_iterator = get_iterator
        self._first = place, step

    def _steps(self):
        first, self._first = self._first, None
        for begin, *others in self._enumerate():
            if first is not None:
                place, step = first
                if begin < step:
                    continue
                self._iterator._steps_seen += place - step
                first = None
            self.step = begin + self.steps_per_execution
            yield begin, *others


def check_repeatable(dataset):
    """Raises `ValueError` if a dataset gives other elements in each process."""
    if isinstance(dataset, tf.data.Dataset):
        endless = dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        unordered = dataset.options().deterministic is False
        if unordered or any(_differs(d, endless) for d in _sources(dataset)):
            raise ValueError(
                "With `Resume`, the dataset must give the same elements in the "
                "same order each time. Pass a `seed` to `shuffle`, and "
                "`reshuffle_each_iteration=False` where epochs are passes over "
                "a finite dataset; keep `deterministic=True`. "
                f"Received: x={dataset!r}"
            )


def _sources(dataset):
    """A dataset, and those that it is made from."""
    yield dataset
    for source in dataset._inputs():
        yield from _sources(source)


def _differs(dataset, endless):
    if type(dataset).__name__ != "_ShuffleDataset":
        return False
    unseeded = not (int(dataset._seed) or int(dataset._seed2))
    # The order of a pass depends on the passes of this process before.
    return unseeded or (dataset._reshuffle_each_iteration and not endless)


def loss_tracker(model):
    """Returns the metric of a compiled model that averages the loss."""
    return model._loss_tracker


def compiled_metrics(model):
    """Returns the metric of all compiled metrics, or `None` without any."""
    return model._compile_metrics


def has_unweighted_metrics(model):
    """Returns whether `compile` got `metrics`, beside `weighted_metrics`."""
    metrics = compiled_metrics(model)
    return metrics is not None and bool(metrics._user_metrics)


def unbuilt_metrics(model):
    """Returns the compiled metrics if they are not built, else `None`."""
    metrics = compiled_metrics(model)
    return None if metrics is None or metrics.built else metrics


def direction(metric):
    """Returns `"up"` or `"down"`: where better values are. Else `None`."""
    return getattr(metric, "_direction", None)


class AutoJitCompile:
    """Tells `compile(jit_compile="auto")` from `False`.

    If Keras would not compile the step, it replaces `"auto"` by `False`. This
    class replaces `"auto"` by `None` instead: the library may still choose.
    """

    # Whether Keras may choose that XLA compiles whole steps, as on a GPU.
    whole_steps_may_compile = True

    def _resolve_auto_jit_compile(self):
        if not self.whole_steps_may_compile:
            return None
        return super()._resolve_auto_jit_compile() or None


class CheckedData:
    """Lets a model check the data of steps that XLA compiles as a whole.

    XLA has no errors: it would drop the checks within the step.
    """

    def _autoconvert_optionals(self, step_func):
        # Keras passes each step, compiled or not, to this method.
        if not self.jit_compile:
            return super()._autoconvert_optionals(step_func)
        return super()._autoconvert_optionals(
            lambda data: step_func(self.checked_data(data))
        )


def is_saving_h5():
    """Returns whether Keras is writing a whole model in its old format."""
    return bool(global_state.get_global_attribute("use_legacy_config"))


class NoDefaultSignature:
    """Keeps Keras's default signature out of a SavedModel.

    Keras gives a model that `fit` built one whose inputs are all floats.
    TensorFlow traces it when it writes the model, but integer labels are no
    floats.
    """

    _default_save_signature = None


def is_library_function(function):
    """Returns whether TensorFlow or Keras itself has made a `tf.function`."""
    module = getattr(function.python_function, "__module__", None) or ""
    return module.partition(".")[0] in ("tensorflow", "keras")


def print_message(message):
    """Prints as Keras does: interactively, or to the log."""
    io_utils.print_msg(message)


def out_of_line(function):
    """A `tf.function` that TensorFlow does not inline where it is called."""
    return tf.function(
        function,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )
