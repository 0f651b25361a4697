"""Images of your own: a folder of class folders.

This program reads a folder, leaves out some of its classes, learns from the
others, and says whether to adapt to the classes that were left out, from a few
images each: it compares MAML and ANIL with prototypes, with one network for all
tasks, with the same network fine-tuned, and with a network of each task's own.
It prints the verdict, draws it, and exports the model of choice as a SavedModel
(see serve.py).

    python examples/own_images.py
    python examples/own_images.py --data=birds --n_way=5 --k_shot=5

Without `--data`, the program makes a folder of drawn characters. To go on with
a run that was interrupted, repeat the command.
"""

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
flags.DEFINE_integer("filters", 16, "Of each convolution.", lower_bound=1)
flags.DEFINE_integer(
    "budget", 1500, "Gradient evaluations of a training.", lower_bound=1
)
flags.DEFINE_integer("trials", 3, "Of learning rates.", lower_bound=1)
flags.DEFINE_integer(
    "meta_batch_size", 8, "Tasks of a training step.", lower_bound=1
)
flags.DEFINE_integer("episodes", 200, "Test episodes.", lower_bound=2)
flags.DEFINE_integer(
    "seed",
    0,
    "Seed of weights, tasks and the split of classes.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_string(
    "output_dir", "outputs/own_images", "Folder for the verdict and the model."
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
    """Returns training, validation and test tasks, of 60, 20 and 20 %."""
    pool = tasks.from_folder(
        folder, image_size=config.image_size, color_mode=config.color_mode
    ).with_at_least(config.k_shot + config.q_query)
    part = max(pool.num_classes // 5, config.n_way)
    pools = pool.split(
        pool.num_classes - 2 * part, part, part, seed=config.seed
    )
    return tuple(
        pool.episodes(
            config.n_way, config.k_shot, config.q_query, seed=config.seed
        )
        for pool in pools
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
    parts = read_tasks(FLAGS, folder)
    learner = keras_maml.learners.conv4(
        parts[0].episode(0)[0]["query_x"].shape[1:],
        FLAGS.n_way,
        filters=FLAGS.filters,
        head_stddev=0.1,
        seed=FLAGS.seed,
    )
    verdict = keras_maml.should_i_adapt(
        learner,
        parts,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        budget=FLAGS.budget,
        trials=FLAGS.trials,
        meta_batch_size=FLAGS.meta_batch_size,
        inner_steps=1,
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
