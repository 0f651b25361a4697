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


def test_the_same_learner_has_the_same_facts():
    first, again = convolution(), convolution()
    assert [x.name for x in first.layers] != [x.name for x in again.layers]
    assert learner_facts(first) == learner_facts(again)
    first.compile("adam", "mse")
    assert learner_facts(first) == learner_facts(again)


@pytest.mark.parametrize(
    "change",
    [{"strides": 2}, {"activation": "tanh"}, {"seed": 1}, {"first": 1}],
)
def test_another_learner_has_others(change):
    # The shapes of all weights are the same.
    one, other = convolution(), convolution(**change)
    assert [v.shape for v in one.weights] == [v.shape for v in other.weights]
    assert learner_facts(one)[-1] != learner_facts(other)[-1]


class Own(keras.Model):
    """A model that Keras cannot save."""

    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, x):
        return self.dense(x)


def test_what_keras_cannot_save_is_known_by_its_layers():
    model = Own(3)
    model(np.zeros([1, 2]))
    assert learner_facts(model) == [["Dense", [2, 3], [3]], None]
