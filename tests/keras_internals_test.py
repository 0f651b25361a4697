"""What breaks when Keras or TensorFlow takes away a name we lean on.

A test that fails here after an update says which function of
`keras_maml/keras_internals.py` to mend, and what it is needed for.
"""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.exact import lowering
from tests.sample_models import regression_batch
from tests.sample_models import regression_model
from tests.sample_models import small_mlp


def test_all_layers_finds_those_inside_of_wrappers():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    learner = keras.Sequential(
        [
            keras.Input((4, 3)),
            keras.layers.TimeDistributed(inner),
            keras.layers.Bidirectional(keras.layers.GRU(2)),
        ]
    )
    found = {type(e).__name__ for e in keras_internals.all_layers(learner)}
    assert {"Dense", "GRU", "GRUCell", "TimeDistributed"} <= found
    assert learner in keras_internals.all_layers(learner)
    assert learner not in keras_internals.all_layers(
        learner, include_self=False
    )


def test_child_layers_are_those_that_a_layer_holds_itself():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    wrapper = keras.layers.TimeDistributed(inner)
    assert keras_internals.child_layers(wrapper) == [inner]
    found = [type(e).__name__ for e in keras_internals.child_layers(inner)]
    assert [name for name in found if name != "InputLayer"] == ["Dense"]


def test_forget_losses_empties_what_layers_added():
    class Adds(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(keras.ops.sum(inputs))
            return inputs

    learner = keras.Sequential([keras.Input((2,)), Adds()])
    learner(np.ones((1, 2), "float32"))
    assert len(learner.losses) == 1
    keras_internals.forget_losses(learner)
    assert not learner.losses


def test_masks_hang_on_outputs_and_are_heeded_by_losses():
    embedded = keras.layers.Embedding(3, 2, mask_zero=True)(
        tf.constant([[1, 0]])
    )
    mask = keras_internals.get_mask(embedded)
    np.testing.assert_array_equal(mask, [[True, False]])
    assert keras_internals.get_mask(tf.zeros([1])) is None
    outputs = tf.constant([[[1.0], [5.0]]])
    keras_internals.set_mask(outputs, mask)
    loss = keras.losses.MeanSquaredError(reduction="mean")
    # Only the first step counts; Keras divides by what the mask leaves.
    assert float(loss(tf.zeros([1, 2, 1]), outputs)) == pytest.approx(1.0)


def test_seed_variables_are_known_by_their_generator():
    class NamedAlike(keras.layers.Layer):
        def build(self, input_shape):
            self.counter = self.add_weight(
                shape=(2,),
                dtype="int32",
                trainable=False,
                initializer="zeros",
                name="seed_generator_state",
            )

        def call(self, inputs):
            return inputs

    dropout = keras.layers.Dropout(0.5)
    learner = keras.Sequential([keras.Input((2,)), dropout, NamedAlike()])
    [seed] = keras_internals.seed_variables(learner)
    assert seed is dropout.seed_generator.state


def test_a_draw_moves_the_seed_on_by_the_increment():
    generator = keras.random.SeedGenerator(7)
    before = np.array(generator.state.value)
    keras.random.uniform((1,), seed=generator)
    np.testing.assert_array_equal(
        generator.state.value, before + keras_internals.SEED_INCREMENT
    )


def test_lora_variables_are_known():
    dense = keras.layers.Dense(4)
    dense.build((None, 4))
    dense.enable_lora(2)
    lora = [keras_internals.is_lora(v) for v in dense.trainable_variables]
    # The bias, and the two small matrices.
    assert sorted(lora) == [False, True, True]


def test_inputs_that_are_left_alone_keep_their_dtype():
    class Dtype(keras.Model):
        def call(self, inputs):
            self.seen = inputs["a"].dtype
            return keras.ops.cast(inputs["a"], "float32")

    model = Dtype()
    keras_internals.leave_inputs_alone(model)
    model({"a": np.ones((1, 2), "float64")})
    assert model.seen == np.float64


def test_fit_starts_at_the_first_epoch_after_a_backup(tmp_path):
    model = small_mlp()
    model.compile("sgd", "mse")
    x, y = np.ones((2, 1), "f"), np.ones((2, 1), "f")

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=2, verbose=0, callbacks=[backup, Stop()])
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[backup])
    assert history.epoch == [1]
    # This is what Keras remembers, and what is to be forgotten.
    keras_internals.start_at_first_epoch(model)
    assert model.fit(x, y, epochs=2, verbose=0).epoch == [0, 1]


