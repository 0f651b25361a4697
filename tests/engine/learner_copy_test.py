"""An ordinary model with adapted weights."""

import keras
import numpy as np
import pytest

import keras_maml
from tests.sample_models import regression_batch


@keras.saving.register_keras_serializable(package="keras_maml_tests")
class Forgetful(keras.Model):
    """Forgets, in its config, how many layers it has."""

    def __init__(self, depth=1, **kwargs):
        super().__init__(**kwargs)
        self.hidden = [keras.layers.Dense(1) for _ in range(depth)]

    def build(self, input_shape):
        for layer in self.hidden:
            layer.build((None, 1))

    def call(self, inputs):
        for layer in self.hidden:
            inputs = layer(inputs)
        return inputs


def test_a_copy_with_other_variables_is_refused():
    learner = Forgetful(depth=2)
    learner(np.ones((1, 1), "f"))
    meta_model = keras_maml.MetaModel(learner, inner_loss="mse")
    x, _ = regression_batch(tasks=1)
    with pytest.raises(ValueError, match=r"\(1,\)\], its copy with \["):
        meta_model.adapt(x["support_x"][0], x["support_y"][0])
