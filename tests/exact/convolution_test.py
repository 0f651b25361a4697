"""Convolutions of few images, against TensorFlow's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml.engine import functional
from keras_maml.exact import convolution
from keras_maml.exact import lowering

# Image, kernel, strides, padding. From eight channels on, and of more than 64
# elements, patches are gathered.
CASES = [
    ((2, 5, 5, 1), (3, 3, 1, 2), 2, "SAME"),
    ((2, 6, 5, 3), (3, 2, 3, 4), (1, 2), "SAME"),
    ((1, 7, 6, 2), (3, 3, 2, 3), (2, 3), "VALID"),
    ((2, 5, 6, 9), (3, 3, 9, 2), 2, "SAME"),
    ((1, 4, 7, 8), (2, 3, 8, 3), (3, 2), "SAME"),
    ((2, 7, 6, 8), (4, 3, 8, 2), (2, 1), "VALID"),
    ((3, 4, 4, 8), (1, 1, 8, 2), 1, "VALID"),
    ((1, 9, 9, 1), (9, 8, 1, 2), 2, "SAME"),
    ((1, 2, 2, 8), (5, 5, 8, 2), 1, "SAME"),
    ((1, 6, 6, 8), (2, 2, 8, 2), 4, "SAME"),
]


def derivatives(function, x, kernel):
    """The value, and all derivatives up to the third of a scalar of it."""
    with tf.GradientTape(persistent=True) as third:
        third.watch([x, kernel])
        with tf.GradientTape(persistent=True) as second:
            second.watch([x, kernel])
            with tf.GradientTape() as first:
                first.watch([x, kernel])
                y = function(x, kernel)
                loss = tf.reduce_sum(tf.sin(y))
            gradients = first.gradient(loss, [x, kernel])
            total = sum(tf.reduce_sum(tf.cos(g)) for g in gradients)
        seconds = second.gradient(total, [x, kernel])
        total = sum(tf.reduce_sum(tf.sin(g)) for g in seconds)
    return [y, *gradients, *seconds, *third.gradient(total, [x, kernel])]


@pytest.fixture(autouse=True)
def devices(monkeypatch):
    """Whatever the machine has, the names of the devices that it shows."""
    shown = ["CPU"]
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda: [tf.config.LogicalDevice(n, n) for n in shown],
    )
    return shown


@pytest.fixture
def used(monkeypatch):
    """Gets an item for every convolution that is computed here."""
    used = []
    own = convolution.convolution
    monkeypatch.setattr(
        convolution, "convolution", lambda *a: used.append(1) or own(*a)
    )
    return used


@pytest.mark.parametrize(
    "form", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("image", "window", "strides", "padding"), CASES)
def test_every_derivative_is_tensorflows(
    image, window, strides, padding, form, used
):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal(image))
    kernel = tf.constant(rng.standard_normal(window))

    def convolve(x, kernel):
        return tf.nn.convolution(x, kernel, strides, padding)

    # Around a `tf.function`, the exact operations would run it inline.
    def exact(x, kernel):
        with lowering.exact_ops():
            return derivatives(convolve, x, kernel)

    # TensorFlow's own has no third derivative in eager execution.
    expected = tf.function(derivatives, autograph=False)(convolve, x, kernel)
    how = exact
    if form != "eager":
        how = tf.function(exact, autograph=False, jit_compile=form == "xla")
    actual = how(x, kernel)
    assert used
    for a, e in zip(actual, expected):
        np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_keras_reaches_it(padding, used):
    # If not, Keras calls something else by now: `lowering` would be idle.
    layer = keras.layers.Conv2D(2, 3, 2, padding, bias_initializer="normal")
    learner = keras.Sequential([keras.Input((6, 6, 1)), layer])
    x = np.random.default_rng(0).standard_normal((3, 6, 6, 1)).astype("float32")
    weights = [tf.convert_to_tensor(v) for v in learner.trainable_variables]
    actual = functional.call_learner(learner, weights, {}, x, training=True)
    assert used
    np.testing.assert_allclose(actual.outputs, learner(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "window", "settings"),
    [
        # Large, empty, grouped, dilated.
        ((20, 14, 14, 64), (3, 3, 64, 2), {"strides": 2, "padding": "SAME"}),
        ((0, 4, 4, 2), (3, 3, 2, 2), {}),
        ((1, 4, 4, 4), (3, 3, 2, 2), {}),
        ((1, 6, 6, 2), (3, 3, 2, 2), {"dilations": 2}),
        # One dimension: of images, and of a batch of rows and columns.
        ((1, 6, 2), (3, 2, 2), {"strides": (1,), "dilations": (1,)}),
        ((2, 5, 10, 3), (3, 3, 4), {}),
        # Strides of all four axes.
        ((1, 6, 6, 2), (3, 3, 2, 2), {"strides": [1, 2, 2, 1]}),
    ],
)
def test_the_rest_is_left_to_tensorflow(image, window, settings, used):
    x, kernel = tf.ones(image), tf.ones(window)
    expected = tf.nn.convolution(x, kernel, **settings)
    with lowering.exact_ops():
        actual = tf.nn.convolution(x, kernel, **settings)
    np.testing.assert_array_equal(actual, expected)
    assert not used


@pytest.mark.parametrize("strides", [0, (), (0, 0), [1, 2, 3]])
def test_bad_strides_get_tensorflows_error(strides, used):
    x, kernel = tf.ones((1, 4, 4, 2)), tf.ones((1, 1, 2, 2))
    errors = (ValueError, tf.errors.InvalidArgumentError)
    with pytest.raises(errors) as expected:
        tf.nn.convolution(x, kernel, strides)
    with lowering.exact_ops(), pytest.raises(errors) as actual:
        tf.nn.convolution(x, kernel, strides)
    assert str(actual.value) == str(expected.value)


def test_other_devices_are_left_to_tensorflow(devices, used):
    devices.append("GPU")
    with lowering.exact_ops():
        tf.nn.convolution(tf.ones((1, 4, 4, 2)), tf.ones((3, 3, 2, 2)))
    assert not used


def test_unknown_batch_sizes_are_left_to_tensorflow(used):
    @tf.function(input_signature=[tf.TensorSpec((None, 4, 4, 2))])
    def convolve(x):
        with lowering.exact_ops():
            return tf.nn.convolution(x, tf.ones((3, 3, 2, 2)), padding="VALID")

    np.testing.assert_array_equal(convolve(tf.ones((2, 4, 4, 2))), 18.0)
    assert not used


@pytest.mark.parametrize("strides", [np.int64(2), np.array([2, 2])])
def test_strides_may_be_numpys(strides, used):
    x, kernel = tf.ones((1, 4, 4, 2)), tf.Variable(tf.ones((1, 1, 2, 2)))
    with lowering.exact_ops(), tf.GradientTape() as tape:
        y = tf.nn.convolution(x, kernel, strides, "SAME")
    assert used
    np.testing.assert_array_equal(tape.gradient(y, kernel), 4 * kernel)