def test_loss_and_metrics_of_a_compiled_model():
    model = regression_model()
    tracker = keras_internals.loss_tracker(model)
    assert isinstance(tracker, keras.metrics.Mean)
    assert tracker.name == "loss"
    metrics = keras_internals.unbuilt_metrics(model)
    assert metrics is not None
    metrics.build(tf.zeros([1, 1, 1]), tf.zeros([1, 1, 1]))
    assert keras_internals.unbuilt_metrics(model) is None


@pytest.mark.parametrize(
    ("asked", "given"), [("auto", None), (False, False), (True, True)]
)
def test_jit_compile_tells_auto_from_no(asked, given):
    if tf.config.list_physical_devices("GPU") and asked == "auto":
        given = True
    model = regression_model()
    model.compile("sgd", "mse", jit_compile=asked)
    assert model.jit_compile is given
    loaded = type(model).from_config(model.get_config())
    loaded.compile_from_config(model.get_compile_config())
    assert loaded.jit_compile is given


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_a_step_that_xla_compiles_gets_checked_data(method):
    class Checked(keras_internals.CheckedData, keras.Sequential):
        def checked_data(self, data):
            size = tf.size(tf.nest.flatten(data)[0])
            check = tf.debugging.Assert(size == 0, ["outside of XLA"])
            with tf.control_dependencies([check]):
                return tf.nest.map_structure(tf.identity, data)

    model = Checked([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=True)
    arguments = [np.ones((2, 1), "float32")] * (1 + (method != "predict"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="outside of XLA"):
        getattr(model, method)(*arguments, verbose=0)


def test_a_model_without_a_default_signature(tmp_path):
    class Plain(keras.Model):
        def call(self, inputs):
            return {key: value + 1 for key, value in inputs.items()}

    class Quiet(keras_internals.NoDefaultSignature, Plain):
        pass

    def functions_of(model):
        model({"a": tf.constant([1.0])})
        module = tf.Module()
        module.model = model
        tf.saved_model.save(module, tmp_path / type(model).__name__)
        return dir(tf.saved_model.load(tmp_path / type(model).__name__).model)

    assert "_default_save_signature" in functions_of(Plain())
    assert "_default_save_signature" not in functions_of(Quiet())


def test_functions_of_tensorflow_itself_are_known():
    ours = tf.function(lambda x: x)
    assert not keras_internals.is_library_function(ours)
    assert not keras_internals.is_library_function(
        tf.function(functools.partial(tf.add, 1.0))
    )
    library = tf.function(tf.linalg.trace)
    assert keras_internals.is_library_function(library)


def test_a_function_out_of_line_is_not_inlined():
    function = keras_internals.out_of_line(lambda x: x + 1.0)
    concrete = function.get_concrete_function(tf.TensorSpec([]))
    assert concrete.function_def.attr["_noinline"].b


LAYERS = {
    "moments": keras.layers.LayerNormalization,
    "bias_add": lambda: keras.layers.Conv2D(3, 1),
    "convolution": lambda: keras.layers.Conv2D(1, 1),
    "relu": keras.layers.ReLU,
    "relu6": lambda: keras.layers.ReLU(6.0),
    "leaky_relu": keras.layers.LeakyReLU,
    "elu": keras.layers.ELU,
    "gelu": lambda: keras.layers.Activation("gelu"),
    "matmul": lambda: keras.layers.Lambda(
        lambda x: keras.layers.Dense(1)(x[0, 0])
    ),
    "repeat": keras.layers.UpSampling2D,
    "tile": lambda: keras.layers.Lambda(
        lambda x: keras.ops.tile(x, [1, 2, 1, 1])
    ),
    "__getitem__": keras.layers.Cropping2D,
    "avg_pool": lambda: keras.layers.AveragePooling2D(2),
    "max_pool": lambda: keras.layers.MaxPooling2D(2),
    "conv_transpose": lambda: keras.layers.Conv2DTranspose(1, 1),
    "depthwise_conv2d": lambda: keras.layers.DepthwiseConv2D(1),
    "pool": lambda: keras.layers.AdaptiveMaxPooling2D(3),
    "separable_conv2d": lambda: keras.layers.SeparableConv2D(1, 1),
    "resize": lambda: keras.layers.Resizing(2, 2),
    "concat": lambda: keras.layers.Lambda(
        lambda x: keras.ops.concatenate([x, x])
    ),
    "pad": lambda: keras.layers.ZeroPadding2D(1),
    "stateless_uniform": lambda: keras.layers.Lambda(
        lambda x: x + keras.random.uniform([1], seed=1)
    ),
    "stateless_normal": lambda: keras.layers.Lambda(
        lambda x: x + keras.random.normal([1], seed=1)
    ),
    "stateless_dropout": lambda: keras.layers.Lambda(
        lambda x: keras.random.dropout(x, 0.5, seed=1)
    ),
    "rnn": lambda: keras.layers.ConvLSTM1D(1, 1),
    "__call__": lambda: keras.layers.Lambda(tf.function(lambda x: x)),
}


@pytest.mark.parametrize("name", sorted(keras_internals.REPLACED_FUNCTIONS))
def test_layers_reach_what_is_replaced(name, monkeypatch):
    if name == "pool" and not hasattr(keras.layers, "AdaptiveMaxPooling2D"):
        pytest.skip("Keras has no layer that pools so before 3.13.")
    calls = []

    def record(*args, **kwargs):
        calls.append(name)
        return lowering._ORIGINALS[name](*args, **kwargs)

    monkeypatch.setitem(lowering._DISPATCHERS, name, record)
    layer = LAYERS[name]()
    layer.build((1, 4, 4, 1))
    with lowering.exact_ops():
        layer(tf.ones([1, 4, 4, 1]))
    assert calls
    assert (
        getattr(keras_internals.REPLACED_FUNCTIONS[name], name)
        is lowering._ORIGINALS[name]
    )


def test_messages_are_printed_as_keras_does(capsys):
    keras_internals.print_message("Saved.")
    assert capsys.readouterr().out == "Saved.\n"


@pytest.mark.parametrize("name", keras_internals.CALLBACK_STATE)
def test_keras_keeps_the_state_of_callbacks_in_these_attributes(name):
    arguments = {"ModelCheckpoint": ("a.keras",)}.get(name, ())
    callback = getattr(keras.callbacks, name)(*arguments)
    callback.on_train_begin()
    known = set(keras_internals.CALLBACK_STATE[name])
    assert known <= set(vars(callback))
    # `Resume` would lose a number that Keras adds.
    settings = set(inspect.signature(type(callback)).parameters)
    numbers = {k for k, v in vars(callback).items() if isinstance(v, int)}
    inherited = {"_supports_tf_logs", "min_delta", "save_freq"}
    assert numbers <= known | settings | inherited


def test_build_all_builds_model_optimizer_and_metrics():
    meta_model = regression_model()
    x, y = regression_batch()
    spec = tf.data.Dataset.from_tensors((x, y)).element_spec
    assert keras_internals.unbuilt_metrics(meta_model) is not None
    keras_internals.build_all(meta_model, spec)
    assert keras_internals.unbuilt_metrics(meta_model) is None
    assert meta_model.optimizer.built


def test_shuffled_datasets_are_told_by_their_order():
    numbers = tf.data.Dataset.range(5)
    unordered = tf.data.Options()
    unordered.deterministic = False
    for same in (
        numbers.map(lambda x: x).batch(2),
        numbers.shuffle(5, seed=1, reshuffle_each_iteration=False).batch(2),
        numbers.shuffle(5, seed=1).repeat().prefetch(1),
    ):
        keras_internals.check_repeatable(same)
    # `set_random_seed` gives a seed to those that have none.
    tf.random.set_seed(None)
    unseeded = numbers.shuffle(5).repeat()
    for other in (
        unseeded,
        tf.data.Dataset.zip(numbers, unseeded),
        numbers.shuffle(5, seed=1).batch(2),
        numbers.with_options(unordered),
    ):
        with pytest.raises(ValueError, match="Pass a `seed` to `shuffle`"):
            keras_internals.check_repeatable(other)


class TestEpochs:
    """The steps of `fit`'s epochs, over 5 elements."""

    def steps(self, go_on=None, epochs=3, **kwargs):
        """What a model saw, as (epoch, step, element, place) of each step."""
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=True)
        seen, found = [], []

        class Sees(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch

            def on_train_batch_end(self, batch, logs=None):
                place = found[0].place
                assert found[0].step == batch + 1
                seen.append((self.epoch, batch, elements[-1], place))

            def on_epoch_end(self, epoch, logs=None):
                seen.append(found[0].place_after_epoch)

        elements = []

        def train_step(data):
            elements.append(int(data[0][0, 0]))
            return {"loss": 0.0}

        model.train_step = train_step
        numbers = np.arange(5.0)[:, None, None]
        dataset = tf.data.Dataset.from_tensor_slices((numbers, numbers))

        def watch(epochs):
            found.append(epochs)
            assert epochs.adapter == "TFDatasetAdapter"
            assert epochs.dataset is dataset
            assert epochs.steps_per_execution == 1
            assert epochs.steps_per_epoch == kwargs.get("steps_per_epoch", 5)
            if go_on is not None:
                place, step = go_on
                epochs.go_on(dataset.skip(place), place, step)

        with keras_internals.watching_epochs(model, watch):
            model.fit(
                dataset,
                epochs=epochs,
                callbacks=[Sees()],
                verbose=0,
                shuffle=False,
                **kwargs,
            )
        assert "_maybe_symbolic_build" not in vars(model)
        return seen

    def test_each_epoch_is_a_pass(self):
        whole = self.steps(epochs=2)
        assert whole[:2] == [(0, 0, 0, 1), (0, 1, 1, 2)]
        assert whole[4:7] == [(0, 4, 4, 5), 0, (1, 0, 0, 1)]
        # From the middle of the first epoch.
        assert self.steps((3, 3), epochs=2) == whole[3:]

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    def test_epochs_share_a_pass(self):
        whole = self.steps(epochs=5, steps_per_epoch=2)
        first = [(0, 0, 0, 1), (0, 1, 1, 2), 2, (1, 0, 2, 3), (1, 1, 3, 4), 4]
        assert whole[:6] == first
        # The pass ends in the middle of an epoch, and so does the epoch.
        assert whole[6:9] == [(2, 0, 4, 5), 0, (3, 0, 0, 1)]
        # From the middle of the second epoch.
        resumed = self.steps(
            (3, 1), epochs=5, steps_per_epoch=2, initial_epoch=1
        )
        assert resumed == whole[4:]
        # From the end of the second epoch.
        resumed = self.steps(
            (4, 0), epochs=5, steps_per_epoch=2, initial_epoch=2
        )
        assert resumed == whole[6:]


def test_keras_says_that_it_writes_the_old_format(tmp_path):
    seen = []

    class Model(keras.Sequential):
        def get_config(self):
            seen.append(keras_internals.is_saving_h5())
            return super().get_config()

    model = Model([keras.Input((1,)), keras.layers.Dense(1)])
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    assert seen[0] is False
    assert seen[-1] is True
    assert not keras_internals.is_saving_h5()


def test_compiled_metrics_score_a_task_without_variables():
    meta_model = regression_model()
    x, y = regression_batch()
    meta_model.evaluate(x, y, verbose=0)
    metrics = keras_internals.compiled_metrics(meta_model)
    state = metrics.stateless_reset_state()
    state = metrics.stateless_update_state(state, y, y + 2)
    assert float(metrics.stateless_result(state)["mae"]) == pytest.approx(2)
    assert keras_internals.has_unweighted_metrics(meta_model)
    meta_model.compile(loss="mse", weighted_metrics=["mae"])
    assert not keras_internals.has_unweighted_metrics(meta_model)
    [mae] = metrics.metrics
    assert keras_internals.direction(mae) == "down"
    assert keras_internals.direction(keras.metrics.BinaryAccuracy()) == "up"
    assert keras_internals.direction(keras.metrics.Sum()) is None
