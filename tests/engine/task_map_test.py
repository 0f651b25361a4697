"""The map over tasks: results, and memory that does not grow with them."""

import json
import logging
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.engine import task_forms
from keras_maml.engine import task_map
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def square(task):
    value = task["a"]
    return {"square": value**2, "index": task["i"]}, (tf.reduce_sum(value),)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("parallelism", [1, 4])
def test_stacks_and_sums(eager, parallelism):
    a = np.arange(6, dtype="float32").reshape(3, 2)
    tasks = {"a": tf.constant(a), "i": tf.range(3)}

    def run():
        return task_map.map_tasks(square, tasks, parallelism=parallelism)

    each, (total,) = run() if eager else tf.function(run)()
    np.testing.assert_array_equal(each["square"], a**2)
    np.testing.assert_array_equal(each["index"], [0, 1, 2])
    assert float(total) == a.sum()


def test_shapes_are_static_where_they_can_be():
    @tf.function(
        input_signature=[
            tf.TensorSpec((3, None)),
            tf.TensorSpec((None, 2)),
        ]
    )
    def run(known, unknown):
        shapes = []
        for tensor in (known, unknown):
            (each,), _ = task_map.map_tasks(
                lambda t: ((t * 2,), ()), tensor, parallelism=2
            )
            shapes.append(each.shape)
        assert shapes[0].as_list() == [3, None]
        assert shapes[1].as_list() == [None, 2]
        return each

    np.testing.assert_array_equal(
        run(np.ones((3, 5)), np.ones((4, 2))), np.full((4, 2), 2.0)
    )


def test_a_replica_may_have_no_task():
    @tf.function(input_signature=[tf.TensorSpec((None, None, 2))])
    def run(tasks):
        (each,), (total,) = task_map.map_tasks(
            lambda t: ((t * 2,), (tf.reduce_sum(t),)), tasks, parallelism=2
        )
        return each, total

    each, total = run(np.ones((0, 5, 2)))
    # The unknown dimension is 1, which fits any.
    assert each.shape == (0, 1, 2)
    assert float(total) == 0
    each, total = run(np.ones((3, 5, 2)))
    assert each.shape == (3, 5, 2)
    assert float(total) == 30


def test_result_does_not_depend_on_parallelism():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((50, 7)).astype("float32")
    sums = {
        float(
            tf.function(
                lambda p=parallelism: task_map.map_tasks(
                    lambda t: ((), (tf.reduce_sum(tf.exp(t)),)),
                    tf.constant(a),
                    parallelism=p,
                )[1][0]
            )()
        )
        for parallelism in (1, 2, 8)
    }
    assert len(sums) == 1


# -- Vectorized


def trained(task_map, tasks, **kwargs):
    """Weights and losses after three epochs of a few meta-batches."""
    sines = keras_maml.tasks.Sinusoid(k_shot=5, q_query=5, seed=0)
    x, y = next(iter(sines.batch(11)))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(
        tasks, drop_remainder=True
    )
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(hidden_units=(8,)), task_map=task_map, **kwargs
    )
    meta_model.compile(optimizer="sgd", loss="mse")
    losses = meta_model.fit(data, epochs=3, verbose=0).history["loss"]
    return losses, meta_model.learner.get_weights()


# Chunks with and without filling.
@pytest.mark.parametrize(
    ("form", "tasks"),
    [("vectorized", 1), ("vectorized", 5), ("vectorized", 8), ("compiled", 5)],
)
def test_training_in_chunks_equals_the_loop(form, tasks):
    expected_losses, expected = trained("loop", tasks)
    losses, weights = trained(form, tasks, task_parallelism=2)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for w, e in zip(weights, expected):
        np.testing.assert_allclose(w, e, rtol=1e-4, atol=1e-6)


def test_chunks_fill_the_cores_and_stay_small():
    def sizes(count, parallelism):
        return task_map._chunk_sizes(count, parallelism)

    assert sizes(25, 2) == (2, 13)
    assert sizes(3, 8) == (1, 3)
    assert sizes(16, 8) == (4, 4)
    assert sizes(256, 2) == (8, 32)


@pytest.mark.parametrize("form", ["vectorized", "compiled"])
def test_more_chunks_than_cores_are_a_loop(form):
    def square_each(task):
        return task**2, {"sum": task}

    tasks = tf.random.stateless_normal((70, 3), (0, 0))
    run = tf.function(
        lambda t: task_map.map_tasks(square_each, t, parallelism=2, form=form)
    )
    each, total = run(tasks)
    np.testing.assert_allclose(each, tasks**2, rtol=1e-6)
    np.testing.assert_allclose(total["sum"], tf.reduce_sum(tasks, 0), atol=1e-4)


def listed(inputs):
    """TensorFlow makes a loop over a list of this."""

    def mapped(x):
        return tf.map_fn(tf.sin, x)

    return keras.layers.Flatten()(keras.layers.Lambda(mapped)(inputs))


