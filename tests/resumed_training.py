"""Trains a small model with `Resume`, and writes what came out.

    python -m tests.resumed_training KIND RESULT.npz [CHECKPOINT]

`tests/callbacks/kill_test.py` kills it, again and again.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_maml
from keras_maml import rl


def conv4(algorithm=keras_maml.algorithms.maml):
    glyphs = keras_maml.tasks.Glyphs(3, 1, 1, seed=0, image_size=12)
    model = algorithm(
        keras_maml.learners.conv4(
            input_shape=(12, 12, 1), n_way=3, filters=4, seed=1
        )
    )
    rates = keras.optimizers.schedules.CosineDecay(1e-2, 400)
    model.compile(
        keras.optimizers.Adam(rates),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model, glyphs.batch(2)


def maml_plus_plus():
    """With learned rates, statistics of each step, and annealed losses."""

    def algorithm(learner):
        return keras_maml.algorithms.maml_plus_plus(
            learner, inner_steps=2, annealing_iterations=300
        )

    return conv4(algorithm)


def dropout(**kwargs):
    learner = keras.Sequential(
        [
            keras.Input((1,)),
            _dense(8, "relu", seed=1),
            keras.layers.Dropout(0.5, seed=2),
            _dense(1, None, seed=3),
        ]
    )
    model = keras_maml.MetaModel(learner)
    optimizer = keras.optimizers.SGD(1e-2, momentum=0.9, use_ema=True)
    model.compile(optimizer, "mse", metrics=["mae"], **kwargs)
    return model, keras_maml.tasks.Sinusoid(seed=0).batch(4)


def eager():
    """The same without graphs: nothing to trace."""
    return dropout(run_eagerly=True)


def policy_search():
    environment = rl.GoalVelocity(horizon=6)
    search = rl.MetaPolicySearch(
        rl.mlp_policy(environment, (4,), seed=1),
        environment,
        outer_update=rl.PPO(steps=1),
        episodes=3,
    )
    return search, environment.tasks(4, seed=0)


def replicas():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        return dropout()


def _dense(units, activation, seed):
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(units, activation, kernel_initializer=initializer)


KINDS = {
    make.__name__: make
    for make in (
        conv4,
        maml_plus_plus,
        dropout,
        eager,
        policy_search,
        replicas,
    )
}


def train(kind, checkpoint=None, epochs=10, steps_per_epoch=40):
    """Returns a dict of the arrays of the trained model, and its history."""
    model, data = KINDS[kind]()
    callbacks = []
    if checkpoint is not None:
        callbacks.append(keras_maml.callbacks.Resume(checkpoint, save_freq=1))
    others = {} if kind == "policy_search" else {"shuffle": False}
    history = model.fit(
        data,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=callbacks,
        verbose=0,
        **others,
    )
    optimizer = getattr(model, "outer_optimizer", None) or model.optimizer
    arrays = {
        f"{i:03d} {variable.name}": np.array(variable)
        for i, variable in enumerate(model.variables + optimizer.variables)
    }
    arrays.update(
        (f"history {name}", np.array(values))
        for name, values in history.history.items()
    )
    return arrays


if __name__ == "__main__":
    kind, result, *rest = sys.argv[1:]
    small = {"epochs": 2, "steps_per_epoch": 8} if kind == "eager" else {}
    np.savez(result, **train(kind, *rest, **small))
