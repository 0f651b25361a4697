"""Measures the coverage of `conformal_prediction` over many tasks.

    python -m benchmarks.coverage
    python -m benchmarks.coverage --rows=sine19 --tasks=500

Meta-trains a model for each row, predicts the queries of new tasks with
intervals or sets, and prints the share of them that hold the truth.
"""

import time
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

import keras_maml
from keras_maml.evaluation import conformal
from keras_maml.evaluation import folds as folds_lib


class Row(NamedTuple):
    """What is learned, and from how many examples."""

    kind: str  # "sine" or "points"
    n_way: int
    k_shot: int
    folds: int | None = None


ROWS = {
    "sine9": Row("sine", 1, 9),
    "sine19": Row("sine", 1, 19),
    "sine39": Row("sine", 1, 39),
    "sine39of10": Row("sine", 1, 39, 10),
    "sine19of5": Row("sine", 1, 19, 5),
    "points3way3shot": Row("points", 3, 3),
    "points5way5shot": Row("points", 5, 5),
    "points2way10shot": Row("points", 2, 10),
    "points3way13shot": Row("points", 3, 13),
}
MISCOVERAGES = (0.1, 0.2)

FLAGS = flags.FLAGS
flags.DEFINE_list("rows", list(ROWS), "What is measured.")
flags.DEFINE_integer("tasks", 2000, "New tasks, of 10 queries.", 20)
flags.DEFINE_integer("steps", 2000, "Steps of meta-training.", 1)
flags.DEFINE_integer("seed", 0, "Of weights and data.")


def points(row, seed):
    """Classes of noisy points, 100 for training and 100 for the test."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(200), 60)
    x = random.normal(size=(200, 16))[labels]
    x += 1.2 * random.normal(size=(len(labels), 16))
    pools = keras_maml.tasks.from_arrays(x, labels).split(100, 100, seed=seed)
    shape = row.n_way, row.k_shot, 10 // row.n_way
    return [pool.episodes(*shape, seed=seed) for pool in pools]


def sines(row, seed):
    return [
        keras_maml.tasks.Sinusoid(row.k_shot, 10, seed=seed + i)
        for i in range(2)
    ]


def trained(row, train, steps, seed):
    """Returns a model of the tasks, after meta-training."""
    if row.kind == "sine":
        learner = keras_maml.learners.mlp(seed=seed)
        settings = {"inner_optimizer": 0.01, "inner_steps": 1}
        loss, rate = "mse", 1e-3
    else:
        learner = keras_maml.learners.mlp(
            (16,), (32,), row.n_way, kernel_stddev=0.1, seed=seed
        )
        settings = {"inner_optimizer": 0.1, "inner_steps": 3}
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        rate = 1e-2
    meta_model = keras_maml.MetaModel(learner, **settings, evaluation_steps=5)
    meta_model.compile(keras.optimizers.Adam(rate), loss=loss)
    batches = train.batch(25 if row.kind == "sine" else 8)
    meta_model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
    return meta_model


def traced(meta_model, fold_of):
    return tf.function(
        lambda x: conformal.fold_outputs(meta_model, x, fold_of),
        autograph=False,
    )


def hits(row, meta_model, test, count):
    """Yields, for each task and miscoverage, the share of right queries.

    The folds of classes depend on the order of the labels, and a graph is
    traced for one assignment: so the support sets are sorted by label.
    """
    predict = fold_of = None
    for x, y in test.batch(20, count=count):
        if row.kind == "points":
            order = np.argsort(x["support_y"], 1, kind="stable")
            for key in ("support_x", "support_y"):
                x[key] = tf.gather(x[key], order, batch_dims=1)
        support_y = x["support_y"].numpy()
        if predict is None:
            labels = support_y[0] if row.kind == "points" else None
            fold_of = folds_lib.assign(support_y.shape[1], labels, row.folds)
            predict = traced(meta_model, fold_of)
        outputs = predict(x)
        if row.kind == "points":
            outputs = tf.nn.softmax(outputs)
        for task in zip(outputs.numpy(), support_y, y.numpy(), strict=True):
            yield [right(row, *task, fold_of, m) for m in MISCOVERAGES]


def right(row, outputs, support_y, y, fold_of, miscoverage):
    """Returns the share of queries whose truth is inside, and the mean size."""
    rank = folds_lib.rank(len(support_y), miscoverage)
    if row.kind == "sine":
        result = conformal.intervals(outputs, support_y, fold_of, rank)
        inside = (result.low <= y) & (y <= result.high)
        return inside.mean(), (result.high - result.low).mean()
    result = conformal.sets(outputs, support_y, fold_of, rank)
    return result.sets[np.arange(len(y)), y].mean(), result.sets.sum(1).mean()


def guaranteed(row, rank, fold_of):
    if row.kind == "points":
        return "nothing"
    return f"{100 * rank.guarantee(fold_of):.0f}"


def measure(name, config):
    """Returns the lines of a row's table."""
    row = ROWS[name]
    keras.utils.set_random_seed(config.seed)
    start = time.time()
    train, test = (sines if row.kind == "sine" else points)(row, config.seed)
    meta_model = trained(row, train, config.steps, config.seed)
    # (tasks, miscoverages, 2)
    values = np.array(list(hits(row, meta_model, test, config.tasks)))
    support = row.n_way * row.k_shot
    labels = None
    if row.kind == "points":
        labels = np.repeat(np.arange(row.n_way), row.k_shot)
    fold_of = folds_lib.assign(support, labels, row.folds)
    lines = []
    for i, miscoverage in enumerate(MISCOVERAGES):
        rank = folds_lib.rank(support, miscoverage)
        coverage, size = values[:, i].mean(0)
        error = 196 * values[:, i, 0].std(ddof=1) / np.sqrt(len(values))
        lines.append(
            f"| {name} | {support} | {fold_of.max() + 1} | "
            f"{100 * rank.coverage:.1f} | {100 * coverage:.1f} ± {error:.1f} | "
            f"{guaranteed(row, rank, fold_of)} | {size:.2f} |"
        )
    print(f"{name}: {time.time() - start:.0f} s", flush=True)
    return lines


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    keras_maml.configure_threads()
    lines = [line for name in FLAGS.rows for line in measure(name, FLAGS)]
    columns = "row", "support", "folds", "stated", "measured", "guaranteed"
    print(f"| {' | '.join(columns)} | size |\n{'|---' * 7}|")
    print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)
