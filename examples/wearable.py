"""A watch that learns its wearer: which exercise is this?

This program leaves out one person at a time, learns from the others, and adapts
to the person by one short piece of each exercise. It compares MAML with what a
person could do instead, by the share of right windows:

- pooled: one network for all people, which does not adapt;
- fine-tuned: the same network after some steps on the person's pieces;
- prototypes: the nearest mean of a class in a space of features;
- own: a network that learns from the person's pieces alone. Its scaling is that
  of the training people.

Rates and numbers of steps are chosen on one of the training people. The person
who is left out chooses nothing.

    python examples/wearable.py --data=watch.npz
    python examples/wearable.py --data=.../seglearn/data/watch_dataset.npy

The data are in the package seglearn (BSD licence; arXiv 1802.01489): download
its wheel and unzip it. Reading the `.npy` runs what is pickled in it. Without
`--data`, the program makes recordings up. To go on with a run that was
interrupted, repeat the command.
"""

import glob
import json
import os
import time
from typing import NamedTuple

# Hides TensorFlow's start-up messages; must come before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging

import keras_maml
from keras_maml import tasks

FLAGS = flags.FLAGS

flags.DEFINE_string("data", "", "A watch.npz or watch_dataset.npy.")
flags.DEFINE_integer(
    "people", 0, "How many to leave out, one at a time; 0: all.", lower_bound=0
)
flags.DEFINE_integer("length", 200, "Samples of a window.", lower_bound=8)
flags.DEFINE_integer("step", 50, "From window to window.", lower_bound=1)
flags.DEFINE_integer(
    "support", 3, "Windows of the piece of each exercise.", lower_bound=1
)
flags.DEFINE_integer("filters", 32, "Of each convolution.", lower_bound=1)
flags.DEFINE_integer(
    "iterations", 400, "Training steps of each network.", lower_bound=1
)
flags.DEFINE_integer("inner_steps", 3, "Of MAML's training.", lower_bound=1)
flags.DEFINE_float("inner_rate", 0.1, "Of MAML's training.", lower_bound=0.0)
flags.DEFINE_integer(
    "meta_batch_size", 4, "Tasks of a training step.", lower_bound=1
)
flags.DEFINE_integer(
    "seed",
    0,
    "Seed of weights and tasks.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_string(
    "output_dir", "outputs/wearable", "Folder for the table and the model."
)

# A run goes on if it has the same values of these.
TRAINING_FLAGS = (
    "data",
    "length",
    "step",
    "support",
    "filters",
    "iterations",
    "inner_steps",
    "inner_rate",
    "meta_batch_size",
    "seed",
)
# What MAML chooses from on the validation person. Fine-tuning tries as many,
# and as many again with moving averages.
RATES = [0.03, 0.1, 0.3]
STEPS = [3, 10, 30]
# A network that starts from nothing needs more.
OWN_RATES = [0.001, 0.003, 0.01]
OWN_STEPS = [30, 100, 200]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Recordings(NamedTuple):
    """Recordings of shape (samples, channels), and what is known of each."""

    signals: list
    exercises: np.ndarray
    people: np.ndarray
    sides: np.ndarray


def read(path):
    """Reads the recordings of the watch."""
    if path.endswith(".npy"):
        data = np.load(path, allow_pickle=True).item()
        names = np.array(data["y_labels"])[np.asarray(data["y"], int)]
        return Recordings(data["X"], names, data["subject"], data["side"])
    data = np.load(path)
    ends = np.cumsum(data["lengths"])
    return Recordings(
        np.split(data["signal"], ends[:-1]),
        data["exercise_names"][data["exercise"]],
        data["subject"],
        data["right"],
    )


