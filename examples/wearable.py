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
flags.DEFINE_integer("length", 200, "Samples of a window.", lower_bound=8)
flags.DEFINE_integer("step", 50, "From window to window.", lower_bound=1)
flags.DEFINE_integer(
    "support", 3, "Windows of the piece of each exercise.", lower_bound=1
)
flags.DEFINE_integer(
    "imagined",
    3,
    "Imagined wearers for each arm of a person in training, of recordings with "
    "three axes of acceleration and three of rotation.",
    lower_bound=0,
)
flags.DEFINE_integer("filters", 32, "Of each convolution.", lower_bound=1)
flags.DEFINE_integer(
    "budget", 1200, "Gradient evaluations of a training.", lower_bound=1
)
flags.DEFINE_integer("trials", 1, "Of learning rates.", lower_bound=1)
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
    arms: np.ndarray


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
        name_arms(data["subject"], data["right"]),
    )


def name_arms(people, is_right):
    sides = np.where(is_right, "right", "left")
    return np.array([f"{p} {side}" for p, side in zip(people, sides)])


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
        signals,
        np.array(names),
        np.array(of_whom),
        name_arms(of_whom, sides),
    )


def with_imagined_wearers(config, recordings):
    """Adds arms that wear the watch askew and move at another pace."""
    channels = recordings.signals[0].shape[-1]
    if config.imagined and channels != 6:
        raise app.UsageError(
            "--imagined needs recordings of three axes of acceleration and "
            f"three of rotation. Received: --imagined={config.imagined} and "
            f"{channels} channels"
        )
    rng = np.random.default_rng(config.seed)
    signals, rows, arms = list(recordings.signals), [], []
    for number in range(config.imagined):
        for arm in np.unique(recordings.arms):
            turn, pace = random_turn(rng), rng.uniform(0.8, 1.25)
            of_arm = np.flatnonzero(recordings.arms == arm)
            signals += [
                imagine(recordings.signals[row], turn, pace) for row in of_arm
            ]
            rows += [*of_arm]
            arms += [f"{arm}, imagined {number}"] * len(of_arm)
    exercises, people = (
        np.concatenate([values, values[rows]])
        for values in (recordings.exercises, recordings.people)
    )
    return Recordings(
        signals, exercises, people, np.append(recordings.arms, arms)
    )


def random_turn(rng, degrees=20):
    """Returns a rotation about a random axis, by the formula of Rodrigues."""
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    angle = np.deg2rad(rng.normal(0, degrees))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return (
        np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    )


def imagine(signal, turn, pace):
    """Returns a signal of three axes of acceleration and three of rotation."""
    turned = signal.reshape(-1, 2, 3) @ turn.T
    # Rates of rotation grow with the pace.
    turned[:, 1] *= pace
    times = np.arange(0, len(signal) - 1, pace)
    # By rounding, the last of them may be the end.
    times = times[times < len(signal) - 1]
    before = times.astype(int)
    share = (times - before)[:, None, None]
    resampled = (1 - share) * turned[before] + share * turned[before + 1]
    return resampled.reshape(-1, 6).astype("float32")


def make_tasks(config, recordings):
    """Each arm is a task. The two arms of a person stay on one side."""
    return tasks.from_recordings(
        recordings.signals,
        task=recordings.arms,
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
    """Three strided convolutions, on inputs in the units of the watch."""
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
                strides=2,
                padding="same",
                kernel_initializer=keras.initializers.GlorotUniform(
                    1000 * config.seed + number
                ),
            ),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    initializer = keras.initializers.GlorotUniform(1000 * config.seed + 3)
    layers += [
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(
            len(train.class_names), kernel_initializer=initializer
        ),
    ]
    return keras.Sequential(layers)


def make_folds(config, recordings):
    """Returns training, validation and test tasks of each fold.

    Somebody new is tested as soon as there is one piece of each exercise, on
    all windows behind it. Validation people are few, so they have pieces of
    several moments.
    """
    all_behind = (1, None)
    table = make_tasks(config, recordings)
    for rest, test in table.folds(config.folds, seed=config.seed):
        people = len(np.unique(rest.groups))
        for_validation = max(1, people // 4)
        train, validation = rest.split(
            people - for_validation, for_validation, seed=config.seed
        )
        training = make_tasks(
            config, for_training(config, recordings, train.names)
        )
        if training.class_names != table.class_names:
            raise app.UsageError(
                "Every exercise needs somebody in training. Without "
                f"{sorted({*table.names} - {*train.names})}, there are "
                f"{training.class_names}."
            )
        yield (
            training,
            validation.replace(query=all_behind),
            test.replace(cut="first", query=all_behind),
        )


def for_training(config, recordings, arms):
    """Returns the recordings of these arms, and of imagined wearers."""
    rows = np.flatnonzero(np.isin(recordings.arms, arms))
    theirs = Recordings(
        [recordings.signals[row] for row in rows],
        recordings.exercises[rows],
        recordings.people[rows],
        recordings.arms[rows],
    )
    return with_imagined_wearers(config, theirs)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    recordings = read(FLAGS.data) if FLAGS.data else make_up(FLAGS.seed)
    verdict = keras_maml.should_i_adapt(
        lambda train: make_learner(FLAGS, train),
        list(make_folds(FLAGS, recordings)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        budget=FLAGS.budget,
        trials=FLAGS.trials,
        meta_batch_size=FLAGS.meta_batch_size,
        inner_steps=FLAGS.inner_steps,
        most_steps=FLAGS.most_steps,
        # Each arm of each person, once.
        episodes=len(np.unique(recordings.arms)),
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