class RawConvolution(keras.layers.Layer):
    """Calls an operation itself, for which `exact` has no other form."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(2, input_shape[-1], 2))

    def call(self, inputs):
        return tf.nn.conv1d(inputs, self.kernel, 1, "VALID")


def convolution(inputs):
    return keras.layers.Flatten()(RawConvolution()(inputs))


class TruncatedNoise(keras.layers.Layer):
    """Draws numbers for which `exact` has no other form."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(0)

    def call(self, inputs):
        noise = keras.random.truncated_normal([2], seed=self.seed)
        return keras.layers.Flatten()(inputs + noise)


def noise(inputs):
    return TruncatedNoise()(inputs)


def recurrent_batch():
    rng = np.random.default_rng(0)
    draw = rng.standard_normal
    x = {
        "support_x": draw((4, 3, 3, 2)).astype("float32"),
        "support_y": draw((4, 3, 1)).astype("float32"),
        "query_x": draw((4, 2, 3, 2)).astype("float32"),
    }
    return x, draw((4, 2, 1)).astype("float32")


def meta_model_with(layer, **settings):
    inputs = keras.Input((3, 2))
    learner = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    meta_model = keras_maml.MetaModel(learner, **settings)
    meta_model.compile("sgd", "mse")
    return meta_model


@pytest.mark.parametrize(
    ("layer", "settings", "place"),
    [
        # TensorFlow vectorizes it, and XLA cannot compile it.
        (listed, {"inner_steps": 0}, "While in '.*map"),
        (convolution, {}, "operation Conv2D in '.*raw_conv"),
        (noise, {}, "operation StatelessRandom"),
    ],
)
def test_what_cannot_be_vectorized_says_so(layer, settings, place):
    meta_model = meta_model_with(layer, task_map="vectorized", **settings)
    with pytest.raises(task_map.VectorizationError, match=place) as caught:
        meta_model.train_on_batch(*recurrent_batch())
    assert len(str(caught.value)) < 400
    # All that TensorFlow says of it. Keras takes the cause away.
    assert isinstance(caught.value.__context__, Exception)


def test_what_cannot_be_vectorized_without_xla_says_so():
    meta_model = meta_model_with(convolution, task_map="vectorized")
    meta_model.compile("sgd", "mse", jit_compile=False)
    with pytest.raises(task_map.VectorizationError, match="operation Conv2D"):
        meta_model.train_on_batch(*recurrent_batch())


def test_auto_is_silent_about_what_it_tries(monkeypatch):
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            # TensorFlow counts the traces of all models of the process.
            if "triggered tf.function retracing" not in message:
                records.append(message)

    handler = Handler()
    tf.get_logger().addHandler(handler)
    # The libraries' light layers can all be vectorized.
    monkeypatch.setattr(task_forms, "is_light", lambda learner: True)
    try:
        for layer in (listed, convolution):
            values = [
                meta_model_with(
                    layer, task_map=mode, adapted_weights="head"
                ).train_on_batch(*recurrent_batch())
                for mode in ("auto", "loop")
            ]
            assert np.isfinite(values).all()
        assert records == []
    finally:
        tf.get_logger().removeHandler(handler)


def test_auto_takes_the_loop_for_a_loss_that_needs_it():
    def loss(y_true, y_pred):
        values, _ = tf.unique(tf.reshape(tf.stop_gradient(y_pred), [-1]))
        return tf.square(y_true - y_pred) + 0.0 * tf.reduce_sum(values)

    def train(task_map):
        meta_model = keras_maml.MetaModel(
            keras_maml.learners.mlp(hidden_units=(4,)), task_map=task_map
        )
        meta_model.compile(optimizer="sgd", loss=loss)
        sines = keras_maml.tasks.Sinusoid(k_shot=5, q_query=5, seed=0)
        return meta_model.fit(
            sines.batch(4), steps_per_epoch=2, shuffle=False, verbose=0
        ).history["loss"]

    assert train("auto") == train("loop")
    with pytest.raises(ValueError, match='task_map="vectorized"'):
        train("vectorized")


def test_vectorizing_needs_a_number_of_tasks():
    sines = keras_maml.tasks.Sinusoid(k_shot=5, q_query=5, seed=0)
    x, y = next(iter(sines.batch(4)))
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), task_map="vectorized"
    )
    meta_model.compile(optimizer="sgd", loss="mse")
    with pytest.raises(ValueError, match="drop_remainder=True"):
        meta_model.fit(
            tf.data.Dataset.from_tensor_slices((x, y)).batch(3), verbose=0
        )


