"""A file finds its layers again, whatever names another process makes up."""

import json
import zipfile

import keras
import numpy as np
import pytest

import keras_maml
from keras_maml import rl
from tests.sample_models import SubclassedLearner
from tests.sample_models import assert_same
from tests.sample_models import regression_batch

layers = keras.layers
register = keras.saving.register_keras_serializable("saved_layers_test")


@register
class Block(layers.Layer):
    """Makes a layer only when it is built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(3, activation="tanh")

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second = layers.Dense(3)
        self.second.build((None, 3))

    def call(self, inputs):
        return self.second(self.first(inputs))


@register
class Deep(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block()
        self.norm = layers.BatchNormalization()
        self.head = layers.Dense(1)

    def call(self, inputs):
        return self.head(self.norm(self.block(inputs)))


@register
class Wrapped(keras.Model):
    """A model in a model, which gets an input layer when it is built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = keras.Sequential([layers.Dense(2), layers.Dense(2)])
        self.head = layers.Dense(1)

    def call(self, inputs):
        return self.head(self.body(inputs))


def wrapped():
    return built(Wrapped())


def subclassed():
    return built(SubclassedLearner())


def deep():
    return built(Deep())


def built(learner):
    learner(np.zeros((1, 1), "float32"))
    return learner


def functional():
    inputs = keras.Input((1,))
    hidden = Block()(layers.Dense(3, activation="tanh")(inputs))
    return keras.Model(inputs, layers.Dense(1)(hidden))


def nested():
    """Both models have a layer "dense"."""
    inner = keras.Sequential(
        [keras.Input((1,)), layers.Dense(3, name="dense"), layers.Dense(3)]
    )
    outer = [layers.Dense(3, name="dense"), layers.Dense(1)]
    return keras.Sequential([keras.Input((1,)), inner, *outer])


def another_process():
    """Names start again, and some are taken."""
    keras.utils.clear_session(free_memory=False)
    for make in (layers.Dense, layers.BatchNormalization, Block):
        make(*[1] * (make is layers.Dense))


CASES = {
    "subclassed": (subclassed, lambda m: [m.hidden]),
    "subclassed by name": (subclassed, lambda m: [m.hidden.name]),
    "a layer of a layer": (deep, lambda m: [m.block.first]),
    "made when built": (deep, lambda m: [m.block.second, m.head]),
    "a layer of a model": (wrapped, lambda m: [m.body.layers[1]]),
    "functional": (functional, lambda m: [m.layers[1]]),
    "functional by name": (functional, lambda m: [m.layers[-1].name]),
    "a layer of a layer, functional": (
        functional,
        lambda m: [m.layers[2].second, m.layers[1]],
    ),
    "nested": (nested, lambda m: [m.layers[0].layers[1]]),
    "one of two of a name": (nested, lambda m: [m.layers[0].layers[0]]),
    "two of a name": (nested, lambda m: ["dense"]),
}


@pytest.mark.parametrize("case", CASES)
def test_another_process_adapts_the_same_layers(case, tmp_path):
    make, choose = CASES[case]
    another_process()
    learner = make()
    chosen = choose(learner)
    names = [getattr(layer, "name", layer) for layer in chosen]
    saved = keras_maml.MetaModel(
        learner,
        inner_optimizer=0.3,
        adapted_weights=chosen,
        inner_loss="mse",
    )
    assert saved.adapted_weights == names
    saved.save(tmp_path / "model.keras")
    keras.utils.clear_session(free_memory=False)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.meta_state.positions() == saved.meta_state.positions()
    x, _ = regression_batch(tasks=1)
    support = x["support_x"][0], x["support_y"][0]
    assert_same(
        loaded.adapt(*support).get_weights(),
        saved.adapt(*support).get_weights(),
        rtol=1e-5,
        atol=1e-6,
    )
    # What the file says of the layers depends on no process.
    for model in (saved, loaded):
        config = model.get_config()
        assert (config["adapted_weights"], config["selection"]) == (
            saved.get_config()["adapted_weights"],
            saved.get_config()["selection"],
        )


def test_rates_and_rows_of_steps_come_back(tmp_path):
    another_process()
    learner = deep()
    saved = keras_maml.algorithms.maml_plus_plus(
        learner,
        inner_steps=2,
        adapted_weights=[learner.head, learner.block.first],
    )
    saved.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    saved.set_weights([rng.uniform(0.1, 1.0, w.shape) for w in saved.weights])
    saved.save(tmp_path / "model.keras")
    saved.save_weights(tmp_path / "model.weights.h5")
    keras.utils.clear_session(free_memory=False)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.meta_state.positions() == saved.meta_state.positions()
    assert_same(loaded.get_weights(), saved.get_weights(), rtol=0)
    loaded.set_weights([np.zeros_like(w) for w in loaded.get_weights()])
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert_same(loaded.get_weights(), saved.get_weights(), rtol=0)
    x, _ = regression_batch(tasks=1)
    support = x["support_x"][0], x["support_y"][0]
    assert_same(
        loaded.adapt(*support).get_weights(),
        saved.adapt(*support).get_weights(),
        rtol=1e-5,
        atol=1e-6,
    )


