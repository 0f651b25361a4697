"""The meta-gradient against closed forms, differences and an oracle."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.engine import normalization
from keras_maml.exact import lowering
from keras_maml.meta_gradients import SecondOrder
from tests import oracle


def use(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


def library_gradient(meta_model, x, y, loss="mse", optimizer="sgd"):
    """The loss and the gradient that `train_step` would apply."""
    return library_step(meta_model, x, y, loss, optimizer)()


def library_step(meta_model, x, y, loss="mse", optimizer="sgd"):
    """A function that computes both anew."""
    meta_model.compile(optimizer=optimizer, loss=loss)

    @tf.function(autograph=False)
    def step():
        mean = meta_model._step((x, y), training=True)[0].mean
        return mean["loss"], tf.nest.flatten(mean["gradients"])

    def computed():
        loss_value, gradients = step()
        return float(loss_value), [g.numpy() for g in gradients]

    return computed


def regression_tasks(dtype, tasks=3, support=6, query=5, features=3):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal((tasks, *shape)).astype(dtype)

    x = {
        "support_x": draw(support, features),
        "support_y": draw(support, 2),
        "query_x": draw(query, features),
    }
    return x, draw(query, 2)


def image_tasks(dtype, tasks=2):
    rng = np.random.default_rng(1)
    labels = np.tile(np.arange(3, dtype="int32"), (tasks, 2))
    x = {
        "support_x": rng.standard_normal((tasks, 6, 8, 8, 1)).astype(dtype),
        "support_y": labels,
        "query_x": rng.standard_normal((tasks, 6, 8, 8, 1)).astype(dtype),
    }
    return x, labels


def dense_learner():
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("softplus"),
            keras.layers.Dense(2),
        ]
    )


def conv_learner():
    learner = keras.Sequential([keras.Input((8, 8, 1))])
    for _ in range(2):
        learner.add(keras.layers.Conv2D(4, 3, strides=2, padding="same"))
        learner.add(keras.layers.BatchNormalization())
        learner.add(keras.layers.ReLU())
    learner.add(keras.layers.GlobalAveragePooling2D())
    learner.add(keras.layers.Dense(3))
    return learner


def randomize(learner):
    """Every weight off its initial 0 or 1, so that a check sees it."""
    rng = np.random.default_rng(2)
    for v in learner.trainable_variables:
        v.assign(v.numpy() + 0.3 * rng.standard_normal(v.shape))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", ["second_order", "first_order"])
def test_quadratic_has_the_closed_form(steps, order):
    # L(w) = mean((Xw − y)²) has the gradient H w − c with H = 2XᵀX/n and
    # c = 2Xᵀy/n, so w_k follows from linear algebra alone, and the exact
    # meta-gradient is (I − αH)ᵏ (H_q w_k − c_q).
    use("float64")
    rate = 0.1
    rng = np.random.default_rng(0)
    x_s, x_q = rng.standard_normal((2, 4, 7, 3))
    y_s, y_q = rng.standard_normal((2, 4, 7, 1))
    learner = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1, use_bias=False)]
    )
    theta = learner.get_weights()[0]
    expected = np.zeros((3, 1))
    for t in range(4):
        h_s, c_s = 2 * x_s[t].T @ x_s[t] / 7, 2 * x_s[t].T @ y_s[t] / 7
        h_q, c_q = 2 * x_q[t].T @ x_q[t] / 7, 2 * x_q[t].T @ y_q[t] / 7
        w = theta
        for _ in range(steps):
            w = w - rate * (h_s @ w - c_s)
        factor = np.linalg.matrix_power(np.eye(3) - rate * h_s, steps)
        if order == "first_order":
            factor = np.eye(3)
        expected += factor @ (h_q @ w - c_q) / 4
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=rate, inner_steps=steps, meta_gradient=order
    )
    _, (actual,) = library_gradient(
        meta_model, {"support_x": x_s, "support_y": y_s, "query_x": x_q}, y_q
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


# How tasks are run, the steps, whether they are rematerialised. Of more than
# five steps, all but the first are in a loop.
ENGINES = {
    "loop": ("loop", 2, False),
    "long": ("loop", 7, False),
    "rematerialized": ("loop", 3, True),
    "vectorized": ("vectorized", 2, False),
    "compiled": ("compiled", 2, False),
    "vectorized long": ("vectorized", 6, False),
}
CASES = [
    (net, engine, order, floatx)
    for net in ("dense", "conv")
    for engine, (task_map, _, rematerialize) in ENGINES.items()
    for order in ("second_order", "first_order")
    for floatx in ("float32", "float64")
    # Convolutions cannot be vectorized, and XLA compiles them for long; what
    # is kept of a step is the second order's alone.
    if not (net == "conv" and task_map != "loop")
    and not (order == "first_order" and rematerialize)
    # This one takes the longest to compile.
    and not (engine == "vectorized long" and floatx == "float32")
]


def is_everyday(net, engine, order, floatx):
    """Whether a case has what no other one has.

    The others have an order, a network or a precision in a further engine.
    """
    if floatx == "float32":
        return order == "second_order" and engine in ("loop", "vectorized")
    if engine == "vectorized long":
        return False
    if order == "second_order":
        return True
    return engine == "loop" or (net == "dense" and engine != "compiled")


@functools.cache
def problem(net):
    """Weights and tasks, in float32 so that either precision has the same."""
    use("float32")
    if net == "dense":
        learner, (x, y) = dense_learner(), regression_tasks("float32")
    else:
        learner, (x, y) = conv_learner(), image_tasks("float32")
    randomize(learner)
    return [v.numpy() for v in learner.trainable_variables], x, y


def in_dtype(tree, dtype):
    return tf.nest.map_structure(
        lambda a: a if a.dtype == np.int32 else a.astype(dtype), tree
    )


@functools.cache
def by_nested_tapes(net, steps, order):
    # The oracle is always in float64. A ReLU input within float32's rounding
    # of 0 would put the two on different sides; these data have none.
    weights, x, y = problem(net)
    function, loss = {
        "dense": (oracle.dense_net, oracle.mean_squared_error),
        "conv": (oracle.conv_net, oracle.cross_entropy),
    }[net]
    return oracle.meta_gradient(
        function,
        loss,
        [tf.constant(w, tf.float64) for w in weights],
        in_dtype(x, "float64"),
        in_dtype(y, "float64"),
        0.2,
        steps,
        order == "second_order",
    )


@pytest.mark.parametrize(
    ("net", "engine", "order", "floatx"),
    [
        pytest.param(*case, marks=[pytest.mark.slow][is_everyday(*case) :])
        for case in CASES
    ],
)
def test_equals_nested_tapes(net, engine, order, floatx):
    task_map, steps, rematerialize = ENGINES[engine]
    expected_loss, expected = by_nested_tapes(net, steps, order)
    weights, x, y = problem(net)
    use(floatx)
    if net == "dense":
        learner, loss = dense_learner(), "mse"
    else:
        learner = conv_learner()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for variable, value in zip(
        learner.trainable_variables, weights, strict=True
    ):
        variable.assign(value)
    meta_model = keras_maml.MetaModel(
        learner,
        inner_optimizer=0.2,
        inner_steps=steps,
        meta_gradient=SecondOrder(rematerialize=True)
        if rematerialize
        else order,
        task_map=task_map,
    )
    actual_loss, actual = library_gradient(
        meta_model, in_dtype(x, floatx), in_dtype(y, floatx), loss
    )
    tolerance = 1e-5 if floatx == "float32" else 1e-9
    assert actual_loss == pytest.approx(expected_loss, rel=tolerance)
    assert oracle.relative_error(actual, expected) < tolerance


def test_orders_differ():
    # Otherwise the comparisons above would say nothing of second derivatives.
    learner = dense_learner()
    randomize(learner)
    x, y = regression_tasks("float32")
    gradients = [
        library_gradient(
            keras_maml.MetaModel(
                learner, inner_optimizer=0.2, meta_gradient=order
            ),
            x,
            y,
        )[1]
        for order in ("second_order", "first_order")
    ]
    assert oracle.relative_error(*gradients) > 0.05


NORMALIZATIONS = {
    "batch": keras.layers.BatchNormalization,
    "layer": keras.layers.LayerNormalization,
    "group": lambda: keras.layers.GroupNormalization(groups=2),
    "rms": keras.layers.RMSNormalization,
    "unit": keras.layers.UnitNormalization,
}


def normalized_learner(name):
    learner = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(6, activation="tanh"),
            NORMALIZATIONS[name](),
            keras.layers.Dense(2),
        ]
    )
    randomize(learner)
    return learner


def difference_error(meta_model, x, y):
    """Relative error of the gradient along random directions."""
    theta = meta_model.learner.trainable_variables
    step = library_step(meta_model, x, y)
    _, gradients = step()
    values = [v.numpy() for v in theta]
    rng = np.random.default_rng(3)
    expected, actual = [], []
    for _ in range(3):
        direction = [rng.standard_normal(v.shape) for v in values]
        losses = []
        for epsilon in (1e-5, -1e-5):
            for v, value, d in zip(theta, values, direction):
                v.assign(value + epsilon * d)
            losses.append(step()[0])
        expected.append((losses[0] - losses[1]) / 2e-5)
        actual.append(sum(np.sum(g * d) for g, d in zip(gradients, direction)))
    for v, value in zip(theta, values):
        v.assign(value)
    return oracle.relative_error([actual], [expected])


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_unmodified_keras_normalization_is_exact(name):
    use("float64")
    meta_model = keras_maml.MetaModel(
        normalized_learner(name), inner_optimizer=0.3, inner_steps=2
    )
    x, y = regression_tasks("float64")
    assert difference_error(meta_model, x, y) < 1e-7


@pytest.mark.parametrize("name", ["batch", "layer", "group"])
def test_keras_reaches_the_moments_that_are_replaced(name, monkeypatch):
    # If this fails, Keras no longer computes its statistics by
    # `tf.nn.moments`, or TensorFlow mended it: `lowering` may be idle.
    use("float64")
    monkeypatch.setitem(lowering._DISPATCHERS, "moments", tf.nn.moments)
    # Batch normalisation has a way of its own round the moments.
    monkeypatch.setattr(normalization, "_has_closed_form", lambda *_: False)
    meta_model = keras_maml.MetaModel(
        normalized_learner(name),
        inner_optimizer=0.3,
        inner_steps=2,
        task_map="loop",
    )
    x, y = regression_tasks("float64")
    assert difference_error(meta_model, x, y) > 1e-4


@pytest.mark.parametrize("mode", ["support", "moving"])
def test_other_statistics_are_exact_too(mode):
    use("float64")
    meta_model = keras_maml.MetaModel(
        normalized_learner("batch"),
        inner_optimizer=0.3,
        inner_steps=2,
        normalization=mode,
    )
    x, y = regression_tasks("float64")
    if mode == "moving":
        # In training, a frozen layer alone uses the moving averages.
        meta_model.learner.layers[1].trainable = False
    assert difference_error(meta_model, x, y) < 1e-7


def test_weights_that_do_not_adapt_get_their_gradient():
    use("float64")
    learner = dense_learner()
    randomize(learner)
    x, y = regression_tasks("float64")
    for adapt in ([learner.layers[-1]], [learner.layers[0].name]):
        for rematerialize in (False, True):
            meta_model = keras_maml.MetaModel(
                learner,
                inner_optimizer=0.3,
                inner_steps=2,
                adapted_weights=adapt,
                meta_gradient=SecondOrder(rematerialize),
            )
            assert difference_error(meta_model, x, y) < 1e-7


def test_regularizers_and_added_losses_count_at_the_weights_in_use():
    use("float64")

    class AddsLoss(keras.layers.Layer):
        def call(self, x):
            self.add_loss(0.1 * tf.reduce_mean(x**2))
            return x

    # Keras keeps the factor in float32, where this one is exact.
    l2 = keras.regularizers.L2(0.0625)
    learner = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, kernel_regularizer=l2, activation="tanh"),
            AddsLoss(),
            keras.layers.Dense(2),
        ]
    )
    kernel, bias, kernel_2, bias_2 = (
        tf.constant(w) for w in learner.get_weights()
    )
    x, y = regression_tasks("float64", tasks=1)

    def net(weights, inputs):
        hidden = tf.tanh(inputs @ weights[0] + weights[1])
        penalty = 0.0625 * tf.reduce_sum(weights[0] ** 2)
        penalty += 0.1 * tf.reduce_mean(hidden**2)
        return hidden @ weights[2] + weights[3], penalty

    def loss(target, outputs):
        return oracle.mean_squared_error(target, outputs[0]) + outputs[1]

    expected_loss, expected = oracle.meta_gradient(
        net, loss, [kernel, bias, kernel_2, bias_2], x, y, 0.3, 2, True
    )
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=0.3, inner_steps=2
    )
    actual_loss, actual = library_gradient(meta_model, x, y)
    assert actual_loss == pytest.approx(expected_loss, rel=1e-9)
    assert oracle.relative_error(actual, expected) < 1e-9


def test_max_pooling_has_exact_second_derivatives():
    use("float64")
    learner = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(3, 3, padding="same", activation="tanh"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(3, 3, padding="same", activation="tanh"),
            keras.layers.MaxPooling2D(3, 2, padding="same"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    randomize(learner)
    x, labels = image_tasks("float64")
    y = np.eye(3)[labels]
    x["support_y"] = y
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=0.2, inner_steps=2
    )
    assert difference_error(meta_model, x, y) < 1e-6


@pytest.mark.parametrize("steps", [2, 7])
def test_calls_can_be_derived_for_the_support_set(steps):
    use("float64")
    learner = dense_learner()
    randomize(learner)
    x, _ = regression_tasks("float64", tasks=1)
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=0.2, inner_steps=steps, inner_loss="mse"
    )
    rng = np.random.default_rng(5)
    direction = rng.standard_normal(x["support_x"].shape)
    x = {key: tf.constant(value) for key, value in x.items()}
    support_x = x["support_x"]

    @tf.function
    def total(support_x):
        return tf.reduce_sum(meta_model({**x, "support_x": support_x}) ** 2)

    with tf.GradientTape() as tape:
        tape.watch(support_x)
        value = total(support_x)
    actual = tf.reduce_sum(tape.gradient(value, support_x) * direction)
    expected = (
        total(support_x + 1e-5 * direction)
        - total(support_x - 1e-5 * direction)
    ) / 2e-5
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