def make_up(seed, people=4, exercises=3):
    """Makes recordings up: people differ in pace and in how they wear it."""
    rng = np.random.default_rng(seed)
    signals, names, of_whom, sides = [], [], [], []
    shapes = rng.normal(size=(exercises, 2, 6))
    for person in range(people):
        pace = rng.uniform(0.15, 0.4)
        turn = np.linalg.qr(rng.normal(size=(6, 6)) * 0.4 + np.eye(6))[0]
        for exercise in range(exercises):
            for side in (0, 1):
                t = pace * np.arange(rng.integers(950, 1200))[:, None]
                first, second = shapes[exercise]
                wave = np.sin(t) * first + np.sin(2 * t) * second
                noise = rng.normal(size=wave.shape) * 0.3
                signals.append((wave @ turn + noise).astype("float32"))
                names.append(f"exercise {exercise}")
                of_whom.append(person)
                sides.append(side)
    return Recordings(
        signals, np.array(names), np.array(of_whom), np.array(sides)
    )


def make_tasks(config, recordings):
    """Each arm is a task. The two arms of a person stay on one side."""
    return tasks.from_recordings(
        recordings.signals,
        task=[
            f"{person} {'right' if side else 'left'}"
            for person, side in zip(recordings.people, recordings.sides)
        ],
        target=recordings.exercises,
        group=recordings.people,
        length=config.length,
        step=config.step,
        # Of each exercise there is one recording: its past is the support set.
        order="time",
        support=config.support,
        query=5,
        seed=config.seed,
    )


def make_learner(config, train, outputs):
    """Three convolutions. The first layer knows the units of the watch."""
    channels = len(train.normalization().input_mean)
    layers = [
        keras.Input([config.length, channels]),
        train.normalization(),
    ]
    for number in range(3):
        layers += [
            keras.layers.Conv1D(
                config.filters,
                5,
                padding="same",
                kernel_initializer=keras.initializers.GlorotUniform(
                    1000 * config.seed + number
                ),
            ),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling1D(2),
        ]
    layers.append(keras.layers.GlobalAveragePooling1D())
    if outputs:
        initializer = keras.initializers.GlorotUniform(1000 * config.seed + 3)
        layers.append(
            keras.layers.Dense(outputs, kernel_initializer=initializer)
        )
    return keras.Sequential(layers)


def make_model(learner, rate=0.1, **settings):
    settings = {
        "inner_steps": 0,
        # A wearer asks for one window at a time.
        "normalization": "support",
        **settings,
    }
    return keras_maml.MetaModel(
        learner, inner_optimizer=rate, inner_loss=LOSS, **settings
    )


def fit(config, model, dataset_at, name):
    """Trains a network, and goes on if it was interrupted."""
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(3e-3, config.iterations)
        ),
        loss=LOSS,
    )
    keras_maml.callbacks.Resume(
        os.path.join(config.output_dir, f"{name}.resume"),
        settings={flag: getattr(config, flag) for flag in TRAINING_FLAGS},
        dataset_at=dataset_at,
    ).fit(
        model,
        dataset_at(0),
        steps_per_epoch=config.iterations,
        epochs=1,
        shuffle=False,
        verbose=0,
    )
    return model


def train_methods(config, train, classes, name):
    """Trains on the same people: a pooled network, prototypes and MAML.

    Returns:
        A dict from the name of each method to the `MetaModel`s to choose from
        and a list of the numbers of steps to choose from.
    """
    size = config.meta_batch_size

    def meta_batches(steps):
        return train.batch(size, start=steps * size)

    def trained(learner, part, **settings):
        model = make_model(learner, config.inner_rate, **settings)
        fit(config, model, meta_batches, f"{name}_{part}")
        return learner

    pooled = make_learner(config, train, classes)
    fit(
        config,
        pooled,
        lambda steps: meta_batches(steps).map(all_windows),
        f"{name}_pooled",
    )
    maml = trained(
        make_learner(config, train, classes),
        "maml",
        inner_steps=config.inner_steps,
    )
    nearest = {"head_init": "prototypes"}
    features = trained(make_learner(config, train, 0), "prototypes", **nearest)
    own = make_learner(config, train, classes)
    stored = {"normalization": "moving"}

    def at_rates(learner, rates=RATES, **settings):
        return [make_model(learner, rate, **settings) for rate in rates]

    return {
        "pooled": ([make_model(pooled, **stored)], [0]),
        "fine-tuned": (at_rates(pooled) + at_rates(pooled, **stored), STEPS),
        "prototypes": ([make_model(features, **nearest)], [0]),
        "own": (
            at_rates(own, map(keras_maml.inner_optimizers.Adam, OWN_RATES)),
            OWN_STEPS,
        ),
        "MAML": (at_rates(maml), STEPS),
    }