@register
def in_second_dense(variable):
    return "dense_1" in variable.path


def test_a_function_that_looks_for_made_up_names_is_noticed(tmp_path):
    keras.utils.clear_session(free_memory=False)
    saved = keras_maml.MetaModel(subclassed(), adapted_weights=in_second_dense)
    assert saved.get_config()["selection"] == "ttaa"
    saved.save(tmp_path / "model.keras")
    keras.utils.clear_session(free_memory=False)
    layers.Dense(1)
    with pytest.raises(ValueError, match="other weights than in the model"):
        keras.models.load_model(tmp_path / "model.keras")
    # What the message says helps.
    learner = subclassed()
    meta_model = keras_maml.MetaModel(learner, adapted_weights=[learner.head])
    meta_model.load_weights(tmp_path / "model.keras")
    assert_same(meta_model.get_weights(), saved.get_weights(), rtol=0)


def test_a_learner_that_has_changed_is_noticed():
    learner = deep()
    meta_model = keras_maml.MetaModel(learner, adapted_weights=[learner.head])
    config = meta_model.get_config()
    assert config["selection"] == "tttt" + "ttff" + "aa"
    config["adapted_weights"][0]["class_name"] = "Conv2D"
    with pytest.raises(ValueError, match="layer that the learner does not"):
        keras_maml.MetaModel.from_config(config)
    config = meta_model.get_config()
    config["adapted_weights"][0]["path"] = [2, 0]
    with pytest.raises(ValueError, match="layer that the learner does not"):
        keras_maml.MetaModel.from_config(config)


def test_what_is_frozen_may_be_thawed(tmp_path):
    # Keras does not save `trainable` of layers that a subclass makes.
    learner = subclassed()
    learner.hidden.trainable = False
    saved = keras_maml.MetaModel(learner, adapted_weights=[learner.head])
    assert saved.get_config()["selection"] == "ffaa"
    saved.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config()["selection"] == "ttaa"
    # Nothing adapts, and nothing is known of what did.
    learner.trainable = False
    assert saved.get_config()["selection"] is None


@pytest.mark.parametrize(
    ("make", "choose", "positions"),
    [
        (Deep, lambda m: m.head, [6, 7]),
        (Wrapped, lambda m: m.body.layers[1], [2, 3]),
    ],
)
def test_an_unbuilt_learner_says_where_its_layers_are(make, choose, positions):
    learner = make()
    config = keras_maml.MetaModel(
        learner, adapted_weights=[choose(learner)]
    ).get_config()
    assert config["selection"] is None
    again = keras_maml.MetaModel.from_config(config)
    assert again.adapted_weights == config["adapted_weights"]
    again.build({"query_x": (1, 1, 1)})
    assert again.meta_state.positions() == positions
    layer = choose(again.learner)
    assert again.adapted_weights == [layer.name]


@pytest.mark.parametrize("made_up", ["dense", "dense_12"])
def test_a_made_up_name_in_an_old_file_is_refused(made_up, tmp_path):
    keras.utils.clear_session(free_memory=False)
    learner = subclassed()
    model = keras_maml.MetaModel(learner, adapted_weights=[learner.hidden])
    model.save(tmp_path / "new.keras")
    with (
        zipfile.ZipFile(tmp_path / "new.keras") as new,
        zipfile.ZipFile(tmp_path / "old.keras", "w") as old,
    ):
        for name in new.namelist():
            content = new.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["adapted_weights"] = [made_up]
                del config["config"]["selection"]
                content = json.dumps(config)
            old.writestr(name, content)
    layers.Dense(1)
    with pytest.raises(ValueError, match="a name that Keras made up"):
        keras.models.load_model(tmp_path / "old.keras")
    model.load_weights(tmp_path / "old.keras")


@register
class Policy(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(3, activation="tanh")
        self.mean = layers.Dense(1)
        self.log_std = rl.LogStd()

    def call(self, inputs):
        mean = self.mean(self.hidden(inputs))
        return {"mean": mean, "log_std": self.log_std(mean)}


def test_a_policy_adapts_the_same_layers(tmp_path):
    another_process()
    policy = Policy()
    policy(np.zeros((1, 2), "float32"))
    saved = rl.MetaPolicySearch(
        policy,
        rl.GoalVelocity(horizon=3),
        adapted_weights=[policy.mean],
        outer_update=rl.PPO(steps=1),
    )
    saved.save(tmp_path / "model.keras")
    keras.utils.clear_session(free_memory=False)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config()["selection"] == "ttaat"
    assert loaded.meta_state.positions() == saved.meta_state.positions()
