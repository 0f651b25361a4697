"""A table of your own: one row an example, one column the task.

This program reads a CSV file, leaves out some of its tasks, learns from the
others, and adapts to those that were left out. It compares MAML with one
network for all tasks, as it is and fine-tuned, and exports a SavedModel that
adapts to new tasks (see serve.py).

    python examples/own_tables.py
    python examples/own_tables.py --data=ratings.csv --task=user --target=rating

Without `--data`, the program makes a file up: what 60 shops sell depends on
price, temperature and weekday, in each shop in another way. To go on with a run
that was interrupted, repeat the command.
"""

import csv
import glob
import os

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

flags.DEFINE_string("data", "", "A CSV file; by default, one is made up.")
flags.DEFINE_string("task", "shop", "The column that names the task.")
flags.DEFINE_string("target", "sold", "The column to predict, of numbers.")
flags.DEFINE_list("features", None, "Columns; by default, all others.")
flags.DEFINE_list("categories", ["weekday"], "Columns of names, or empty.")
flags.DEFINE_string("order", "day", "The column of the time, or empty.")
flags.DEFINE_integer("support", 10, "Rows to adapt on.", lower_bound=1)
flags.DEFINE_integer("query", 20, "Rows to predict.", lower_bound=1)
flags.DEFINE_integer(
    "iterations", 2000, "Training steps of each network.", lower_bound=1
)
flags.DEFINE_integer(
    "meta_batch_size", 16, "Tasks of a training step.", lower_bound=1
)
flags.DEFINE_float("inner_rate", 0.05, "For targets of variance 1.")
flags.DEFINE_integer(
    "seed",
    0,
    "Seed of weights, tasks and their split.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_string(
    "output_dir", "outputs/own_tables", "Folder for the model and the table."
)

# A run goes on if it has the same values of these.
TRAINING_FLAGS = (
    "data",
    "task",
    "target",
    "features",
    "categories",
    "order",
    "support",
    "query",
    "iterations",
    "meta_batch_size",
    "inner_rate",
    "seed",
)
# Numbers of gradient steps in the test. The exported model takes the last one.
STEPS = [0, 1, 3, 10]
# Rates that fine-tuning and MAML try on validation tasks.
RATES = [0.01, 0.02, 0.05, 0.1]


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
        print(f"Too few rows, left out: {', '.join(table.left_out)}")
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


def make_model(learner, rate, inner_steps):
    scale = learner.layers[-1].scale
    return keras_maml.MetaModel(
        learner,
        # A squared error has gradients of the size of its units, squared.
        inner_optimizer=rate / scale**2,
        inner_steps=inner_steps,
        evaluation_steps=STEPS[-1],
        inner_loss="mse",
    )


def fit(config, model, dataset_at, name):
    """Trains a network, and goes on if it was interrupted."""
    keras.utils.set_random_seed(config.seed)
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(3e-3, config.iterations)
        ),
        loss="mse",
    )
    epochs = min(10, config.iterations)
    keras_maml.callbacks.Resume(
        os.path.join(config.output_dir, f"{name}.resume"),
        settings={flag: getattr(config, flag) for flag in TRAINING_FLAGS},
        dataset_at=dataset_at,
    ).fit(
        model,
        dataset_at(0),
        steps_per_epoch=-(-config.iterations // epochs),
        epochs=epochs,
        shuffle=False,
        verbose=2,
    )


def all_rows(x, y):
    """The rows of all tasks of a meta-batch, as one batch."""

    def joined(support, query):
        rows = tf.concat([support, query], axis=1)
        return tf.reshape(rows, [-1, *rows.shape[2:]])

    inputs = tf.nest.map_structure(joined, x["support_x"], x["query_x"])
    return inputs, joined(x["support_y"], y)


def train_both(config, train):
    """Trains MAML, and one network for all tasks."""
    size = config.meta_batch_size

    def meta_batches(steps):
        return train.batch(size, start=steps * size)

    keras.utils.set_random_seed(config.seed)
    learner = make_learner(config, train)
    pooled = keras.models.clone_model(learner)
    pooled.set_weights(learner.get_weights())
    print("MAML")
    maml = make_model(learner, config.inner_rate, inner_steps=3)
    fit(config, maml, meta_batches, "maml")
    print("One network for all tasks")
    fit(
        config,
        pooled,
        lambda steps: meta_batches(steps).map(all_rows),
        "pooled",
    )
    return {"MAML": learner, "one for all, fine-tuned": pooled}


def mean_absolute_errors(model, table):
    scores = keras_maml.evaluate_tasks(
        model,
        table.batch(10, count=10 * len(table.names)),
        keras.losses.mean_absolute_error,
        inner_steps=STEPS,
    )
    return [score.mean for score in scores.values()]


def best_rate(learner, validation):
    """Returns the model with the rate that is best on validation tasks."""
    models = [make_model(learner, rate, inner_steps=1) for rate in RATES]
    errors = [min(mean_absolute_errors(m, validation)) for m in models]
    return models[int(np.argmin(np.nan_to_num(errors, nan=np.inf)))]


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
    train, validation, test = read_tasks(FLAGS, path)
    models = {
        name: best_rate(learner, validation)
        for name, learner in train_both(FLAGS, train).items()
    }
    print(
        f"\nMean absolute error of {FLAGS.target!r}, {len(test.names)} tasks "
        f"that were left out, after gradient steps on {FLAGS.support} rows:"
    )
    print(f"{'steps':26}" + "".join(f"{steps:>9}" for steps in STEPS))
    for name, model in models.items():
        errors = mean_absolute_errors(model, test)
        print(f"{name:26}" + "".join(f"{error:9.3f}" for error in errors))
    x, _ = test.episode(0)
    model = models["MAML"]
    x = tf.nest.map_structure(lambda array: array[None], x)
    model.predict(x, verbose=0)
    exported = os.path.join(FLAGS.output_dir, "saved_model")
    model.export(exported, verbose=False)
    print(f"SavedModel, which adapts to new tasks: {exported}")
    for run in glob.glob(os.path.join(FLAGS.output_dir, "*.resume*")):
        os.remove(run)


if __name__ == "__main__":
    app.run(main)
