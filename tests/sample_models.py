"""Small learners and meta-batches that several tests share."""

import keras
import numpy as np

import keras_maml


def regression_batch(tasks=4, support=6, query=5, seed=0, dtype="float32"):
    """Tasks y = a·x + b, as numpy arrays in the contract's form."""
    rng = np.random.default_rng(seed)
    slope, offset = rng.standard_normal((2, tasks, 1, 1))
    x_s = rng.standard_normal((tasks, support, 1))
    x_q = rng.standard_normal((tasks, query, 1))
    x = {
        "support_x": x_s.astype(dtype),
        "support_y": (slope * x_s + offset).astype(dtype),
        "query_x": x_q.astype(dtype),
    }
    return x, (slope * x_q + offset).astype(dtype)


def class_batch(tasks=3, n_way=3, k_shot=2, q_query=2, seed=0):
    """Classification of noisy points; labels are integers."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((tasks, n_way, 1, 2))

    def examples(each):
        noise = 0.3 * rng.standard_normal((tasks, n_way, each, 2))
        points = (centres + noise).reshape(tasks, n_way * each, 2)
        labels = np.tile(np.repeat(np.arange(n_way), each), (tasks, 1))
        return points.astype("float32"), labels.astype("int32")

    support_x, support_y = examples(k_shot)
    query_x, query_y = examples(q_query)
    return {
        "support_x": support_x,
        "support_y": support_y,
        "query_x": query_x,
    }, query_y


def small_mlp(inputs=1, outputs=1, batch_norm=False, seed=0):
    """Dense, optionally batch norm, tanh, dense."""

    def initializer(i):
        return keras.initializers.GlorotUniform(seed=seed + i)

    model = keras.Sequential([keras.Input((inputs,))])
    model.add(
        keras.layers.Dense(5, kernel_initializer=initializer(0), name="body")
    )
    if batch_norm:
        model.add(keras.layers.BatchNormalization(momentum=0.9))
    model.add(keras.layers.Activation("tanh"))
    model.add(
        keras.layers.Dense(
            outputs, kernel_initializer=initializer(1), name="head"
        )
    )
    return model


@keras.saving.register_keras_serializable(package="keras_maml_tests")
class SubclassedLearner(keras.Model):
    """A learner that Keras cannot see into."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = keras.layers.Dense(units, activation="tanh")
        self.head = keras.layers.Dense(1)

    def call(self, inputs):
        return self.head(self.hidden(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def regression_model(**kwargs):
    # The loop spares most tests the seconds that XLA takes to compile.
    settings = {"inner_optimizer": 0.1, "task_map": "loop", **kwargs}
    meta_model = keras_maml.MetaModel(small_mlp(), **settings)
    meta_model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    return meta_model


def theta(meta_model):
    return [w.copy() for w in meta_model.learner.get_weights()]


def assert_same(a, b, **kwargs):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, **kwargs)
