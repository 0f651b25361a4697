"""How fast tasks are drawn, to be held against what training consumes.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --data_dir=DIR    # with Omniglot

Prints one line for each source of tasks: meta-batches and episodes a second,
and the processor time of an episode. The latter is the figure to trust on a
machine that does other things as well.
"""

import time

from absl import app
from absl import flags

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
    """Yields the name, distribution and episodes of a meta-batch."""
    yield "sinusoid, 10 shot", tasks.Sinusoid(10, 10), 25
    yield "gaussian, 10 shot", tasks.GaussianTasks(10, 10), 25
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


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    heads = ("tasks", "meta-batches/s", "episodes/s", "CPU µs/episode")
    print("{:54} {:>15} {:>12} {:>15}".format(*heads))
    for name, distribution, size in sources(FLAGS.data_dir):
        rate, cost = measure(distribution, size, FLAGS.seconds)
        label = f"{name} ({size})"
        print(f"{label:54} {rate:15.0f} {rate * size:12.0f} {1e6 * cost:15.0f}")


if __name__ == "__main__":
    app.run(main)
