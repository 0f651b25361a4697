"""Few-shot classification: characters, each from one or a few drawings.

Meta-trains the paper's convolutional network on Omniglot, or on generated
glyphs where there is nothing to download, and judges it on classes that it has
never seen. It ends with a table of accuracies and a picture of one episode.

    python examples/omniglot.py --dataset=glyphs
    python examples/omniglot.py --n_way=5 --k_shot=1 --iterations=10000
"""

import math
import os
import time

# Before TensorFlow is imported: its start-up messages are no news here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging

import keras_maml
from keras_maml import tasks

FLAGS = flags.FLAGS

flags.DEFINE_enum(
    "dataset", "omniglot", ["omniglot", "glyphs"], "Where the classes are from."
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of the TFDS datasets; Omniglot is downloaded to it if it is not "
    "there. By default TFDS_DATA_DIR, or else TFDS's own choice.",
)
flags.DEFINE_integer("n_way", 5, "Classes of an episode.", lower_bound=2)
flags.DEFINE_integer(
    "k_shot", 1, "Support examples of each class.", lower_bound=1
)
flags.DEFINE_integer(
    "q_query", 1, "Query examples of each class.", lower_bound=1
)
flags.DEFINE_integer(
    "inner_steps",
    None,
    "Gradient steps on a support set in training. By default 1 for fewer than "
    "20 classes and 5 otherwise, as in the paper.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "evaluation_steps",
    None,
    "Gradient steps in the test. By default 3 for fewer than 20 classes and 5 "
    "otherwise, as in the paper.",
    lower_bound=0,
)
flags.DEFINE_float(
    "inner_rate",
    2.0,
    "Learning rate of the inner loop. The paper's 0.4 (5-way) and 0.1 (20-way) "
    "are for the sum over classes; for the mean, used here, both are 2.0.",
    lower_bound=0.0,
)
flags.DEFINE_float(
    "head_stddev",
    0.1,
    "Standard deviation of the last layer's initial weights. The paper's code "
    "has 1.0, from which training takes several times as long.",
    lower_bound=0.0,
)
flags.DEFINE_enum(
    "meta_gradient",
    "second_order",
    ["second_order", "first_order"],
    "MAML, or its first-order approximation.",
)
flags.DEFINE_enum(
    "normalization",
    "transductive",
    ["transductive", "support", "moving"],
    "Statistics of batch normalisation, see MetaModel.",
)
flags.DEFINE_integer(
    "meta_batch_size",
    None,
    "Tasks of a training step. By default 32 for fewer than 20 classes and 16 "
    "otherwise, as in the paper.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "iterations",
    200,
    "Training steps, rounded up to fill epochs of 500.",
    lower_bound=1,
)
flags.DEFINE_float(
    "learning_rate",
    4e-3,
    "Adam's learning rate at the start; it falls to 0 along a cosine.",
    lower_bound=0.0,
)
flags.DEFINE_integer(
    "test_episodes", 600, "Episodes of held-out classes.", lower_bound=2
)
flags.DEFINE_integer(
    "seed",
    0,
    "Of weights and episodes.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_string(
    "output_dir", "outputs/omniglot", "Gets the picture and the model."
)
flags.DEFINE_enum(
    "progress", "bar", ["bar", "line"], "A bar, or a line an epoch."
)

# Of 1,623 characters; the paper has 1,200 for training and 423 for the test.
SPLIT = (1100, 100, 423)


def by_ways(n_way, few, many):
    """The paper's setting for 5-way tasks, or for 20-way ones."""
    return few if n_way < 20 else many


def load_tasks(config):
    """Distributions of training, validation and test tasks."""
    sizes = (config.n_way, config.k_shot, config.q_query)
    if config.dataset == "glyphs":
        return [
            tasks.Glyphs(*sizes, split=split, seed=config.seed)
            for split in ("train", "validation", "test")
        ]
    characters = tasks.from_tfds(
        "omniglot",
        splits=["train", "test"],
        data_dir=config.data_dir,
        preprocess=tasks.preprocess_omniglot,
    )
    return [
        pool.episodes(*sizes, rotations=True, seed=config.seed)
        for pool in characters.split(*SPLIT, seed=0)
    ]


