"""Whole networks as learners: their meta-gradients against differences."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_maml
from tests import oracle


def tokens(tasks, examples):
    rng = np.random.default_rng(0)
    return rng.integers(0, 7, (tasks, examples, 5)).astype("int32")


def floats(*shape):
    return lambda tasks, examples: np.random.default_rng(1).standard_normal(
        (tasks, examples, *shape)
    )


def transformer():
    x = keras.Input((5,), dtype="int32")
    h = layers.Embedding(7, 4)(x)
    positions = layers.Embedding(5, 4)(keras.ops.arange(5))
    h = layers.Add()([h, positions[None]])
    attended = layers.MultiHeadAttention(2, 2)(h, h, use_causal_mask=True)
    h = layers.LayerNormalization()(layers.Add()([h, attended]))
    fed = layers.Dense(4)(layers.Dense(6, activation="gelu")(h))
    h = layers.LayerNormalization()(layers.Add()([h, fed]))
    h = layers.GlobalAveragePooling1D()(h)
    return keras.Model(x, layers.Dense(1)(h))


def lstm():
    return keras.Sequential(
        [
            keras.Input((6, 2)),
            layers.LSTM(4, return_sequences=True, use_cudnn=False),
            layers.LSTM(3, use_cudnn=False),
            layers.Dense(1),
        ]
    )


def shared():
    x = keras.Input((4,))
    layer = layers.Dense(4, activation="tanh")
    return keras.Model(x, layers.Dense(1)(layer(layer(layer(x)))))


def nested():
    def block(**kwargs):
        return keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(4, **kwargs),
                layers.BatchNormalization(),
                layers.Activation("tanh"),
            ]
        )

    x = keras.Input((4,))
    h = block(kernel_regularizer=keras.regularizers.L2(0.1))(x)
    h = layers.Add()([h, keras.Sequential([block(), block()])(h)])
    h = layers.Dropout(0.2)(h)
    return keras.Model(x, layers.Dense(1)(h))


def two_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    h = layers.Concatenate()([a, layers.Dense(2, activation="tanh")(b)])
    return keras.Model({"a": a, "b": b}, layers.Dense(1)(h))


def frozen_backbone():
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(3, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalMaxPooling2D(),
        ]
    )
    backbone.trainable = False
    return keras.Sequential([backbone, layers.Dense(1)])


MODELS = {
    "transformer": (transformer, tokens),
    "lstm": (lstm, floats(6, 2)),
    "shared layers": (shared, floats(4)),
    "nested": (nested, floats(4)),
    "two inputs": (
        two_inputs,
        lambda *n: {"a": floats(3)(*n), "b": floats(2)(*n)},
    ),
    "frozen backbone": (frozen_backbone, floats(8, 8, 2)),
}


def meta_batch(inputs, tasks=2, examples=3):
    targets = floats(1)
    return {
        "support_x": inputs(tasks, examples),
        "support_y": targets(tasks, examples),
        "query_x": inputs(tasks, examples + 1),
    }, targets(tasks, examples + 1)


@pytest.mark.parametrize(
    "name",
    [
        # TensorFlow takes long to trace its three derivatives.
        pytest.param(name, marks=pytest.mark.slow) if name == "lstm" else name
        for name in MODELS
    ],
)
def test_meta_gradient(name):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    make, inputs = MODELS[name]
    meta_model = keras_maml.MetaModel(
        make(),
        inner_optimizer=0.1,
        # One step of a large graph has second derivatives as well as two.
        inner_steps=1 if name in ("lstm", "transformer") else 2,
        task_map="loop",
    )
    meta_model.compile("sgd", loss="mse")
    oracle.assert_derivative(meta_model, *meta_batch(inputs), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_applications(name):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    backbone = getattr(keras.applications, name)(
        weights=None, include_top=False, pooling="avg", input_shape=(32, 32, 3)
    )
    meta_model = keras_maml.MetaModel(
        keras.Sequential([backbone, layers.Dense(1)]),
        inner_optimizer=1e-3,
        task_map="loop",
    )
    meta_model.compile("sgd", loss="mse")
    x, y = meta_batch(floats(32, 32, 3), tasks=1, examples=4)
    # So many rectifiers that differences are never smooth: the head's alone,
    # and to some per cent. The first-order gradient is off by a factor.
    oracle.assert_derivative(meta_model, x, y, rel=0.05, epsilon=1e-7, last=2)
    meta_model.fit(x, y, batch_size=1, verbose=0)
    adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
    assert adapted.predict(x["query_x"][0], verbose=0).shape == (5, 1)
