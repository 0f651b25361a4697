"""What Keras could not load is not saved, and an older file stays."""

import functools

import keras
import pytest

import keras_maml
from keras_maml import rl
from tests.sample_models import assert_same
from tests.sample_models import small_mlp


def is_head(variable):
    return "head" in variable.path


class Predicate:
    def __call__(self, variable):
        return "head" in variable.path


@keras.saving.register_keras_serializable(package="saving_test")
class RegisteredPredicate(Predicate):
    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@pytest.mark.parametrize(
    "predicate",
    [
        is_head,
        lambda variable: "head" in variable.path,
        functools.partial(is_head),
        Predicate(),
    ],
    ids=["function", "lambda", "partial", "object"],
)
def test_a_function_that_keras_does_not_know(predicate, tmp_path):
    model = keras_maml.MetaModel(small_mlp(), adapted_weights=predicate)
    path = tmp_path / "model.keras"
    path.write_text("an older file")
    for save in (model.save, functools.partial(keras.saving.save_model, model)):
        with pytest.raises(
            ValueError, match="register_keras_serializable.* Received: adapted"
        ):
            save(path)
        if save == model.save:
            assert path.read_text() == "an older file"
    model.save_weights(tmp_path / "model.weights.h5")
    other = keras_maml.MetaModel(small_mlp(seed=1), adapted_weights=predicate)
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same(other.get_weights(), model.get_weights(), rtol=0)


def test_functions_that_keras_knows(tmp_path):
    path = tmp_path / "model.keras"
    keras_maml.MetaModel(
        small_mlp(), adapted_weights=RegisteredPredicate()
    ).save(path)
    loaded = keras.models.load_model(path)
    assert loaded.meta_state.positions() == [2, 3]
    scope = keras.saving.custom_object_scope({"is_head": is_head})
    with scope:
        keras_maml.MetaModel(small_mlp(), adapted_weights=is_head).save(path)
        assert keras.models.load_model(path).adapted_weights is is_head


def meta_model():
    return keras_maml.MetaModel(small_mlp())


def policy_search():
    environment = rl.GoalVelocity(horizon=3)
    return rl.MetaPolicySearch(rl.mlp_policy(environment, ()), environment)


@pytest.mark.parametrize("make", [meta_model, policy_search])
@pytest.mark.parametrize("ending", ["h5", "hdf5"])
def test_the_old_format_is_refused(make, ending, tmp_path):
    model = make()
    path = tmp_path / f"model.{ending}"
    path.write_text("an older file")
    message = "ends in `.keras`.* Received: filepath="
    with pytest.raises(ValueError, match=message):
        model.save(path)
    assert path.read_text() == "an older file"
    with pytest.raises(ValueError, match=message):
        keras.saving.save_model(model, path)
    model.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