def epochs(config):
    """The number of epochs, and of training steps in each."""
    steps_per_epoch = min(config.iterations, 500)
    return -(-config.iterations // steps_per_epoch), steps_per_epoch


def make_model(config):
    steps = config.inner_steps
    evaluation_steps = config.evaluation_steps
    if steps is None:
        steps = by_ways(config.n_way, 1, 5)
    if evaluation_steps is None:
        evaluation_steps = by_ways(config.n_way, 3, 5)
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.conv4(
            n_way=config.n_way,
            head_stddev=config.head_stddev,
            seed=config.seed,
        ),
        inner_optimizer=config.inner_rate,
        inner_steps=steps,
        evaluation_steps=evaluation_steps,
        meta_gradient=config.meta_gradient,
        normalization=config.normalization,
    )
    meta_model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                config.learning_rate, math.prod(epochs(config))
            )
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return meta_model


def train(config):
    """Meta-trains and tests; returns the model, the test tasks and scores."""
    keras.utils.set_random_seed(config.seed)
    train_tasks, validation_tasks, test_tasks = load_tasks(config)
    meta_model = make_model(config)
    meta_batch = config.meta_batch_size or by_ways(config.n_way, 32, 16)
    number_of_epochs, steps_per_epoch = epochs(config)
    meta_model.fit(
        train_tasks.batch(meta_batch),
        steps_per_epoch=steps_per_epoch,
        epochs=number_of_epochs,
        validation_data=validation_tasks.batch(
            meta_batch, count=10 * meta_batch
        ),
        shuffle=False,
        verbose=1 if config.progress == "bar" else 2,
    )
    scores = keras_maml.evaluate_tasks(
        meta_model,
        test_tasks.batch(meta_batch, count=config.test_episodes),
        keras.metrics.sparse_categorical_accuracy,
        inner_steps=sorted({0, 1, meta_model.evaluation_steps}),
    )
    return meta_model, test_tasks, scores


def draw_episode(meta_model, test_tasks, path):
    """Draws the support set and the queries with their predicted classes."""
    import matplotlib.pyplot as plt

    x, y = test_tasks.episode(0)
    logits = meta_model.predict({k: v[None] for k, v in x.items()}, verbose=0)
    predicted = np.argmax(logits[0], axis=-1)
    n_way = meta_model.learner.output_shape[-1]
    support = [x["support_x"][x["support_y"] == c] for c in range(n_way)]
    queries = [np.flatnonzero(y == c) for c in range(n_way)]
    shots, asked = len(support[0]), len(queries[0])
    columns = shots + asked
    figure, axes = plt.subplots(
        n_way,
        columns,
        figsize=(1.1 * columns + 0.6, 1.3 * n_way),
        squeeze=False,
    )
    for c in range(n_way):
        for column, axis in enumerate(axes[c]):
            axis.set_xticks([])
            axis.set_yticks([])
            if column < shots:
                image = support[c][column]
                axis.set_title(f"class {c}", fontsize=8)
            else:
                query = queries[c][column - shots]
                image = x["query_x"][query]
                right = predicted[query] == c
                colour = "tab:green" if right else "tab:red"
                axis.set_title(
                    f"predicted {predicted[query]}", fontsize=8, color=colour
                )
                for spine in axis.spines.values():
                    spine.set_color(colour)
                    spine.set_linewidth(2)
            axis.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
    figure.suptitle("Support set | queries", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    keras_maml.configure_threads()
    started = time.time()
    meta_model, test_tasks, scores = train(FLAGS)
    minutes = (time.time() - started) / 60
    print(
        f"\n{FLAGS.dataset}, {FLAGS.n_way}-way {FLAGS.k_shot}-shot, "
        f"{FLAGS.test_episodes} test episodes of unseen classes, "
        f"{minutes:.1f} minutes in all:"
    )
    print("inner steps   accuracy (mean ± 95 % CI)")
    for steps, score in scores.items():
        print(
            f"{steps:11d}   {100 * score.mean:.2f} ± {100 * score.ci95:.2f} %"
        )
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    picture = os.path.join(FLAGS.output_dir, "episode.png")
    draw_episode(meta_model, test_tasks, picture)
    model_path = os.path.join(FLAGS.output_dir, "meta_model.keras")
    meta_model.save(model_path)
    exported = os.path.join(FLAGS.output_dir, "saved_model")
    meta_model.export(exported, verbose=False)
    print(f"Picture: {picture}\nModel: {model_path}\nSavedModel: {exported}")


if __name__ == "__main__":
    app.run(main)
