"""Images of your own: a folder of class folders.

This program reads a folder, leaves out some of its classes, learns from the
others, and then learns the classes that were left out from a few images each.
It compares MAML with prototypes and exports a SavedModel that adapts to new
classes (see serve.py).

    python examples/own_images.py
    python examples/own_images.py --data=birds --n_way=5 --k_shot=5

Without `--data`, the program makes a folder of drawn characters. To go on with
a run that was interrupted, repeat the command.
"""

import glob
import os

# Hides TensorFlow's start-up messages; must come before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging

import keras_maml
from keras_maml import tasks

FLAGS = flags.FLAGS

flags.DEFINE_string("data", "", "A folder; by default, one is made.")
flags.DEFINE_integer("image_size", 28, "Pixels.", lower_bound=8)
flags.DEFINE_enum(
    "color_mode", "grayscale", ["grayscale", "rgb"], "How to read images."
)
flags.DEFINE_integer("n_way", 5, "Classes of a task.", lower_bound=2)
flags.DEFINE_integer("k_shot", 1, "Images of a class.", lower_bound=1)
flags.DEFINE_integer("q_query", 5, "Queries of a class.", lower_bound=1)
flags.DEFINE_integer("filters", 32, "Of each convolution.", lower_bound=1)
flags.DEFINE_integer(
    "iterations", 1000, "Training steps of each network.", lower_bound=1
)
flags.DEFINE_integer(
    "meta_batch_size", 8, "Tasks of a training step.", lower_bound=1
)
flags.DEFINE_float("inner_rate", 0.4, "Of the inner loop.", lower_bound=0.0)
flags.DEFINE_integer("test_tasks", 200, "Tasks of new classes.", lower_bound=2)
flags.DEFINE_integer(
    "seed",
    0,
    "Seed of weights, tasks and the split of classes.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_string(
    "output_dir", "outputs/own_images", "Folder for the models."
)

# A run goes on if it has the same values of these.
TRAINING_FLAGS = (
    "data",
    "image_size",
    "color_mode",
    "n_way",
    "k_shot",
    "q_query",
    "filters",
    "iterations",
    "meta_batch_size",
    "inner_rate",
    "seed",
)


def make_up(folder, seed, classes=60, images=12):
    """Writes a folder of class folders of drawn characters."""
    glyphs = tasks.Glyphs(n_way=10, k_shot=1, q_query=images - 1, seed=seed)
    for episode in range(classes // 10):
        x, y = glyphs.episode(episode)
        for label in range(10):
            name = os.path.join(folder, f"character {10 * episode + label}")
            os.makedirs(name, exist_ok=True)
            for number, image in enumerate(x["query_x"][y == label]):
                png = tf.io.encode_png(tf.cast(255 * image, tf.uint8))
                tf.io.write_file(os.path.join(name, f"{number}.png"), png)


def read_tasks(config, folder):
    """Returns training and test tasks: of 80 and of 20 % of the classes."""
    pool = tasks.from_folder(
        folder, image_size=config.image_size, color_mode=config.color_mode
    ).with_at_least(config.k_shot + config.q_query)
    for_test = max(pool.num_classes // 5, config.n_way)
    parts = pool.split(pool.num_classes - for_test, for_test, seed=config.seed)
    return [
        part.episodes(
            config.n_way, config.k_shot, config.q_query, seed=config.seed
        )
        for part in parts
    ]


def make_models(config, shape):
    """MAML and prototypes, each with four convolutions."""
    settings = {
        "inner_optimizer": config.inner_rate,
        # New images come one at a time.
        "normalization": "support",
        "inner_loss": keras.losses.SparseCategoricalCrossentropy(
            from_logits=True
        ),
    }

    def learner(n_way):
        return keras_maml.learners.conv4(
            shape,
            n_way,
            filters=config.filters,
            head_stddev=0.1,
            seed=config.seed,
        )

    return {
        "MAML": keras_maml.MetaModel(
            learner(config.n_way), inner_steps=1, evaluation_steps=3, **settings
        ),
        "prototypes": keras_maml.MetaModel(
            learner(None), inner_steps=0, head_init="prototypes", **settings
        ),
    }


def fit(config, model, train, name):
    """Trains a model, and goes on if it was interrupted."""
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(3e-3, config.iterations)
        ),
        loss=model.inner_loss,
        metrics=["accuracy"],
    )
    epochs = min(10, config.iterations)
    model.fit(
        train.batch(config.meta_batch_size),
        steps_per_epoch=-(-config.iterations // epochs),
        epochs=epochs,
        callbacks=[
            keras_maml.callbacks.Resume(
                os.path.join(config.output_dir, f"{name}.resume"),
                settings={
                    flag: getattr(config, flag) for flag in TRAINING_FLAGS
                },
            )
        ],
        shuffle=False,
        verbose=2,
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    folder = FLAGS.data
    if not folder:
        folder = os.path.join(FLAGS.output_dir, "characters")
        make_up(folder, FLAGS.seed)
    train, test = read_tasks(FLAGS, folder)
    shape = train.episode(0)[0]["query_x"].shape[1:]
    models = make_models(FLAGS, shape)
    lines = []
    for name, model in models.items():
        print(name)
        fit(FLAGS, model, train, name)
        scores = keras_maml.evaluate_tasks(
            model,
            test.batch(10, count=FLAGS.test_tasks),
            keras.metrics.sparse_categorical_accuracy,
        )
        [score] = scores.values()
        lines.append(
            f"{name:12} {100 * score.mean:6.2f} ± {100 * score.ci95:.2f} %"
        )
    print(
        f"\nAccuracy on new classes, {FLAGS.n_way} of them, {FLAGS.k_shot} "
        f"images each, {FLAGS.test_tasks} tasks; chance is "
        f"{100 / FLAGS.n_way:.1f} %:"
    )
    print("\n".join(lines))
    exported = os.path.join(FLAGS.output_dir, "saved_model")
    models["MAML"].export(exported, verbose=False)
    print(f"SavedModel, which adapts to new classes: {exported}")
    for run in glob.glob(os.path.join(FLAGS.output_dir, "*.resume*")):
        os.remove(run)


if __name__ == "__main__":
    app.run(main)
