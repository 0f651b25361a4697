import keras
import numpy as np
import pytest

from keras_maml.verdict.learner_facts import learner_facts


def convolution(strides=1, activation="relu", seed=None, first=0):
    x = keras.Input((4, 4, 1))
    both = [
        keras.layers.Conv2D(
            2,
            3,
            strides,
            padding="same",
            activation=function,
            kernel_initializer=keras.initializers.GlorotUniform(seed),
        )(x)
        for function in (activation, None)
    ]
    return keras.Model(
        x, keras.layers.Subtract()([both[first], both[1 - first]])
    )


def operations(sign=1):
    x = keras.Input((3,))
    h = keras.layers.Dense(3, activation="softmax")(x)
    h = keras.layers.Softmax()(h + x) if sign == 1 else h - x
    return keras.Model(x, keras.ops.tanh(h)[:, :2])


class Own(keras.Model):
    """A model of which Keras does not know the arguments."""

    def __init__(self, activation):
        super().__init__()
        self.dense = keras.layers.Dense(3, activation=activation)

    def call(self, x):
        return self.dense(x)


def own(activation="relu"):
    model = Own(activation)
    model(np.zeros([1, 2]))
    return model


def frozen(scale=1.0):
    learner = convolution(seed=0)
    learner.layers[1].trainable = False
    kernel = learner.layers[1].kernel
    kernel.assign(scale * kernel)
    return learner


@pytest.mark.parametrize("make", [convolution, operations, own, frozen])
def test_the_same_learner_has_the_same_facts(make):
    first, again = make(), make()
    assert first.name != again.name
    assert learner_facts(first) == learner_facts(again)
    first.compile("adam", "mse")
    assert learner_facts(first) == learner_facts(again)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (convolution, {"strides": 2}),
        (convolution, {"activation": "tanh"}),
        (convolution, {"seed": 1}),
        (convolution, {"first": 1}),
        (operations, {"sign": -1}),
        (own, {"activation": "tanh"}),
        (frozen, {"scale": 2.0}),
    ],
)
def test_another_learner_has_others(make, change):
    # The shapes of all weights are the same.
    one, other = make(), make(**change)
    assert [v.shape for v in one.weights] == [v.shape for v in other.weights]
    assert learner_facts(one) != learner_facts(other)
