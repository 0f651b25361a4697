"""Trains small convolutional learners in the forms of the map over tasks.

    python -m tests.convolutional_training DEVICES ALGORITHM...

prints the weights after two steps on one device by the loop, and on several
replicas vectorized; see `tests.replicated_training` for why it is a program.
"""

import contextlib
import json
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_maml
from keras_maml import algorithms

TASKS, WAYS, SHOTS = 4, 2, 2


def meta_batch(tasks=TASKS, size=4):
    """Images, whose labels are the sign of their mean."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.repeat(np.arange(WAYS), SHOTS), (tasks, 1))

    def images():
        noise = rng.standard_normal((tasks, WAYS * SHOTS, size, size, 2))
        shifted = noise + labels[..., None, None, None]
        return shifted.astype(keras.config.floatx())

    labels = labels.astype("int32")
    x = {"support_x": images(), "support_y": labels, "query_x": images()}
    return x, labels


def conv_net(batch_norm=True, context=False, head=True):
    """A convolution, batch norm, max-pooling and a head."""
    x = keras.Input((4, 4, 2))
    h = layers.Conv2D(3, 3, padding="same")(x)
    if batch_norm:
        h = layers.BatchNormalization()(h)
    h = layers.MaxPooling2D(2)(layers.ReLU()(h))
    h = layers.Flatten()(h)
    if context:
        h = layers.Concatenate()([h, keras_maml.ContextParameters(2)(h)])
    return keras.Model(x, layers.Dense(WAYS if head else 3)(h))


LEARNERS = {
    "cavia": lambda: conv_net(context=True),
    "imaml": lambda: conv_net(batch_norm=False),
    "proto_maml": lambda: conv_net(head=False),
}
SETTINGS = {
    "imaml": {"inner_steps": 2, "cg_steps": 1},
    "maml_plus_plus": {"inner_steps": 2},
    "reptile": {"inner_steps": 2},
}


def make(name, **settings):
    """The `MetaModel` of an algorithm, with the same weights each time."""
    keras.utils.set_random_seed(0)
    learner = LEARNERS.get(name, conv_net)()
    settings = {**SETTINGS.get(name, {}), **settings}
    return getattr(algorithms, name)(learner, **settings)


def compile(meta_model, jit_compile="auto"):
    meta_model.compile(
        keras.optimizers.SGD(0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )


def trained(name, jit_compile="auto", steps=2, **settings):
    """All weights after some steps, as one array."""
    meta_model = make(name, **settings)
    compile(meta_model, jit_compile)
    x, y = meta_batch()
    for _ in range(steps):
        meta_model.train_on_batch(x, y)
    return flat(meta_model)


def flat(meta_model):
    return np.concatenate([np.ravel(w) for w in meta_model.get_weights()])


def main(devices, *names):
    devices = [f"CPU:{i}" for i in range(int(devices))]
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration() for _ in devices],
    )
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    strategy = tf.distribute.MirroredStrategy(devices)
    data = tf.data.Dataset.from_tensors(meta_batch()).unbatch()
    results = {}
    for name in names:
        results[name] = []
        for where, form in ((None, "loop"), (strategy, "vectorized")):
            with where.scope() if where else contextlib.nullcontext():
                meta_model = make(name, task_map=form)
                compile(meta_model)
            # Each replica knows the number of its tasks.
            batches = data.batch(TASKS, drop_remainder=True)
            meta_model.fit(batches, epochs=2, verbose=0)
            results[name].append(flat(meta_model).tolist())
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
