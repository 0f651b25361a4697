"""Which form of the map over tasks "auto" takes."""

import keras
import pytest

import keras_maml
from keras_maml.engine import task_forms


def test_dense_layers_are_light():
    layers = keras.layers
    mlp = keras_maml.learners.mlp()
    assert task_forms.is_light(mlp)
    assert task_forms.is_light(keras.Sequential([keras.Input((1,)), mlp]))
    inputs = keras.Input((3,))
    outputs = layers.Add()([layers.Dense(3)(inputs), inputs])
    assert task_forms.is_light(keras.Model(inputs, outputs))
    assert not task_forms.is_light(keras_maml.learners.conv4())
    assert not task_forms.is_light(
        keras.Model(inputs, keras.ops.sin(inputs) + outputs)
    )

    class Subclass(keras.Sequential):
        pass

    assert not task_forms.is_light(Subclass([layers.Dense(1)]))

    class Layer(layers.Dense):
        pass

    assert not task_forms.is_light(keras.Sequential([Layer(1)]))


@pytest.mark.parametrize(
    ("width", "inner_steps", "form"),
    [
        (40, 5, "vectorized"),
        (64, 2, "vectorized"),
        (128, 1, "vectorized"),
        (64, 5, "compiled"),
        (256, 1, "compiled"),
        (256, 10, "compiled"),
        (512, 1, "loop"),
    ],
)
def test_the_fastest_form(width, inner_steps, form):
    learner = keras_maml.learners.mlp(hidden_units=(width, width))
    assert task_forms.fastest(learner, inner_steps) == form


def test_without_xla_nothing_is_compiled():
    learner = keras_maml.learners.mlp(hidden_units=(256, 256))
    assert task_forms.fastest(learner, 5, jit_compile=False) == "loop"
