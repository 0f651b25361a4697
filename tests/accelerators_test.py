"""A meta-batch as one program, as on a GPU or TPU, but compiled for a CPU."""

import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import algorithms
from keras_maml import devices
from keras_maml.engine import task_map
from keras_maml.engine import task_memory
from tests import convolutional_training
from tests import layers_table
from tests.convolutional_training import compile
from tests.convolutional_training import make
from tests.convolutional_training import meta_batch
from tests.convolutional_training import trained
from tests.oracle import relative_error
from tests.sample_models import regression_batch
from tests.sample_models import regression_model
from tests.sample_models import small_mlp

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


@pytest.fixture
def accelerator(monkeypatch):
    """Makes the library believe that it has a GPU."""
    gpu = tf.config.LogicalDevice("/device:GPU:0", "GPU")
    monkeypatch.setattr(devices, "accelerators", lambda: [gpu])


# -- The vectorized form equals the loop


def test_a_convolutional_learner_vectorized(float64):
    settings = {"steps": 1, "task_parallelism": 1}
    expected = trained("maml", task_map="loop", **settings)
    actual = trained("maml", task_map="vectorized", **settings)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", algorithms.__all__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("jit_compile", ["auto", True])
def test_every_algorithm_vectorized(name, dtype, jit_compile):
    if jit_compile is True and name == "proto_maml":
        pytest.skip("Keras compiles no model that `supports_jit` excludes.")
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    expected = trained(name, task_map="loop")
    actual = trained(name, jit_compile, task_map="vectorized")
    assert (
        relative_error([actual], [expected])
        < {
            "float32": 1e-5,
            "float64": 1e-10,
        }[dtype]
    )


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", algorithms.__all__)
def test_every_algorithm_vectorized_on_replicas(algorithm):
    done = subprocess.run(
        [sys.executable, "-m", convolutional_training.__name__, "2", algorithm],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    loop, vectorized = json.loads(done.stdout)[algorithm]
    np.testing.assert_allclose(vectorized, loop, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [n for n in layers_table.CASES if n not in layers_table.NOT_VECTORIZED],
)
@pytest.mark.filterwarnings("ignore:Layer 'flatten.*mask attached")
def test_every_layer_vectorized(name):
    if name == "STFTSpectrogram":
        pytest.importorskip("scipy", reason="Keras makes the window with it")
    tolerance = 1e-4 if name in layers_table.FLOAT32 else 1e-10
    assert layers_table.check_vectorized(name) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("name", layers_table.NOT_VECTORIZED)
def test_what_is_not_vectorized_says_so(name):
    with pytest.raises(task_map.VectorizationError):
        layers_table.check_vectorized(name)


# -- What "auto" takes


def chunk_shapes(monkeypatch, meta_model, x, y):
    """The shapes of the chunks of a step, by form; and what runs at last."""
    seen = []

    def chunk_program(run_tasks, parts, form, *args):
        seen.append((form, tuple(parts["counts"].shape)))
        raise NotImplementedError

    monkeypatch.setattr(task_map, "_chunk_program", chunk_program)
    meta_model.train_on_batch(x, y)
    return seen


def test_auto_takes_the_loop_for_convolutions_on_a_cpu(monkeypatch):
    meta_model = make("fomaml")
    compile(meta_model)
    assert chunk_shapes(monkeypatch, meta_model, *meta_batch()) == []


@pytest.mark.parametrize(
    ("fitting", "task_parallelism", "shape"),
    [
        (100, None, (1, 4)),
        (3, None, (2, 2)),
        pytest.param(100, 1, (4, 1), marks=pytest.mark.slow),
    ],
)
def test_auto_takes_chunks_that_fit_the_memory(
    fitting, task_parallelism, shape, accelerator, monkeypatch
):
    monkeypatch.setattr(
        task_memory, "tasks_that_fit", lambda graph, device: fitting
    )
    meta_model = make("fomaml", task_parallelism=task_parallelism)
    compile(meta_model)
    with pytest.warns(UserWarning, match="a loop of small kernels"):
        shapes = chunk_shapes(monkeypatch, meta_model, *meta_batch())
    assert shapes == [("vectorized", shape)]


@pytest.mark.slow
def test_chunks_that_run_one_after_the_other(accelerator):
    x, y = regression_batch(tasks=5)
    results = []
    for settings in (
        {"task_map": "loop"},
        {"task_map": "auto", "task_parallelism": 2},
    ):
        meta_model = keras_maml.MetaModel(
            small_mlp(), inner_optimizer=0.1, **settings
        )
        keras.utils.set_random_seed(0)
        meta_model.compile("sgd", "mse")
        results.append(meta_model.train_on_batch(x, y))
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_an_unknown_number_of_tasks_takes_the_loop(accelerator, monkeypatch):
    meta_model = regression_model(task_map="auto")
    step = tf.function(
        meta_model.train_step,
        input_signature=[
            tf.nest.map_structure(
                lambda t: tf.TensorSpec((None, *t.shape[1:]), t.dtype),
                regression_batch(),
            )
        ],
        autograph=False,
    )
    monkeypatch.setattr(
        task_map, "_chunk_program", lambda *args: pytest.fail("no loop")
    )
    assert step.get_concrete_function()


def test_an_exported_model_knows_no_accelerator(accelerator, monkeypatch):
    monkeypatch.setattr(
        task_map, "_chunk_program", lambda *args: pytest.fail("no loop")
    )
    x, _ = regression_batch()
    meta_model = regression_model(task_map="auto")
    tf.function(meta_model, autograph=False).get_concrete_function(x)
    with pytest.raises(pytest.fail.Exception, match="no loop"):
        # `predict` runs here.
        meta_model.predict(x, verbose=0)


# -- The whole step as one program


def hlo(meta_model, x, y, stage="hlo"):
    """The program of a step, as XLA shows it."""
    meta_model.train_on_batch(x, y)
    meta_model.meta_state.bad_tasks.is_read = True
    step = tf.function(
        lambda: meta_model.train_step((x, y)),
        jit_compile=True,
        autograph=False,
    )
    try:
        return step.experimental_get_compiler_ir()(stage=stage)
    finally:
        meta_model.meta_state.bad_tasks.is_read = False


@pytest.mark.slow
def test_a_step_is_one_program_without_calls_of_the_host(accelerator):
    x, y = tf.nest.map_structure(tf.constant, meta_batch(tasks=2))
    meta_model = make("fomaml", task_parallelism=2)
    compile(meta_model, jit_compile=True)
    before = len(meta_model.variables)
    text = hlo(meta_model, x, y)
    # The arguments are the data and the variables; no variable is made.
    assert len(meta_model.variables) == before
    assert "stateful" not in text
    for call in ("infeed", "outfeed", "send(", "recv(", "xla_python"):
        assert call not in text
    # The convolution's kernels of both tasks are one product.
    assert re.search(r"f32\[2,18,3\]", text)


def test_fit_calls_one_program_a_step(accelerator, monkeypatch):
    data = regression_batch()
    meta_model = regression_model(task_map="auto")
    meta_model.compile("adam", "mse", jit_compile=True)
    functions = []
    plain = tf.function
    with monkeypatch.context() as patch:
        patch.setattr(
            tf,
            "function",
            lambda *args, **kwargs: (
                functions.append(plain(*args, **kwargs)) or functions[-1]
            ),
        )
        meta_model.make_train_function()
    # As in `fit`, which looks for bad tasks after a step.
    monkeypatch.setattr(meta_model.meta_state.bad_tasks, "is_read", True)
    iterator = iter(tf.data.Dataset.from_tensors(data).repeat())
    # Of Keras's functions, the last one takes an iterator.
    graph = functions[-1].get_concrete_function(iterator).graph.as_graph_def()
    compiled = {
        function.signature.name
        for function in graph.library.function
        if function.attr["_XlaMustCompile"].b
    }
    outside = [graph.node] + [
        function.node_def
        for function in graph.library.function
        if function.signature.name not in compiled
    ]
    calls = [
        value.func.name
        for nodes in outside
        for node in nodes
        for value in node.attr.values()
        if value.func.name in compiled
    ]
    inside = {
        node.op
        for function in graph.library.function
        if function.signature.name in compiled
        for node in function.node_def
    }
    assert len(set(calls)) == 1
    assert not inside & {"EagerPyFunc", "PyFunc", "Assert", "VarHandleOp"}


# -- `fit` with `jit_compile=True`

GRADIENTS = {
    "second_order": "second_order",
    "rematerialized": keras_maml.meta_gradients.SecondOrder(True),
    "first_order": "first_order",
    "reptile": "reptile",
    "implicit": keras_maml.meta_gradients.Implicit(cg_steps=2),
}
LEARNERS = {
    "conv4": lambda: keras_maml.learners.conv4((8, 8, 2), 2, filters=4),
    "mlp": lambda: keras.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.Dense(2),
        ]
    ),
    "lstm": lambda: keras.Sequential(
        [
            keras.layers.Reshape((8, 16)),
            keras.layers.LSTM(3, use_cudnn=False),
            keras.layers.Dense(2),
        ]
    ),
}


