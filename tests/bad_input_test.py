"""A table of wrong input and the error that names it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import inner_optimizers
from keras_maml import learners
from tests.sample_models import SubclassedLearner
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

LEARNER = small_mlp()


def model(**kwargs):
    return lambda: keras_maml.MetaModel(LEARNER, **kwargs)


def one_layer(**kwargs):
    return keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, name="same", **kwargs)]
    )


# What is wrong → a call, and what its message must say.
CONSTRUCTION = {
    "learner is not a model": (
        lambda: keras_maml.MetaModel(keras.layers.Dense(1)),
        "the Keras model of one task. Received: learner=<Dense",
    ),
    "learner is a MetaModel": (
        lambda: keras_maml.MetaModel(keras_maml.MetaModel(LEARNER)),
        "the Keras model of one task. Received: learner=<MetaModel",
    ),
    "learner without weights": (
        lambda: keras_maml.MetaModel(
            keras.Sequential([keras.Input((1,)), keras.layers.ReLU()])
        ),
        "`adapted_weights` selects none of the learner's trainable weights",
    ),
    "inner rate of zero": (
        model(inner_optimizer=0.0),
        "`learning_rate` must be a finite number above 0. "
        "Received: learning_rate=0.0",
    ),
    "inner rate below zero": (model(inner_optimizer=-1), "learning_rate=-1"),
    "inner rate not finite": (
        model(inner_optimizer=float("nan")),
        "learning_rate=nan",
    ),
    "inner optimizer by name": (
        model(inner_optimizer="sgdd"),
        "`inner_optimizer` must be one of ['adagrad', 'adam', 'adamw', 'rms",
    ),
    "inner optimizer of Keras": (
        model(inner_optimizer=keras.optimizers.SGD()),
        "cannot be differentiated through",
    ),
    "rate that is a bool": (
        model(inner_optimizer=True),
        "inner_optimizer=True",
    ),
    "SGD with a text": (
        lambda: inner_optimizers.SGD("fast"),
        "learning_rate='fast'",
    ),
    "inner steps below zero": (
        model(inner_steps=-1),
        "`inner_steps` must be an integer of at least 0. "
        "Received: inner_steps=-1",
    ),
    "inner steps not whole": (model(inner_steps=1.5), "inner_steps=1.5"),
    "evaluation steps not whole": (
        model(evaluation_steps="3"),
        "`evaluation_steps` must be an integer of at least 0. "
        "Received: evaluation_steps='3'",
    ),
    "no parallel task": (
        model(task_parallelism=0),
        "`task_parallelism` must be an integer of at least 1",
    ),
    "unknown task map": (
        model(task_map="vmap"),
        "`task_map` must be one of",
    ),
    "unknown meta-gradient": (
        model(meta_gradient="third_order"),
        "`meta_gradient` must be one of ['first_order', ",
    ),
    "unknown statistics": (
        model(normalization="batch"),
        "`normalization` must be one of",
    ),
    "adapt is a layer, not a list": (
        model(adapted_weights=LEARNER.layers[0]),
        "`adapted_weights` must be one of",
    ),
    "adapt is empty": (model(adapted_weights=[]), "a non-empty list"),
    "adapt is a name, not a list": (
        model(adapted_weights="hat"),
        "adapted_weights='hat'",
    ),
    "adapt names no layer": (
        model(adapted_weights=["tail"]),
        "Its layers are ['input_layer",
    ),
    "adapt has a foreign layer": (
        model(adapted_weights=[keras.layers.Dense(1, name="foreign")]),
        "with the layer 'foreign'",
    ),
    "adapt selects nothing": (
        model(adapted_weights=lambda variable: False),
        "selects none",
    ),
    "layer in float16": (
        lambda: keras_maml.MetaModel(one_layer(dtype="float16")),
        "Weights in float16 are not supported",
    ),
    "statistics over devices": (
        lambda: keras_maml.MetaModel(
            keras.Sequential(
                [
                    keras.Input((1,)),
                    keras.layers.BatchNormalization(synchronized=True),
                ]
            )
        ),
        "`synchronized=True` is not supported",
    ),
    "unknown inner loss": (model(inner_loss="mistake"), "mistake"),
    "an inner loss for each output": (
        model(inner_loss=["mse", "mse"]),
        "`inner_loss`, one function",
    ),
    "mlp without units": (
        lambda: learners.mlp(hidden_units=(40, 0)),
        "`hidden_units` must be an integer of at least 1. "
        "Received: hidden_units=0",
    ),
    "mlp without outputs": (
        lambda: learners.mlp(outputs=0),
        "Received: outputs=0",
    ),
    "conv4 of flat images": (
        lambda: learners.conv4((28, 28)),
        "`input_shape` must be (height, width, channels)",
    ),
    "conv4 of half a class": (
        lambda: learners.conv4(n_way=2.5),
        "Received: n_way=2.5",
    ),
    "conv4 without a seed": (
        lambda: learners.conv4(seed=None),
        "Received: seed=None",
    ),
    "conv4 pooled to nothing": (
        lambda: learners.conv4((8, 8, 1), max_pool=True),
        "at least 16 by 16",
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTION)
def test_at_construction(name):
    call, message = CONSTRUCTION[name]
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


X, Y = regression_batch(tasks=4, support=6, query=5)


def changed(**changes):
    return {**X, **changes}


def without(key):
    return {k: v for k, v in X.items() if k != key}


# What is wrong → arguments of `fit`, and what its message must say.
DATA = {
    "inputs not a dict": ((X["support_x"], Y), {}, "x of type"),
    "no support targets": (
        (without("support_y"), Y),
        {},
        "Missing keys: ['support_y']",
    ),
    "no queries": ((without("query_x"), Y), {}, "Missing keys: ['query_x']"),
    "a key of another library": (
        (changed(x_spt=X["support_x"]), Y),
        {},
        "unknown keys: ['x_spt']",
    ),
    "no task axis": (
        (changed(support_y=X["support_y"][:, 0, 0]), Y),
        {},
        '"support_y" must have at least the two axes of tasks and examples',
    ),
    "sizes of support differ": (
        (changed(support_y=X["support_y"][:, :4]), Y),
        {},
        "All arrays of the support set must have the same number",
    ),
    "weights of support of another size": (
        (changed(support_weight=np.ones((4, 5), "f")), Y),
        {},
        "All arrays of the support set must have the same number",
    ),
    "weights of support of another rank": (
        (changed(support_weight=np.ones((4, 6, 1), "f")), Y),
        {},
        "one number per example",
    ),
    "empty support": (
        (
            changed(
                support_x=X["support_x"][:, :0],
                support_y=X["support_y"][:, :0],
            ),
            Y,
        ),
        {},
        "Neither the support nor the query set may be empty",
    ),
    "empty queries": (
        (changed(query_x=X["query_x"][:, :0]), Y[:, :0]),
        {},
        "Neither the support nor the query set may be empty",
    ),
    "no targets": ((X,), {}, "Received: y=None"),
    "targets of another size": (
        (X, Y[:, :3]),
        {},
        "The first two axes of y must equal",
    ),
    "targets without queries": (
        (X, Y[:, 0, 0]),
        {},
        "The first two axes of y must equal",
    ),
    "flat weights": (
        (X, Y),
        {"sample_weight": np.ones(4, "f")},
        "`sample_weight` must have the axes (tasks, query)",
    ),
    "weights of another size": (
        (X, Y),
        {"sample_weight": np.ones((4, 3), "f")},
        "Received: sample_weight of shape",
    ),
    "class weights": (
        (X, np.zeros((4, 5), "int32")),
        {"class_weight": {0: 2.0}},
        "`class_weight` cannot be used",
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_in_fit(name):
    arguments, more, message = DATA[name]
    meta_model = keras_maml.MetaModel(LEARNER)
    meta_model.compile(optimizer="sgd", loss="mse")
    before = LEARNER.get_weights()
    with pytest.raises(ValueError) as error:
        meta_model.fit(*arguments, **more, verbose=0)
    assert message in str(error.value)
    # Nothing is lost: the same model goes on with good data.
    for a, b in zip(before, LEARNER.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_numbers_of_tasks_that_differ():
    # `fit` on arrays finds this by itself; in a dataset it is ours to find.
    meta_model = keras_maml.MetaModel(LEARNER, inner_loss="mse")
    with pytest.raises(ValueError, match="number of tasks"):
        meta_model(changed(query_x=X["query_x"][:2]))


def test_no_tasks():
    meta_model = keras_maml.MetaModel(LEARNER, inner_loss="mse")
    with pytest.raises(ValueError, match="at least one task"):
        meta_model({k: v[:0] for k, v in X.items()})


def test_input_that_is_none():
    meta_model = keras_maml.MetaModel(LEARNER, inner_loss="mse")
    with pytest.raises(ValueError, match="a value that is None"):
        meta_model(changed(support_y=None))


def test_no_loss_at_all():
    with pytest.raises(ValueError, match="no loss for the inner loop"):
        keras_maml.MetaModel(LEARNER)(X)
    with pytest.raises(ValueError, match="no loss for the inner loop"):
        keras_maml.MetaModel(LEARNER).adapt(
            X["support_x"][0], X["support_y"][0]
        )


def test_compiled_losses_of_several_outputs_need_an_inner_loss():
    inputs = keras.Input((1,))
    learner = keras.Model(
        inputs, [keras.layers.Dense(1)(inputs), keras.layers.Dense(1)(inputs)]
    )
    meta_model = keras_maml.MetaModel(learner)
    meta_model.compile(loss=["mse", "mse"])
    with pytest.raises(ValueError, match="needs `inner_loss`, one function"):
        meta_model.fit(X, [Y, Y], verbose=0)


def test_support_weight_needs_a_loss_for_each_example():
    meta_model = keras_maml.MetaModel(
        LEARNER, inner_loss=lambda y, p: tf.reduce_mean((y - p) ** 2)
    )
    with pytest.raises(ValueError, match="a loss for each example"):
        meta_model(changed(support_weight=np.ones((4, 6), "f")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"support_x": X["support_x"][0], "support_y": Y[0]},
            "must have the same number of examples",
        ),
        (
            {"support_x": np.ones((0, 1)), "support_y": np.ones((0, 1))},
            "at least one",
        ),
        (
            {"support_x": 1.0, "support_y": 1.0},
            "must have the same number of examples",
        ),
        (
            {
                "support_x": X["support_x"][0],
                "support_y": X["support_y"][0],
                "inner_steps": -2,
            },
            "Received: inner_steps=-2",
        ),
    ],
)
def test_in_adapt(arguments, message):
    meta_model = keras_maml.MetaModel(LEARNER, inner_loss="mse")
    with pytest.raises(ValueError) as error:
        meta_model.adapt(**arguments)
    assert message in str(error.value)


def test_a_learner_that_cannot_be_copied():
    class NoConfig(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def call(self, inputs):
            return self.layer(inputs)

    learner = NoConfig(keras.layers.Dense(1))
    learner(X["support_x"][0])
    meta_model = keras_maml.MetaModel(learner, inner_loss="mse")
    with pytest.raises(ValueError, match="`get_config`"):
        meta_model.adapt(X["support_x"][0], X["support_y"][0])
    # One that can be, can.
    meta_model = keras_maml.MetaModel(SubclassedLearner(), inner_loss="mse")
    meta_model.adapt(X["support_x"][0], X["support_y"][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onnx"}, "Received: format='onnx'"),
        ({}, "Call `fit`, `evaluate` or `predict` first"),
        ({"input_signature": [1]}, "must be a dict with the keys"),
    ],
)
def test_in_export(arguments, message, tmp_path):
    meta_model = keras_maml.MetaModel(LEARNER, inner_loss="mse")
    with pytest.raises(ValueError) as error:
        meta_model.export(tmp_path / "model", **arguments)
    assert message in str(error.value)
    assert not (tmp_path / "model").exists()


def test_in_evaluate_tasks():
    meta_model = keras_maml.MetaModel(LEARNER, inner_loss="mse")
    endless = keras_maml.tasks.Sinusoid().batch(2)
    loss = keras.losses.mean_squared_error
    with pytest.raises(ValueError, match="`dataset` must be finite"):
        keras_maml.evaluate_tasks(meta_model, endless, loss)
    with pytest.raises(ValueError, match="holds no meta-batch"):
        keras_maml.evaluate_tasks(meta_model, [], loss)
    for metric in ("mse", keras.metrics.MeanSquaredError()):
        with pytest.raises(ValueError, match="`metric` must be a function"):
            keras_maml.evaluate_tasks(meta_model, [(X, Y)], metric)
    with pytest.raises(ValueError, match="a value for each query"):
        keras_maml.evaluate_tasks(
            meta_model, [(X, Y)], lambda y, p: tf.reduce_mean(y - p)
        )
    with pytest.raises(ValueError, match="inner_steps=-1"):
        keras_maml.evaluate_tasks(meta_model, [(X, Y)], loss, inner_steps=[-1])
