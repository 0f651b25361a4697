"""Trains on one device, or as one of several workers; prints what came of it.

    TF_CONFIG=... python -m tests.several_workers JOB [ARGUMENT...]

A program of its own: a process is a worker from its start to its end.
"""

import contextlib
import json
import os
import signal
import sys

import keras
import tensorflow as tf

import keras_maml
from tests.replicated_training import BatchLogs
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def made(strategy, batch_norm=True):
    with strategy.scope() if strategy else contextlib.nullcontext():
        meta_model = keras_maml.MetaModel(
            small_mlp(batch_norm=batch_norm),
            inner_optimizer=0.1,
            task_map="loop",
        )
        meta_model.compile(
            keras.optimizers.SGD(0.1, momentum=0.5, clipnorm=0.5),
            "mse",
            metrics=["mae"],
        )
    return meta_model


def summary(meta_model, history, batch_logs):
    return {
        "weights": [weight.tolist() for weight in meta_model.get_weights()],
        "logs": [list(log.values()) for log in batch_logs.logs],
        "history": list(history.history.values()),
    }


def streams(strategy):
    """The library's datasets: uneven parts, and a last task for one worker."""
    sines = keras_maml.tasks.Sinusoid(k_shot=4, q_query=4, seed=1)
    meta_model = made(strategy)
    batch_logs = BatchLogs()
    history = meta_model.fit(
        sines.batch(5),
        steps_per_epoch=3,
        epochs=2,
        validation_data=sines.batch(4, count=5, start=100),
        callbacks=[batch_logs],
        shuffle=False,
        verbose=0,
    )
    last = sines.batch(4, count=5, start=200)
    return summary(meta_model, history, batch_logs) | {
        "evaluation": meta_model.evaluate(last, verbose=0),
        "predictions": meta_model.predict(last, verbose=0).tolist(),
    }


def few_steps(strategy):
    """As `streams`, for the everyday test."""
    meta_model = made(strategy, batch_norm=False)
    batch_logs = BatchLogs()
    history = meta_model.fit(
        keras_maml.tasks.Sinusoid(k_shot=4, q_query=4, seed=1).batch(5),
        steps_per_epoch=2,
        callbacks=[batch_logs],
        shuffle=False,
        verbose=0,
    )
    return summary(meta_model, history, batch_logs)


def others(strategy):
    """A dataset that TensorFlow splits, and arrays."""
    x, y = regression_batch(tasks=11)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    meta_model = made(strategy)
    batch_logs = BatchLogs()
    history = meta_model.fit(
        dataset.batch(5).repeat(),
        steps_per_epoch=4,
        epochs=2,
        validation_data=(x, y),
        validation_batch_size=4,
        callbacks=[batch_logs],
        shuffle=False,
        verbose=0,
    )
    meta_model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    return summary(meta_model, history, batch_logs) | {
        "evaluation": meta_model.evaluate(dataset.batch(4), verbose=0),
        "predictions": meta_model.predict(x, batch_size=4, verbose=0).tolist(),
    }


class Kill(keras.callbacks.Callback):
    """Ends one worker at a step, as `kill -9` does."""

    def __init__(self, worker, step):
        super().__init__()
        self.steps_left = step if worker_index() == worker else None

    def on_train_batch_begin(self, batch, logs=None):
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def worker_index():
    return (
        json.loads(os.environ.get("TF_CONFIG", "{}"))
        .get("task", {})
        .get("index")
    )


def resumed(strategy, path=None, worker=None, step=None):
    """Twelve steps, of which those before a kill are not taken again."""
    callbacks = [BatchLogs()]
    if path is not None:
        callbacks += [keras_maml.callbacks.Resume(path, save_freq=2)]
    if worker is not None:
        callbacks.append(Kill(int(worker), int(step)))
    meta_model = made(strategy)
    history = meta_model.fit(
        keras_maml.tasks.Sinusoid(k_shot=4, q_query=4, seed=1).batch(5),
        steps_per_epoch=4,
        epochs=3,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )
    result = summary(meta_model, history, callbacks[0])
    return result | {"logs": result["logs"][-1:], "steps": len(result["logs"])}


JOBS = {
    "resumed": resumed,
    "few_steps": few_steps,
    "streams": streams,
    "others": others,
}


def main(job, *arguments):
    # Differences are those of rounding, and no others are as small.
    keras.config.set_floatx("float64")
    strategy = None
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    print(json.dumps(JOBS[job](strategy, *arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