# Peak memory is a process's own, so each size gets a process.
MEMORY = """
import json
import resource
import sys

import keras
import tensorflow as tf

import keras_maml

tasks = int(sys.argv[1])
learner = keras_maml.learners.conv4((48, 48, 3), n_way=5, filters=32)
meta_model = keras_maml.MetaModel(learner, task_parallelism=1)
meta_model.compile(
    optimizer="sgd",
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
labels = tf.tile(tf.range(5)[None], (tasks, 4))
images = tf.random.stateless_normal((tasks, 20, 48, 48, 3), (0, 0))
x = {"support_x": images, "support_y": labels, "query_x": images}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


before = peak()
for _ in range(3):
    meta_model.train_on_batch(x, labels)
print(json.dumps({"growth": peak() - before}))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_meta_batch():
    def growth(tasks):
        result = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tasks)],
            check=True,
            capture_output=True,
            text=True,
        )
        return json.loads(result.stdout.splitlines()[-1])["growth"]

    small, large = growth(8), growth(64)
    print(f"8 tasks: {small:.0f} MiB, 64 tasks: {large:.0f} MiB")
    assert large < small + 10


def special_loss(y_true, y_pred):
    """A loss with an operation for which XLA has no kernel."""
    return tf.reduce_mean(
        tf.square(tf.math.special.bessel_j0(y_pred) - y_true), -1
    )


def test_an_operation_that_xla_lacks_falls_back_to_the_loop():
    def loss(mode):
        meta_model = keras_maml.MetaModel(
            small_mlp(), inner_optimizer=0.1, task_map=mode
        )
        meta_model.compile("sgd", special_loss)
        x, y = regression_batch()
        return meta_model.train_on_batch(x, y)

    assert loss("auto") == pytest.approx(loss("loop"), rel=1e-6)
    with pytest.raises(task_map.VectorizationError, match="BesselJ0"):
        loss("vectorized")


@pytest.mark.parametrize("mode", task_map.MODES)
def test_no_xla_anywhere_where_jit_compile_is_false(mode):
    def compiled_functions(jit_compile):
        meta_model = keras_maml.MetaModel(small_mlp(), task_map=mode)
        meta_model.compile("sgd", "mse", jit_compile=jit_compile)
        x, y = regression_batch()
        step = tf.function(meta_model.train_step, autograph=False)
        graph = step.get_concrete_function((x, y)).graph.as_graph_def()
        return [
            function.signature.name
            for function in graph.library.function
            if function.attr["_XlaMustCompile"].b
        ]

    assert not compiled_functions(False)
    assert bool(compiled_functions("auto")) == (mode != "loop")


def loss_with_map_fn(y_true, y_pred):
    return tf.reduce_mean(tf.map_fn(tf.square, y_pred - y_true), -1)


def loss_with_cond(y_true, y_pred):
    error = tf.reduce_mean(tf.square(y_pred - y_true))
    return tf.cond(error > 1.0, lambda: tf.sqrt(error), lambda: error)


@pytest.mark.parametrize("loss", [loss_with_map_fn, loss_with_cond])
def test_auto_falls_back_whatever_cannot_be_vectorized(loss):
    def value(mode):
        meta_model = keras_maml.MetaModel(small_mlp(), task_map=mode)
        meta_model.compile("sgd", loss)
        return meta_model.train_on_batch(*regression_batch())

    assert value("auto") == pytest.approx(value("loop"), rel=1e-6)


def test_what_is_wrong_in_both_ways_is_still_an_error():
    def wrong(y_true, y_pred):
        return tf.square(y_true - y_pred @ tf.ones([7, 7]))

    meta_model = keras_maml.MetaModel(small_mlp())
    meta_model.compile("sgd", wrong)
    with pytest.raises(ValueError, match="Dimensions must be equal"):
        meta_model.train_on_batch(*regression_batch())


@pytest.mark.parametrize("form", task_map.FORMS)
def test_sums_over_chunks_what_finish_makes_of_their_sums(form):
    tasks = np.ones((9, 2), "float32")

    @tf.function
    def run(tasks):
        return task_map.map_tasks(
            lambda task: ((), {"kept": task, "dropped": task}),
            tasks,
            parallelism=2,
            form=form,
            finish=lambda total: 2 * total["kept"],
        )

    np.testing.assert_array_equal(run(tasks)[1], [18, 18])


@pytest.mark.parametrize(
    ("meta_gradient", "form"),
    [("second_order", "compiled"), ("first_order", "vectorized")],
)
def test_auto_counts_the_steps_that_a_derivative_goes_through(
    meta_gradient, form, monkeypatch
):
    forms = []

    def map_tasks(fn, tasks, form, **kwargs):
        forms.append(form)
        raise NotImplementedError

    monkeypatch.setattr(task_map, "map_tasks", map_tasks)
    learner = keras_maml.learners.mlp(hidden_units=(64, 64))
    meta_model = keras_maml.MetaModel(
        learner, inner_steps=5, meta_gradient=meta_gradient
    )
    meta_model.compile("sgd", "mse")
    with pytest.raises(NotImplementedError):
        meta_model.train_on_batch(*regression_batch())
    assert forms == [form, "loop"]
