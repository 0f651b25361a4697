"""A table of your own: one row an example, one column the task.

This program reads a CSV file, leaves out some of its tasks, learns from the
others, and says whether to adapt to those that were left out: it compares MAML
and ANIL with one network for all tasks, with the same network fine-tuned, and
with a network of each task's own. It prints the verdict, draws it, and exports
the model of choice as a SavedModel (see serve.py).

    python examples/own_tables.py
    python examples/own_tables.py --data=ratings.csv --task=user --target=rating

Without `--data`, the program makes a file up: what 60 shops sell depends on
price, temperature and weekday, in each shop in another way. To go on with a run
that was interrupted, repeat the command.
"""

import csv
import os

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

flags.DEFINE_string("data", "", "A CSV file; by default, one is made up.")
flags.DEFINE_string("task", "shop", "The column that names the task.")
flags.DEFINE_string("target", "sold", "The column to predict, of numbers.")
flags.DEFINE_list("features", None, "Columns; by default, all others.")
flags.DEFINE_list("categories", ["weekday"], "Columns of names, or empty.")
flags.DEFINE_string("order", "day", "The column of the time, or empty.")
flags.DEFINE_integer("support", 10, "Rows to adapt on.", lower_bound=1)
flags.DEFINE_integer("query", 20, "Rows to predict.", lower_bound=1)
flags.DEFINE_integer(
    "budget", 7000, "Gradient evaluations of a training.", lower_bound=1
)
flags.DEFINE_integer("trials", 3, "Of learning rates.", lower_bound=1)
flags.DEFINE_integer(
    "meta_batch_size", 16, "Tasks of a training step.", lower_bound=1
)
flags.DEFINE_integer("episodes", 200, "Test episodes.", lower_bound=2)
flags.DEFINE_integer(
    "seed",
    0,
    "Seed of weights, tasks and their split.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_string(
    "output_dir", "outputs/own_tables", "Folder for the verdict and the model."
)

# Rates of the inner loop to try, for targets of variance 1.
RATES = (0.01, 0.3)


def make_up(path, seed, shops=60, days=80):
    """Writes a CSV file of shops that react to the same things differently."""
    rng = np.random.default_rng(seed)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["shop", "day", "weekday", "price", "temperature", "sold"]
        )
        for shop in range(shops):
            level, slope, warmth, weekend = rng.normal(
                [50, -10, 0, 15], [15, 6, 1.5, 10]
            )
            for day in range(days):
                weekday = day % 7
                price = rng.uniform(1, 4)
                temperature = 15 + 10 * np.sin(day / 12) + rng.normal()
                sold = level + slope * (price - 2.5) + rng.normal() * 3
                sold += warmth * (temperature - 15) + weekend * (weekday > 4)
                writer.writerow(
                    [f"shop {shop}", day, f"day {weekday}"]
                    + [f"{v:.2f}" for v in (price, temperature, sold)]
                )


def read_tasks(config, path):
    """Returns training, validation and test tasks: 70, 10 and 20 %."""
    table = tasks.from_table(
        path,
        task=config.task,
        target=config.target,
        features=config.features,
        categories=[name for name in config.categories if name],
        kind="regression",
        order=config.order or None,
        support=config.support,
        query=config.query,
        too_few="leave_out",
        seed=config.seed,
    )
    if table.left_out:
        some = ", ".join(table.left_out[:10])
        print(f"Too few rows: {len(table.left_out)} tasks, such as {some}")
    return table.split(0.7, 0.1, 0.2, seed=config.seed)


def make_learner(config, train):
    """Two hidden layers; numbers are scaled, and names embedded."""
    example = train.episode(0)[0]["query_x"]
    if isinstance(example, dict):
        inputs = {
            name: keras.Input(array.shape[1:], dtype=array.dtype, name=name)
            for name, array in example.items()
        }
        parts = [
            keras.layers.Embedding(len(names) + 1, 4)(inputs[name])
            for name, names in train.category_names.items()
        ]
        if "numbers" in inputs:
            parts.append(train.normalization()(inputs["numbers"]))
        x = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    else:
        inputs = keras.Input(example.shape[1:])
        x = train.normalization()(inputs)
    for _ in range(2):
        x = keras.layers.Dense(40, activation="relu")(x)
    x = keras.layers.Dense(1)(x)
    return keras.Model(inputs, train.target_rescaling()(x))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    path = FLAGS.data
    if not path:
        path = os.path.join(FLAGS.output_dir, "shops.csv")
        make_up(path, FLAGS.seed)
    parts = read_tasks(FLAGS, path)
    keras.utils.set_random_seed(FLAGS.seed)
    learner = make_learner(FLAGS, parts[0])
    # A squared error has gradients of the size of its units, squared.
    scale = learner.layers[-1].scale
    verdict = keras_maml.should_i_adapt(
        learner,
        parts,
        loss="mse",
        budget=FLAGS.budget,
        trials=FLAGS.trials,
        meta_batch_size=FLAGS.meta_batch_size,
        inner_rates=[rate / scale**2 for rate in RATES],
        episodes=FLAGS.episodes,
        folder=os.path.join(FLAGS.output_dir, "results"),
        seed=FLAGS.seed,
    )
    print(verdict)
    verdict.to_json(os.path.join(FLAGS.output_dir, "verdict.json"))
    verdict.plot(os.path.join(FLAGS.output_dir, "verdict.png"))
    exported = os.path.join(FLAGS.output_dir, "saved_model")
    verdict.model.export(exported, verbose=False)
    print(f"SavedModel: {exported}")


if __name__ == "__main__":
    app.run(main)