def fitted(learner, jit_compile, optimizer=None, size=8, epochs=2, **settings):
    keras.utils.set_random_seed(0)
    x, y = meta_batch(size=size)
    learner = learner()
    learner.build((None, *x["query_x"].shape[2:]))
    settings = {"inner_optimizer": 0.1, "inner_steps": 2, **settings}
    meta_model = keras_maml.MetaModel(learner, **settings)
    meta_model.compile(
        optimizer or keras.optimizers.SGD(0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    history = meta_model.fit(
        x, y, batch_size=4, epochs=epochs, verbose=0
    ).history
    return convolutional_training.flat(meta_model), history


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("meta_gradient", GRADIENTS)
def test_fit_as_one_program(learner, meta_gradient, float64, accelerator):
    settings = {"meta_gradient": GRADIENTS[meta_gradient]}
    if meta_gradient == "implicit" and learner == "conv4":
        pytest.skip("Batch normalisation has no minimum to assume.")
    actual, history = fitted(LEARNERS[learner], True, **settings)
    expected, expected_history = fitted(
        LEARNERS[learner], False, task_map="loop", **settings
    )
    assert relative_error([actual], [expected]) < 1e-10
    for key, values in expected_history.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_fit_in_mixed_precision_as_one_program(policy, accelerator):
    keras.config.set_dtype_policy(policy)
    optimizers = [keras.optimizers.SGD(0.5) for _ in range(2)]
    if policy == "mixed_float16":
        optimizers = list(map(keras.optimizers.LossScaleOptimizer, optimizers))

    # Batch normalisation of few pixels would magnify the rounding.
    def learner():
        return keras.Sequential(
            [
                keras.layers.Conv2D(4, 3, 2, "same", activation="tanh"),
                keras.layers.Conv2D(4, 3, 2, "same", activation="tanh"),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        )

    actual, _ = fitted(learner, True, optimizers[0])
    expected, _ = fitted(learner, False, optimizers[1], task_map="loop")
    assert relative_error([actual], [expected]) < 0.05


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*input channels")
def test_fit_mobilenet_as_one_program(float64, accelerator):
    def mobilenet():
        body = keras.applications.MobileNetV2(
            (32, 32, 2), 0.35, include_top=False, weights=None, pooling="avg"
        )
        return keras.Model(body.input, keras.layers.Dense(2)(body.output))

    # Its gradient is large before it has seen any images.
    optimizers = [
        keras.optimizers.SGD(0.5, global_clipnorm=0.1) for _ in range(2)
    ]
    # XLA needs minutes and gigabytes for each inner step. The network magnifies
    # rounding: from weights 1e-15 apart, the loop's are 4e-10 apart after one
    # step, and 3e-4 after two.
    settings = {"size": 32, "inner_steps": 1, "epochs": 1}
    actual, _ = fitted(mobilenet, True, optimizers[0], **settings)
    expected, _ = fitted(
        mobilenet, False, optimizers[1], task_map="loop", **settings
    )
    assert relative_error([actual], [expected]) < 1e-8