def all_windows(x, y):
    """The windows of all tasks of a meta-batch, as one batch."""
    inputs = tf.concat([x["support_x"], x["query_x"]], axis=1)
    targets = tf.concat([x["support_y"], y], axis=1)
    shape = tf.concat([[-1], tf.shape(inputs)[2:]], axis=0)
    return tf.reshape(inputs, shape), tf.reshape(targets, [-1])


def accuracy(model, people, steps):
    """The share of right windows behind the first piece of each exercise."""
    episodes = people.replace(cut="first", query=(1, None))
    try:
        scores = keras_maml.evaluate_tasks(
            model,
            episodes.batch(1, count=len(episodes.names)),
            keras.metrics.sparse_categorical_accuracy,
            [steps],
        )
    except ValueError as error:
        if "not finite" not in str(error):
            raise
        return 0.0  # Steps this long diverge.
    return scores[steps].mean


def choose(models, steps, people):
    """Returns the model and the number of steps that are best for people."""
    candidates = [(model, number) for model in models for number in steps]
    if len(candidates) == 1:
        return candidates[0]
    return max(candidates, key=lambda pair: accuracy(pair[0], people, pair[1]))


def leave_one_out(config, table):
    """Returns the accuracy of each method for each person, and a model."""
    scores = {}
    for train, test in table.leave_one_task_out():
        if config.people and len(scores) == config.people:
            break
        started = time.time()
        person = str(test.groups[0])
        others, validation = train.split(
            len(np.unique(train.groups)) - 1, 1, seed=config.seed
        )
        methods = train_methods(
            config, others, len(table.class_names), f"without_{person}"
        )
        scores[person] = {}
        for name, (models, steps) in methods.items():
            model, number = choose(models, steps, validation)
            scores[person][name] = accuracy(model, test, number)
            print(
                f"{person}: {name} {100 * scores[person][name]:.1f} %, "
                f"{number} steps at {model.inner_optimizer.learning_rate}"
                f" ({model.normalization})"
            )
        print(f"{person}: {time.time() - started:.0f} seconds")
    model.evaluation_steps = number
    return scores, model


def print_table(scores):
    names = list(next(iter(scores.values())))
    print("| person |" + "".join(f" {name} |" for name in names))
    print("| --- |" + " --- |" * len(names))
    for person, row in scores.items():
        print(
            f"| {person} |" + "".join(f" {100 * v:.1f} |" for v in row.values())
        )
    means = [100 * np.mean([row[n] for row in scores.values()]) for n in names]
    print("| all |" + "".join(f" **{mean:.1f}** |" for mean in means))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    keras.utils.set_random_seed(FLAGS.seed)
    started = time.time()
    recordings = read(FLAGS.data) if FLAGS.data else make_up(FLAGS.seed)
    table = make_tasks(FLAGS, recordings)
    scores, meta_model = leave_one_out(FLAGS, table)
    minutes = (time.time() - started) / 60
    print(f"\nAccuracy in percent, {minutes:.1f} minutes in all:")
    print_table(scores)
    with open(os.path.join(FLAGS.output_dir, "scores.json"), "w") as file:
        json.dump(scores, file, indent=1)
    # What a watch needs: it takes pieces and windows, and gives exercises.
    x, _ = table.episode(0)
    meta_model.predict({k: v[None] for k, v in x.items()}, verbose=0)
    path = os.path.join(FLAGS.output_dir, "saved_model")
    meta_model.export(path, verbose=False)
    print(f"SavedModel, which adapts to new people: {path}")
    for run in glob.glob(os.path.join(FLAGS.output_dir, "*.resume*")):
        os.remove(run)


if __name__ == "__main__":
    app.run(main)
