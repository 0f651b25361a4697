"""A watch that learns its wearer: which exercise is this?

This program asks whether a watch should adapt to its wearer by one short piece
of each exercise. It leaves out some people at a time, learns from the others,
and tests on those who were left out. MAML and ANIL stand beside what one could
do instead: one network for all people, the same network fine-tuned, a network
of the person's own, and prototypes. It prints a verdict, draws it, and exports
the model of choice.

    python examples/wearable.py --data=watch.npz

The data are in the package seglearn (BSD licence; arXiv 1802.01489), as a
pickle. docs/your_own_data.md shows how to make watch.npz of it. Without
`--data`, the program makes recordings up. To go on with a run that was
interrupted, repeat the command.
"""

import os
from typing import NamedTuple

# Hides TensorFlow's start-up messages; must come before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging

import keras_maml
from keras_maml import tasks

FLAGS = flags.FLAGS

flags.DEFINE_string("data", "", "A watch.npz.")
flags.DEFINE_integer("folds", 5, "Parts of the people.", lower_bound=2)
flags.DEFINE_integer("length", 100, "Samples of a window.", lower_bound=8)
flags.DEFINE_integer("step", 50, "From window to window.", lower_bound=1)
flags.DEFINE_integer(
    "support", 3, "Windows of the piece of each exercise.", lower_bound=1
)
flags.DEFINE_integer("filters", 32, "Of each convolution.", lower_bound=1)
flags.DEFINE_integer(
    "budget", 600, "Gradient evaluations of a training.", lower_bound=1
)
flags.DEFINE_integer("trials", 2, "Of learning rates.", lower_bound=1)
flags.DEFINE_integer("inner_steps", 1, "Of MAML's training.", lower_bound=1)
flags.DEFINE_integer(
    "most_steps", 30, "Of fine-tuning and own networks.", lower_bound=1
)
flags.DEFINE_integer(
    "meta_batch_size", 4, "Tasks of a training step.", lower_bound=1
)
flags.DEFINE_integer(
    "seed",
    0,
    "Seed of weights, tasks and their split.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_string(
    "output_dir", "outputs/wearable", "Folder for the verdict and the model."
)


class Recordings(NamedTuple):
    """Recordings of shape (samples, channels), and what is known of each."""

    signals: list
    exercises: np.ndarray
    people: np.ndarray
    sides: np.ndarray


def read(path):
    """Reads the recordings of the watch."""
    if not path.endswith(".npz"):
        raise app.UsageError(
            "--data must be a .npz file; docs/your_own_data.md shows how to "
            f"make it. Received: --data={path}"
        )
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


def make_learner(config, train):
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
    initializer = keras.initializers.GlorotUniform(1000 * config.seed + 3)
    layers += [
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(
            len(train.class_names), kernel_initializer=initializer
        ),
    ]
    return keras.Sequential(layers)


def make_folds(config, table):
    """Returns training, validation and test people of each fold.

    Somebody new is tested as soon as there is one piece of each exercise, on
    all windows behind it.
    """
    for train, test in table.folds(config.folds, seed=config.seed):
        people = len(np.unique(train.groups))
        for_validation = max(1, people // 4)
        yield (
            *train.split(
                people - for_validation, for_validation, seed=config.seed
            ),
            test.replace(cut="first", query=(1, None)),
        )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    recordings = read(FLAGS.data) if FLAGS.data else make_up(FLAGS.seed)
    table = make_tasks(FLAGS, recordings)
    verdict = keras_maml.should_i_adapt(
        lambda train: make_learner(FLAGS, train),
        list(make_folds(FLAGS, table)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        budget=FLAGS.budget,
        trials=FLAGS.trials,
        meta_batch_size=FLAGS.meta_batch_size,
        inner_steps=FLAGS.inner_steps,
        most_steps=FLAGS.most_steps,
        # Each arm of each person, once.
        episodes=len(table.names),
        folder=os.path.join(FLAGS.output_dir, "results"),
        seed=FLAGS.seed,
    )
    print(verdict)
    verdict.to_json(os.path.join(FLAGS.output_dir, "verdict.json"))
    verdict.plot(os.path.join(FLAGS.output_dir, "verdict.png"))
    # What a watch needs: it takes pieces and windows, and gives exercises.
    path = os.path.join(FLAGS.output_dir, "saved_model")
    verdict.model.export(path, verbose=False)
    print(f"SavedModel: {path}")


if __name__ == "__main__":
    app.run(main)
