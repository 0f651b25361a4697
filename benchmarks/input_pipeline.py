"""How fast tasks are drawn, to be held against what training consumes.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --data_dir=DIR    # with Omniglot

Prints one line for each source of tasks: meta-batches and episodes a second,
the processor time of an episode, the meta-batches a second that the paper's
network trains on when they cost nothing to draw, and the ratio of the two
processor times, drawing to training. The processor times are the figures to
trust on a machine that does other things as well.
"""

import time

import keras
import tensorflow as tf
from absl import app
from absl import flags

import keras_maml
from keras_maml import tasks

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "data_dir",
    None,
    "The TFDS directory that holds Omniglot. Without it, Omniglot is left out.",
)
flags.DEFINE_float(
    "seconds", 5.0, "How long to draw from each source.", lower_bound=0.0
)


def sources(data_dir):
    """Yields a name, a distribution, and the episodes of a meta-batch."""
    yield "sinusoid, 10 shot", tasks.Sinusoid(10, 10), 25
    yield "glyphs, 5 way 1 shot", tasks.Glyphs(5, 1, 1), 32
    yield "glyphs, 20 way 1 shot", tasks.Glyphs(20, 1, 1), 16
    if data_dir is None:
        return
    started = time.perf_counter()
    characters = tasks.from_tfds(
        "omniglot",
        data_dir=data_dir,
        download=False,
        preprocess=tasks.preprocess_omniglot,
    )
    seconds = time.perf_counter() - started
    print(f"Omniglot: {len(characters.x)} images loaded in {seconds:.1f} s")
    train, _ = characters.split(1200, 423)
    for n_way, k_shot, q_query, size in (
        (5, 1, 1, 32),
        (5, 5, 5, 32),
        (20, 1, 1, 16),
        (20, 5, 15, 16),
    ):
        yield (
            f"omniglot, {n_way} way {k_shot} shot {q_query} query, rotations",
            train.episodes(n_way, k_shot, q_query, rotations=True),
            size,
        )
    yield (
        "omniglot, 5 way 1 shot 1 query, rotations as classes",
        train.with_rotations().episodes(5, 1, 1),
        32,
    )


def measure(distribution, size, seconds):
    """Draws meta-batches for some seconds.

    Args:
        distribution: `tasks.TaskDistribution`.
        size: int. Episodes of a meta-batch.
        seconds: float.

    Returns:
        Meta-batches a second, and seconds of processor time an episode.
    """
    iterator = iter(distribution.batch(size))
    # Starting a stream, and what it has drawn ahead by then, do not count.
    for _ in range(20):
        next(iterator)
    count, started = 0, time.perf_counter()
    processor_started = time.process_time()
    while count == 0 or time.perf_counter() - started < seconds:
        next(iterator)
        count += 1
    processor = time.process_time() - processor_started
    rate = count / (time.perf_counter() - started)
    return rate, processor / (count * size)


def make_model(distribution):
    """The paper's network for these tasks, at the paper's settings."""
    if isinstance(distribution, tasks.Sinusoid):
        meta_model = keras_maml.MetaModel(keras_maml.learners.mlp())
        meta_model.compile(optimizer="adam", loss="mse")
        return meta_model
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.conv4(n_way=distribution.n_way),
        inner_optimizer=2.0,
        inner_steps=1 if distribution.n_way < 20 else 5,
    )
    meta_model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return meta_model


def measure_training(distribution, size, seconds):
    """Trains on one meta-batch, over and over.

    Returns:
        Meta-batches a second, and seconds of processor time a meta-batch.
    """
    one = next(iter(distribution.batch(size)))
    dataset = tf.data.Dataset.from_tensors(one).repeat()
    meta_model = make_model(distribution)
    steps = 3
    while True:
        # The first call traces, the second tells how many steps to time.
        started, processor_started = time.perf_counter(), time.process_time()
        meta_model.fit(dataset, steps_per_epoch=steps, shuffle=False, verbose=0)
        elapsed = time.perf_counter() - started
        if steps > 3 and elapsed > seconds / 2:
            break
        steps = max(4, int(steps * min(100, seconds / elapsed)))
    return steps / elapsed, (time.process_time() - processor_started) / steps


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    keras_maml.configure_threads()
    heads = (
        "tasks (of a meta-batch)",
        "drawn/s",
        "episodes/s",
        "CPU µs/episode",
        "trained/s",
        "CPU ratio",
    )
    print("{:54} {:>8} {:>11} {:>15} {:>10} {:>10}".format(*heads))
    for name, distribution, size in sources(FLAGS.data_dir):
        rate, cost = measure(distribution, size, FLAGS.seconds)
        trained, step = measure_training(distribution, size, FLAGS.seconds)
        print(
            f"{f'{name} ({size})':54} {rate:8.0f} {rate * size:11.0f} "
            f"{1e6 * cost:15.0f} {trained:10.1f} {cost * size / step:10.3f}"
        )


if __name__ == "__main__":
    app.run(main)
