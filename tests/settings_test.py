"""Names, objects and configs of the axes; what a config keeps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import inner_optimizers
from keras_maml import meta_gradients
from keras_maml import outer_loss
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

serialize = keras.saving.serialize_keras_object


@keras.saving.register_keras_serializable(package="keras_maml_tests")
def biases(variable):
    return variable.name == "bias"


@pytest.mark.parametrize(
    ("axis", "given", "kind"),
    [
        ("inner_optimizer", 0.5, inner_optimizers.SGD),
        ("inner_optimizer", "adam", inner_optimizers.Adam),
        ("inner_optimizer", inner_optimizers.RMSprop(), None),
        ("meta_gradient", "implicit", meta_gradients.Implicit),
        ("meta_gradient", meta_gradients.Implicit(cg_steps=3), None),
        ("outer_loss", "last_step", outer_loss.LastStep),
        ("outer_loss", outer_loss.MultiStep(7), None),
    ],
)
def test_an_axis_takes_a_name_an_object_and_a_config(axis, given, kind):
    answer = getattr(keras_maml.MetaModel(small_mlp(), **{axis: given}), axis)
    assert type(answer) is (kind or type(given))
    again = keras_maml.MetaModel(small_mlp(), **{axis: serialize(answer)})
    assert getattr(again, axis).get_config() == answer.get_config()
    assert type(getattr(again, axis)) is type(answer)


def test_adapted_weights_take_the_same_forms():
    assert keras_maml.MetaModel(small_mlp()).adapted_weights == "all"
    learner = small_mlp()
    by_layer = keras_maml.MetaModel(
        learner, adapted_weights=[learner.layers[0]]
    )
    assert by_layer.adapted_weights == ["body"]
    config = serialize(biases)
    by_config = keras_maml.MetaModel(small_mlp(), adapted_weights=config)
    assert by_config.adapted_weights is biases
    assert by_config.meta_state.positions() == [1, 3]


@pytest.mark.parametrize(
    ("axis", "given"),
    [
        ("inner_optimizer", {"class_name": "Unknown", "config": {}}),
        ("meta_gradient", {"no": "config"}),
        ("outer_loss", serialize(inner_optimizers.SGD())),
    ],
)
def test_a_config_of_something_else_is_an_error(axis, given):
    with pytest.raises(ValueError, match=f"`{axis}` must be .* Received: "):
        keras_maml.MetaModel(small_mlp(), **{axis: given})


def test_config_keeps_dtype_and_trainable():
    meta_model = keras_maml.MetaModel(
        small_mlp(), dtype="float64", trainable=False, name="kept"
    )
    config = meta_model.get_config()
    again = keras_maml.MetaModel.from_config(config)
    assert again.dtype_policy.name == "float64"
    assert not again.trainable
    assert not again.trainable_variables
    assert again.name == "kept"
    assert again.get_config() == config


@keras.saving.register_keras_serializable(package="keras_maml_tests")
class Anchored(meta_gradients.SecondOrder):
    """A new algorithm with a term of its own in the support loss."""

    def support_term(self, weights, start):
        return 3.0 * sum(
            tf.reduce_sum(tf.square(w - s))
            for w, s in zip(weights, start, strict=True)
        )


@pytest.mark.parametrize("inner_steps", [3, 7])
def test_a_term_of_the_support_loss_takes_one_class(inner_steps):
    # The derivative goes through the term, where the inner loop starts too.
    meta_model = keras_maml.MetaModel(
        small_mlp(),
        inner_optimizer=0.05,
        inner_steps=inner_steps,
        meta_gradient=Anchored(),
        task_map="loop",
    )
    meta_model.compile("sgd", "mse")
    x, y = regression_batch(tasks=2)
    data = tf.nest.map_structure(tf.constant, (x, y))
    mean = meta_model._step(data, training=True)[0].mean
    variable = meta_model.learner.trainable_variables[0]
    start, losses = variable.numpy(), []
    for change in (1e-2, -1e-2):
        variable.assign(start + change)
        losses.append(float(meta_model._step(data, False)[0].mean["loss"]))
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(
        float(tf.reduce_sum(mean["gradients"].weights[0])), rel=2e-2
    )


def test_export_refuses_what_it_would_not_heed(tmp_path):
    meta_model = keras_maml.MetaModel(small_mlp(), inner_loss="mse")
    meta_model.predict(regression_batch()[0], verbose=0)
    with pytest.raises(ValueError, match=r"no further .*opset_version=3"):
        meta_model.export(tmp_path / "model", opset_version=3)
    with pytest.raises(ValueError, match="format='onnx'"):
        meta_model.export(tmp_path / "model", format="onnx")


def test_variables_made_in_the_first_step_are_on_the_callers_device():
    with tf.device("CPU:1"):
        meta_model = keras_maml.MetaModel(small_mlp(), task_map="loop")
        meta_model.compile("adam", "mse", metrics=["mae"])
        meta_model.train_on_batch(*regression_batch(tasks=2))
    made = meta_model.optimizer.variables + meta_model.metrics[-1].variables
    devices = {v.value.device for v in made if v.dtype == "float32"}
    assert np.all([device.endswith("CPU:1") for device in devices])


def test_a_model_that_trains_nothing_says_so_as_keras_does():
    meta_model = keras_maml.MetaModel(small_mlp(), trainable=False)
    meta_model.compile("sgd", "mse")
    before = meta_model.learner.get_weights()
    with pytest.warns(UserWarning, match="any trainable weights"):
        meta_model.train_on_batch(*regression_batch(tasks=2))
    for a, b in zip(before, meta_model.learner.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
